"""Guards that fail a test where a GPU would have to wait: usable on a CPU, where nothing waits."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class NoHostSync(TorchDispatchMode):
    """Refuses the operations that read a value back to the host, or whose shape depends on one."""

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "lift_fresh", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not any(name.lstrip("_").startswith(read.lstrip("_")) for read in self.READS), name
        if name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "indexed with a boolean mask"
        return func(*args, **(kwargs or {}))


class NoHostCopy(TorchFunctionMode):
    """Refuses new tensors made from Python numbers, each a copy to the device, and copies back from it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert getattr(func, "__name__", "") not in ("tensor", "cpu", "numpy", "tolist", "item"), func
        return func(*args, **(kwargs or {}))
