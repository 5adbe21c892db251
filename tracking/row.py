"""The keys of the row of an epoch. They are an interface: sweeps, charts and reports are built on them.

A test holds the rows of a run against `ROW`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SHARES = "share of each class in"
ROW: dict[str, str] = {
    "epoch": "number of the epoch, from 0",
    "lr": "learning rate",
    "loss/{total,x,u,r,e}": "mean over the epoch's steps: total, labeled, unlabeled, rotation, first strong view",
    "test/{acc,bacc,gm,many,medium,few,loss}": "averaged weights: accuracy, mean recall, geometric mean, thirds",
    "test/recall/<class>": "recall of each class on the test set",
    "test_raw/{acc,bacc,gm,many,medium,few}": "the same without the refinery's shift of test logits, where it has one",
    "test_raw/recall/<class>": "recall of each class without that shift",
    "last20/{bacc,gm}": "mean of the last 20 epochs (the paper's figure)",
    "last10/{bacc,gm}": "mean of the last 10 epochs, of a retrained head alone (the published figure of cRT)",
    "best/bacc": "largest test/bacc so far",
    "pseudo/{orig,refined}/<class>": f"{_SHARES} the raw and the refined pseudo-labels: mean probability, sums to 1",
    "pseudo/{target,true}/<class>": f"{_SHARES} the refinement's target and the true labels of the unlabeled set",
    "pseudo/{orig_hard,refined_hard}/<class>": "share of argmax",
    "pseudo/selected/<class>": "share of argmax among those of pseudo/mask_rate; absent when there are none",
    "pseudo/{orig,refined}/tv_{uniform,true,target}": "total-variation distance of the shares to uniform, true, target",
    "pseudo/{orig,refined}/kl_true": "KL(true || shares), nats",
    "pseudo/{orig,refined}/{js,psi}_{true,target}": "Jensen-Shannon divergence, nats; population stability index",
    "pseudo/{orig,refined}/entropy": "entropy of the shares, nats",
    "pseudo/{orig,refined}/effective": "effective number of classes: exp of the entropy",
    "pseudo/{orig,refined}/imbalance": "largest share over smallest",
    "pseudo/{orig,refined}/accuracy": "share of rows whose argmax is the true label",
    "pseudo/{orig,refined}/{precision,recall}/<class>": "of argmax against the true labels; absent where undefined",
    "pseudo/mask_rate": "share of refined rows that the method selects, or whose confidence reaches tau",
    "method/<name>": "what the method says of itself; a dry run lists it",
    "method/<name>/<class>": "the same of each class",
    "pseudo/coverage": "share of rows guessed so far; the others are uniform and flatter pseudo_orig",
    "pseudo_{orig,refined,target,true}": "the shares as histograms whose bins are the classes, counts sum to N",
    "darp/{residual,iterations,seconds,solves,unconverged}": "worst residual, mean passes, seconds, number, failures",
    "refine/moved": "mean total-variation distance from a row of pseudo_orig to its target; not with darp/...",
    "refine/<name>": "what a refinery of your own says of itself",
    "refine/<name>/<class>": "the same of each class",
    "refine/shares/<class>": "class distribution that the refinery keeps of the guesses (not la, cdmad)",
    "refine/prior/<class>": "--est online: class distribution that the network is held to have learned from",
    "refine/constant/<class>": "cdmad: the network's answer to the constant image, in the last step",
    "time/epoch": "seconds from the row before (or the first step) to this one; the six below sum to it within 2 %",
    "time/{data,step,refine,eval}": "seconds of waiting for batches, of steps, of refinement, of evaluation",
    "time/{log,checkpoint}": "seconds of logging the row before, of saving after it and within this epoch",
    "data_time": "mean seconds a step waited for its batch",
    "throughput/images_per_s": "labeled and unlabeled images trained on, a second of training",
}

# What W&B gets unless it is asked for all: it opens one panel for each key. These are compared between runs. The others
# say how something came about; metrics.jsonl has them.
FEW: tuple[str, ...] = (
    "epoch",
    "loss/{total,x,u}",
    "test/{acc,bacc,gm,many,medium,few}",
    "{last10,last20}/{bacc,gm}",
    "best/bacc",
    "test_raw/{bacc,gm}",
    "pseudo/{orig,refined}/{tv_true,tv_target,imbalance,accuracy}",
    "pseudo/{mask_rate,coverage}",
    "{method,refine}/<name>",
    "pseudo_{orig,refined,target,true}",
    "darp/{residual,unconverged}",
    "data_time",
    "throughput/images_per_s",
)
FEW_OF_A_CLASS: tuple[str, ...] = ("pseudo/{orig,refined,target,true}/<class>", "test/recall/<class>")
FEW_CLASSES = 10  # up to so many, FEW_OF_A_CLASS is among the few: 50 keys


def _pattern(key: str) -> str:
    parts = re.split(r"(\{[^}]*\}|<class>|<name>)", key)
    as_regex = [
        r"\d+"
        if p == "<class>"
        else r"[A-Za-z0-9_]+"
        if p == "<name>"
        else f"(?:{'|'.join(p[1:-1].split(','))})"
        if p.startswith("{")
        else re.escape(p)
        for p in parts
    ]
    return "".join(as_regex)


def _compiled(keys: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(_pattern(key) for key in keys))


_KNOWN, _FEW, _FEW_OF_A_CLASS = _compiled(ROW), _compiled(FEW), _compiled(FEW_OF_A_CLASS)
_OWN = _compiled(["{method,refine}/<name>"])


def is_known(key: str) -> bool:
    """Whether `key` is one that a row may have."""
    return _KNOWN.fullmatch(key) is not None


def is_own(key: str) -> bool:
    """Whether `key` is what a method or a refinery says of itself, as one number."""
    return _OWN.fullmatch(key) is not None


def is_among_few(key: str, num_classes: int) -> bool:
    """Whether W&B gets `key` of a run with so many classes without being asked for all keys."""
    of_a_class = num_classes <= FEW_CLASSES and _FEW_OF_A_CLASS.fullmatch(key)
    return bool(of_a_class or _FEW.fullmatch(key))
