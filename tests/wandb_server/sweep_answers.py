"""GraphQL fields and mutations about sweeps and their agents."""

from __future__ import annotations

import json
from typing import Any

from tests.wandb_server.records import USER, Agent, Run, now
from tests.wandb_server.run_views import Args, RunViews, View, connection
from tests.wandb_server.selecting import ordered
from tests.wandb_server.store import Store
from tests.wandb_server.trials import Sweep


def retire(store: Store, run: Run) -> None:
    """Tell the sweep of a run that ended, whether it failed and whether it had asked to be put back."""
    sweep = store.sweeps.get(run.sweep)
    if sweep is not None and run.finished:
        sweep.close(run.name, failed=run.state != "finished", preempted=run.preempting)


class SweepAnswers:
    """Views of sweeps, and what `wandb sweep` and `wandb agent` send."""

    def __init__(self, store: Store, runs: RunViews) -> None:
        self.store = store
        self.runs = runs

    def of_project(self, entity: str, project: str) -> View:
        """The fields that sweeps add to a project."""

        def all_sweeps() -> list[Sweep]:
            return [s for s in self.store.sweeps.values() if (s.entity, s.project) == (entity, project)]

        def one(args: Args) -> View | None:
            found = [s for s in all_sweeps() if s.name == args["sweepName"]]
            return self.sweep(found[0]) if found else None

        return {
            "sweep": one,
            "sweeps": lambda args: connection("Sweep", all_sweeps(), self.sweep, args),
            "totalSweeps": lambda args: len(all_sweeps()),
        }

    def sweep(self, sweep: Sweep) -> View:
        def members(args: Args) -> list[Run]:
            found = self.store.runs_where(lambda run: run.sweep == sweep.name)
            return ordered(found, args.get("order") or "+created_at")

        def agent(args: Args) -> View | None:
            found = self.store.agents.get(args["agentName"])
            return None if found is None else self.agent(found)

        def agents(args: Args) -> View:
            own = [a for a in self.store.agents.values() if a.sweep == sweep.name]
            return connection("Agent", own, self.agent, args)

        return {
            "__typename": "Sweep",
            "id": sweep.id,
            "name": sweep.name,
            "displayName": sweep.display_name or sweep.config.get("name"),
            "method": sweep.config.get("method", ""),
            "state": sweep.state,
            "description": sweep.description,
            "config": sweep.config_text,
            "createdAt": sweep.created_at,
            "heartbeatAt": sweep.created_at,
            "updatedAt": sweep.created_at,
            "earlyStopJobRunning": False,
            "bestLoss": lambda args: self._best(sweep),
            "controller": None,
            "controllerRunName": None,
            "scheduler": None,
            "runCount": lambda args: len(members(args)),
            "runCountExpected": sweep.expected,
            "runs": lambda args: connection("Run", members(args), self.runs.run, args),
            "agent": agent,
            "agents": agents,
            "project": lambda args: self.runs.project(sweep.entity, sweep.project),
        }

    def _best(self, sweep: Sweep) -> float | None:
        metric = sweep.config.get("metric") or {}
        runs = self.store.runs_where(lambda run: run.sweep == sweep.name)
        values = [run.summary.get(str(metric.get("name"))) for run in runs]
        found = [value for value in values if isinstance(value, (int, float))]
        if not found:
            return None
        return max(found) if metric.get("goal") == "maximize" else min(found)

    def agent(self, agent: Agent) -> View:
        def own(args: Args) -> View:
            found = self.store.runs_where(lambda run: run.sweep == agent.sweep and run.name in agent.trials)
            return connection("Run", found, self.runs.run, args)

        return {
            "__typename": "Agent",
            "id": agent.id,
            "name": agent.id,
            "host": agent.host,
            "state": "RUNNING",
            "totalRuns": len(agent.trials),
            "createdAt": agent.created_at,
            "heartbeatAt": agent.heartbeat_at,
            "runs": own,
        }

    def upsert(self, given: Args) -> View:
        """Create a sweep from its YAML text, or change the state of one."""
        sweep = next((s for s in self.store.sweeps.values() if given.get("id") in (s.id, s.name)), None)
        if sweep is None:
            name = f"sweep{self.store.serial():03d}"
            entity, project = given.get("entityName") or USER, given.get("projectName") or "uncategorized"
            sweep = Sweep(name, entity, project, given["config"], description=given.get("description"))
            self.store.project_number(entity, project)
            self.store.sweeps[name] = sweep
        sweep.state = given.get("state") or sweep.state
        sweep.display_name = given.get("displayName") or sweep.display_name
        return {"sweep": self.sweep(sweep), "configValidationWarnings": []}

    def set_state(self, given: Args) -> View:
        sweep = next(s for s in self.store.sweeps.values() if s.id == given["id"])
        sweep.state = given["state"]
        return {"success": True, "sweep": self.sweep(sweep)}

    def create_agent(self, given: Args) -> View:
        agent = Agent(f"agent{self.store.serial():03d}", given["host"], given["sweep"])
        self.store.agents[agent.id] = agent
        return {"agent": self.agent(agent)}

    def heartbeat(self, given: Args) -> View:
        """What an agent runs, against what it should do next.

        A trial that the agent no longer runs, and whose run never reported an exit code, has crashed.
        """
        agent = self.store.agents[given["id"]]
        sweep = self.store.sweeps[agent.sweep]
        running = {name for name, alive in json.loads(given.get("runState") or "{}").items() if alive}
        agent.heartbeat_at = now()
        for name in set(agent.running) - running:
            self.lose(sweep, name)
        commands = sweep.commands_for(agent.id, running)
        started = [c["run_id"] for c in commands if c["type"] in ("run", "resume")]
        agent.running = sorted(running | set(started))
        agent.trials += [name for name in started if name not in agent.trials]
        return {"agent": self.agent(agent), "commands": json.dumps(commands)}

    def lose(self, sweep: Sweep, name: str) -> None:
        """A trial's process is gone: close the trial, crashed unless its run said how it ended."""
        run = self.store.run(sweep.entity, sweep.project, name)
        if run is None:
            sweep.close(name, failed=True, preempted=False)
            return
        if not run.finished:
            run.state = "preempted" if run.preempting else "crashed"
        retire(self.store, run)

    def fields(self) -> dict[str, Any]:
        """The fields of Mutation that this class answers."""
        return {
            "upsertSweep": lambda args: self.upsert(args["input"]),
            "upsertSweepState": lambda args: self.set_state(args["input"]),
            "createAgent": lambda args: self.create_agent(args["input"]),
            "agentHeartbeat": lambda args: self.heartbeat(args["input"]),
        }
