"""The ways to fine-tune: one file a family. A file that defines ``METHODS`` is found by itself; nothing else to register."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from playground.errors import InputError
from playground.methods.method import Method

_WITH_TORCH = frozenset({"bottleneck", "tuners"})
"""What PEFT is told of, and not what a form offers: left alone here."""


@cache
def all_methods() -> dict[str, Method]:
    """Every method by name, in the order in which a form offers them."""
    found: list[Method] = []
    for module in pkgutil.iter_modules(__path__):
        if module.name not in _WITH_TORCH:
            found += getattr(importlib.import_module(f"{__name__}.{module.name}"), "METHODS", [])
    return {method.name: method for method in sorted(found, key=lambda method: method.order)}


def get_method(name: str) -> Method:
    """The method called ``name``. Raises InputError with the names there are."""
    methods = all_methods()
    if name not in methods:
        raise InputError(f"There is no method {name!r}. There are: {', '.join(methods)}.")
    return methods[name]
