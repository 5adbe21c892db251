"""A backbone with two linear heads: classes, and the four quarter turns that ReMixMatch predicts."""

import torch
from torch import Tensor, nn

ROTATIONS = 4


class Classifier(nn.Module):
    """`forward` gives class logits; `rotation` gives rotation logits from the same features.

    Args:
        backbone: maps images [B, 3, H, W] to features [B, width].
        width: number of features.
        num_classes: K.
        bf16: compute in bfloat16 where torch.autocast holds it to be safe. Weights and logits stay float32, and so does
            all that is made of logits.
    """

    def __init__(self, backbone: nn.Module, width: int, num_classes: int, *, bf16: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.bf16 = bf16
        self.head = nn.Linear(width, num_classes)
        self.rotation_head = nn.Linear(width, ROTATIONS)
        for linear in (self.head, self.rotation_head):
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, K]
        return self._logits(self.head, images)

    def rotation(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, 4]
        return self._logits(self.rotation_head, images)

    def _logits(self, head: nn.Linear, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            logits: Tensor = head(self.backbone(images))
        return logits.float() if self.bf16 else logits
