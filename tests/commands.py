"""The project's commands, run in the process of the tests.

A process of its own imports torch for two seconds. What is about signals, kills, imports or several processes needs it;
what a command says, writes and ends with does not.
"""

import io
import os
import runpy
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest

from tracking.online.timeout import close_sdk

ROOT = Path(__file__).parents[1]
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # that a training takes over


def without_wandb() -> dict[str, str]:
    """The variables of this process but for those that W&B reads."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}


def run_here(
    program: str, *words: str, folder: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """How `python PROGRAM WORDS` ends and what it says; a program without .py is a module, as after -m.

    Args:
        folder: the working directory; None: the current one.
        environment: all of its variables; None: `without_wandb()`.
    """
    said, complained = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    close_sdk()  # it keeps the variables of the first run in a process
    with (
        patch.dict(os.environ, without_wandb() if environment is None else environment, clear=True),
        patch.object(sys, "argv", [str(ROOT / program) if program.endswith(".py") else program, *words]),
        pytest.MonkeyPatch.context() as place,
        redirect_stdout(said),
        redirect_stderr(complained),
    ):
        place.chdir(folder or Path.cwd())
        try:
            code = _exit_code(program)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            close_sdk()
    return subprocess.CompletedProcess([program, *words], code, said.getvalue(), complained.getvalue())


def _exit_code(program: str) -> int:
    script = (
        partial(runpy.run_path, str(ROOT / program))
        if program.endswith(".py")
        else partial(runpy.run_module, program, alter_sys=True)
    )
    with pytest.raises(SystemExit) as ended:
        script(run_name="__main__")
    assert isinstance(ended.value.code, int)
    return ended.value.code
