import os
import pickle
import zipfile

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

    def crash(state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path / "c.pt", {"epoch": 2})
    assert checkpoint.load(tmp_path / "c.pt")["epoch"] == 1


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_a_foreign_pickle_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": checkpoint.FORMAT, "x": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            checkpoint.load(tmp_path / name)
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


def test_another_tools_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this tool's format"):
        checkpoint.load(tmp_path / "c.pt")


def test_the_random_state_is_restored():
    state = checkpoint.random_state()
    first = torch.rand(3)
    checkpoint.restore_random_state(state)
    assert torch.equal(torch.rand(3), first)
