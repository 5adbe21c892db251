import pytest
import torch

from models import build_model


@pytest.mark.parametrize(("arch", "low", "high"), [("wrn28_2", 1.46e6, 1.48e6), ("small", 5e4, 1e5)])
def test_networks_have_the_stated_number_of_parameters(arch, low, high):
    model = build_model(arch, 10)
    assert low <= sum(p.numel() for p in model.parameters()) <= high


@pytest.mark.parametrize("arch", ["wrn28_2", "small"])
def test_both_heads_read_the_same_features(arch):
    torch.manual_seed(0)
    model = build_model(arch, 7).eval()
    images = torch.randn(2, 3, 32, 32)
    features = model.backbone(images)
    assert model(images).shape == (2, 7)
    torch.testing.assert_close(model(images), model.head(features))
    torch.testing.assert_close(model.rotation(images), model.rotation_head(features))


def test_wrn_sees_the_whole_image():
    torch.manual_seed(0)
    model = build_model("wrn28_2", 10).eval()
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    model(images)[0, 0].backward()
    assert images.grad is not None
    assert (images.grad.abs().sum(dim=1) > 0).float().mean() > 0.99
