"""What each verb takes. A wrong call raises InputError with the usage, so that it ends like every other wrong input."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from playground.errors import InputError
from playground.evaluation.checks import kinds
from playground.methods.method import PLACEMENTS, Options
from playground.runs.request import SETTINGS, TrainRequest
from playground.training.spec import Setting

EXAMPLES = (
    "a file, a folder of files, or a data set: owner/name[:config][@split] of the hub, or a local folder laid out"
    " like one"
)
SIDE = "model=base|ADAPTER[,prompt=FILE][,shots=K][,name=LABEL]"
FULL_SIDE = "model=base|ADAPTER[,prompt=FILE][,shots=K][,pick=seed|nearest][,docs=FILE][,name=LABEL]"
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

    def numbers(self, **defaults: float) -> None:
        """A flag each, of the type that its default has."""
        for name, default in defaults.items():
            self.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)

    def base_and_map(self) -> None:
        self.add_argument("--base")
        many = {"nargs": "+", "action": "extend", "default": []}
        self.add_argument("--map", **many, metavar="field=column", help="which column is what")  # type: ignore[arg-type]


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    parser = _Parser(prog="python -m playground", description="Is a good prompt enough, or should you fine-tune?")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, help: str, file: str | None = None) -> _Parser:
        made = verbs.add_parser(name, help=help, description=help, parents=[common])
        if file is not None:
            made.add_argument("file", help=file)
        return made

    def actions(name: str, help: str, **about: str) -> dict[str, _Parser]:
        """A verb with actions: what each does, and what it is given."""
        found = verb(name, help).add_subparsers(dest="action", parser_class=_Parser)
        return {action: found.add_parser(action, help=words, parents=[common]) for action, words in about.items()}

    check = verb("check", "what a file can train, row by row", EXAMPLES)
    check.numbers(max_tokens=2048)
    check.base_and_map()

    train = verb("train", "train an adapter on a file of examples", EXAMPLES)
    _settings(train)
    train.add_argument("--detach", action="store_true", help="start the run and return")
    train.base_and_map()

    runs = actions(
        *("runs", "the training runs"),
        show="one run",
        cancel="stop it",
        resume="go on from its newest checkpoint, or begin",
        move="let a waiting run come earlier or later",
        curves="write its curves to a folder",
    )
    for action in runs.values():
        action.add_argument("run")
    runs["resume"].add_argument("--detach", action="store_true", help="start it and return")
    runs["move"].add_argument("to", choices=["up", "down", "first", "last"])
    runs["curves"].add_argument("dir")
    runs["curves"].add_argument("--format", default="csv", help="csv (trackio reads it too) or tensorboard")

    race = verb("race", "several methods on one file, one table", "")
    race.add_argument("--methods", default="", metavar="NAME,NAME", help="default: all there are")
    budget = race.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, help="of each method; default 20")
    budget.add_argument("--minutes", type=float, help="that each method may take, by its estimate")
    judged = "how replies are judged, such as json; default: what the shipped set has"
    for name, help in (("check", judged), ("name", ""), ("objective", "default: what the file can train")):
        race.add_argument(f"--{name}", default="", help=help)
    race.numbers(batch_size=8, max_tokens=2048, seed=7)
    race.base_and_map()
    races = actions("races", "the races", show="one race", cancel="stop what has not ended", remove="forget its table")
    for action in races.values():
        action.add_argument("race")

    adapters = actions(
        *("adapters", "the adapters"),
        **{"import": "take in a PEFT folder or zip", "export": "write one to a folder"},
        blend="one adapter out of several",
        push="to your place on the hub; the token is read from HF_TOKEN",
        remove="delete one",
    )
    adapters["import"].add_argument("path")
    for name in ("export", "push", "remove"):
        adapters[name].add_argument("id")
    adapters["export"].add_argument("dir")
    adapters["export"].add_argument("--format", default="peft", help="peft, merged (safetensors) or gguf")
    parts = {"nargs": "+", "action": "extend", "dest": "parts", "required": True}
    adapters["blend"].add_argument("--with", **parts, metavar="ID=WEIGHT")  # type: ignore[arg-type]
    adapters["blend"].add_argument("--how", default="linear", help="linear, ties or dare")
    adapters["blend"].add_argument("--name", default="blend")
    adapters["push"].add_argument("repo", metavar="OWNER/NAME")
    adapters["push"].add_argument("--public", action="store_true", help="everybody may see it; default: only you")

    compare = verb("compare", "ask several sides the same thing")
    compare.add_argument("--side", action="append", required=True, metavar="SPEC", help=SIDE)
    compare.add_argument("--ask", action="append", required=True, metavar="TEXT", help="again for the next turn")
    compare.add_argument("--examples", help="where shots come from")
    compare.numbers(seed=7, temperature=0.0, max_tokens=128)
    replayed = "a reply or all of compare --json, a chat completion, or a stamp"
    for parser_with_base in (compare, verb("replay", "a saved reply once more: is it the same?", replayed)):
        parser_with_base.add_argument("--base")

    held_out = "held-out examples; every row of it is used"
    verdict = verb("verdict", "is prompting enough? measured on your held-out examples", held_out)
    verdict.add_argument("--side", action="append", required=True, metavar="SPEC", help=FULL_SIDE)
    verdict.add_argument("--check", action="append", default=[], metavar="CHECK", help=kinds())
    verdict.add_argument("--examples", help="where shots come from; default: the other rows of FILE")
    verdict.add_argument("--repeats", type=int, default=1, help="sampled replies an example, for consistency; 1: none")
    verdict.add_argument("--limit", type=int, help="the first so many rows")
    verdict.numbers(max_tokens=96, temperature=0.0, seed=7)
    answers = "JSON: volume a month, changes (never, monthly, weekly), latency_s, budget"
    verdict.add_argument("--answers", metavar="FILE", help=answers)
    prices = "JSON: prices a million tokens, or of the device an hour"
    verdict.add_argument("--prices", metavar="FILE", help=prices)
    out = "write the report (HTML), the rows (JSONL, CSV) and the record there"
    verdict.add_argument("--out", metavar="DIR", help=out)
    for name, help in (
        ("forgetting", "do not measure what tuned sides forgot"),
        ("refusals", "do not ask sides with documents what these cannot answer"),
        ("losses", "do not score the references"),
    ):
        verdict.add_argument(f"--no-{name}", action="store_true", help=help)
    verdict.add_argument("--name", default="")
    verdict.base_and_map()

    asked = "examples; its validation part is asked, as a run draws it"
    bench = verb("bench", "versions of a prompt on the validation part: which one is worth a verdict", asked)
    versions = "a version of the prompt; again for more"
    bench.add_argument("--prompt", action="append", required=True, metavar="FILE", help=versions)
    shots = "how many answered examples come first; each is tried"
    bench.add_argument("--shots", default="0,4", metavar="N,N", help=shots)
    first = "as for verdict; the first one decides; default: what the shipped set has"
    bench.add_argument("--check", action="append", default=[], metavar="CHECK", help=first)
    bench.add_argument("--limit", type=int, help="the first so many rows of the part")
    bench.numbers(max_tokens=96, seed=7)
    bench.base_and_map()

    verb("status", "the device, who uses it, who waits")
    doctor = verb("doctor", "is everything there? prepares the base")
    doctor.add_argument("--offline", action="store_true", help="fetch nothing")
    doctor.add_argument("--base")
    verb("demo", "the built-in story, computed now")
    verb("serve", "open the web app")
    return parser


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
    return TrainRequest(file, mapping=mapping_of(options.map), options=chosen, **values)


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


def mapping_of(pairs: list[str]) -> dict[str, str]:
    """``["prompt=patient"]`` -> ``{"prompt": "patient"}``. Raises InputError."""
    mapping = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not equals or not field or not column:
            raise InputError(f"--map takes field=column, such as prompt=question; {pair!r} is not that.")
        mapping[field] = column
    return mapping
