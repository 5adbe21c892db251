"""The comparison page: one HTML file that opens with no network and runs no script but its own.

Every name in it comes from a file that somebody else may have written. Text is escaped, chart data travels as JSON
that cannot close its element, and a content security policy allows the page's own script by its hash and no
connection at all, so that a hostile run name stays a name. The script writes names as text, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from tracking.report.figures import COLUMNS, Column, epochs_text, heading_of, statistic, write_statistic
from tracking.report.findings import AT, NEAR, cautions
from tracking.report.page_data import differences, page_data, pair_first
from tracking.report.runs import Group, Regime, Run

Groups = Mapping[Regime, Sequence[Group]]
FILES = Path(__file__).parent / "page_files"
SCRIPTS = ("data.js", "state.js", "draw.js", "kinds.js", "sections.js", "page.js", "watch.js")

GLOSSARY = {
    "raw": "pseudo_orig: the model's own guesses for the unlabeled images, mean probability of each class. "
    "A dot is a seed.",
    "refined": "The same table after DARP or another refinery moved it to the target. Training learns from it.",
    "target": "The class distribution that the refinement aims at.",
    "truth": "The true class distribution of the unlabeled images. It serves diagnosis, never training.",
    "TV": "Total-variation distance of two distributions: the share that is in the wrong class, 0 to 1.",
    "effective classes": "exp of the entropy of the shares: K for K equal shares, 1 when one class has everything.",
    "collapsed": "The raw labels spread over less than half of the truth's effective classes.",
    "near, at": f"TV of the raw labels from the truth below {NEAR}, below {AT}.",
    "max/min": "Share of the largest class over that of the smallest; 1 is balanced.",
    "mask rate": "Share of the unlabeled images whose confidence passes the threshold tau.",
    "coverage": "Share of the rows visited so far; a row not yet visited is uniform.",
    "bACC, GM": "Mean and geometric mean of the recalls of the classes on the test set.",
    "precision": "Of the pseudo-labels of a class (largest entry), the share that is right.",
    "recall": "Of the images of a class, the share whose pseudo-label is right.",
    "data_time": "Time that a training step waits for its batch.",
    "residual": "How far the columns of the refined table are from the target after a solve.",
    "band": "From the smallest to the largest seed; the line is their mean.",
    "alert": "A triangle marks the epoch in which a run reported a problem: collapse, a dead class, a solver off "
    "target.",
}

# Identifier, heading, what it shows ({term} is explained by the glossary), whose legend stands above it.
SECTIONS = (
    (
        "heatmaps",
        "Class by epoch",
        "Share of each class as training goes on, on one scale for all, the square root of the share: a class that "
        "dies out turns dark. Click to go to an epoch.",
        "",
    ),
    (
        "distance",
        "Distance and effective classes",
        "{TV} of raw (solid) and refined (dotted) labels, {effective classes}, {alert}s as triangles, a {band} over "
        "seeds.",
        "groups",
    ),
    (
        "accuracy",
        "Accuracy and recall",
        "Of the averaged model, on the test set; with the shift of the test logits, where a refinery has one.",
        "groups",
    ),
    (
        "agreement",
        "Precision against recall of the pseudo-labels",
        "One point a class: hollow raw, filled refined. Low {recall}: the class loses its images. Low {precision}: it "
        "takes those of others.",
        "labels",
    ),
    (
        "taken",
        "Who takes whose images",
        "Up: images of other classes that carry this label. Down, lighter: images of this class that carry another. "
        "Squares: where the images of each class go, of the newest matrix that the run kept (media.npz); square root.",
        "labels",
    ),
    ("times", "Where the time goes", "{data_time} a step, and the parts of an epoch.", "groups"),
    (
        "solver",
        "Solver health",
        "Of each epoch's solves: worst {residual}, passes, failures. Then what refinery and method say of themselves.",
        "groups",
    ),
)


def build_page(
    groups: Groups, *, title: str, problems: Sequence[str] = (), version: str = "", watch: bool = False
) -> str:
    """The page for these runs as HTML.

    Args:
        groups: runs by regime and configuration, as `group_runs` gives them; at least one.
        title: heading of the page, plain text.
        problems: one plain line for each run that could not be read.
        version: of the files that the page was made of, where it is served.
        watch: whether the page asks its server for a newer version of itself.
    """
    data = page_data(groups)
    packed = data.pop("packed")
    ordered = {regime: pair_first(members) for regime, members in groups.items()}
    runs = [run for members in ordered.values() for group in members for run in group.runs]
    notices = "".join(f"<li>{escape(line)}</li>" for line in (*cautions(groups), *problems))
    stride = (
        f" The page keeps every {_ordinal(data['stride'])} epoch and the last." if data["stride"] > 1 else ""
    )
    parts = [
        f"<header><h1>{escape(title)}</h1>{_controls()}</header>",
        "<main>",
        _shares(data["regimes"]),
        f'<ul class="cautions" aria-label="Cautions">{notices}</ul>' if notices else "",
        *(_section(*section) for section in SECTIONS),
        _final_figures(ordered),
        _differences(ordered),
        _glossary(),
        f"<footer>{len(runs)} runs.{stride} Distances are from the truth, or from the target where no true labels are "
        "logged. The address of this page holds what you have chosen. This file needs no network.</footer>",
        "</main>",
    ]
    return _document(title, "\n".join(part for part in parts if part), data, packed, version if watch else "")


def script_json(value: Any) -> str:
    """`value` as JSON that is safe inside a script element: no `<`, so nothing in it can close the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _document(title: str, body: str, data: Mapping[str, Any], packed: str, watched: str) -> str:
    script = page_script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    if watched:
        policy += "; connect-src 'self'"
    return f"""<!doctype html>
<html lang="en" data-watched="{escape(watched)}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{(FILES / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
{body}
<div id="tip" role="tooltip" hidden></div>
<noscript><p class="note">The charts are drawn by the script in this file; the tables stand without it.</p></noscript>
<script type="application/json" id="data">{script_json(data)}</script>
<script type="text/plain" id="packed">{packed}</script>
<script>{script}</script>
</body>
</html>
"""


