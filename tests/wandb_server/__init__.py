"""A stand-in W&B backend for tests: the real SDK and CLI talk to it on the loopback.

    with WandbServer() as server:
        subprocess.run([sys.executable, "train.py"], env=server.env(tmp_path), cwd=tmp_path, check=True)
        assert server.runs["my-run-id"].history[-1]["epoch"] == 9

Standard library only, but for PyYAML, because `wandb sweep` sends a sweep's configuration as YAML.
"""

from tests.wandb_server.records import Agent, Artifact, Request, Run
from tests.wandb_server.server import API_KEY, WandbServer
from tests.wandb_server.trials import Sweep, Trial

__all__ = ["API_KEY", "Agent", "Artifact", "Request", "Run", "Sweep", "Trial", "WandbServer"]
