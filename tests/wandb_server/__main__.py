"""`python -m tests.wandb_server --port N`: run the stand-in backend to try it by hand."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from tests.wandb_server import API_KEY, WandbServer


def main(arguments: list[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM, printing each request as it is answered."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a background shell's children ignore SIGINT
    parser = argparse.ArgumentParser(prog="python -m tests.wandb_server", description=__doc__)
    parser.add_argument("--port", type=int, default=8090, help="0 picks a free one")
    parser.add_argument("--fail_rate", type=float, default=0.0, help="share of requests answered 500")
    options = parser.parse_args(arguments)
    with WandbServer(options.port) as server:
        server.fail(options.fail_rate)
        print(f"export WANDB_BASE_URL={server.url} WANDB_API_KEY={API_KEY}", flush=True)
        seen = 0
        try:
            while True:
                for request in server.requests[seen:]:
                    print(request.status, request.method, request.path, request.operation, flush=True)
                    seen += 1
                time.sleep(0.2)
        except KeyboardInterrupt:
            print(
                f"{len(server.runs)} runs, {len(server.sweeps)} sweeps; unknown: {sorted(server.unanswered)}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
