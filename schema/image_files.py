"""The file suffixes that count as images when a folder is searched."""

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
SUFFIXES = frozenset((*_JPEG, ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"))
