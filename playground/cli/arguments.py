"""What each verb takes. A wrong call raises InputError with the usage, so that it ends like every other wrong input."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from playground.errors import InputError
from playground.methods.method import PLACEMENTS, Options
from playground.runs.request import SETTINGS, TrainRequest
from playground.training.spec import Setting

EXAMPLES = (
    "a file, a folder of files, or a data set: owner/name[:config][@split] of the hub, or a local folder laid out"
    " like one"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().split())
        raise InputError(f"{message[0].upper()}{message[1:]}. {usage}")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    parser = _Parser(prog="python -m playground", description="Is a good prompt enough, or should you fine-tune?")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, help: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=help, description=help, parents=[common])

    check = verb("check", "what a file can train, row by row")
    check.add_argument("file", help=EXAMPLES)
    check.add_argument("--base")
    check.add_argument("--max-tokens", type=int, default=2048)
    _mapping(check)

    train = verb("train", "train an adapter on a file of examples")
    train.add_argument("file", help=EXAMPLES)
    train.add_argument("--base")
    _settings(train)
    train.add_argument("--detach", action="store_true", help="start the run and return")
    _mapping(train)

    runs = verb("runs", "the training runs").add_subparsers(dest="action", parser_class=_Parser)
    for name, help in (
        ("show", "one run"),
        ("cancel", "stop it"),
        ("resume", "go on from its newest checkpoint, or begin"),
    ):
        action = runs.add_parser(name, help=help, parents=[common])
        action.add_argument("run")
        if name == "resume":
            action.add_argument("--detach", action="store_true", help="start it and return")
    move = runs.add_parser("move", help="let a waiting run come earlier or later", parents=[common])
    move.add_argument("run")
    move.add_argument("to", choices=["up", "down", "first", "last"])

    curves = runs.add_parser("curves", help="write its curves to a folder", parents=[common])
    curves.add_argument("run")
    curves.add_argument("dir")
    curves.add_argument("--format", default="csv", help="csv (trackio reads it too) or tensorboard")

    _race(verb("race", "several methods on one file, one table"))
    races = verb("races", "the races").add_subparsers(dest="action", parser_class=_Parser)
    for name, help in (("show", "one race"), ("cancel", "stop what has not ended"), ("remove", "forget its table")):
        races.add_parser(name, help=help, parents=[common]).add_argument("race")

    adapters = verb("adapters", "the adapters").add_subparsers(dest="action", parser_class=_Parser)
    adapters.add_parser("import", help="take in a PEFT folder or zip", parents=[common]).add_argument("path")
    export = adapters.add_parser("export", help="write one to a folder", parents=[common])
    export.add_argument("id")
    export.add_argument("dir")
    export.add_argument("--format", default="peft", help="peft, merged (safetensors) or gguf")
    blend = adapters.add_parser("blend", help="one adapter out of several", parents=[common])
    blend.add_argument("--with", nargs="+", action="extend", dest="parts", required=True, metavar="ID=WEIGHT")
    blend.add_argument("--how", default="linear", help="linear, ties or dare")
    blend.add_argument("--name", default="blend")
    push = adapters.add_parser(
        "push", help="to your place on the hub; the token is read from HF_TOKEN", parents=[common]
    )
    push.add_argument("id")
    push.add_argument("repo", metavar="OWNER/NAME")
    push.add_argument("--public", action="store_true", help="everybody may see it; default: only you")
    adapters.add_parser("remove", help="delete one", parents=[common]).add_argument("id")

    compare = verb("compare", "ask several sides the same thing")
    compare.add_argument(
        "--side",
        action="append",
        required=True,
        metavar="SPEC",
        help="model=base|ADAPTER[,prompt=FILE][,shots=K][,name=LABEL]",
    )
    compare.add_argument("--ask", action="append", required=True, metavar="TEXT", help="again for the next turn")
    compare.add_argument("--examples", help="where shots come from")
    compare.add_argument("--base")
    compare.add_argument("--seed", type=int, default=7)
    compare.add_argument("--temperature", type=float, default=0.0)
    compare.add_argument("--max-tokens", type=int, default=128)

    replay = verb("replay", "a saved reply once more: is it the same?")
    replay.add_argument("file", help="a reply or all of compare --json, a chat completion, or a stamp")
    replay.add_argument("--base")

    verdict = verb("verdict", "is prompting enough? measured on your held-out examples")
    verdict.add_argument("file", help="held-out examples; every row of it is used")
    verdict.add_argument(
        "--side",
        action="append",
        required=True,
        metavar="SPEC",
        help="model=base|ADAPTER[,prompt=FILE][,shots=K][,pick=seed|nearest][,docs=FILE][,name=LABEL]",
    )
    verdict.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="CHECK",
        help="json, json-schema:FILE, regex:PATTERN, ends-with:TEXT, contains:TEXT, max-words:N",
    )
    verdict.add_argument("--examples", help="where shots come from; default: the other rows of FILE")
    verdict.add_argument("--repeats", type=int, default=1, help="sampled replies an example, for consistency; 1: none")
    verdict.add_argument("--limit", type=int, help="the first so many rows")
    verdict.add_argument("--max-tokens", type=int, default=96)
    verdict.add_argument("--temperature", type=float, default=0.0)
    verdict.add_argument("--seed", type=int, default=7)
    verdict.add_argument(
        "--answers", metavar="FILE", help="JSON: volume a month, changes (never, monthly, weekly), latency_s, budget"
    )
    verdict.add_argument("--prices", metavar="FILE", help="JSON: prices a million tokens, or of the device an hour")
    verdict.add_argument(
        "--out", metavar="DIR", help="write the report (HTML), the rows (JSONL, CSV) and the record there"
    )
    verdict.add_argument("--no-forgetting", action="store_true", help="do not measure what tuned sides forgot")
    verdict.add_argument(
        "--no-refusals", action="store_true", help="do not ask sides with documents what these cannot answer"
    )
    verdict.add_argument("--no-losses", action="store_true", help="do not score the references")
    verdict.add_argument("--name", default="")
    verdict.add_argument("--base")
    _mapping(verdict)

    _bench(verb("bench", "versions of a prompt on the validation part: which one is worth a verdict"))
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


OPTIONS: dict[str, dict[str, Any]] = {
    "rslora": {"action": "store_true", "help": "scale by alpha / sqrt(rank) (lora, qlora, dora)"},
    "pissa": {"action": "store_true", "help": "begin with the base's strongest directions (lora, qlora)"},
    "layers": {"type": int, "default": 0, "metavar": "N", "help": "train the last N layers only (full)"},
    "init_text": {"default": "", "metavar": "TEXT", "help": "what virtual tokens begin as (prompt, p-tuning-v2)"},
    "placement": {"choices": PLACEMENTS, "default": "", "help": "where bottlenecks stand; default houlsby"},
}
"""Options of methods, by their names in ``Options``."""


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


def _bench(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("file", help="examples; its validation part is asked, as a run draws it")
    bench.add_argument(
        "--prompt", action="append", required=True, metavar="FILE", help="a version of the prompt; again for more"
    )
    bench.add_argument(
        "--shots", default="0,4", metavar="N,N", help="how many answered examples come first; each is tried"
    )
    bench.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="CHECK",
        help="as for verdict; the first one decides; default: what the shipped set has",
    )
    bench.add_argument("--limit", type=int, help="the first so many rows of the part")
    bench.add_argument("--max-tokens", type=int, default=96)
    bench.add_argument("--seed", type=int, default=7)
    bench.add_argument("--base")
    _mapping(bench)


def _race(race: argparse.ArgumentParser) -> None:
    race.add_argument("file")
    race.add_argument("--methods", default="", metavar="NAME,NAME", help="default: all there are")
    budget = race.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, help="of each method; default 20")
    budget.add_argument("--minutes", type=float, help="that each method may take, by its estimate")
    race.add_argument(
        "--check", default="", help="how replies are judged, such as json; default: what the shipped set has"
    )
    race.add_argument("--name", default="")
    race.add_argument("--objective", default="", help="default: what the file can train")
    race.add_argument("--base")
    race.add_argument("--batch-size", type=int, default=8)
    race.add_argument("--max-tokens", type=int, default=2048)
    race.add_argument("--seed", type=int, default=7)
    _mapping(race)


def _mapping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--map", nargs="+", action="extend", default=[], metavar="field=column", help="which column is what"
    )


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
