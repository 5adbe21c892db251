"""The methods. A new one is a file beside these and a line in `semi.names.METHODS` (docs/extending.md)."""

from typing import Any

from semi.methods.base import Losses, Method
from semi.names import METHODS, found

__all__ = ["Losses", "Method", "about_method", "method_class"]


def method_class(name: str) -> type[Method]:
    """The class of --semi_method `name`."""
    method: type[Method] = found(METHODS, name)
    return method


def about_method(name: str) -> dict[str, Any]:
    """What a run's folder says of its method, for those who read the run without this code."""
    method = method_class(name)
    return {
        "method_label": method.label,
        "thresholded": method.thresholded,
        "threshold": method.threshold,
    }
