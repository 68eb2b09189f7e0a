"""Ask the app that serves this home: it owns the device and has the base in memory already."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from playground.errors import InputError, PlaygroundError, RunFailedError
from playground.evaluation.checks import SCHEMA, schema_file
from playground.services.home import WAIT_S, Home, HomeTaken
from playground.services.replay import Saved
from playground.services.sides import Side, side_as_json
from playground.services.verdict_request import VerdictRequest
from playground.services.verdicts import VerdictView
from playground.settings import Settings


def ask_app(settings: Settings, sides: list[Side], questions: list[str], sampling: Any) -> list[dict[str, Any]]:
    """The replies, as ``compare`` gives them. Raises HomeTaken when the owner does not serve."""
    body = {
        "sides": [side_as_json(side) for side in sides],
        "questions": questions,
        "sampling": asdict(sampling),
    }
    replies: list[dict[str, Any]] = call(settings, "/internal/compare", body)["replies"]
    return replies


def replay_in_app(settings: Settings, saved: Saved) -> dict[str, Any]:
    """One saved reply again, as ``replay`` gives it. Raises HomeTaken when the owner does not serve."""
    return call(settings, "/internal/replay", {"stamp": saved.stamp, "text": saved.text})


def judge_in_app(settings: Settings, request: VerdictRequest) -> Iterator[VerdictView]:
    """A verdict measured by the app; yields how far it is. Closing it stops the measuring. Raises HomeTaken when the owner does not serve."""
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
    request = urllib.request.Request(
        url.rstrip("/") + route,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
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
    """Address and token of the serving app; one that is just starting is waited for. Raises HomeTaken if it never serves."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            home = Home.take(settings)
        except HomeTaken as taken:
            if taken.url:
                return taken.url, taken.token
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            home.release()
            raise PlaygroundError("The app that served this home has just ended. Try again.")
