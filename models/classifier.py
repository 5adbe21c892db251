"""A backbone with two linear heads: classes, and the four quarter turns that ReMixMatch predicts."""

from torch import Tensor, nn

ROTATIONS = 4


class Classifier(nn.Module):
    """`forward` gives class logits; `rotation` gives rotation logits from the same features.

    Args:
        backbone: maps images [B, 3, H, W] to features [B, width].
        width: number of features.
        num_classes: K.
    """

    def __init__(self, backbone: nn.Module, width: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, num_classes)
        self.rotation_head = nn.Linear(width, ROTATIONS)
        for linear in (self.head, self.rotation_head):
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, K]
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def rotation(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, 4]
        logits: Tensor = self.rotation_head(self.backbone(images))
        return logits
