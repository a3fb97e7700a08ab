"""The tiny profile's network for detection and segmentation: SSD-MobileNetV2 under a mask branch."""
