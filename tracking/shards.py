"""The folder `rows-...` beside a checkpoint of several processes, as it is read. `semi.sharding` writes it.

torch.distributed.checkpoint has its form; it is read here without running anything that it holds.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def load(state: dict[str, Any], path: Path) -> None:
    """Fill the tensors of `state` from the folder `path`. Waits for no other process."""
    from torch.distributed.checkpoint.state_dict_loader import load

    with warnings.catch_warnings():  # that no process group is used, which is as it should be
        warnings.simplefilter("ignore", UserWarning)
        load(state, storage_reader=_reader(path), no_dist=True)


def saved(path: Path) -> Mapping[str, Any]:
    """What the folder says of each tensor in it: its size and its properties."""
    described: Mapping[str, Any] = _reader(path).read_metadata().state_dict_metadata
    return described


def whole_tables(beside: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tables [rows, ...] of all processes, on the CPU; `record` is what the checkpoint `beside` says of them."""
    path = beside.parent / record["folder"]
    described = saved(path)
    state = {
        name: torch.empty(described[name].size, dtype=described[name].properties.dtype)
        for name in record["tables"]
    }
    load(state, path)
    return state


def _reader(path: Path) -> Any:
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import Metadata

    class Reader(FileSystemReader):
        """Reads the list of what is where without running anything that it holds; torch's own would."""

        def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
            with (path / ".metadata").open("rb") as file:
                metadata: Metadata = PlainUnpickler(file).load()
            return metadata

    return Reader(path)


class PlainUnpickler(pickle.Unpickler):
    """Makes sizes, types, paths, and the records of torch.distributed.checkpoint, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        records = module == "torch.distributed.checkpoint.metadata"
        plain = (module, name) in {
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("torch.serialization", "_get_layout"),
            ("torch", "Size"),
            ("pathlib", "PosixPath"),
            ("pathlib._local", "PosixPath"),
        }
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not (records or plain or dtype):
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return super().find_class(module, name)
