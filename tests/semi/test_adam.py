import copy

import torch
from torch import nn

from semi.adam import Adam


def trained(optimizer_class: type[torch.optim.Adam], model: nn.Module) -> torch.optim.Adam:
    optimizer = optimizer_class(model.parameters(), lr=0.01)
    for step in range(5):
        optimizer.zero_grad(set_to_none=True)
        images = torch.randn(8, 30, generator=torch.Generator().manual_seed(step))
        model(images).square().sum().backward()
        optimizer.step()
    return optimizer


def test_a_step_is_that_of_torchs_adam_and_its_state_is_interchangeable():
    torch.manual_seed(0)
    ours = nn.Linear(30, 3)
    theirs = copy.deepcopy(ours)
    here, there = trained(Adam, ours), trained(torch.optim.Adam, theirs)
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, its)
    assert here.state_dict()["param_groups"] == there.state_dict()["param_groups"]
    swapped = Adam(theirs.parameters(), lr=1.0)
    swapped.load_state_dict(there.state_dict())
    assert swapped.param_groups[0]["lr"] == 0.01
    assert all(p.requires_grad and p.is_leaf for p in ours.parameters())


def test_how_the_update_is_computed_is_not_taken_from_a_checkpoint():
    """A run on a GPU may go on from a checkpoint of a version whose Adam could not be recorded."""
    saved = trained(Adam, nn.Linear(30, 3)).state_dict()
    assert not saved["param_groups"][0]["capturable"]
    here = Adam(nn.Linear(30, 3).parameters(), lr=1.0, fused=True)
    here.param_groups[0]["capturable"] = True  # which only a GPU can compute
    here.load_state_dict(saved)
    assert (here.param_groups[0]["capturable"], here.param_groups[0]["fused"]) == (True, True)
    assert here.param_groups[0]["lr"] == 0.01
