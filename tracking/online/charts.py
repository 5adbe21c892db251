"""The custom charts of `tracking/online/vega` on a run's own page."""

from __future__ import annotations

import wandb
from wandb.plot.custom_chart import CustomChartSpec

from tracking.online.long_table import CHARTS, TABLE_KEY


def show_charts(run: wandb.Run) -> None:
    """Puts the charts on the run's page, by the presets that the workspace command registered.

    `run.log` would add them with a row and a table; this is the part of it that adds the chart alone. A row that holds
    no epoch would get the last one from the step metric, and an epoch would stand twice.
    """
    for chart in CHARTS:
        spec = _SharedTable(
            f"{run.entity}/{chart.preset}", chart.fields, {"title": chart.title}, key=f"charts/{chart.name}"
        )
        run._config_callback(key=spec.config_key, val=spec.config_value)


class _SharedTable(CustomChartSpec):
    """All charts read the one table instead of a copy each."""

    @property
    def table_key(self) -> str:
        return TABLE_KEY
