"""Data sets that lie whole on the device as uint8: their loaders, and augmentation by the batch."""
