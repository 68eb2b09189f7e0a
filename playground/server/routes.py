"""Routes on the web app's own port: health, status, metrics, what this machine's commands ask, and /v1, OpenAI's."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import asdict
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from playground import errors
from playground.chat.batching import Written
from playground.chat.compare import side_from
from playground.chat.programs import Saved, all_replies
from playground.engine.request import Sampling
from playground.library.adapters import AdapterCard
from playground.models.bases import BASE
from playground.server.chat_format import ChatRequest, Chunks, read_chat, whole
from playground.server.gate import TooLargeError, from_here, read_body, refusal, shows
from playground.server.observed import FORMAT, Observed
from playground.services import Services
from playground.verdict.handover import handover_from
from playground.verdict.request import request_from

T = TypeVar("T")
JsonObject = dict[str, Any]
_Handler = Callable[[Services, Request], Awaitable[Response]]
_Answer = Callable[[Request], Awaitable[Response]]
_Work = Callable[[Services, JsonObject], JsonObject]


def build_routes(services: Services, token: str, observed: Observed | None = None) -> list[Route]:
    """token: what commands on this machine show, read from a file that only its owner can read. observed: counts what
    is answered."""
    figures = observed or Observed(services)

    async def healthz(request: Request) -> Response:
        return JSONResponse({"ok": True})

    async def status(request: Request) -> Response:
        return JSONResponse(services.device.counts() if services.settings.shared else services.device.status())

    async def metrics(request: Request) -> Response:
        return Response(await run_in_threadpool(figures.text), media_type=FORMAT)

    every_method = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    internal = partial(_internal, services, token)
    return [
        Route("/healthz", healthz),
        Route("/status", status),
        Route("/metrics", metrics),
        Route("/internal/status", internal(lambda services, body: services.device.status())),
        *(Route(f"/internal/{name}", internal(work), methods=["POST"]) for name, work in _INTERNAL.items()),
        Route("/v1/models", _guarded(services, _models)),
        Route("/v1/models/{model}", _guarded(services, _models)),
        Route("/v1/chat/completions", _guarded(services, _chat), methods=["POST"]),
        Route("/v1/{rest:path}", _guarded(services, _elsewhere), methods=every_method),
    ]


def _compare(services: Services, body: JsonObject) -> JsonObject:
    sides = [side_from(side) for side in body["sides"]]
    questions = [str(question) for question in body["questions"]]
    if body.get("send"):
        services.compare.agree(sides)
    return {"replies": all_replies(services.compare, sides, questions, Sampling(**body["sampling"]))}


def _show_verdict(services: Services, body: JsonObject) -> JsonObject:
    if body.get("stop"):
        services.verdicts.stop(str(body["id"]))
    return asdict(services.verdicts.show(str(body["id"])))


def _show_handover(services: Services, body: JsonObject) -> JsonObject:
    comparing = services.handover.latest(str(body["id"]))
    if body.get("stop"):
        comparing.stop()
    return asdict(comparing.step)


_INTERNAL: dict[str, _Work] = {
    "compare": _compare,
    "replay": lambda services, body: services.replay.again(Saved(dict(body["stamp"]), body["text"])),
    "handover": lambda services, body: {"id": services.handover.start(handover_from(body)).id},
    "handover/show": _show_handover,
    "verdict": lambda services, body: {"id": services.verdicts.start(request_from(body))},
    "verdict/show": _show_verdict,
}


def _internal(services: Services, token: str, work: _Work) -> _Answer:
    """A route for commands of this machine, with the right token, not through a proxy. Errors keep their words."""

    async def answer(request: Request) -> Response:
        if not (from_here(request) and shows(request, token)):
            return _wrong("Only commands of the same person on this machine may ask this.", 403)
        try:
            body = await read_body(request) if request.method == "POST" else {}
            return JSONResponse(await asyncio.to_thread(work, services, body))
        except (KeyError, TypeError, ValueError) as error:
            return _wrong(f"The request is not as expected ({type(error).__name__}).", 400)
        except errors.PlaygroundError as error:
            too_large, wrong = isinstance(error, TooLargeError), isinstance(error, errors.InputError)
            return _wrong(str(error), 413 if too_large else 400 if wrong else 500)

    return answer


def _wrong(words: str, status: int) -> Response:
    return JSONResponse({"error": words}, status_code=status)


THREADS_MAX = 64  # more than the device's queue and its leases together: the queue refuses first, and says so
_room = threading.BoundedSemaphore(THREADS_MAX)
OWNER = "prompt-or-tune"  # who owns the base and the shipped adapters, in the list of models
PREPARING_S = 5
_STARTED_S = int(time.time())
GONE = 499  # the usual status for a client that has left; nobody reads it
_log = logging.getLogger(__name__)


class Follower(Generic[T]):
    """A blocking generator in a thread of its own, iterated from the event loop in which it is made; ``stop`` on every
    way out closes it at its next value. Only the newest value is kept, so a slow reader gets larger steps. Raises what
    the source raises; BusyError at once when THREADS_MAX are followed already."""

    def __init__(self, make: Callable[[], Generator[T]]) -> None:
        if not _room.acquire(blocking=False):
            raise errors.BusyError(f"{THREADS_MAX} requests are being answered or wait already. Try again in a minute.")
        self._loop = asyncio.get_running_loop()
        self._changed, self.stopped = asyncio.Event(), threading.Event()
        self._unseen: list[T] = []
        self._end: BaseException | None = None
        run = contextvars.copy_context().run  # the log of that thread names the request, too
        threading.Thread(target=run, args=(self._run, make), name="follow", daemon=True).start()

    def stop(self) -> None:
        """End the iteration now; the thread closes the source as soon as that gives its next value."""
        self.stopped.set()
        self._changed.set()

    def __aiter__(self) -> Follower[T]:
        return self

    async def __anext__(self) -> T:
        while not self.stopped.is_set():
            if self._unseen:
                return self._unseen.pop()
            if self._end is not None:
                raise self._end
            self._changed.clear()
            await self._changed.wait()
        raise StopAsyncIteration

    def _run(self, make: Callable[[], Generator[T]]) -> None:
        end: BaseException = StopAsyncIteration()
        try:
            with contextlib.closing(make()) as source:
                for value in source:
                    if self.stopped.is_set():
                        break
                    self._tell([value])
        except BaseException as raised:  # whatever it is, it is raised again where the reply is awaited
            end = raised
        finally:
            _room.release()
            self._tell(None, end)

    def _tell(self, unseen: list[T] | None, end: BaseException | None = None) -> None:
        """Hand the newest value or the end to the event loop; there no lock is needed."""

        def take() -> None:
            if unseen is not None:
                self._unseen = unseen
            self._end = end
            self._changed.set()

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(take)


async def _models(services: Services, request: Request) -> Response:
    """All of them, or the one that the path names."""
    if (name := request.path_params.get("model")) is not None:
        return JSONResponse(_described(services, await run_in_threadpool(services.completion.card, name)))
    cards = await run_in_threadpool(services.completion.models)
    return JSONResponse({"object": "list", "data": [_described(services, card) for card in (None, *cards)]})


def _described(services: Services, card: AdapterCard | None) -> JsonObject:
    """A model as vLLM lists it: ``parent`` is what an adapter stands on, ``root`` the base's own id."""
    return {
        "id": card.id if card else BASE,
        "object": "model",
        "created": int(card.created_s) if card else _STARTED_S,
        "owned_by": card.owner if card and not card.shipped else OWNER,
        "root": card.base if card and card.is_base else services.completion.base,
        "parent": BASE if card and not card.is_base else None,
    }


