"""The part of a checkpoint that processes have between them: the table's rows, and what each of them draws from.

A run of one process keeps all in `checkpoint.pt`. A run of several keeps there what they have in common, and the name
of a folder beside it, `rows-...`, that torch.distributed.checkpoint writes: each process its own rows, at the same
time. Reading cuts the rows anew, so that the run goes on with any number of processes, one included.

The folder is complete before `checkpoint.pt` names it, and is removed when no checkpoint names it any more.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semi import checkpoint
from semi.checkpoint import BEST_FILE, CHECKPOINT_FILE, PREVIOUS_FILE, CheckpointError
from semi.distributed import Ranks
from tracking import shards

PREFIX = "rows-"
PIECE = 1 << 24  # bytes that are summed up at a time


def write(
    folder: Path, epoch: int, step: int, table: Mapping[str, Tensor], num_rows: int, own: Any, ranks: Ranks
) -> dict[str, Any]:
    """Write this process's rows of each tensor of `table`, and `own`, what it has of its own; all processes do.

    Args:
        folder: of the run.
        table: tensors [rows, ...] of this process's block of `num_rows`.
        own: tensors and plain values.

    Returns what a checkpoint keeps to find and check them. Raises OSError, on every process, where one could not write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    name = ranks.by_first(lambda: f"{PREFIX}{epoch + 1}-{step}-{secrets.token_hex(4)}")
    state: dict[str, Any] = {key: _spread(rows, num_rows, ranks) for key, rows in table.items()}
    state[f"own.{ranks.rank}"] = _packed(own)
    path = folder / name
    try:
        save(state, storage_writer=FileSystemWriter(path), process_group=ranks.group)
    except CheckpointException as error:
        if ranks.is_first:
            shutil.rmtree(path, ignore_errors=True)
        for problem, _ in error.failures.values():
            if isinstance(problem, OSError):
                raise problem from None
        raise
    mine = [path / ".metadata"] if ranks.is_first else []
    mine += path.glob(f"__{ranks.rank}_*")
    sums = ranks.gather({file.name: _checksum(file) for file in mine})
    files = {name: found for part in sums for name, found in part.items()}
    return {"folder": name, "size": ranks.size, "rows": num_rows, "tables": sorted(table), "files": files}


def read_table(
    beside: Path, record: Mapping[str, Any], like: Mapping[str, Tensor], ranks: Ranks
) -> dict[str, Tensor]:
    """This process's rows of each tensor that `write` got, on the CPU, however many processes wrote them.

    Args:
        beside: the checkpoint that names the folder.
        record: what `write` returned.
        like: an example [rows, ...] of each tensor that may be there.

    Waits for no other process. `require_whole` has looked at the files before.
    """
    path = beside.parent / record["folder"]
    state = {
        key: _spread(torch.empty_like(like[key], device="cpu"), record["rows"], ranks)
        for key in record["tables"]
    }
    shards.load(state, path)
    return {key: rows.to_local() if hasattr(rows, "to_local") else rows for key, rows in state.items()}


def read_own(beside: Path, record: Mapping[str, Any], rank: int) -> Any:
    """What process `rank` of those that wrote had of its own."""
    path, key = beside.parent / record["folder"], f"own.{rank}"
    packed = torch.empty(shards.saved(path)[key].size, dtype=torch.uint8)
    shards.load({key: packed}, path)
    return torch.load(io.BytesIO(packed.numpy().tobytes()), map_location="cpu", weights_only=True)


def require_whole(beside: Path, record: Mapping[str, Any]) -> None:
    """Raises CheckpointError where a file of the folder is missing, or its checksum is not the one in `record`."""
    path = beside.parent / record["folder"]
    for name in record["files"]:
        if not (path / name).is_file():
            raise CheckpointError(
                f"{beside}: {path / name} is missing; put the folder {path.name} back beside it"
            )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sums = pool.map(lambda name: _checksum(path / name), record["files"])
        for (name, expected), found in zip(record["files"].items(), sums, strict=True):
            if found != expected:
                raise CheckpointError(f"{beside}: {path / name} is damaged: its checksum does not fit")


def remove_unnamed(folder: Path) -> None:
    """Remove the `rows-...` folders that no checkpoint of the run's folder names."""
    there = list(folder.glob(f"{PREFIX}*"))
    named = set()
    for name in (CHECKPOINT_FILE, PREVIOUS_FILE, BEST_FILE):
        if there and (folder / name).exists():
            named.add(checkpoint.peek(folder / name).get("sharded", {}).get("folder"))
    for path in there:
        if path.name not in named:
            shutil.rmtree(path, ignore_errors=True)


def _spread(rows: Tensor, num_rows: int, ranks: Ranks) -> Any:
    """This process's block as a part of the whole tensor [num_rows, ...], in the form that torch saves and loads."""
    if ranks.group is None:
        return rows
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size([num_rows, *rows.shape[1:]])
    return DTensor.from_local(
        rows,
        DeviceMesh.from_group(ranks.group, rows.device.type),
        [Shard(0)],
        run_check=False,
        shape=shape,
        stride=torch.empty(shape, device="meta").stride(),
    )


def _packed(value: Any) -> Tensor:
    """Tensors and plain values as bytes: torch.distributed.checkpoint would pickle what is no tensor."""
    content = io.BytesIO()
    torch.save(value, content)
    return torch.frombuffer(content.getbuffer(), dtype=torch.uint8)


def _checksum(file: Path) -> int:
    total = 0
    with file.open("rb") as content:
        while piece := content.read(PIECE):
            total = zlib.crc32(piece, total)
    return total
