"""The networks: `wrn28_2` of the papers, and `small` for a CPU."""

import torch

from models.classifier import Classifier
from models.small import SmallConvNet
from models.wrn import WideResNet

BACKBONES = {"wrn28_2": WideResNet, "small": SmallConvNet}


def build_model(arch: str, num_classes: int, *, bf16: bool = False) -> Classifier:
    """A freshly initialised classifier (from torch's global random state) for images [B, 3, 32, 32].

    Its weights are stored channels last, which convolutions on a CPU and on tensor cores are fastest with. A
    convolution then takes images of either order and gives channels last.
    """
    backbone = BACKBONES[arch]()
    model = Classifier(backbone, backbone.width, num_classes, bf16=bf16)
    return model.to(memory_format=torch.channels_last)


__all__ = ["BACKBONES", "Classifier", "build_model"]