async def _chat(services: Services, request: Request) -> Response:
    asked = read_chat(await read_body(request))
    session = f"v1 {request.client.host if request.client else ''}"
    follower = Follower(lambda: services.completion.complete(asked.chat, session))
    with contextlib.ExitStack() as stack:
        stack.callback(follower.stop)  # a cancelled request too frees the device
        if asked.stream:
            first = await anext(follower)  # what goes wrong up to here has a status of its own
            stack.pop_all()
            return _Events(_events(follower, first, asked), follower)
        written = await _last(follower, request)
    if written is None:
        return Response(status_code=GONE)
    return JSONResponse(whole(asked.chat, written))


async def _last(follower: Follower[list[Written]], request: Request) -> list[Written] | None:
    """The last snapshot, or None when the client left before; then the device is free again."""
    written: list[Written] | None = None

    async def stop_when_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        follower.stop()

    watch = asyncio.create_task(stop_when_gone())
    try:
        async for written in follower:
            pass
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
    return None if follower.stopped.is_set() else written


class _Events(StreamingResponse):
    """Server-sent events. However the sending ends, the follower is stopped."""

    def __init__(self, events: AsyncIterator[str], follower: Follower[list[Written]]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._follower = follower

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._follower.stop()


async def _events(follower: Follower[list[Written]], written: list[Written], asked: ChatRequest) -> AsyncIterator[str]:
    """A comment while it waits in line, which keeps the connection alive; then the chunks; then [DONE]. The status is
    sent already, so an error becomes the stream's last event."""
    chunks = Chunks(asked.chat, usage=asked.usage)
    snapshot: list[Written] | _Failure | None = written
    while snapshot is not None:
        if isinstance(snapshot, _Failure):
            yield f"data: {json.dumps(snapshot.body)}\n\n"
            break
        if snapshot[0].waiting:
            yield f": {snapshot[0].waiting}\n\n"
        for chunk in chunks.of(snapshot):
            yield f"data: {json.dumps(chunk, allow_nan=False)}\n\n"
        snapshot = await _tried(anext(follower, None))
    yield "data: [DONE]\n\n"


async def _elsewhere(services: Services, request: Request) -> Response:
    asked, there = f"{request.method} {request.url.path[:80]}", "GET /v1/models, POST /v1/chat/completions"
    return JSONResponse(_body(f"{asked} is not served. There is: {there}.", code="not_found"), 404)


def _guarded(services: Services, handler: _Handler) -> _Answer:
    """Decides who may call before anything is read, and turns errors into OpenAI's."""

    async def answer(request: Request) -> Response:
        if (refused := refusal(request, services.settings)) is not None:
            status, words = refused
            kind, code = _REFUSED[status]
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            return JSONResponse(_body(words, kind, code=code), status, headers)
        done = await _tried(handler(services, request))
        if isinstance(done, Response):
            return done
        wait_s = PREPARING_S if done.status == 503 else services.completion.retry_after_s() if done.status == 429 else 0
        return JSONResponse(done.body, done.status, {"Retry-After": str(wait_s)} if wait_s else None)

    return answer


class _Failure(NamedTuple):
    """status: of the HTTP answer. body: OpenAI's error object."""

    status: int
    body: JsonObject


async def _tried(work: Awaitable[T]) -> T | _Failure:
    """The result, or the error as OpenAI's body; one that is a bug is logged and not shown."""
    try:
        return await work
    except Exception as error:  # a bug becomes OpenAI's own 500, also in the middle of a stream
        for kind, status, name, code in _ERRORS:
            if isinstance(error, kind):
                param = "model" if isinstance(error, errors.NotFoundError) else getattr(error, "param", None)
                return _Failure(status, _body(str(error), name, param=param, code=code))
        _log.error("A request to /v1 failed", exc_info=error)
        return _Failure(500, _body("Something went wrong on our side; the log has the details.", "server_error"))


_WRONG = "invalid_request_error"
_REFUSED = {401: ("authentication_error", "invalid_api_key"), 403: ("permission_error", "forbidden")}
_ERRORS: tuple[tuple[type[Exception], int, str, str | None], ...] = (
    (ClientDisconnect, GONE, _WRONG, None),
    (TooLargeError, 413, _WRONG, "request_too_large"),
    (errors.NotFoundError, 404, _WRONG, "model_not_found"),
    (errors.InputError, 400, _WRONG, None),
    (errors.OutOfMemoryError, 400, _WRONG, "out_of_memory"),
    (errors.BusyError, 429, "rate_limit_error", "queue_full"),
    (errors.BaseUnavailableError, 503, "server_error", "base_unavailable"),
    (errors.PlaygroundError, 500, "server_error", None),
)
"""The first that an error is an instance of: its status, type and code as OpenAI's clients know them."""


def _body(words: str, kind: str = _WRONG, *, param: str | None = None, code: str | None = None) -> JsonObject:
    return {"error": {"message": words, "type": kind, "param": param, "code": code}}
