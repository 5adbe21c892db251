"""The notebooks of examples/, run from the first cell to the last by the kernel of this Python."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def test_notebooks_are_kept_without_outputs_and_begin_with_one_installation():
    first = set()
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell for cell in code if cell.outputs or cell.execution_count] == [], path.name
        first.add(re.sub(r"(?<=darp-wandb)\[[a-z,]+\]", "", code[0].source))  # the extras that it needs
    assert len(first) == 1
    assert "%pip install" in first.pop()


def printed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a notebook with `folder` as its working directory; what all of its cells printed, a picture as its type."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("WANDB_SILENT", "true")
    notebook = nbformat.read(ROOT / f"examples/{name}.ipynb", as_version=4)
    # The kernel of this very interpreter: a machine may have another one under the name python3.
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.create_kernel_manager()
    assert client.km is not None
    assert client.km.kernel_spec is not None
    client.km.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client.execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return "".join(out.get("text", "") + " ".join(out.get("data", {})) for out in outputs)


@pytest.mark.slow
def test_two_short_runs_show_the_finding(monkeypatch, capfd):
    text = printed("finding", ROOT / "examples", monkeypatch)
    raw, darp = (
        [float(number) for number in re.findall(r"0\.\d+", line)]
        for line in re.findall(r"^(?:raw|darp) .*from the truth.*$", text, re.M)
    )
    assert raw[0] == raw[1] > 0.1  # nothing refines them
    assert darp[1] < 0.01
    assert darp[0] < raw[0]
    assert (
        "Compared 2 runs" in capfd.readouterr().out
    )  # under pytest a kernel leaves what its commands print to us


@pytest.mark.slow
def test_the_certificate_of_a_table_is_checked_without_the_solver(tmp_path, monkeypatch):
    text = printed("refine_a_table", tmp_path, monkeypatch)
    assert "['0.250', '0.250', '0.250', '0.250']" in text
    assert "converged True" in text
    sure, unsure = (float(found) for found in re.findall(r"moved by ([\d.]+)", text))
    assert sure < unsure
    assert re.search(r"^False \S+", text, re.M)


@pytest.mark.slow
def test_a_loop_of_ones_own_is_in_wandb_offline(tmp_path, monkeypatch):
    text = printed("watch_your_loop", tmp_path, monkeypatch)
    raw, darp = (float(found) for found in re.findall(r"([\d.]+) from the true class shares", text))
    assert darp < raw
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 2


@pytest.mark.slow
def test_six_refineries_are_compared_in_a_table_and_a_picture(monkeypatch):
    text = printed("compare_refineries", ROOT / "examples", monkeypatch)
    table = {
        name: list(map(float, line.split())) for name, line in re.findall(r"^(\w+) ([ \d.]+)$", text, re.M)
    }
    assert list(table) == ["none", "darp", "align", "la", "debias", "simpro"]
    refined = {name: row[1] for name, row in table.items()}
    assert table["none"][0] == refined["none"]  # nothing refines them
    assert refined["darp"] < 0.015 < refined["none"]  # a long tail in whole images is not quite its target
    assert refined["darp"] < refined["align"] < table["align"][0]
    assert min(row[4] for row in table.values()) > 0.3
    assert len({tuple(row) for row in table.values()}) == 6
    assert "image/png" in text
    assert "Compared 6 runs" in text
