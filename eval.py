"""Score a checkpoint on the test set, or summarise finished runs over their seeds.

python3 eval.py score result/NAME                  (or the checkpoint.pt in it; --pre_trained result/NAME is the same)
python3 eval.py summary result --csv scores.csv --markdown docs/results/scores.md
"""

from __future__ import annotations

import environment  # noqa: F401  (first: it says what to do where packages are missing)

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from semi.config import USER_ERROR, ConfigError
from tracking.command import Parser
from tracking.local import write_atomically
from tracking.report.runs import find_runs, group_runs, printable


def main(arguments: list[str] | None = None) -> int:
    """Exit code 2 when there is nothing to score, with one line that says why."""
    parser = Parser(
        prog="eval.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    scores = verbs.add_parser(
        "score", help="recall of each class, confusion matrix, bACC, GM, thirds", allow_abbrev=False
    )
    scores.add_argument(
        "checkpoint", type=Path, help="a run's folder, or a checkpoint.pt (retrain_head.py's too)"
    )
    scores.add_argument("--gpu", default="0", help="number among the visible GPUs; cpu for none (default: 0)")
    scores.add_argument("--data-dir", "--data_dir", default="", help="default: where the run had its images")
    scores.add_argument(
        "--plugin", default="", help="Python file of your own that has the run's method, refinery or data set"
    )
    summaries = verbs.add_parser("summary", help="mean of the last 20 epochs, mean and deviation over seeds")
    summaries.add_argument("runs", nargs="+", help="folders with runs in or below them")
    summaries.add_argument("--csv", type=Path, help="also write the table to this file")
    summaries.add_argument("--markdown", type=Path, help="the same as Markdown, with where it comes from")
    summaries.add_argument("--title", default="Scores", help="heading of the Markdown page")
    summaries.add_argument("--note", action="append", default=[], help="a line for the page; may be repeated")
    try:
        words = in_our_words(sys.argv[1:] if arguments is None else arguments)
        options, others = parser.parse_known_args(words)
        if options.verb == "score":
            return _score(options, others)
        if others:
            raise ConfigError(f"unknown argument {others[0]}; see eval.py summary --help")
        return _summary(options)
    except (ConfigError, OSError) as error:
        return _refused(error)


def in_our_words(words: Sequence[str]) -> list[str]:
    """The original's `--pre_trained RUN ...` as `score RUN ...`; any other command line as it is."""
    joined = list(words)
    for at, word in enumerate(joined):
        flag, _, run = word.partition("=")
        if flag in ("--pre_trained", "--pre-trained"):
            rest = joined[at + 1 :] if run else joined[at + 2 :]
            run = run or "".join(joined[at + 1 : at + 2])
            if not run or run.startswith("--"):
                raise ConfigError("--pre_trained: names no run; use eval.py score RUN_FOLDER")
            return ["score", run, *(word for word in joined[:at] if word != "score"), *rest]
    return joined


def _score(options: argparse.Namespace, others: Sequence[str]) -> int:
    """Flags of a training, `others`, are accepted where they say what the run says."""
    # here, because importing torch takes two seconds
    from data import DataError
    from semi.checkpoint import CheckpointError
    from semi.cli import use_plugin
    from semi.device import pick_device
    from semi.load_model import checkpoint_of, load_trained
    from semi.run_flags import refuse_contradictions
    from semi.scoring import score, show

    try:
        if options.plugin:
            use_plugin(options.plugin)
        device, note = pick_device(options.gpu)
        if note:
            print(note, file=sys.stderr)
        trained = load_trained(checkpoint_of(options.checkpoint), device, options.data_dir)
        refuse_contradictions(
            others, trained.config, "eval.py prints the scores of the run as it was trained"
        )
        show(_console(), score(trained), trained.dataset.class_names)
        return 0
    except (CheckpointError, DataError) as error:
        return _refused(error)


def _summary(options: argparse.Namespace) -> int:
    from tracking.report.figures import final_figures, terminal_table
    from tracking.report.summary import COLUMNS, as_csv, as_markdown, provenance

    runs, problems = find_runs(options.runs)
    for problem in problems:
        print(f"eval.py: {problem}", file=sys.stderr)
    if not runs:
        print(
            f"eval.py: no run in {', '.join(map(printable, options.runs))}: name folders that hold runs "
            "(config.yaml and metrics.jsonl)",
            file=sys.stderr,
        )
        return USER_ERROR
    groups = group_runs(runs)
    rows = final_figures(groups, COLUMNS)
    _console().print(terminal_table(rows, COLUMNS))
    if options.markdown:  # first: it says whether files differ from their commit
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        command = shlex.join(["python3", "eval.py", *sys.argv[1:]])
        about = provenance(runs, command, options.note, Path(__file__).parent)
        write_atomically(options.markdown, as_markdown(rows, options.title, about, groups))
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.csv, as_csv(rows))
    return 0


def _refused(error: Exception) -> int:
    print(f"eval.py: {error}", file=sys.stderr)
    return USER_ERROR


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140)


if __name__ == "__main__":
    sys.exit(main())
