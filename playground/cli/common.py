"""What verbs share: progress on stderr, services on the chosen base, the home's lock, calls to a serving app."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from playground.chat.compare import Side
from playground.errors import InputError, PlaygroundError, RunFailedError
from playground.evaluation.checks import SCHEMA, schema_file
from playground.services import Services, build_services
from playground.settings import Settings
from playground.verdict.request import VerdictRequest
from playground.verdict.service import VerdictView
from playground.workspace.visitors import WAIT_S, Home, HomeTaken

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
                left = f", about {seconds * (1 - share) / share:.0f} s left" if share > 0 else ""
                self.say(f"{what}, {share:.0%}{left}")

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
    id = call(settings, "/internal/verdict", {**request.as_json(), "checks": checks})["id"]
    view = VerdictView(id, request.name, "QUEUED")
    try:
        while view.live:
            view = VerdictView(**call(settings, "/internal/verdict/show", {"id": id}))
            yield view
            time.sleep(0.5)
    finally:
        if view.live:
            call(settings, "/internal/verdict/show", {"id": id, "stop": True})


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
