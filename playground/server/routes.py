"""Plain routes on the web app's own port: /v1 for programs, and what this machine's own commands ask of a serving
app."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from playground.chat.compare import all_replies, side_from
from playground.chat.replay import Saved
from playground.engine.request import Sampling
from playground.errors import InputError, PlaygroundError
from playground.server.access import from_here, shows
from playground.server.body import TooLargeError, read_body
from playground.server.openai import openai_routes
from playground.services import Services
from playground.verdict.request import request_from


def build_routes(services: Services, token: str) -> list[Route]:
    """token: what commands on this machine show, read from a file that only its owner can read."""

    async def healthz(request: Request) -> Response:
        return JSONResponse({"ok": True})

    async def status(request: Request) -> Response:
        return JSONResponse(services.device.counts() if services.settings.shared else services.device.status())

    async def internal_status(request: Request) -> Response:
        return JSONResponse(services.device.status()) if _known(request, token) else _refused()

    return [
        Route("/healthz", healthz),
        Route("/status", status),
        Route("/internal/status", internal_status),
        Route("/internal/compare", _working(services, token, _compare), methods=["POST"]),
        Route("/internal/replay", _working(services, token, _replay), methods=["POST"]),
        Route("/internal/verdict", _working(services, token, _verdict), methods=["POST"]),
        Route("/internal/verdict/show", _working(services, token, _show_verdict), methods=["POST"]),
        *openai_routes(services),
    ]


def _compare(services: Services, body: dict[str, Any]) -> dict[str, Any]:
    sides = [side_from(side) for side in body["sides"]]
    questions = [str(question) for question in body["questions"]]
    return {"replies": all_replies(services.compare, sides, questions, Sampling(**body["sampling"]))}


def _verdict(services: Services, body: dict[str, Any]) -> dict[str, Any]:
    return {"id": services.verdicts.start(request_from(body))}


def _show_verdict(services: Services, body: dict[str, Any]) -> dict[str, Any]:
    if body.get("stop"):
        services.verdicts.stop(str(body["id"]))
    return asdict(services.verdicts.show(str(body["id"])))


def _replay(services: Services, body: dict[str, Any]) -> dict[str, Any]:
    return services.replay.again(Saved(dict(body["stamp"]), body["text"]))


def _working(
    services: Services, token: str, work: Callable[[Services, dict[str, Any]], dict[str, Any]]
) -> Callable[[Request], Awaitable[Response]]:
    """A route on which a command lets the app do its work, in a thread. Errors keep their words."""

    async def answer(request: Request) -> Response:
        if not _known(request, token):
            return _refused()
        try:
            return JSONResponse(await asyncio.to_thread(work, services, await read_body(request)))
        except (KeyError, TypeError, ValueError) as error:
            return JSONResponse({"error": f"The request is not as expected ({type(error).__name__})."}, status_code=400)
        except PlaygroundError as error:
            status = 413 if isinstance(error, TooLargeError) else 400 if isinstance(error, InputError) else 500
            return JSONResponse({"error": str(error)}, status_code=status)

    return answer


def _known(request: Request, token: str) -> bool:
    """The right token, from this machine, not by way of a proxy."""
    return from_here(request) and shows(request, token)


def _refused() -> Response:
    return JSONResponse({"error": "Only commands of the same person on this machine may ask this."}, status_code=403)
