"""Automations of a project at W&B: a Slack message when pseudo-labels collapse, and when a run fails or crashes.

They run at W&B. So they also tell of a run whose machine is gone, and of runs that were started with --alerts false.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import wandb
from wandb.automations import OnRunMetric, OnRunState, RunEvent, RunStateFilter, SendNotification
from wandb.automations.scopes import ProjectScope

COLLAPSE_KEY = "pseudo/orig/tv_true"
COLLAPSE_TV = (
    0.5  # of labels that fall on half of the classes of a balanced set; `tracking.alerts` warns from there on
)
EPOCHS = 3  # whose mean is looked at: one bad epoch is none


class NoSlack(ValueError):
    """The entity has no Slack integration, so no automation could tell anybody. The message is one line."""


class Automation(NamedTuple):
    """What happens, and the message that it sends."""

    name: str
    text: str
    event: OnRunMetric | OnRunState
    action: SendNotification


def automations(scope: ProjectScope, slack: str) -> list[Automation]:
    """Both automations of a project, not saved. `slack`: id of the integration that sends their messages."""
    above = RunEvent.metric(COLLAPSE_KEY).avg(EPOCHS).gt(COLLAPSE_TV)
    collapse = OnRunMetric.model_validate({"scope": scope, "filter": above})
    # W&B counts crashed runs among the failed ones
    failed = OnRunState(scope=scope, filter=RunStateFilter(state=RunEvent.state.eq("FAILED")))
    texts: dict[str, tuple[OnRunMetric | OnRunState, str]] = {
        "pseudo-labels collapse": (
            collapse,
            f"Mean of {COLLAPSE_KEY} over {EPOCHS} epochs is above {COLLAPSE_TV}: the raw pseudo-labels leave out "
            "about half of the classes. --darp, more labels or a smaller --ratio help.",
        ),
        "a run failed or crashed": (
            failed,
            "--resume auto goes on where it stopped. Exit code 3: the loss was not finite, or --stop_on_collapse.",
        ),
    }
    found = []
    for what, (event, text) in texts.items():
        name = f"{scope.name}: {what}"
        sent = {"integration_id": slack, "title": name, "text": text, "level": "WARN"}
        action = SendNotification.model_validate(sent)
        found.append(Automation(name, text, event, action))
    return found


def save_automations(entity: str, project: str) -> list[str]:
    """Create both, or change those that an earlier call made; returns their names.

    Raises NoSlack, and one of many kinds of errors of the SDK.
    """
    api = wandb.Api()
    slack = next(iter(api.slack_integrations(entity=entity)), None)
    if slack is None:
        raise NoSlack(
            f"automations: {entity} has no Slack integration; connect Slack in its settings at W&B, "
            "then call this again"
        )
    scope = ProjectScope(id=api.project(project, entity).id, name=project)
    there = {made.name: made for made in api.automations(entity) if made.scope.id == scope.id}
    wanted = automations(scope, slack.id)
    for name, text, event, action in wanted:
        if made := there.get(name):
            api.update_automation(made, description=text, event=event, action=action, enabled=True)
        else:
            api.create_automation(event >> action, name=name, description=text)
    return [automation.name for automation in wanted]


def as_data(project: str) -> list[dict[str, Any]]:
    """What would be sent, as plain values. Two ids need a server: they stand in brackets."""
    scope = ProjectScope(id="[the project's id]", name=project)
    return [
        {
            "name": name,
            "event": event.model_dump(mode="json", exclude_none=True),
            "action": action.model_dump(mode="json", exclude_none=True),
        }
        for name, _, event, action in automations(scope, "[the Slack integration's id]")
    ]
