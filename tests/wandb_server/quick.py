"""The SDK and its agent with less waiting than at the service, for processes that talk to the stand-in server."""

import sys

# Whole seconds only: a fraction counts as unset, which means 2 s and more.
QUICK_RETRIES = {
    f"WANDB_X_{what}_RETRY_WAIT_{bound}_SECONDS": "1"
    for what in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
    for bound in ("MIN", "MAX")
}

# `wandb agent`, which asks for its next command every half second instead of every five.
AGENT = (
    sys.executable,
    "-c",
    "from wandb import wandb_agent; from wandb.cli import cli; wandb_agent.Agent.POLL_INTERVAL = 0.5; cli.cli()",
    "agent",
)
