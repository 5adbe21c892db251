import torch
from torch import nn

from semi.ema import Ema


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_the_average_follows_parameters_and_float_buffers():
    model = network()
    ema = Ema(model, 0.9)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        ema.update()
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = 0.9 * expected[name] + 0.1 * tensor
    for name, tensor in ema.model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name])
    assert expected["1.running_mean"].abs().sum() > 0


def test_counters_are_copied_and_nothing_of_the_model_is_shared():
    model = network()
    ema = Ema(model, 0.5)
    model(torch.randn(8, 3))
    ema.update()
    average = ema.model.state_dict()
    assert int(average["1.num_batches_tracked"]) == 1
    with torch.no_grad():
        model.state_dict()["0.weight"].add_(1)
    assert not torch.equal(average["0.weight"], model.state_dict()["0.weight"])
    assert not ema.model.training
