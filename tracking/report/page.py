"""The comparison page: one HTML file that opens with no network and runs no script but its own.

Every name in it comes from a file that somebody else may have written. Text is escaped, chart data travels as JSON
that cannot close its element, and a content security policy allows the page's own scripts by their hash and no
connection at all, so that a hostile run name stays a name.
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

import altair as alt
import vl_convert

from tracking.report import page_charts
from tracking.report.charts import DARK
from tracking.report.figures import (
    COLUMNS,
    FiguresRow,
    epochs_text,
    final_figures,
    statistic,
    write_statistic,
)
from tracking.report.findings import cautions, findings
from tracking.report.runs import Group, Regime, Run

KEY = (
    (
        "orig",
        "pseudo_orig",
        "The model's own guesses for the unlabeled images: mean probability of each class.",
    ),
    ("refined", "refined", "The same table after DARP moved it to the target. Training learns from it."),
    ("target", "target", "The class distribution that DARP aims at."),
    (
        "true",
        "true",
        "The true class distribution of the unlabeled images. It serves diagnosis, never training.",
    ),
    ("uniform", "uniform", "The same share for each class."),
    (
        "",
        "TV",
        "Total-variation distance of two distributions: the share that is in the wrong class, 0 to 1.",
    ),
    ("", "max/min", "Share of the largest class over that of the smallest; 1 is balanced."),
    ("", "mask rate", "Share of the unlabeled images whose confidence passes the threshold tau."),
    ("", "coverage", "Share of the rows visited so far; a row not yet visited is uniform."),
    ("", "bACC, GM", "Mean and geometric mean of the recalls of the classes on the test set."),
    ("", "data_time", "Time that a training step waits for its batch."),
    ("", "residual", "How far the columns of the refined table are from the target after a solve."),
)


def build_page(groups: Mapping[Regime, Sequence[Group]], *, title: str, problems: Sequence[str] = ()) -> str:
    """The page for these runs as HTML.

    Args:
        groups: runs by regime and configuration, as `group_runs` gives them; at least one.
        title: heading of the page, plain text.
        problems: one plain line for each run that could not be read.
    """
    specs: dict[str, Any] = {}
    body = page_charts.all_datasets(groups, specs)
    notices = "".join(f"<li>{escape(line)}</li>" for line in (*cautions(groups), *problems))
    runs = sum(len(group.runs) for members in groups.values() for group in members)
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="lede">{escape(sentence)}</p>' for sentence in findings(groups)),
        f'<ul class="cautions">{notices}</ul>' if notices else "",
        f'<dl class="key">{"".join(_key_entry(*entry) for entry in KEY)}</dl>',
        '<nav aria-label="Contents"><a href="#figures">Final figures</a>',
        *(
            f'<a href="#{page_charts.anchor(name, groups)}">{escape(name)}</a>'
            for name in page_charts.datasets(groups)
        ),
        "</nav>",
        _final_figures(groups),
        body,
        f"<footer>{runs} runs. Distances are from the truth, or from the target where no true labels are logged. "
        "Hover over a chart for its numbers, and for a menu that saves it as SVG or PNG. This file needs no "
        "network.</footer>",
    ]
    return _document(title, "\n".join(part for part in parts if part), specs)


def script_json(value: Any) -> str:
    """`value` as JSON that is safe inside a script element: no `<`, so nothing in it can close the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _document(title: str, body: str, specs: Mapping[str, Any]) -> str:
    here = Path(__file__).parent
    scripts = [_libraries(), (here / "page.js").read_text(encoding="utf-8")]
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{(here / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{body}
<noscript><p class="note">The charts are drawn by scripts in this file; the tables stand without them.</p></noscript>
</main>
<script type="application/json" id="specs">{script_json(specs)}</script>
<script type="application/json" id="dark-colours">{script_json(DARK)}</script>
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


@cache
def _libraries() -> str:
    """Vega, the Vega-Lite that Altair writes for (the newest where that one is not bundled), and Vega-Embed."""
    wanted = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    versions = vl_convert.get_vegalite_versions()
    bundle = vl_convert.javascript_bundle(
        snippet="window.vegaEmbed = vegaEmbed;", vl_version=wanted if wanted in versions else versions[-1]
    )
    return bundle.replace("</script", "<\\/script")


def _key_entry(kind: str, term: str, meaning: str) -> str:
    swatch = f'<span class="swatch {kind}"></span>' if kind else ""
    return f"<div><dt>{swatch}{escape(term)}</dt><dd>{escape(meaning)}</dd></div>"


def _final_figures(groups: Mapping[Regime, Sequence[Group]]) -> str:
    head = "".join(
        f'<th title="{escape(column.meaning)}">{escape(column.heading)}</th>' for column in COLUMNS
    )
    rows, previous = [], None
    for row in final_figures(groups):
        rows.append(_configuration_row(row, first=row.regime != previous))
        previous = row.regime
    runs = [run for members in groups.values() for group in members for run in group.runs]
    return (
        '<h2 id="figures">Final figures</h2>'
        '<p class="note">Last epoch of each run; mean ± standard deviation over the seeds.</p>'
        '<div class="scroll"><table><thead><tr><th class="text">regime</th><th class="text">run</th><th>DARP</th>'
        f"<th>n</th><th>epochs</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"<details><summary>Each of the {len(runs)} runs</summary>"
        '<div class="scroll"><table><thead><tr><th class="text">folder</th><th>seed</th><th>epochs</th>'
        f"{head}<th>bACC, last 20</th><th>GM, last 20</th></tr></thead><tbody>"
        f"{''.join(map(_run_row, runs))}</tbody></table></div></details>"
    )


def _configuration_row(row: FiguresRow, *, first: bool) -> str:
    figures = "".join(
        f"<td>{_stacked(write_statistic(figure, column.form))}</td>"
        for figure, column in zip(row.figures, COLUMNS, strict=True)
    )
    badge = ' <span class="badge">unfinished</span>' if row.unfinished else ""
    regime = escape(row.regime) if first else ""
    return (
        f'<tr{" class=first" if first else ""}><td class="text">{regime}</td><td class="text">{escape(row.run)}'
        f'{badge}</td><td>{"yes" if row.darp else "no"}</td><td title="seeds {escape(", ".join(row.seeds))}">'
        f"{len(row.seeds)}</td><td>{escape(row.epochs)}</td>{figures}</tr>"
    )


def _stacked(written: str) -> str:
    """The deviation under its mean, so that all columns fit on a screen."""
    mean, plus_minus, deviation = escape(written).partition(" ± ")
    return f"{mean}<small> ± {deviation}</small>" if plus_minus else mean


def _run_row(run: Run) -> str:
    taken = [(column.take(run), column.form) for column in COLUMNS]
    taken += [(run.last("last20/bacc"), ".3f"), (run.last("last20/gm"), ".3f")]
    figures = "".join(
        f"<td>{escape(write_statistic(statistic([value]), form))}</td>" for value, form in taken
    )
    badge = "" if run.finished else ' <span class="badge">unfinished</span>'
    return (
        f'<tr><td class="text">{escape(run.name)}{badge}</td><td>{escape(run.seed)}</td>'
        f"<td>{escape(epochs_text([run]))}</td>{figures}</tr>"
    )
