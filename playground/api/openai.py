"""/v1: the base and every adapter as models that OpenAI's clients can list and ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from playground.api.access import refusal
from playground.api.body import TooLargeError, read_body
from playground.api.chat_reply import Chunks, whole
from playground.api.chat_request import ChatRequest, FieldError, read_chat
from playground.api.follow import Follower
from playground.errors import BaseUnavailableError, BusyError, InputError, NotFoundError, OutOfMemoryError, PlaygroundError
from playground.library.card import AdapterCard
from playground.services.batches import Written
from playground.services.completion import BASE
from playground.services.container import Services

OWNER = "prompt-or-tune"
"""Who owns the base and the shipped adapters, in the list of models."""
PREPARING_S = 5
GONE = 499
"""The usual status for a client that has left; nobody reads it."""
_log = logging.getLogger(__name__)
_Handler = Callable[[Services, Request], Awaitable[Response]]


def openai_routes(services: Services) -> list[Route]:
    """Routes under /v1. Who may call is decided before anything is read."""
    started_s = int(time.time())
    return [
        Route("/v1/models", _guarded(services, partial(_models, started_s))),
        Route("/v1/models/{model}", _guarded(services, partial(_model, started_s))),
        Route("/v1/chat/completions", _guarded(services, _chat), methods=["POST"]),
        Route("/v1/{rest:path}", _guarded(services, _elsewhere), methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]


async def _models(started_s: int, services: Services, request: Request) -> Response:
    cards = await run_in_threadpool(services.completion.adapters)
    models = [_described(services, card, started_s) for card in (None, *cards)]
    return JSONResponse({"object": "list", "data": models})


async def _model(started_s: int, services: Services, request: Request) -> Response:
    card = await run_in_threadpool(services.completion.card, request.path_params["model"])
    return JSONResponse(_described(services, card, started_s))


async def _chat(services: Services, request: Request) -> Response:
    asked = read_chat(await read_body(request))
    session = f"v1 {request.client.host if request.client else ''}"
    follower = Follower(lambda: services.completion.complete(asked.chat, session))
    try:
        if asked.stream:
            first = await anext(follower)  # what goes wrong up to here has a status of its own
            return _Events(_events(follower, first, asked), follower)
        written = await _last(follower, request)
        if written is None:
            return Response(status_code=GONE)
        return JSONResponse(whole(asked.chat.model, written, logprobs=asked.chat.logprobs is not None))
    except BaseException:
        follower.stop()
        raise


async def _elsewhere(services: Services, request: Request) -> Response:
    words = f"{request.method} {request.url.path[:80]} is not served. There is: GET /v1/models, POST /v1/chat/completions."
    return _error(404, words, code="not_found")


async def _last(follower: Follower[list[Written]], request: Request) -> list[Written] | None:
    """The last snapshot, or None when the client left before; then the device is free again."""
    watch = asyncio.create_task(_stop_when_gone(follower, request))
    written = None
    try:
        async for written in follower:
            pass
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
    return None if follower.stopped else written


async def _stop_when_gone(follower: Follower[list[Written]], request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    follower.stop()


class _Events(StreamingResponse):
    """Server-sent events. However the sending ends, the follower is stopped."""

    def __init__(self, events: AsyncIterator[str], follower: Follower[Any]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._follower = follower

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._follower.stop()


async def _events(follower: Follower[list[Written]], written: list[Written], asked: ChatRequest) -> AsyncIterator[str]:
    """A comment while it waits in line, which keeps the connection alive; then the chunks; then [DONE]."""
    chat = asked.chat
    chunks = Chunks(chat.model, chat.replies, logprobs=chat.logprobs is not None, usage=asked.usage)
    snapshot: list[Written] | None = written
    try:
        while snapshot is not None:
            if snapshot[0].waiting:
                yield f": {snapshot[0].waiting}\n\n"
            for chunk in chunks.of(snapshot):
                yield f"data: {json.dumps(chunk, allow_nan=False)}\n\n"
            snapshot = await anext(follower, None)
    except Exception as error:
        _, body, _ = _told(error)
        yield f"data: {json.dumps(body)}\n\n"
    yield "data: [DONE]\n\n"


def _described(services: Services, card: AdapterCard | None, started_s: int) -> dict[str, Any]:
    """A model as vLLM lists it: ``parent`` is what an adapter stands on, ``root`` the base's own id."""
    return {
        "id": card.id if card else BASE,
        "object": "model",
        "created": int(card.created_s) if card else started_s,
        "owned_by": card.owner if card and not card.shipped else OWNER,
        "root": services.completion.base,
        "parent": BASE if card else None,
    }


def _guarded(services: Services, handler: _Handler) -> Callable[[Request], Awaitable[Response]]:
    """Asks who may call, and turns errors into OpenAI's."""

    async def answer(request: Request) -> Response:
        if refused := refusal(request, services.settings):
            kind, code = (
                ("authentication_error", "invalid_api_key") if refused.status == 401 else ("permission_error", "forbidden")
            )
            headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else None
            return _error(refused.status, refused.words, kind, code=code, headers=headers)
        try:
            return await handler(services, request)
        except ClientDisconnect:
            return Response(status_code=GONE)
        except Exception as error:
            status, body, headers = _told(error)
            if isinstance(error, BusyError):
                headers = {"Retry-After": str(services.completion.retry_after_s())}
            return JSONResponse(body, status_code=status, headers=headers)

    return answer


def _told(error: Exception) -> tuple[int, dict[str, Any], dict[str, str] | None]:
    """(status, OpenAI's error body, headers) of an error; one that is a bug is logged and not shown."""
    match error:
        case TooLargeError():
            return 413, _body(str(error), code="request_too_large"), None
        case NotFoundError():
            return 404, _body(str(error), param="model", code="model_not_found"), None
        case FieldError():
            return 400, _body(str(error), param=error.param), None
        case InputError():
            return 400, _body(str(error)), None
        case OutOfMemoryError():
            return 400, _body(str(error), code="out_of_memory"), None
        case BusyError():
            return 429, _body(str(error), "rate_limit_error", code="queue_full"), None
        case BaseUnavailableError():
            return 503, _body(str(error), "server_error", code="base_unavailable"), {"Retry-After": str(PREPARING_S)}
        case PlaygroundError():
            return 500, _body(str(error), "server_error"), None
    _log.error("A request to /v1 failed", exc_info=error)
    return 500, _body("Something went wrong on our side; the log has the details.", "server_error"), None


def _error(
    status: int, words: str, kind: str = "invalid_request_error", *, code: str, headers: dict[str, str] | None = None
) -> Response:
    return JSONResponse(_body(words, kind, code=code), status_code=status, headers=headers)


def _body(
    words: str, kind: str = "invalid_request_error", *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": words, "type": kind, "param": param, "code": code}}
