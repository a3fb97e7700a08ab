"""The network of the study: SSD-MobileNetV2 read out of a TensorFlow graph, and the second stage over it."""
