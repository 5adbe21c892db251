"""The custom charts of `tracking/online/vega` on a run's own page."""

from __future__ import annotations

from typing import Any

import wandb
from wandb.plot.custom_chart import CustomChartSpec

from tracking.online.long_table import TABLE_KEY, Chart


def custom_chart(table: wandb.Table, chart: Chart, entity: str) -> Any:
    """A chart on the run's page that draws from `table`, by the preset that the workspace command registered."""
    made = wandb.plot_table(f"{entity}/{chart.preset}", table, chart.fields, {"title": chart.title})
    made.spec = _SharedTable(made.spec.spec_name, made.spec.fields, made.spec.string_fields)
    return made


class _SharedTable(CustomChartSpec):
    """All charts read the one table instead of a copy each."""

    @property
    def table_key(self) -> str:
        return TABLE_KEY
