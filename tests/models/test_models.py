import copy

import pytest
import torch
from torch import Tensor

from models import build_model

FIRST_BLOCKS = (1, 5, 9)  # of the three groups, counted over the layers that follow the first convolution


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


def test_a_fresh_head_prefers_no_class():
    torch.manual_seed(0)
    model = build_model("small", 100)
    for linear in (model.head, model.rotation_head):
        assert not linear.bias.any()
        outputs, inputs = linear.weight.shape
        assert float(linear.weight.detach().std()) == pytest.approx(
            (2 / (inputs + outputs)) ** 0.5, rel=0.1
        )  # Xavier


def test_wrn_sees_the_whole_image():
    torch.manual_seed(0)
    model = build_model("wrn28_2", 10).eval()
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    model(images)[0, 0].backward()
    assert images.grad is not None
    assert (images.grad.abs().sum(dim=1) > 0).float().mean() > 0.99


def textbook_wrn28_2(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Logits of WRN-28-2 written out in functions, batch norm by its saved statistics; weights under our names."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5) ** 0.5 * scale + shift

    def activated(x: Tensor, name: str) -> Tensor:
        y = norm(x, name)
        return torch.where(y > 0, y, 0.1 * y)

    x = torch.conv2d(images, weights["backbone.layers.0.weight"], padding=1)
    for block in range(1, 13):  # 28 = 6 * 4 + 4: three groups of four blocks
        name = f"backbone.layers.{block}"
        stride = 2 if block in FIRST_BLOCKS[1:] else 1
        y = activated(x, f"{name}.norm1")
        shortcut = x
        if block == FIRST_BLOCKS[0]:
            shortcut = torch.conv2d(y, weights[f"{name}.shortcut.weight"])
        elif block in FIRST_BLOCKS:
            shortcut = torch.conv2d(x, weights[f"{name}.shortcut.weight"], stride=2)
        y = torch.conv2d(y, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
        y = torch.conv2d(activated(y, f"{name}.norm2"), weights[f"{name}.conv2.weight"], padding=1)
        x = shortcut + y
    features = activated(x, "backbone.norm").mean(dim=(2, 3))
    return features @ weights["head.weight"].T + weights["head.bias"]


def test_wrn_gives_the_logits_of_a_textbook_implementation_with_the_same_weights():
    torch.manual_seed(0)
    model = build_model("wrn28_2", 10)
    for _ in range(3):  # batch norm's statistics become those of some images
        model(torch.randn(16, 3, 32, 32))
    for name, value in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(value, mean=1.0 if name.endswith("weight") else 0.0, std=0.3)
    model = model.double().eval()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    expected = textbook_wrn28_2(model.state_dict(), images)
    assert expected.std() > 0.1
    torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arch", ["wrn28_2", "small"])
def test_a_network_is_stored_channels_last_and_gives_what_it_gives_channels_first(arch):
    torch.manual_seed(0)
    model = build_model(arch, 10).eval()
    twin = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    images = torch.randn(4, 3, 32, 32)
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in model.parameters() if p.dim() == 4)
    seen = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *call: seen.append(call[2]))
    assert torch.allclose(model(images), twin(images), atol=1e-5)
    assert seen
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in seen)
