"""Data sets in memory: uint8 images, labels and class names."""

from hcnn_fast.data.dataset import ImageDataset
from hcnn_fast.data.loading import NAMES, data_root, load, mirrors

__all__ = ["NAMES", "ImageDataset", "data_root", "load", "mirrors"]
