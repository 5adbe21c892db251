"""The stand-in W&B backend, against the real SDK and CLI as subprocesses."""

import itertools
import json
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.wandb_server import Sweep, WandbServer, graphql
from tests.wandb_server.faults import Faults
from tests.wandb_server.quick import AGENT, QUICK_RETRIES
from tests.wandb_server.trials import draws


def call(server: WandbServer, folder: Path, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command that talks to the server, in its folder; fail with its output when it fails."""
    done = subprocess.run(
        command, cwd=folder, env=server.env(folder) | extra, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def python(server: WandbServer, folder: Path, code: str, *arguments: str, **extra: str) -> str:
    return call(server, folder, sys.executable, "-c", textwrap.dedent(code), *arguments, **extra).stdout


LOGS_THREE_EPOCHS = """
    import sys, wandb
    run = wandb.init(entity="lab", project="p", id="run1", name="a run", group="g", job_type="train",
                     tags=["x", "y"], config={"lr": 0.1, "deep": {"k": 1}}, mode=sys.argv[1], resume="allow")
    print("start", run.starting_step)
    for epoch in range(3):
        shares = wandb.Histogram(np_histogram=([3, 2, 1], [-0.5, 0.5, 1.5, 2.5]))
        run.log({"epoch": epoch, "loss": 1 / (epoch + 1), "shares": shares})
    run.alert("collapse", "class 3 is dead")
    run.finish(exit_code=int(sys.argv[2]))
"""


def test_an_online_run_arrives_whole(server: WandbServer, tmp_path: Path) -> None:
    python(server, tmp_path, LOGS_THREE_EPOCHS, "online", "0")
    run = server.runs["run1"]
    assert (run.entity, run.project, run.display_name) == ("lab", "p", "a run")
    assert (run.group, run.job_type, run.tags) == ("g", "train", ["x", "y"])
    assert run.config == {"lr": 0.1, "deep": {"k": 1}}
    assert [(row["_step"], row["epoch"], row["loss"]) for row in run.history] == [
        (0, 0, 1),
        (1, 1, 0.5),
        (2, 2, 1 / 3),
    ]
    assert run.history[0]["shares"]["values"] == [3, 2, 1]
    assert run.summary["loss"] == 1 / 3
    assert (run.state, run.exit_code) == ("finished", 0)
    assert [alert["title"] for alert in run.alerts] == ["collapse"]
    assert any("start 0" in line for line in run.console)
    assert json.loads(run.files["wandb-summary.json"])["epoch"] == 2


def test_a_failed_run_keeps_its_exit_code(server: WandbServer, tmp_path: Path) -> None:
    python(server, tmp_path, LOGS_THREE_EPOCHS, "online", "3")
    assert (server.runs["run1"].state, server.runs["run1"].exit_code) == ("failed", 3)


def test_a_resumed_run_continues_without_doubling_steps(server: WandbServer, tmp_path: Path) -> None:
    assert "start 0" in python(server, tmp_path, LOGS_THREE_EPOCHS, "online", "1")
    assert "start 3" in python(server, tmp_path, LOGS_THREE_EPOCHS, "online", "0")
    run = server.runs["run1"]
    assert [row["_step"] for row in run.history] == [0, 1, 2, 3, 4, 5]
    assert (run.state, run.exit_code) == ("finished", 0)


def test_an_offline_run_arrives_by_wandb_sync(server: WandbServer, tmp_path: Path) -> None:
    python(server, tmp_path, LOGS_THREE_EPOCHS, "offline", "2")
    assert server.runs == {}
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    done = call(server, tmp_path, "wandb", "sync", str(folder))
    assert "Finished syncing" in done.stderr
    run = server.runs["run1"]
    assert (run.group, run.job_type, run.tags) == ("g", "train", ["x", "y"])
    assert run.config["lr"] == 0.1
    assert [row["epoch"] for row in run.history] == [0, 1, 2]
    assert (run.state, run.exit_code) == ("failed", 2)


def test_the_public_api_reads_back_what_was_logged(server: WandbServer, tmp_path: Path) -> None:
    python(server, tmp_path, LOGS_THREE_EPOCHS, "online", "0")
    code = """
        import json, wandb
        api = wandb.Api()
        run = api.run("lab/p/run1")
        run.summary["late"] = 5
        run.summary.update()
        print(json.dumps({
            "name": run.name, "state": run.state, "config": run.config, "loss": run.summary["loss"],
            "history": [row["epoch"] for row in run.history(pandas=False)],
            "keyed": run.history(keys=["loss"], pandas=False),
            "scan": [row["loss"] for row in run.scan_history()],
            "keyed_scan": [row["epoch"] for row in run.scan_history(keys=["epoch", "loss"])],
            "page": [row["epoch"] for row in run.scan_history(page_size=1, min_step=1)],
            "found": [r.id for r in api.runs("lab/p", filters={"config.lr": {"$gt": 0.05}, "tags": "x"})],
            "not_found": [r.id for r in api.runs("lab/p", filters={"state": "crashed"})],
            "files": sorted(f.name for f in run.files(pattern="%.yaml")),
        }))
    """
    read = json.loads(python(server, tmp_path, code))
    assert (read["name"], read["state"], read["loss"]) == ("a run", "finished", 1 / 3)
    assert read["config"] == {"lr": 0.1, "deep": {"k": 1}}
    assert read["history"] == read["keyed_scan"] == [0, 1, 2]
    assert read["page"] == [1, 2]
    assert read["keyed"][1] == {"_step": 1, "loss": 0.5}
    assert read["scan"] == [1, 0.5, 1 / 3]
    assert (read["found"], read["not_found"]) == (["run1"], [])
    assert read["files"] == ["config.yaml"]
    assert server.runs["run1"].summary["late"] == 5


def test_a_run_that_is_sent_again_without_resume_appends_rows_whose_steps_restart(
    server: WandbServer, tmp_path: Path
) -> None:
    python(server, tmp_path, LOGS_THREE_EPOCHS, "online", "0")
    code = """
        import wandb
        run = wandb.init(entity="lab", project="p", id="run1")
        run.log({"epoch": 7})
        run.finish()
    """
    python(server, tmp_path, code)
    assert [(row["_step"], row["epoch"]) for row in server.runs["run1"].history] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (0, 7),
    ]


def test_it_can_be_started_by_hand_and_prints_how_to_reach_it(tmp_path: Path) -> None:
    by_hand = subprocess.Popen(
        [sys.executable, "-m", "tests.wandb_server", "--port", "0"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert by_hand.stdout is not None
        told = dict(word.split("=", 1) for word in by_hand.stdout.readline().removeprefix("export ").split())
        environment = WandbServer().env(tmp_path) | told
        code = "import wandb; wandb.init(project='p', id='x').finish()"
        subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True, timeout=60)
    finally:
        by_hand.send_signal(signal.SIGTERM)
        printed, _ = by_hand.communicate(timeout=30)
    assert "200 POST /graphql UpsertBucket" in printed
    assert "1 runs, 0 sweeps; unknown: []" in printed


def test_an_artifact_of_one_run_is_consumed_by_another(server: WandbServer, tmp_path: Path) -> None:
    for number in "01":
        code = """
            import pathlib, sys, wandb
            pathlib.Path("weights").write_text("epoch " + sys.argv[1])
            run = wandb.init(entity="lab", project="p", id="maker" + sys.argv[1])
            artifact = wandb.Artifact("net", type="model", metadata={"epoch": int(sys.argv[1])})
            artifact.add_file("weights", name="sub/weights")
            run.log_artifact(artifact, aliases=["best"] if sys.argv[1] == "0" else [])
            run.log({"table": wandb.Table(columns=["a"], data=[[1]])})
            run.finish()
        """
        python(server, tmp_path, code, number)
    code = """
        import pathlib, wandb
        run = wandb.init(entity="lab", project="p", id="user")
        artifact = run.use_artifact("net:best")
        print(pathlib.Path(artifact.download(), "sub/weights").read_text(), artifact.metadata["epoch"])
        run.finish()
        print([a.name for a in wandb.Api().run("lab/p/user").used_artifacts()])
        print(wandb.Api().artifact("lab/p/net:latest").logged_by().id)
    """
    printed = python(server, tmp_path, code).splitlines()
    assert printed == ["epoch 0 0", "['net:v0']", "maker1"]
    first, second = (artifact for artifact in server.artifacts if artifact.type == "model")
    assert (first.name, first.aliases, first.files) == ("net:v0", ["best"], {"sub/weights": b"epoch 0"})
    assert (second.name, second.aliases) == ("net:v1", ["latest"])
    assert (first.created_by, first.used_by) == (server.runs["maker0"].id, [server.runs["user"].id])
    assert any(name.startswith("media/table/") for name in server.runs["maker0"].files)


TRIAL = """
import argparse, wandb
parser = argparse.ArgumentParser()
parser.add_argument("--ratio", type=int)
parser.add_argument("--darp", action="store_true")
options, _ = parser.parse_known_args()
run = wandb.init(config=vars(options), resume="allow")
run.log({"start": run.starting_step, "loss": 1 / options.ratio})
if options.ratio == 7 and run.starting_step == 0:
    run.mark_preempting()
    run.finish(exit_code=4)
    raise SystemExit(4)
run.finish()
"""
COMMAND = 'command: ["${env}", "${interpreter}", "${program}", "${args_no_boolean_flags}"]\n'


def make_sweep(server: WandbServer, folder: Path, text: str) -> str:
    (folder / "trial.py").write_text(TRIAL)
    (folder / "sweep.yaml").write_text("program: trial.py\n" + COMMAND + text)
    said = call(server, folder, "wandb", "sweep", "--entity", "lab", "--project", "p", "sweep.yaml").stderr
    found = re.search(r"wandb agent (\S+)", said)
    assert found, said
    return found.group(1)


@pytest.mark.slow
def test_two_agents_share_a_grid_sweep(server: WandbServer, tmp_path: Path) -> None:
    grid = "method: grid\nparameters: {ratio: {values: [2, 50]}, darp: {values: [true, false]}}\n"
    sweep_path = make_sweep(server, tmp_path, grid)
    agents = [
        subprocess.Popen(
            [*AGENT, sweep_path],
            cwd=tmp_path,
            env=server.env(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert [agent.wait(timeout=120) for agent in agents] == [0, 0]
    (sweep,) = server.sweeps.values()
    assert (sweep.state, sweep.expected) == ("FINISHED", 4)
    assert all((trial.state, trial.attempts) == ("finished", 1) for trial in sweep.trials.values())
    runs = server.runs.values()
    assert sorted((run.config["ratio"], run.config["darp"]) for run in runs) == [
        (2, False),
        (2, True),
        (50, False),
        (50, True),
    ]
    assert all((run.sweep, run.exit_code) == (sweep.name, 0) for run in runs)
    code = """
        import sys, wandb
        sweep = wandb.Api().sweep(sys.argv[1])
        print(sweep.state, len(sweep.runs), sweep.best_run("+loss").summary["loss"])
    """
    assert python(server, tmp_path, code, sweep_path).split() == ["FINISHED", "4", "0.02"]


@pytest.mark.slow
def test_a_preempted_trial_is_put_back_and_continues_its_run(server: WandbServer, tmp_path: Path) -> None:
    capped = "method: random\nrun_cap: 1\nparameters: {ratio: {values: [7]}, darp: {value: false}}\n"
    call(server, tmp_path, *AGENT, make_sweep(server, tmp_path, capped))
    (sweep,) = server.sweeps.values()
    (trial,) = sweep.trials.values()
    assert (trial.state, trial.attempts) == ("finished", 2)
    assert [command["type"] for command in sweep.commands] == ["run", "resume", "exit"]
    assert [row["start"] for row in server.runs[trial.run].history] == [0, 1]


def test_a_stopped_trial_is_put_back_only_where_it_marked_itself_as_preempting() -> None:
    sweep = Sweep("s", "lab", "p", "{method: grid, parameters: {ratio: {values: [2, 50]}}}")
    (command,) = sweep.commands_for("agent", set())
    trial = command["run_id"]
    assert sweep.commands_for("agent", {trial}) == []
    sweep.stop(trial)
    assert sweep.commands_for("agent", {trial}) == [{"type": "stop", "run_id": trial}]
    sweep.close(trial, failed=True, preempted=True)
    (again,) = sweep.commands_for("agent", set())
    assert (again["type"], again["run_id"]) == ("resume", trial)
    sweep.close(trial, failed=True, preempted=False)
    (following,) = sweep.commands_for("agent", set())
    assert (following["type"], following["args"]) == ("run", {"ratio": {"value": 50}})


def test_the_trials_of_a_cancelled_sweep_are_told_to_stop() -> None:
    sweep = Sweep("s", "lab", "p", "{method: grid, parameters: {ratio: {values: [2, 50]}}}")
    (command,) = sweep.commands_for("agent", set())
    trial = command["run_id"]
    sweep.state = "CANCELED"
    assert sweep.commands_for("agent", {trial}) == [{"type": "stop", "run_id": trial}]
    assert sweep.commands_for("agent", set()) == [{"type": "exit"}]


def test_random_draws_respect_their_ranges_and_repeat() -> None:
    config = {
        "method": "random",
        "parameters": {
            "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
            "depth": {"distribution": "int_uniform", "min": 2, "max": 4},
            "alpha": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25},
            "deep": {"parameters": {"k": {"values": ["a", "b"]}}},
        },
    }
    first, again = (list(itertools.islice(draws(config, "seed"), 200)) for _ in range(2))
    assert first == again
    assert all(1e-4 <= row["lr"] <= 1e-1 for row in first)
    assert {row["depth"] for row in first} == {2, 3, 4}
    assert {row["alpha"] for row in first} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert {row["deep"]["k"] for row in first} == {"a", "b"}


LOGS_TWENTY_EPOCHS = """
    import pathlib, wandb
    run = wandb.init(entity="lab", project="p", id="run1", config={"lr": 0.1})
    pathlib.Path("weights").write_text("weights")
    artifact = wandb.Artifact("net", type="model")
    artifact.add_file("weights")
    run.log_artifact(artifact)
    for epoch in range(20):
        run.log({"epoch": epoch})
    run.finish()
"""


@pytest.mark.slow
@pytest.mark.parametrize("status", [500, 429])
def test_with_a_third_of_the_requests_failing_nothing_is_lost(
    server: WandbServer, tmp_path: Path, status: int
) -> None:
    server.fail(rate=0.3, status=status)
    python(server, tmp_path, LOGS_TWENTY_EPOCHS, **QUICK_RETRIES)
    run = server.runs["run1"]
    assert [row["epoch"] for row in run.history] == list(range(20))
    assert (run.config, run.exit_code, run.summary["epoch"]) == ({"lr": 0.1}, 0, 19)
    assert server.artifacts[0].files == {"weights": b"weights"}
    statuses = [request.status for request in server.requests]
    assert statuses.count(status) == int(0.3 * len(statuses))


def test_a_server_that_comes_back_gets_what_it_missed(server: WandbServer, tmp_path: Path) -> None:
    code = """
        import pathlib, time, wandb
        run = wandb.init(entity="lab", project="p", id="run1")
        run.log({"epoch": 0})
        pathlib.Path("started").touch()
        while not pathlib.Path("go_on").exists():
            time.sleep(0.05)
        run.log({"epoch": 1})
        run.finish()
    """
    environment = server.env(tmp_path) | QUICK_RETRIES | {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    assert server.wait_until(lambda: "run1" in server.runs and len(server.runs["run1"].history) == 1)
    port = server.port
    server.stop()
    (tmp_path / "go_on").touch()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    server.restart()
    assert process.wait(timeout=60) == 0
    assert server.port == port
    assert [row["epoch"] for row in server.runs["run1"].history] == [0, 1]


def test_failures_are_spread_by_count_and_limited() -> None:
    faults = Faults()
    faults.fail(0.3, 500, "", None)
    struck = [faults.status("/graphql") == 500 for _ in range(100)]
    assert sum(struck) == 30
    assert not any(a and b for a, b in itertools.pairwise(struck))
    faults.fail(1.0, 429, "file_stream", 2)
    assert [faults.status("/graphql"), *(faults.status("/a/file_stream") for _ in range(3))] == [
        None,
        429,
        429,
        None,
    ]


def test_an_answer_follows_aliases_fragments_and_directives() -> None:
    text = """#graphql
        query Q($name: String = "default", $more: Boolean!) {
            first: thing(name: $name, list: [1, {a: "x"}]) {
                ...F ... on Other { hidden } kept @include(if: $more)
            }
        }
        fragment F on Thing { name inner { a } inner { b } dropped @skip(if: true) }
    """
    asked = []

    def thing(arguments: dict) -> dict:
        asked.append(arguments)
        inner = {"a": 1, "b": 2, "c": 3}
        return {"__typename": "Thing", "name": arguments["name"], "inner": [inner], "kept": 1, "dropped": 1}

    missing: set[str] = set()
    answer = graphql.Answer(graphql.parse(text), {"more": False}, missing.add)
    assert answer.run({"thing": thing}) == {"first": {"name": "default", "inner": [{"a": 1, "b": 2}]}}
    assert asked == [{"name": "default", "list": [1, {"a": "x"}]}]
    assert missing == set()
    answer = graphql.Answer(graphql.parse(text), {"more": True, "name": "n"}, missing.add)
    assert answer.run({"thing": thing})["first"]["kept"] == 1
    with pytest.raises(graphql.GraphQLError, match="thing"):
        answer.run({})


def test_a_field_that_nobody_knows_is_null_and_reported(server: WandbServer) -> None:
    document = graphql.parse("{ viewer { id shoeSize } }")
    missing: set[str] = set()
    answer = graphql.Answer(document, {}, missing.add).run({"viewer": lambda arguments: {"id": "1"}})
    assert answer == {"viewer": {"id": "1", "shoeSize": None}}
    assert missing == {"?.shoeSize"}
