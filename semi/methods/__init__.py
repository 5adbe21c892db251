"""The methods. A new one is a file beside these, a line in the table, and its name in `semi.config.METHOD_NAMES`."""

from semi.methods.base import Losses, Method
from semi.methods.fixmatch import FixMatch
from semi.methods.mixmatch import MixMatch
from semi.methods.pseudo_label import PseudoLabel
from semi.methods.remixmatch import ReMixMatch
from semi.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "mix": MixMatch,
    "remix": ReMixMatch,
    "fix": FixMatch,
    "pseudo": PseudoLabel,
    "sup": Supervised,
}

__all__ = ["METHODS", "Losses", "Method"]
