"""Adam (Kingma and Ba 2015) as torch has it, without the 1.3 s that its first step spends on torch's compiler."""

from __future__ import annotations

import inspect
from typing import Any

import torch

HOW = ("capturable", "fused")  # of a group; a checkpoint may be of a version that set them otherwise


class Adam(torch.optim.Adam):
    """`torch.optim.Adam` with its methods as they were before their decorators.

    The decorators tell torch.compile to leave an optimizer alone. They import the compiler for that (`torch._dynamo`,
    which brings sympy), also where nothing is compiled. `step` runs without gradients, as its decorator has it.
    A version of torch without the decorators gives the same methods.
    """

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but how the update is computed stays what this optimizer was made with."""
        own = [{name: group[name] for name in HOW} for group in self.param_groups]
        inspect.unwrap(torch.optim.Adam.load_state_dict)(self, state_dict)
        for group, how in zip(self.param_groups, own, strict=True):
            group.update(how)
