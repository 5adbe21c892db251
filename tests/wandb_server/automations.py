"""Automations and the integrations that they speak through, as `wandb.Api` sends and asks for them."""

from __future__ import annotations

import json
from typing import Any

from tests.wandb_server.records import now
from tests.wandb_server.run_views import Args, RunViews, View, connection
from tests.wandb_server.store import Store


class Automations:
    """Stores triggers as they are sent. Nothing is ever triggered."""

    def __init__(self, store: Store, runs: RunViews) -> None:
        self.store = store
        self.runs = runs

    def of_project(self, entity: str, project: str) -> View:
        scope = f"Project:{entity}/{project}"
        own = [number for number, stored in self.store.triggers.items() if stored["scopeID"] == scope]
        return {"triggers": lambda args: [self.trigger(number) for number in own]}

    def of_entity(self, entity: str) -> View:
        own = [key for key in self.store.projects if key[0] == entity]
        slack = [
            {
                "__typename": "SlackIntegration",
                "id": f"SlackIntegration:{channel}",
                "teamName": entity,
                "channelName": channel,
            }
            for channel in self.store.slack_channels
        ]
        return {
            "projects": lambda args: connection("Project", own, lambda key: self.runs.project(*key), args),
            "integrations": lambda args: connection("Integration", slack, lambda node: node, args),
        }

    def trigger(self, number: str) -> View:
        stored = self.store.triggers[number]
        entity, project = stored["scopeID"].partition(":")[2].split("/", 1)
        notification = stored["triggeredActionConfig"]["notificationActionInput"]
        channel = notification["integrationID"].partition(":")[2]
        return {
            "__typename": "Trigger",
            "id": number,
            "createdAt": stored["createdAt"],
            "updatedAt": now(),
            "name": stored["name"],
            "description": stored.get("description"),
            "enabled": stored["enabled"],
            "scope": {"__typename": "Project", "id": stored["scopeID"], "name": project},
            "triggeringCondition": {
                "__typename": "FilterEventTriggeringCondition",
                "eventType": stored["triggeringEventType"],
                "filter": stored["eventFilter"],
            },
            "triggeredAction": {
                "__typename": "NotificationTriggeredAction",
                "integration": {
                    "__typename": "SlackIntegration",
                    "id": notification["integrationID"],
                    "teamName": entity,
                    "channelName": channel,
                },
                **{key: notification[key] for key in ("title", "message", "severity")},
            },
        }

    def upsert(self, given: Args) -> View:
        number = given.get("id") or f"Trigger:{self.store.serial()}"
        json.loads(given["eventFilter"])
        stored = self.store.triggers.setdefault(number, {"createdAt": now()})
        stored.update({key: value for key, value in given.items() if value is not None})
        return {"trigger": self.trigger(number)}

    def fields(self) -> dict[str, Any]:
        """The fields of Mutation that this class answers."""
        return {
            "createFilterTrigger": lambda args: self.upsert(args["input"]),
            "updateFilterTrigger": lambda args: self.upsert(args["input"]),
        }
