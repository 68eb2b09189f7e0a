"""Plain routes on the web app's own port."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from playground.engine.request import Sampling
from playground.errors import InputError, PlaygroundError
from playground.services.container import Services
from playground.services.replies import all_replies
from playground.services.sides import Side

BODY_LIMIT_BYTES = 2_000_000


def build_routes(services: Services, token: str) -> list[Route]:
    """token: what commands on this machine show, read from a file that only its owner can read."""

    async def healthz(request: Request) -> Response:
        return JSONResponse({"ok": True})

    async def status(request: Request) -> Response:
        return JSONResponse(services.device.counts() if services.settings.shared else services.device.status())

    async def internal_status(request: Request) -> Response:
        return JSONResponse(services.device.status()) if _known(request, token) else _refused()

    async def internal_compare(request: Request) -> Response:
        if not _known(request, token):
            return _refused()
        try:
            if int(request.headers.get("content-length") or 0) > BODY_LIMIT_BYTES:
                raise InputError(f"The request is larger than {BODY_LIMIT_BYTES} bytes.")
            body = await request.json()
            replies = await asyncio.to_thread(_compare, services, body)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            return JSONResponse({"error": f"The request is not as expected ({type(error).__name__})."}, status_code=400)
        except PlaygroundError as error:
            return JSONResponse({"error": str(error)}, status_code=400 if isinstance(error, InputError) else 500)
        return JSONResponse({"replies": replies})

    return [
        Route("/healthz", healthz),
        Route("/status", status),
        Route("/internal/status", internal_status),
        Route("/internal/compare", internal_compare, methods=["POST"]),
    ]


def _compare(services: Services, body: dict[str, Any]) -> list[dict[str, Any]]:
    sides = [Side(**side | {"shots_from": Path(side["shots_from"]) if side["shots_from"] else None}) for side in body["sides"]]
    return all_replies(services.compare, sides, [str(question) for question in body["questions"]], Sampling(**body["sampling"]))


def _known(request: Request, token: str) -> bool:
    """The right token, from this machine, not by way of a proxy."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    local = request.client is not None and request.client.host in ("127.0.0.1", "::1")
    forwarded = any(name in request.headers for name in ("x-forwarded-for", "forwarded", "x-real-ip"))
    return local and not forwarded and secrets.compare_digest(given.encode(), token.encode())


def _refused() -> Response:
    return JSONResponse({"error": "Only commands of the same person on this machine may ask this."}, status_code=403)
