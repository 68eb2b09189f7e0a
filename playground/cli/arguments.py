"""What each verb takes. A wrong call raises InputError with the usage, so that it ends like every other wrong input."""

from __future__ import annotations

import argparse
import math
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from playground.data.records import READING
from playground.errors import InputError
from playground.evaluation.checks import kinds
from playground.evaluation.criterion import kinds as criteria
from playground.methods.method import PLACEMENTS, Options
from playground.runs.request import SETTINGS, TrainRequest
from playground.training.spec import Setting

OPTIONS: dict[str, dict[str, Any]] = {
    "rslora": {"action": "store_true", "help": "scale by alpha / sqrt(rank) (lora, qlora, dora)"},
    "pissa": {"action": "store_true", "help": "begin with the base's strongest directions (lora, qlora)"},
    "layers": {"type": int, "default": 0, "metavar": "N", "help": "train the last N layers only (full)"},
    "init_text": {"default": "", "metavar": "TEXT", "help": "what virtual tokens begin as (prompt, p-tuning-v2)"},
    "placement": {"choices": PLACEMENTS, "default": "", "help": "where bottlenecks stand; default houlsby"},
}
"""Options of methods, by their names in ``Options``."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().split())
        raise InputError(f"{message[0].upper()}{message[1:]}. {usage}")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, as ``arguments.toml`` has it."""
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    parser = _Parser(prog="python -m playground", description="Is a good prompt enough, or should you fine-tune?")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    table = tomllib.loads(Path(__file__).with_name("arguments.toml").read_text(encoding="utf-8"))
    shared = table.pop("shared")
    for name, about in table.items():
        verb = verbs.add_parser(name, help=about["help"], description=about["help"], parents=[common])
        if name == "train":
            _settings(verb)
        _add(verb, about.get("takes", {}), shared)
        if "actions" in about:
            actions = verb.add_subparsers(dest="action", parser_class=_Parser)
            for action, does in about["actions"].items():
                _add(actions.add_parser(action, help=does["help"], parents=[common]), does["takes"], shared)
    return parser


def _add(parser: argparse._ActionsContainer, takes: dict[str, Any], shared: dict[str, Any]) -> None:
    """Arguments as the table has them. either: of those in it one at most."""
    made = {"CHECKS": kinds(), "CRITERIA": f"what is right; of several each must hold: {criteria()}"}
    for name, about in takes.items():
        if name == "either":
            _add(parser.add_mutually_exclusive_group(), about, shared)
            continue
        if isinstance(about, int | float):
            about = {"default": about, "type": type(about).__name__}
        if about == "map":  # what takes a mapping can be told how to read the file, too
            _add(parser, shared["reading"], shared)
        options: dict[str, Any] = dict(shared[about] if isinstance(about, str) else about)
        if "type" in options:
            options["type"] = {"int": int, "float": float}[options["type"]]
        said = options.get("help")
        options["help"] = made.get(str(said), said)
        parser.add_argument(name, **options)


def _settings(train: argparse.ArgumentParser) -> None:
    """A flag for every setting of a run, and for every option of a method."""
    length = train.add_mutually_exclusive_group()
    defaults = {item.name: item.default for item in fields(TrainRequest)}
    for name in sorted(SETTINGS, key=lambda name: name not in ("method", "objective", "name", "steps", "epochs")):
        one = SETTINGS[name]
        takes: dict[str, Any] = {"dest": name, "help": one.help or None, "default": defaults[name]}
        if one.kind is bool:
            takes["action"] = "store_true"
        elif one.kind is tuple:
            takes |= {"default": [], "metavar": one.metavar}
            takes |= {"nargs": "+", "choices": one.choices} if one.choices else {"action": "append"}
        else:
            takes |= {"type": float if one.scale != 1 else one.kind, "metavar": one.metavar}
            takes |= {"choices": one.choices} if one.choices else {}
        (length if name in ("steps", "epochs") else train).add_argument(one.flag, **takes)
    for name, takes in OPTIONS.items():
        train.add_argument(f"--{name.replace('_', '-')}", **takes)


def request_of(options: argparse.Namespace, file: Path) -> TrainRequest:
    """What the words of ``train`` ask for. Raises InputError."""
    values = {name: getattr(options, name) for name in SETTINGS}
    for name, one in SETTINGS.items():
        if one.kind is tuple:
            values[name] = tuple(values[name])
        elif one.scale != 1:
            values[name] = _scaled(one, values[name])
    chosen = Options.of({name: getattr(options, name) for name in OPTIONS})
    return TrainRequest(file, mapping=mapping_of(options), options=chosen, **values)


def _scaled(one: Setting, value: float) -> int:
    if not math.isfinite(value):
        raise InputError(f"{one.flag} is {value}; it takes a number of gigabytes, such as 4; 0: what there is.")
    return round(value * one.scale)


def weights_of(pairs: list[str]) -> dict[str, float]:
    """``["mine=0.5", "yours=0.5"]`` -> ``{"mine": 0.5, "yours": 0.5}``. Raises InputError."""
    weights: dict[str, float] = {}
    for pair in pairs:
        name, equals, weight = pair.rpartition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise InputError(f"--with takes ID=WEIGHT, such as hospital_reports=0.5; {pair!r} is not that.")
    return weights


def mapping_of(options: argparse.Namespace) -> dict[str, str]:
    """``--map prompt=patient --sheet May`` -> ``{"prompt": "patient", "sheet": "May"}``. Raises InputError."""
    mapping = {name: said for name in READING if (said := getattr(options, name))}
    for pair in options.map:
        field, equals, column = pair.partition("=")
        if not equals or not field or not column:
            raise InputError(f"--map takes field=column, such as prompt=question; {pair!r} is not that.")
        mapping[field] = column
    return mapping
