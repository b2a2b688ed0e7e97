"""Classifiers: small and large architectures, and trained ones that ship."""

from hcnn_fast.models.registry import build, card, load, names
from hcnn_fast.models.resnet import CompactResNet, ResNet, ResNet18
from hcnn_fast.models.small_cnn import SmallCNN
from hcnn_fast.models.wide_resnet import WideResNet

__all__ = [
    "CompactResNet",
    "ResNet",
    "ResNet18",
    "SmallCNN",
    "WideResNet",
    "build",
    "card",
    "load",
    "names",
]
