"""A stand-in W&B backend for tests: the real SDK and CLI talk to it on the loopback."""

from tests.wandb_server.records import Agent, Artifact, Request, Run
from tests.wandb_server.server import API_KEY, WandbServer
from tests.wandb_server.trials import Sweep, Trial

__all__ = ["API_KEY", "Agent", "Artifact", "Request", "Run", "Sweep", "Trial", "WandbServer"]
