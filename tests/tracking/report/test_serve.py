import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import report
from tests.tracking.report.synthetic_runs import write_run
from tracking.report.runs import find_runs, read_run
from tracking.report.serve import PageServer, Source

ROOT = Path(__file__).parents[3]


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "runs", "one", epochs=9, epochs_done=3)
    return tmp_path / "runs"


@pytest.fixture
def built():
    """Versions that a page was built of."""
    return []


@pytest.fixture
def served(runs, built):
    def build(read, version):
        built.append(version)
        found, _ = find_runs([runs], read)
        if not found:
            raise ValueError("no run any more")
        return f"{len(found)} runs, {found[0].epochs_done} epochs".encode()

    server = PageServer(Source([str(runs)], build), 0)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server, path, method="GET", host=""):
    parts = urlsplit(server.address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    connection.request(method, path, headers={"Host": host or parts.netloc})
    response = connection.getresponse()
    return response.status, response.read().decode(), dict(response.getheaders())


def add_epoch(folder, epoch):
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"epoch": epoch, "test/acc": 0.5, "pseudo/orig/0": 1.0}) + "\n")


def test_only_the_page_is_served_and_only_to_who_knows_the_token(served):
    path = urlsplit(served.address).path

    assert ask(served, path)[:2] == (200, "1 runs, 3 epochs")
    assert len(path) > 30
    for other in (
        "/",
        "/report.html",
        "/wrong/",
        path[:-1],
        path + "config.yaml",
        path + "../",
        "/%00/",
    ):
        assert ask(served, other)[0] == 404
    assert ask(served, path, "POST")[0] == 501


def test_the_server_listens_on_the_loopback_and_answers_to_its_own_name_alone(served):
    path = urlsplit(served.address).path

    assert served.server_address[0] == "127.0.0.1"
    assert ask(served, path, host="evil.example")[0] == 404  # a name that was made to point here
    assert ask(served, path, host=f"localhost:{served.server_address[1]}")[0] == 200
    headers = ask(served, path)[2]
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"  # the address holds the token


def test_a_new_epoch_is_a_new_version_and_only_then_the_page_is_built_again(served, runs, built):
    path = urlsplit(served.address).path
    before = ask(served, path + "version")[1]
    ask(served, path)
    ask(served, path)
    assert len(built) == 1

    add_epoch(runs / "one", 3)

    assert ask(served, path + "version")[1] != before
    assert ask(served, path)[1] == "1 runs, 4 epochs"
    assert len(built) == 2


def test_runs_that_are_gone_are_told_in_one_line(served, runs):
    shutil.rmtree(runs / "one")

    assert ask(served, urlsplit(served.address).path)[:2] == (503, "no run any more\n")


def test_a_run_that_did_not_grow_is_not_read_again(runs, monkeypatch):
    write_run(runs, "other", seed=1)
    read = []

    def noted(folder):
        read.append(folder.name)
        return read_run(folder)

    monkeypatch.setattr("tracking.report.serve.read_run", noted)
    source = Source([str(runs)], lambda read_one, version: str(len(find_runs([runs], read_one)[0])).encode())

    source.page()
    add_epoch(runs / "one", 3)
    source.page()

    assert sorted(read) == ["one", "one", "other"]


def test_flags_that_need_serve_are_refused_without_it(capsys):
    with pytest.raises(SystemExit) as left:
        report.main(["--watch"])
    assert left.value.code == 2
    assert "--watch: it goes with --serve" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(served, runs, capsys):
    port = served.server_address[1]

    assert report.main([str(runs), "--serve", f"--port={port}"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert f"--port {port}: " in line
    assert "0 for a free one" in line


@contextmanager
def command(runs):
    """`report.py --serve --watch`, and the address that it says; it is killed where a test does not end it."""
    process = subprocess.Popen(
        [sys.executable, "report.py", str(runs), "--serve", "--watch"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # a shell's background job ignores Ctrl-C, and so would what these tests start when they are one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[4]
    finally:
        process.kill()
        process.communicate()


def test_the_command_says_its_address_and_ends_with_ctrl_c(runs):
    with command(runs) as (process, address):
        parts = urlsplit(address)
        connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=20)
        connection.request("GET", parts.path)
        page = connection.getresponse().read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert "connect-src 'self'" in page
    assert re.search(r'<html lang="en" data-watched="[0-9a-f]+">', page)


def test_a_watched_page_shows_a_new_epoch_and_keeps_the_view(runs):
    playwright = pytest.importorskip("playwright.sync_api")
    if shutil.which("chromium") is None:
        pytest.skip("the page is opened in chromium, which is not installed")
    write_run(runs, "darp", darp=True, epochs=9, epochs_done=3)
    with command(runs) as (process, address), playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        troubles = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(address + "#refine=darp")
        page.locator("#epoch-text", has_text="epoch 2 of 2").wait_for()

        write_run(runs.parent / "more", "darp", darp=True, epochs=9, epochs_done=5)
        shutil.copy(runs.parent / "more" / "darp" / "metrics.jsonl", runs / "darp" / "metrics.jsonl")
        page.locator("#epoch-text", has_text="epoch 4 of 4").wait_for()
        assert page.locator("#count").inner_text() == "1 of 2 runs"

        process.send_signal(signal.SIGINT)
        page.locator("html.lost").wait_for(state="attached")
        browser.close()
        assert process.wait(20) == 0
    assert troubles == []
