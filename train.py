"""Train on few labels and many pseudo-labels, raw or refined by DARP (--darp). Each run gets a folder of its own.

Example: python3 train.py --config configs/digits_regime_few.yaml --darp
"""

import environment  # noqa: F401  (first: it says what to do where packages are missing)

import sys

from semi.commands import train

if __name__ == "__main__":
    sys.exit(train(__doc__))
