"""One thread a test process: tests run side by side, and threads that wait for each other cost more than they bring."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_ERROR_REPORTING"] = "false"
