"""`--profile`: a page that says where an epoch's time went, and a trace of a few steps."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from semi.config import Config
from tracking.local import in_one_line, replacing, write_atomically

STEP_PARTS = (
    "guess",
    "forward",
    "backward",
    "optimizer",
    "ema",
    "recorded",
    "between",
)  # what time/step is the sum of
TABLE_FILE, TRACE_FILE = "profile.md", "trace.json.gz"
WARM, TRACED = 3, 3  # steps before the trace, whose first uses of everything would fill it, and steps in it
LISTED = 12  # operations on the page
SAID = {
    "data": "waiting for batches",
    "step": "the parts below",
    "guess": "predictions for the unlabeled images, and their rows in the table",
    "forward": "losses",
    "backward": "gradients",
    "optimizer": "Adam and the decay of the weights",
    "ema": "the averaged weights",
    "recorded": "on a GPU: losses to averaged weights as one graph, in place of the four parts above",
    "between": "sums of the losses, the progress bar, looks at the loss",
    "refine": "refinement",
    "eval": "test scores and the metrics of the pseudo-labels",
    "log": "the row before, on disk and to W&B",
    "checkpoint": "saves after the row before and within this epoch",
    "not charged": "what is left of time/epoch",
}


class NoProfile:
    """Nothing is asked for: hears of steps and epochs, and does nothing."""

    def step(self) -> None:
        """A step is done."""

    def epoch(self, row: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """An epoch is done. `seconds`: what `EpochSoFar.seconds` gave, with the parts of the step."""


NO_PROFILE = NoProfile()


def profile_of(config: Config, folder: Path, device: torch.device) -> NoProfile:
    """What writes the profile into the run's folder, where --profile asks for it."""
    return Profile(config, folder, device) if config.profile else NO_PROFILE


class Profile(NoProfile):
    """Writes profile.md after each epoch, of that epoch; and trace.json.gz once, after WARM + TRACED + 1 steps."""

    def __init__(self, config: Config, folder: Path, device: torch.device) -> None:
        self._config, self._folder, self._device = config, folder, device
        self._operations = "The trace comes with the next epoch: this one has too few steps.\n"
        self._steps = 0
        activities = [torch.profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(activities=activities)

    def step(self) -> None:
        self._steps += 1
        if self._steps == WARM:
            self._profiler.start()
        elif self._steps == WARM + TRACED:
            self._profiler.stop()
            self._operations = operations_table(self._profiler, self._device)
            self._write(self._export)

    def epoch(self, row: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        text = page(self._folder.name, self._config, self._device, row, seconds) + self._operations
        self._write(lambda: write_atomically(self._folder / TABLE_FILE, text))

    def _export(self) -> None:
        with tempfile.TemporaryDirectory() as elsewhere, replacing(self._folder / TRACE_FILE) as file:
            trace = Path(elsewhere) / TRACE_FILE  # torch packs what is named .gz
            self._profiler.export_chrome_trace(str(trace))
            file.write(trace.read_bytes())

    def _write(self, write: Callable[[], None]) -> None:
        """A profile that cannot be written ends no run."""
        try:
            write()
        except OSError as error:
            print(f"--profile: {in_one_line(error)}", file=sys.stderr)


def page(
    name: str, config: Config, device: torch.device, row: Mapping[str, Any], seconds: Mapping[str, float]
) -> str:
    """The table of one epoch in Markdown: seconds, share of time/epoch, milliseconds a step."""
    whole, steps = row["time/epoch"], config.val_iteration
    lines = [
        f"# Where epoch {row['epoch']} of {name} went",
        "",
        f"{whole:.3f} s, {steps} steps of 2 x {config.batch_size} images, {device}, {torch.get_num_threads()} threads.",
        "",
        "| part | seconds | share | ms a step | what it is |",
        "|---|---|---|---|---|",
    ]
    times = {name: row[f"time/{name}"] for name in ("data", "step", "refine", "eval", "log", "checkpoint")}
    pieces = {f"- {piece}": seconds.get(piece, 0.0) for piece in STEP_PARTS}
    left = {"not charged": whole - sum(times.values())}
    for part, spent in ({p: times.pop(p) for p in ("data", "step")} | pieces | times | left).items():
        said = SAID[part.removeprefix("- ")]
        lines.append(f"| {part} | {spent:.3f} | {spent / whole:.1%} | {1000 * spent / steps:.3f} | {said} |")
    return "\n".join(lines) + "\n\n"


def operations_table(profiler: torch.profiler.profile, device: torch.device) -> str:
    """The operations that took most of the traced steps, on the device they run on, in Markdown."""
    on_gpu = device.type == "cuda"

    def spent_us(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    events = sorted(profiler.key_averages(), key=spent_us, reverse=True)
    total = sum(map(spent_us, events)) or 1.0
    lines = [
        f"## {TRACED} steps, operation by operation",
        "",
        f"Own time on {'the GPU' if on_gpu else 'the CPU'}, without what they call. {TRACE_FILE} has each of them: "
        "open it in Perfetto or chrome://tracing.",
        "",
        "| operation | calls a step | ms a step | share |",
        "|---|---|---|---|",
    ]
    for event in events[:LISTED]:
        spent = spent_us(event)
        lines.append(
            f"| `{event.key[:60]}` | {event.count / TRACED:.1f} | {spent / TRACED / 1000:.3f} | {spent / total:.1%} |"
        )
    return "\n".join(lines) + "\n"
