"""The ways to fine-tune, each a subclass of ``Method`` with a name in any file of this package; nothing to register."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from playground.errors import InputError
from playground.methods.method import Method
from playground.plain import plain_text

_TUNERS = frozenset({"bottleneck"})
"""Modules that need torch and PEFT: they hold what PEFT trains, not what a form offers."""


@cache
def all_methods() -> dict[str, Method]:
    """Every method by name, in the order in which a form offers them."""
    found: list[Method] = []
    for info in pkgutil.iter_modules(__path__):
        if info.name not in _TUNERS:
            module = importlib.import_module(f"{__name__}.{info.name}")
            classes = (one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Method))
            found += [one() for one in classes if one.__module__ == module.__name__ and "name" in vars(one)]
    return {method.name: method for method in sorted(found, key=lambda method: method.order)}


def get_method(name: str) -> Method:
    """The method called ``name``. Raises InputError with the names there are."""
    methods = all_methods()
    if name not in methods:
        raise InputError(f"There is no method {name!r}. There are: {', '.join(methods)}.")
    return methods[name]


def method_for(config: Mapping[str, Any]) -> Method | None:
    """The first method that an ``adapter_config.json`` can be of and whose files are its own, None = there is none."""
    return next((one for one in all_methods().values() if not one.writes and one.accepts(config)), None)


def method_of(config: Mapping[str, Any]) -> str:
    """The method's name as the command line has it, from an ``adapter_config.json``."""
    method = method_for(config)
    return method.name if method is not None else plain_text(config.get("peft_type"), 40).lower() or "unknown"


def register_with_peft() -> None:
    """Make PEFT know the methods that are not its own."""
    for method in all_methods().values():
        method.register()
