"""Imported first by every entry script: says in one line what to do where this Python lacks the packages."""

import sys
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("torch", "numpy", "scipy", "yaml", "rich", "wandb")
LOOKING = ("numpy", "yaml", "rich")  # of what reads runs and trains nothing: requirements-report.txt

_only_looks = Path(sys.argv[0]).name == "report.py" or sys.argv[1:2] == ["summary"]
_missing = [name for name in (LOOKING if _only_looks else NEEDED) if find_spec(name) is None]
if _missing:
    _setup = "" if Path(__file__).with_name(".venv").exists() else "`make setup` once, then "
    _script = Path(sys.argv[0])
    _name = f"python -m {_script.parent.name}" if _script.stem == "__main__" else _script.name
    print(
        f"{_name}: this Python ({sys.executable}) has no {', '.join(_missing)}: "
        f"use {_setup}`source .venv/bin/activate`",
        file=sys.stderr,
    )
    sys.exit(2)
