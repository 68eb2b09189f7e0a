"""/v1: the base and every adapter as models that OpenAI's clients can list and ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from playground.chat.batching import BASE, Written
from playground.errors import (
    BaseUnavailableError,
    BusyError,
    InputError,
    NotFoundError,
    OutOfMemoryError,
    PlaygroundError,
)
from playground.library.card import AdapterCard
from playground.server.access import refusal
from playground.server.body import TooLargeError, read_body
from playground.server.chat_format import ChatRequest, Chunks, FieldError, read_chat, whole
from playground.services import Services

T = TypeVar("T")
THREADS_MAX = 64
"""More than the device's queue and its leases together: the queue refuses first, and says so."""
_room = threading.BoundedSemaphore(THREADS_MAX)


class Follower(Generic[T]):
    """A blocking generator in a thread of its own, iterated from the event loop; ``stop`` on every way out closes it at
    its next value.

    Its values are snapshots, so only the newest is kept: a slow reader gets larger steps and fills no memory. Raises
    what the source
    raises; BusyError at once when THREADS_MAX are followed already. Make it in a running event loop.
    """

    def __init__(self, make: Callable[[], Generator[T]]) -> None:
        if not _room.acquire(blocking=False):
            raise BusyError(f"{THREADS_MAX} requests are being answered or wait already. Try again in a minute.")
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._stop = threading.Event()
        self._unseen: list[T] = []
        self._error: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, args=(make,), name="follow", daemon=True)
        self._thread.start()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """End the iteration now; the thread closes the source as soon as that gives its next value."""
        self._stop.set()
        self._changed.set()

    def __aiter__(self) -> Follower[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            if self._stop.is_set():
                raise StopAsyncIteration
            if self._unseen:
                return self._unseen.pop()
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    def _run(self, make: Callable[[], Generator[T]]) -> None:
        error: BaseException | None = None
        try:
            with contextlib.closing(make()) as source:
                for value in source:
                    if self._stop.is_set():
                        break
                    self._in_loop(self._take, value)
        except BaseException as raised:  # whatever it is, it is raised again where the reply is awaited
            error = raised
        finally:
            _room.release()
            self._in_loop(self._end, error)

    def _in_loop(self, act: Callable[..., None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(act, value)

    # in the event loop, like __anext__: no lock is needed

    def _take(self, value: T) -> None:
        self._unseen[:] = [value]
        self._changed.set()

    def _end(self, error: BaseException | None) -> None:
        self._error, self._ended = error, True
        self._changed.set()


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
    except BaseException:  # a cancelled request too frees the device
        follower.stop()
        raise


async def _elsewhere(services: Services, request: Request) -> Response:
    there = "There is: GET /v1/models, POST /v1/chat/completions."
    body = _body(f"{request.method} {request.url.path[:80]} is not served. {there}", code="not_found")
    return JSONResponse(body, status_code=404)


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
        super().__init__(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
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
    except Exception as error:  # the status is sent already: every error becomes the stream's last event
        _, body, _ = _answer_to(error)
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
            if refused.status == 401:
                body = _body(refused.words, "authentication_error", code="invalid_api_key")
                return JSONResponse(body, status_code=401, headers={"WWW-Authenticate": "Bearer"})
            return JSONResponse(_body(refused.words, "permission_error", code="forbidden"), status_code=refused.status)
        try:
            return await handler(services, request)
        except ClientDisconnect:
            return Response(status_code=GONE)
        except Exception as error:  # a bug becomes OpenAI's own 500, and is logged
            status, body, headers = _answer_to(error)
            if isinstance(error, BusyError):
                headers = {"Retry-After": str(services.completion.retry_after_s())}
            return JSONResponse(body, status_code=status, headers=headers)

    return answer


def _answer_to(error: Exception) -> tuple[int, dict[str, Any], dict[str, str] | None]:
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


def _body(
    words: str, kind: str = "invalid_request_error", *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": words, "type": kind, "param": param, "code": code}}
