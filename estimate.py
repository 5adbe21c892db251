"""Estimate the class distribution of the unlabeled images from a network that learns from the labels alone.

The estimate is cached for `train.py --est`. Example:
python3 estimate.py --dataset fashion_mnist --arch small --imb_ratio_u 1 --epochs 20 --val-iteration 100
"""

import sys

from semi.entry import estimate

if __name__ == "__main__":
    sys.exit(estimate(__doc__))
