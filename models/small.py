"""A small convnet, 81 thousand parameters: a training step of FixMatch takes some 20 ms on one CPU core."""

from torch import Tensor, nn

WIDTHS = ((16, 5, 2), (32, 3, 2), (64, 3, 2), (96, 3, 1))  # channels, kernel, stride
SLOPE = 0.1


class SmallConvNet(nn.Module):
    """Images [B, 3, H, W] to features [B, 96]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels_in = 3
        for channels, kernel, stride in WIDTHS:
            conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
            nn.init.kaiming_normal_(conv.weight, a=SLOPE, mode="fan_out", nonlinearity="leaky_relu")
            layers += [conv, nn.BatchNorm2d(channels), nn.LeakyReLU(SLOPE)]
            channels_in = channels
        self.layers = nn.Sequential(*layers)
        self.width = channels_in

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x).mean(dim=(2, 3))
        return features
