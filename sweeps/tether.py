"""Runs a command that ends when the process that asked for it does, however that ends.

    python tether.py COMMAND...

Standard input is the lifeline: its other end closes with the runner, also at SIGKILL. Then the command gets SIGTERM, so
that a training keeps its state, and WAIT_S later all that is left of its process group is killed. SIGTERM, SIGINT and
SIGUSR1 are passed on to the command alone, which knows its own children. The exit code is the command's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

WAIT_S = 30.0
NO_SUCH_COMMAND = 127


def main(words: list[str]) -> int:
    asked: list[int] = []  # signals that came
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if child is not None and child.poll() is None:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, pass_on)
    try:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr)
        return NO_SUCH_COMMAND
    for early in asked:  # they came while it was being started
        child.send_signal(early)
    threading.Thread(target=end_with_lifeline, args=(child,), daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def end_with_lifeline(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    child.terminate()
    time.sleep(WAIT_S)
    os.killpg(0, signal.SIGKILL)  # this process too


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
