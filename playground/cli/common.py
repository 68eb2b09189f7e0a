"""What verbs share: what each takes (a wrong call raises InputError with the usage, so that it ends like every other
wrong input), progress on stderr, services on the chosen base, the home's lock, calls to a serving app."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from playground.chat.compare import Side
from playground.data.records import READING
from playground.errors import InputError, PlaygroundError, RunFailedError
from playground.evaluation.checks import SCHEMA, kinds, schema_file
from playground.evaluation.criterion import kinds as criteria
from playground.methods.method import PLACEMENTS, Options
from playground.plain import and_left
from playground.runs.request import SETTINGS, TrainRequest
from playground.services import Services, build_services
from playground.settings import Settings
from playground.training.spec import Setting
from playground.verdict.request import VerdictRequest
from playground.verdict.service import VerdictView
from playground.workspace.visitors import WAIT_S, Home, HomeTaken


class _Lives(Protocol):
    @property
    def live(self) -> bool: ...


L = TypeVar("L", bound=_Lives)
Outcome = tuple[dict[str, Any], str, int]  # what a verb returns: its JSON, the same in words, the exit code
YES = ("y", "yes")
_QUIET_S = 2.0  # a shorter step prints nothing of its progress


class Progress:
    """One line on stderr that is rewritten on a terminal, and appended at most every two seconds elsewhere."""

    def __init__(self) -> None:
        self._last, self._at = "", 0.0
        self._live = sys.stderr.isatty()

    def say(self, words: str, *, always: bool = False) -> None:
        if words == self._last or (not self._live and not always and time.monotonic() - self._at < 2):
            return
        self._last, self._at = words, time.monotonic()
        print(f"\r\x1b[2K{words}" if self._live else words, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._live and self._last:
            print(file=sys.stderr)
        self._last = ""

    def base(self, phase: str, done: int, total: int) -> None:
        """For ``bases.resolve``."""
        if phase == "fetching" and total:
            self.say(f"Fetching the base, {done / 1e6:.0f} of {total / 1e6:.0f} MB")
        else:
            self.say(f"{phase.capitalize()} the base{', about 50 s, once' if phase == 'converting' else ''}")

    def share(self, what: str) -> Callable[[float], None]:
        """A callback that prints how far a step has come, from 0 to 1, once it has taken a while."""
        started = 0.0

        def at(share: float) -> None:
            nonlocal started
            started = started or time.monotonic()
            if (seconds := time.monotonic() - started) > _QUIET_S:
                self.say(f"{what}, {share:.0%}{and_left(seconds * (1 - share) / share if share > 0 else None)}")

        return at


def services_for(settings: Settings, base: str | None = None, sides: Sequence[Side] = ()) -> Services:
    """All services, on ``base`` if one is named. Raises NotFoundError for a side without its model."""
    services = build_services(replace(settings, base=base) if base else settings)
    refuse_missing(services, sides)
    return services


def refuse_missing(services: Services, sides: Sequence[Side]) -> None:
    """Raises NotFoundError for a side without its model."""
    for side in sides:
        if side.is_remote:
            services.endpoints.get(side.model)
        elif side.is_here:
            services.adapters.model(side.model)


def agreed(leaves: str, send: bool) -> bool:
    """Whether a person agrees to what leaves this machine, in words; "" = nothing does. Raises InputError."""
    if leaves:
        print(leaves, file=sys.stderr)
        if not (send or (sys.stdin.isatty() and input("Send them? (yes/no) ").strip().lower() in YES)):
            raise InputError(f"{leaves} Nothing was sent. Add --send to agree.")
    return bool(leaves)


@contextlib.contextmanager
def owned_or_served(settings: Settings) -> Iterator[Home | None]:
    """The home, locked while a verb computes; None where an app serves it and does the work instead."""
    home = None
    with contextlib.suppress(HomeTaken):
        home = Home.take(settings)
    try:
        yield home
    finally:
        if home is not None:
            home.release()


def judge_in_app(settings: Settings, request: VerdictRequest) -> Iterator[VerdictView]:
    """A verdict measured by the app; closing it stops the measuring. Raises HomeTaken when the owner does not serve."""
    checks = [f"{SCHEMA}{file.resolve()}" if (file := schema_file(check)) else check for check in request.checks]
    asked = {**request.as_json(), "checks": checks}
    yield from in_app(settings, "/internal/verdict", asked, lambda said: VerdictView(**said))


def in_app(settings: Settings, route: str, asked: dict[str, Any], read: Callable[[dict[str, Any]], L]) -> Generator[L]:
    """What the app has begun, looked at again and again to its end; closing it stops the work there."""
    about, live = {"id": call(settings, route, asked)["id"]}, True
    try:
        while live:
            view = read(call(settings, f"{route}/show", about))
            live = view.live
            yield view
            time.sleep(0.5 if live else 0)
    finally:
        if live:
            call(settings, f"{route}/show", {**about, "stop": True})


def call(settings: Settings, route: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call to the serving app; its errors come back as ours."""
    url, token = _where(settings)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url.rstrip("/") + route, data, headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=600) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        words = json.loads(error.read() or b"{}").get("error", str(error))
        raise (InputError if error.code in (400, 413) else RunFailedError)(words) from error
    except OSError as error:
        raise RunFailedError(f"The app at {url} does not answer ({error}). Restart it, or try again.") from error


def _where(settings: Settings) -> tuple[str, str]:
    """Address and token of the serving app, waited for where it is starting. Raises HomeTaken if it never serves."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            Home.take(settings).release()
        except HomeTaken as taken:
            if taken.url:
                return taken.url, taken.token
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            raise PlaygroundError("The app that served this home has just ended. Try again.")


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