@cache
def page_script() -> str:
    """The page's own script, in one piece."""
    files = "\n".join((FILES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return f'"use strict";\n{files}'


def _controls() -> str:
    filters = "".join(
        f'<label>{words} <select id="{name}"><option value="">all</option></select></label>'
        for name, words in (
            ("regime", "Regime"), ("method", "Method"), ("refine", "Refinery"), ("seed", "Seed"),
        )
    )  # fmt: skip
    views = "".join(
        f'<label>{words} <select id="{name}">'
        + "".join(f'<option value="{value}">{text}</option>' for value, text in options)
        + "</select></label>"
        for name, words, options in (
            ("order", "Classes", (("share", "by true share"), ("data", "as in the data set"))),
            ("heat", "Heatmaps", (("share", "share"), ("difference", "difference to the truth"))),
            ("seeds", "Lines", (("", "mean and band"), ("each", "mean and each seed"))),
        )
    )
    return f"""
<div class="controls" role="group" aria-label="What is shown">
<div class="player"><button type="button" id="play" aria-label="Play the epochs"></button>
<input type="range" id="epoch" min="0" max="0" value="0" step="1" aria-label="Epoch">
<output id="epoch-text" for="epoch"></output></div>
<details id="choose"><summary>Filter and view <span id="count"></span></summary><div class="panel">
{filters}<label>Text <input type="search" id="text" placeholder="name, setting"></label>{views}
<button type="button" id="reset" hidden>Show all runs</button></div></details></div>"""


def _shares(regimes: Sequence[Mapping[str, Any]]) -> str:
    columns = "".join(
        f'<div class="regime" data-regime="{number}"><h2>{escape(regime["name"])}</h2>'
        f'<p class="verdict"><b class="word">{escape(regime["word"])}</b> {escape(regime["verdict"])}</p>'
        f'<div class="charts"></div><p class="facts">{escape(regime["images"])}</p></div>'
        for number, regime in enumerate(regimes)
    )
    return (
        '<section id="shares" aria-label="Share of each class in the pseudo-labels">'
        '<div class="head"><p class="note">Share of each class in the pseudo-labels</p>'
        f'<div class="legend" data-legend="tables" role="group" aria-label="Legend"></div></div>'
        f'<div class="regimes">{columns}</div>{_NOTHING}</section>'
    )


_NOTHING = '<p class="nothing" hidden>No run passes the filter.</p>'


def _section(identifier: str, heading: str, note: str, legend: str) -> str:
    words = "".join(
        part if place % 2 == 0 else f'<span class="term">{part}</span>'
        for place, part in enumerate(note.replace("}", "{").split("{"))
    )
    above = (
        f'<div class="legend" data-legend="{legend}" role="group" aria-label="Legend"></div>'
        if legend
        else ""
    )
    scale = '<div id="heat-scale"></div>' if identifier == "heatmaps" else ""
    return (
        f'<section id="{identifier}"><h2>{heading}</h2><div class="head"><p class="note">{words}</p>{above}{scale}'
        f'</div><div class="regimes"></div>{_NOTHING}</section>'
    )


def _glossary() -> str:
    entries = "".join(
        f"<div><dt>{escape(term)}</dt><dd>{escape(meaning)}</dd></div>" for term, meaning in GLOSSARY.items()
    )
    return f'<section id="glossary"><h2>Glossary</h2><dl>{entries}</dl></section>'


def _final_figures(groups: Groups) -> str:
    head = "".join(
        f'<th scope="col" title="{escape(column.meaning)}">{escape(column.heading)}</th>'
        for column in COLUMNS
    )
    members = [group for regime in groups for group in groups[regime]]
    configurations = "".join(_configuration_row(number, group) for number, group in enumerate(members))
    runs = [(group, run) for group in members for run in group.runs]
    single = "".join(_run_row(number, *pair) for number, pair in enumerate(runs))
    return (
        '<section id="figures"><h2>Final figures</h2>'
        '<p class="note">Last epoch of each run; mean ± standard deviation over the seeds. Headings sort.</p>'
        f'{_TABLE_OPEN}<th scope="col" class="text">regime</th><th scope="col" class="text">configuration</th>'
        f'<th scope="col" title="number of seeds">n</th><th scope="col">epochs</th>{head}</tr></thead>'
        f"<tbody>{configurations}</tbody></table></div>"
        f"<details><summary>Each of the {len(runs)} runs</summary>"
        f'{_TABLE_OPEN}<th scope="col" class="text">run</th><th scope="col" class="text">configuration</th>'
        f'<th scope="col">seed</th><th scope="col">epochs</th>{head}</tr></thead><tbody>{single}</tbody></table>'
        "</div></details></section>"
    )


_TABLE_OPEN = (
    '<div class="scroll" tabindex="0" role="region" aria-label="Table of figures">'
    '<table class="sortable"><thead><tr>'
)


def _differences(groups: Groups) -> str:
    found = differences(groups)
    members = [group for regime in groups for group in groups[regime]]
    if not found:
        return ""
    head = "".join(f'<th scope="col" class="text">{escape(name)}</th>' for name in found)
    rows = "".join(
        f'<tr data-group="{number}">'
        + "".join(
            f'<td class="text">{escape(text)}</td>'
            for text in (heading_of(group.regime), group.label, *(texts[number] for texts in found.values()))
        )
        + "</tr>"
        for number, group in enumerate(members)
    )
    return (
        '<section id="differences"><h2>What differs</h2><p class="note">Settings that are not the same in all '
        "configurations; all others are.</p>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Settings that differ"><table><thead><tr>'
        f'<th scope="col" class="text">regime</th><th scope="col" class="text">configuration</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


_BADGE = ' <span class="badge">unfinished</span>'


def _configuration_row(number: int, group: Group) -> str:
    badge = "" if all(run.finished for run in group.runs) else _BADGE
    seeds = escape(", ".join(run.seed for run in group.runs))
    return (
        f'<tr data-group="{number}"><td class="text">{escape(heading_of(group.regime))}</td>'
        f'<td class="text">{escape(group.label)}{badge}</td><td title="seeds {seeds}">{len(group.runs)}</td>'
        f"<td>{escape(epochs_text(group.runs))}</td>{''.join(_cell(column, group.runs) for column in COLUMNS)}</tr>"
    )


def _run_row(number: int, group: Group, run: Run) -> str:
    return (
        f'<tr data-run="{number}"><td class="text">{escape(run.name)}{"" if run.finished else _BADGE}</td>'
        f'<td class="text">{escape(heading_of(group.regime))}: {escape(group.label)}</td><td>{escape(run.seed)}</td>'
        f"<td>{escape(epochs_text([run]))}</td>{''.join(_cell(column, [run]) for column in COLUMNS)}</tr>"
    )


def _cell(column: Column, runs: Sequence[Run]) -> str:
    """Mean with its deviation under it, and the number to sort by."""
    figure = statistic(column.take(run) for run in runs)
    mean, plus_minus, deviation = escape(write_statistic(figure, column.form)).partition(" ± ")
    small = f"<small> ± {deviation}</small>" if plus_minus else ""
    return f'<td data-sort="{"" if figure is None else f"{figure.mean:.6g}"}">{mean}{small}</td>'


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
