"""The networks: `wrn28_2` of the papers, and `small` for a CPU."""

from models.classifier import Classifier
from models.small import SmallConvNet
from models.wrn import WideResNet

ARCHS = ("wrn28_2", "small")


def build_model(arch: str, num_classes: int) -> Classifier:
    """A freshly initialised classifier (from torch's global random state) for images [B, 3, 32, 32]."""
    backbone = {"wrn28_2": WideResNet, "small": SmallConvNet}[arch]()
    return Classifier(backbone, backbone.width, num_classes)


__all__ = ["ARCHS", "Classifier", "build_model"]
