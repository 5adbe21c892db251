"""`python -m tracking.workspace`: the command of `tracking/online/workspace.py`."""

import sys

from tracking.online.workspace import main

if __name__ == "__main__":
    sys.exit(main())
