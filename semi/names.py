"""What --semi_method, --refine and --dataset may be: name -> what it is.

A new one is one line: here, as `module:attribute` (flags are read before torch is imported, so nothing is imported
yet), or the object itself, assigned in a file of one's own that --plugin names (docs/extending.md).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METHODS: dict[str, Any] = {  # each a semi.methods.Method
    "mix": "semi.methods.mixmatch:MixMatch",
    "remix": "semi.methods.remixmatch:ReMixMatch",
    "fix": "semi.methods.fixmatch:FixMatch",
    "pseudo": "semi.methods.pseudo_label:PseudoLabel",
    "sup": "semi.methods.supervised:Supervised",
}
REFINERIES: dict[str, Any] = {  # each a darp.refineries.base.Batchwise
    **dict.fromkeys(
        ("none", "darp", "align", "sinkhorn")
    ),  # nothing, and what refines the whole table: semi.job
    "la": "darp.refineries.la:LogitAdjustment",
    "debias": "darp.refineries.debias:DebiasPL",
    "pda": "darp.refineries.pda:ProgressiveAlignment",
    "flexda": "darp.refineries.flexda:FlexDA",
    "simpro": "darp.refineries.simpro:SimPro",
    "cdmad": "darp.refineries.cdmad:CDMAD",
}
DATASETS: dict[str, Any] = {  # each a function of (data_dir, download) that gives a data.Dataset
    **dict.fromkeys(
        ("cifar10", "cifar100", "stl10", "fashion_mnist", "digits")
    ),  # data.load_dataset reads them
    **dict.fromkeys(("folder", "npz")),  # data.own does
}


def found(table: Mapping[str, Any], name: str) -> Any:
    """What `name` stands for in `table`, imported where the table only says where it is."""
    value = table[name]
    if not isinstance(value, str):
        return value
    module, _, attribute = value.partition(":")
    return getattr(importlib.import_module(module), attribute)


def load_plugin(path: str) -> None:
    """Run a Python file, which adds to the tables above; once, however often it is asked for.

    Raises FileNotFoundError; whatever the file itself raises is its author's to see.
    """
    file = Path(os.path.expanduser(path)).resolve()  # pathlib's own raises for an unknown user
    name = f"plugin_{file.stem}"
    if name in sys.modules and sys.modules[name].__file__ == str(file):
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
