"""`python -m tracking.sync`: the command of `tracking/online/sync.py`."""

import sys

from tracking.online.sync import main

if __name__ == "__main__":
    sys.exit(main())
