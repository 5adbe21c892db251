"""Wide residual network (Zagoruyko & Komodakis 2016): WRN-28-2 with leaky ReLU 0.1, 1.47 M parameters.

The network of MixMatch, ReMixMatch, FixMatch and DARP (Kim et al. 2020, section 4.1). A block whose width changes has
a 1 x 1 convolution as its shortcut. In the first group that convolution takes the block's activated input, in the two
others the raw one.
"""

import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1


class Block(nn.Module):
    """Pre-activation residual block: two 3 x 3 convolutions, a 1 x 1 one beside them where the shape changes.

    Args:
        width_in, width_out: channels of [B, width_in, H, W] and [B, width_out, H / stride, W / stride].
        stride: of the first convolution and of the shortcut.
        shortcut_of_active: whether the 1 x 1 convolution takes the activated input, not the raw one.
    """

    def __init__(self, width_in: int, width_out: int, stride: int, *, shortcut_of_active: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        same = width_in == width_out and stride == 1
        self.shortcut = None if same else nn.Conv2d(width_in, width_out, 1, stride, bias=False)
        self.shortcut_of_active = shortcut_of_active

    def forward(self, x: Tensor) -> Tensor:
        active = F.leaky_relu(self.norm1(x), SLOPE)
        out: Tensor = self.conv2(F.leaky_relu(self.norm2(self.conv1(active)), SLOPE))
        if self.shortcut is None:
            return out + x
        return out + self.shortcut(active if self.shortcut_of_active else x)


class WideResNet(nn.Module):
    """Images [B, 3, H, W] to features [B, 64 * widen]. depth = 6 n + 4."""

    def __init__(self, depth: int = 28, widen: int = 2) -> None:
        super().__init__()
        blocks_per_group = (depth - 4) // 6
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)]
        for group in range(3):
            for i in range(blocks_per_group):
                width_in = widths[group] if i == 0 else widths[group + 1]
                stride = 2 if i == 0 and group > 0 else 1
                layers.append(Block(width_in, widths[group + 1], stride, shortcut_of_active=group == 0))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(widths[3])
        self.width = widths[3]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.layers(x)), SLOPE).mean(dim=(2, 3))
