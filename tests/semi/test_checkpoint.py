import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from semi import checkpoint
from semi.checkpoint import CheckpointError


def test_what_is_saved_comes_back(tmp_path):
    tensor, deep = torch.arange(3), {"list": [1, 2.5, "x", None]}
    checkpoint.save(tmp_path / "c.pt", {"tensor": tensor, "deep": deep})
    loaded = checkpoint.load(tmp_path / "c.pt")
    assert torch.equal(loaded["tensor"], tensor)
    assert loaded["deep"] == deep
    assert os.listdir(tmp_path) == ["c.pt"]


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "c.pt", {"epoch": 1})

    def crash(number):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path / "c.pt", {"epoch": 2})
    assert checkpoint.load(tmp_path / "c.pt")["epoch"] == 1
    assert os.listdir(tmp_path) == ["c.pt"], "what was half written is gone"


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal bit by bit."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and one.numpy().tobytes() == other.numpy().tobytes()
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def refusal(path: Path, whole: Any) -> str:
    """What the refusal of a file says; nothing where it gives `whole`."""
    try:
        assert same(checkpoint.load(path), whole)
    except CheckpointError as error:
        return str(error)
    return ""


def test_one_flipped_bit_is_refused_or_changes_nothing_that_is_read(tmp_path):
    path = tmp_path / "c.pt"
    model = torch.nn.Linear(20, 10)
    checkpoint.save(
        path,
        {
            "epoch": 3,
            "best_bacc": 0.5,
            "config": {"lr": 0.1, "dataset": "digits"},
            "model": dict(model.state_dict()),
            "adam": torch.optim.Adam(model.parameters()).state_dict(),
        },
    )
    whole, content = checkpoint.load(path), path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(600):
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        said = refusal(path, whole)
        refused += bool(said)
        assert "\n" not in said
        assert "weights_only" not in said
    assert refused > 150, "about half of a small file is padding, names and dates, which nobody reads"


def test_many_flipped_bits_and_lost_blocks_never_end_in_another_error(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"tensor": torch.arange(200.0), "words": ["a", "b"]})
    whole, content = checkpoint.load(path), path.read_bytes()
    generator = random.Random(1)
    for round_ in range(300):
        broken = bytearray(content)
        if round_ % 3 == 0:
            del broken[generator.randrange(len(content)) :]
        elif round_ % 3 == 1:
            start = generator.randrange(len(content))
            broken[start : start + 64] = bytes(len(broken[start : start + 64]))
        else:
            for _ in range(20):
                broken[generator.randrange(len(content))] = generator.randrange(256)
        path.write_bytes(broken)
        assert "\n" not in refusal(path, whole)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_a_foreign_pickle_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": checkpoint.FORMAT, "x": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match="not a readable checkpoint") as error:
            checkpoint.load(tmp_path / name)
        assert "weights_only" not in str(error.value), "torch's advice to switch its protection off"
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_named_in_one_line(tmp_path, content):
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.pt: not a readable checkpoint") as error:
        checkpoint.load(path)
    assert "\n" not in str(error.value)


def test_a_truncated_checkpoint_is_named_in_one_line(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"tensor": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    assert not zipfile.is_zipfile(path)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        checkpoint.load(path)


def test_a_checkpoint_of_the_format_before_is_read(tmp_path):
    torch.save({"format": 2, "epoch": 2}, tmp_path / "c.pt")
    assert checkpoint.load(tmp_path / "c.pt")["epoch"] == 2


def test_a_folder_in_place_of_a_file_is_named_in_one_line(tmp_path):
    with pytest.raises(CheckpointError, match=r"not a readable checkpoint \(Is a directory\)"):
        checkpoint.load(tmp_path)


def test_another_tools_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this tool's format"):
        checkpoint.load(tmp_path / "c.pt")


def test_the_random_state_is_restored():
    state = checkpoint.random_state()
    first = torch.rand(3)
    checkpoint.restore_random_state(state)
    assert torch.equal(torch.rand(3), first)
