"""A request to stop: at once in training, after the checkpoint between a row and its checkpoint."""

import os
import signal
from collections.abc import Iterator

import pytest

from semi import stopping


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(stopping, "_waiting", None)
    stopping.install()
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_ends_training_with_the_shells_exit_code(number: signal.Signals) -> None:
    with pytest.raises(SystemExit) as ended:
        os.kill(os.getpid(), number)
    assert ended.value.code == 128 + number


def test_a_request_waits_while_a_row_and_its_checkpoint_are_written() -> None:
    done: list[str] = []

    def write() -> None:
        with stopping.held():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("written")

    with pytest.raises(SystemExit) as ended:
        write()
    assert done == ["written"]
    assert ended.value.code == 128 + signal.SIGTERM


def test_a_second_request_does_not_cut_the_trackers_short() -> None:
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
