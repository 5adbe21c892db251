"""One line before the solver's passes are compiled, which takes seconds in which nothing else is heard of it.

Numba tells its listeners when it begins to compile a function, and not when it loads one from its cache on disk
(`numba.core.event`, kind "numba:compile"). So where the cache is warm nothing is said.
"""

from __future__ import annotations

import sys
from typing import Any

from numba.core import event

LINE = "darp: compiling the solver's passes, once (about 10 s); from then on they come from a cache on disk"


class _Listener(event.Listener):
    said = False

    def on_start(self, event: Any) -> None:
        function = getattr(event.data["dispatcher"], "py_func", None)
        if not self.said and getattr(function, "__module__", "").startswith("darp."):
            self.said = True
            print(LINE, file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None: ...


def announce() -> None:
    """Say so, once in this process, before the first function of `darp` is compiled."""
    event.register("numba:compile", _Listener())
