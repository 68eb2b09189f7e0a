"""Requests to other servers (``models/endpoints.py``), through the ``openai`` package: streamed, sent again where that
may help, counted and paid."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import os
import re
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from playground.data.example import Message, parted, uses_tools
from playground.data.tools import TEXT, call_of, laid_out, with_calls
from playground.engine.request import RowState, Sampling
from playground.errors import EndpointError
from playground.evaluation.form import REGEX, schema_of
from playground.models.endpoints import Endpoint

if TYPE_CHECKING:
    import openai

RETRIES = 3
"""Of a request that could not be sent, or was answered 408, 409, 429 or 5xx: after 0.5, 1 and 2 s, or as the server
asks."""
TRIES = 4
"""Of a reply that broke off, or of a request with a setting that the server does not know."""
CONNECT_S, READ_S, PROBE_S = 10.0, 180.0, 5.0
"""READ_S: between two pieces of a reply; a server may load its model first."""
NOT_REPLAYABLE = "not replayable: remote"
_MAY_BE_UNKNOWN = ("max_tokens", "temperature", "top_p", "seed", "stop", "stream_options")
_THOUGHTS = ("reasoning_content", "reasoning")
"""Fields of a server that keeps thoughts apart; any other one puts them into the text, between tags."""
_OF_THE_FORM = re.compile(r"response_format|json|schema|guided|structured|grammar|regex", re.IGNORECASE)
"""What a server that takes no form says of it."""
_OF_THE_ROW = (400, 413, 422)
"""Statuses that may be one request's fault; any other one is the server's."""


class Spending:
    """What one job pays for its requests. cap: where it ends, None = nowhere; it can be passed only by a server that
    reads more than it is sent, and then once. Used by the client's thread alone."""

    def __init__(self, cap: float | None = None) -> None:
        self.cap, self.spent, self.requests = cap, 0.0, 0
        self._held, self._dearer = 0.0, 1.0

    def reserve(self, most: float) -> float:
        """Before a request that may cost so much; returns what is held for it. Raises EndpointError where the cap could
        be passed."""
        most *= self._dearer
        if self.cap is not None and self.spent + self._held + most > self.cap:
            paid = f"{self.requests} requests cost {self.spent:.4g}, and the next may cost {most:.2g}"
            raise EndpointError(f"The spend cap of {self.cap:g} is reached: {paid}. Raise it, or ask fewer rows.")
        self._held += most
        self.requests += 1
        return most

    def settle(self, held: float, paid: float) -> None:
        self._held -= held
        self.spent += paid
        self._dearer *= max(1.0, paid / held) if held else 1.0


@dataclass(frozen=True)
class Remote:
    """Where a reply is asked for, by what messages, and who pays. extra: fields of that server's own."""

    endpoint: Endpoint
    messages: tuple[Message, ...]
    spending: Spending = field(default_factory=Spending, compare=False)
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The messages as they are sent."""
        return json.dumps(self.sent["messages"], ensure_ascii=False, indent=1)

    @property
    def sent(self) -> dict[str, Any]:
        """The messages and what may be called, as OpenAI's API takes them."""
        if not uses_tools(self.messages):
            return {"messages": [{"role": turn.role, "content": turn.content} for turn in self.messages]}
        turns, tools = laid_out(self.messages, TEXT)
        return {"messages": turns} | ({"tools": tools} if tools else {})


@dataclass
class RemoteReply:
    """How far a reply has come; seconds count from the sending of its request. settings: what was sent beside the
    messages. model: as the server names it. reported: whether it said how many tokens these were. text: as it was sent,
    which may hold a thought. calls: of tools, as they began, as far as they have come."""

    remote: Remote
    sampling: Sampling
    state: RowState = field(default_factory=RowState)
    settings: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    text: str = ""
    calls: dict[int | str, dict[str, str]] = field(default_factory=dict)
    cached_tokens: int = 0
    reported: bool = False
    failure: EndpointError | None = None

    @property
    def done(self) -> bool:
        return bool(self.state.finish) or self.failure is not None

    @property
    def price(self) -> float | None:
        """What it cost, None where prices or tokens are not known."""
        prices, state = self.remote.endpoint.prices, self.state
        if prices is None or not (self.reported or prices.is_free):
            return None
        return prices.of(state.prompt_tokens, state.completion_tokens, self.cached_tokens)

    @property
    def stamp(self) -> dict[str, Any]:
        """What is known of how the reply came about; it cannot be had again from this."""
        state, text = self.state, self.remote.text
        tokens = {"prompt_tokens": state.prompt_tokens, "completion_tokens": state.completion_tokens}
        tokens |= {"cached_tokens": self.cached_tokens, "reported": self.reported}
        tokens |= {"thought_tokens": state.thought_tokens} if state.thought_tokens else {}
        return {
            "replay": NOT_REPLAYABLE,
            "endpoint": {**self.remote.endpoint.about, "answered_as": self.model},
            "prompt": {"text": text, "sha256": hashlib.sha256(text.encode(errors="replace")).hexdigest()},
            "sampling": {name: value for name, value in self.settings.items() if name != "seed"},
            "seed": self.settings.get("seed"),
            "usage": tokens,
            "price": self.price,
            "finish_reason": state.finish,
            "seconds": round(state.seconds, 4),
        }


class Sending:
    """Replies that were asked for together."""

    def __init__(
        self, replies: Sequence[RemoteReply], run: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.replies, self._over = replies, threading.Event()
        self._future = asyncio.run_coroutine_threadsafe(run, loop)
        self._future.add_done_callback(lambda _: self._over.set())

    def wait(self, seconds: float) -> bool:
        """Whether all are done, at the latest after so long."""
        return self._over.wait(seconds)

    def close(self) -> None:
        """End those that are not done; their connections are closed."""
        self._future.cancel()


class _Limit:
    """Of one server, whoever asks."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.places = asyncio.Semaphore(endpoint.concurrency)
        self._each_s = 60 / (endpoint.requests_per_minute or math.inf)
        self._free_s = 0.0

    async def turn(self) -> None:
        """Wait until the next request may be sent."""
        now_s = time.monotonic()
        self._free_s = max(now_s, self._free_s)
        wait_s, self._free_s = self._free_s - now_s, self._free_s + self._each_s
        await asyncio.sleep(wait_s)


class Client:
    """Asks them, through the ``openai`` package, in one thread of its own. retries: as RETRIES. Follows no redirect:
    a key goes where it was meant to go."""

    def __init__(self, retries: int = RETRIES) -> None:
        self._retries, self._lock = retries, threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clients: dict[tuple[str, str], openai.AsyncOpenAI] = {}
        self._limits: dict[tuple[str, int, float | None], _Limit] = {}
        self._unknown: dict[str, set[str]] = {}

    def send(self, asked: Sequence[tuple[Remote, Sampling]]) -> Sending:
        """Ask for these; what goes wrong is each one's ``failure``."""
        replies = [RemoteReply(*one) for one in asked]
        return Sending(replies, self._all(replies), self.loop)

    def ask(self, endpoint: Endpoint, messages: Sequence[Message], max_tokens: int) -> RemoteReply:
        """One whole reply, greedy. Raises EndpointError."""
        sending = self.send([(Remote(endpoint, tuple(messages)), Sampling(max_tokens=max_tokens))])
        try:
            while not sending.wait(1.0):
                pass
        finally:
            sending.close()
        (reply,) = sending.replies
        if reply.failure is not None:
            raise reply.failure
        return reply

    def test(self, endpoint: Endpoint) -> RemoteReply:
        """What it says to two words. Raises EndpointError."""
        return self.ask(endpoint, (Message("user", "Say yes."),), 16)

    def probe(self, endpoint: Endpoint) -> str:
        """Why it cannot be asked, "" where it can; it is sent no row. Raises nothing."""
        try:
            asyncio.run_coroutine_threadsafe(self._probe(endpoint), self.loop).result()
        except Exception as error:
            return str(endpoint_error(endpoint, error))
        return ""

    def models(self, endpoint: Endpoint) -> list[str]:
        """What it calls the models that it serves. Raises EndpointError."""
        listing = asyncio.run_coroutine_threadsafe(self._models(endpoint), self.loop)
        if isinstance(error := listing.exception(), Exception):
            raise endpoint_error(endpoint, error) from error
        return listing.result()

    def rendered(self, endpoint: Endpoint, messages: Sequence[Message]) -> str | list[int] | int | None:
        """These messages as its chat template writes them, where it tells: as tokens (vLLM's ``/tokenize``), as text
        (llama.cpp's ``/apply-template``), or how many tokens that is; None where it does not. Raises nothing."""
        asking = asyncio.run_coroutine_threadsafe(self._rendered(endpoint, messages), self.loop)
        return asking.result() if asking.exception() is None else None

    # -- in the loop's thread ------------------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """That of the thread, which runs from here on."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="endpoints", daemon=True).start()
            return self._loop

    async def _all(self, replies: Sequence[RemoteReply]) -> None:
        down: dict[Endpoint, EndpointError] = {}
        await asyncio.gather(*(self._one(one, down) for one in replies))

    async def _one(self, one: RemoteReply, down: dict[Endpoint, EndpointError]) -> None:
        """down: servers that answer nothing more; what still waits for them is not sent."""
        endpoint = one.remote.endpoint
        key = (endpoint.name, endpoint.concurrency, endpoint.requests_per_minute)
        limit = self._limits.setdefault(key, _Limit(endpoint))
        try:
            async with limit.places:
                if endpoint not in down:
                    await limit.turn()
                if endpoint in down:
                    raise down[endpoint]
                await self._paid(one)
        except Exception as error:
            one.failure = endpoint_error(endpoint, error, one.sampling.format)
            if getattr(error, "status_code", None) not in _OF_THE_ROW and not isinstance(error, EndpointError):
                down[endpoint] = one.failure

    async def _paid(self, one: RemoteReply) -> None:
        spending = one.remote.spending
        held = paid = spending.reserve(one.remote.endpoint.most(one.remote.messages, one.sampling.max_tokens))
        try:
            await self._reply(one)
            paid = held if one.price is None else one.price
        except Exception:
            paid = held if one.state.completion_tokens else 0.0  # what broke off may be billed
            raise
        finally:
            spending.settle(held, paid)

    async def _reply(self, one: RemoteReply) -> None:
        """Into ``one``. Raises what the package raises, and EndpointError for a reply without an end."""
        import openai

        endpoint, unknown = one.remote.endpoint, self._unknown.setdefault(one.remote.endpoint.name, set())
        client = self.connected(endpoint)
        for left in reversed(range(TRIES)):
            one.settings, one.state, one.text = _settings(one.sampling, unknown), RowState(), ""
            if one.remote.extra:
                one.settings["extra_body"] = {**one.settings.get("extra_body", {}), **one.remote.extra}
            one.calls.clear()
            began_s, finish = time.monotonic(), ""
            body: dict[str, Any] = {
                "model": endpoint.model,
            } | one.remote.sent
            if "stream_options" not in unknown:
                body["stream_options"] = {"include_usage": True}
            try:
                chunks = await client.chat.completions.create(
                    **body, **one.settings, stream=True, extra_headers=headers(endpoint)
                )
                async with chunks:
                    async for chunk in chunks:
                        finish = _take(one, chunk, began_s) or finish
            except openai.APIConnectionError:
                if not left or not one.state.completion_tokens:
                    raise
                continue
            except openai.BadRequestError as error:
                named = {name for name in _MAY_BE_UNKNOWN if error.param == name or f"'{name}'" in error.message}
                if not left or not (new := named & {*body, *one.settings} - unknown):
                    raise
                unknown |= new
                continue
            if finish or not left or not one.state.completion_tokens:
                break
        if not finish:
            broke = (
                "broke off its reply. Try again."
                if one.state.completion_tokens
                else "does not answer as a chat completion."
            )
            raise EndpointError(f"{endpoint.label} {broke}")
        _part(one, done=True)
        one.state.seconds = time.monotonic() - began_s
        one.state.finish = finish

    async def _probe(self, endpoint: Endpoint) -> None:
        import openai

        client = self.connected(endpoint)
        try:
            await client.with_options(max_retries=0, timeout=PROBE_S).models.list(extra_headers=headers(endpoint))
        except openai.NotFoundError:
            return  # it answers, and has no list of its models

    async def _models(self, endpoint: Endpoint) -> list[str]:
        client = self.connected(endpoint).with_options(max_retries=0, timeout=PROBE_S)
        listed = await client.models.list(extra_headers=headers(endpoint))
        return [str(one.id) for one in listed.data or ()]

    async def _rendered(self, endpoint: Endpoint, messages: Sequence[Message]) -> str | list[int] | int | None:
        client = self.connected(endpoint).with_options(max_retries=0, timeout=PROBE_S)
        root, asked = endpoint.url.removesuffix("/v1"), Remote(endpoint, tuple(messages)).sent
        asked |= {"model": endpoint.model, "add_generation_prompt": True}
        for path, holds in (("/tokenize", "tokens"), ("/apply-template", "prompt")):
            with contextlib.suppress(Exception):
                options: Any = {"headers": headers(endpoint)}
                said: Any = await client.post(root + path, cast_to=object, body=asked, options=options)
                if isinstance(said, dict) and (found := said.get(holds)):
                    return str(found) if holds == "prompt" else [int(token) for token in found]
        body: dict[str, Any] = Remote(endpoint, tuple(messages)).sent | {"model": endpoint.model, "max_tokens": 1}
        whole = await client.with_options(timeout=READ_S).chat.completions.create(
            **body, extra_headers=headers(endpoint)
        )
        return whole.usage.prompt_tokens if whole.usage is not None else None  # some count only what is not streamed

    def connected(self, endpoint: Endpoint) -> openai.AsyncOpenAI:
        """One for an address and key, so that connections are used again. Raises EndpointError without its key."""
        import openai

        if endpoint.key_env and not os.environ.get(endpoint.key_env, "").strip():
            raise EndpointError(f"{endpoint.label} needs a key: set {endpoint.key_env} where the app is started.")
        key = endpoint.url, endpoint.key_env
        if key not in self._clients:
            timeout = openai.Timeout(READ_S, connect=CONNECT_S)
            transport = openai.DefaultAsyncHttpxClient(follow_redirects=False, trust_env=not endpoint.is_here)
            about: dict[str, Any] = {"timeout": timeout, "max_retries": self._retries, "http_client": transport}
            about |= {"base_url": endpoint.url, "admin_api_key": "", "organization": "", "project": ""}
            self._clients[key] = openai.AsyncOpenAI(api_key="sent with each request", **about)
        return self._clients[key]


def headers(endpoint: Endpoint) -> Mapping[str, Any]:
    """Its own key, and nothing that the environment holds for somebody else."""
    import openai

    others = [line.partition(":")[0].strip() for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines()]
    others = [*filter(None, others), "OpenAI-Organization", "OpenAI-Project"]
    none: dict[str, Any] = dict.fromkeys(others, openai.Omit())
    key = os.environ.get(endpoint.key_env, "").strip() if endpoint.key_env else ""
    return {**none, "Authorization": f"Bearer {key}" if key else openai.Omit()}


def _settings(sampling: Sampling, unknown: set[str]) -> dict[str, Any]:
    """What a request says of how a reply is drawn, without what the server does not know."""
    settings: dict[str, Any] = {"temperature": sampling.temperature, "seed": sampling.seed}
    settings["max_completion_tokens" if "max_tokens" in unknown else "max_tokens"] = sampling.max_tokens
    settings |= {"top_p": sampling.top_p} if sampling.top_p < 1 else {}
    settings |= {"stop": list(sampling.stop)} if sampling.stop else {}
    settings |= _held(sampling.format)
    if sampling.think is not None:  # as vLLM, SGLang and llama.cpp take it
        think = {"chat_template_kwargs": {"enable_thinking": sampling.think}}
        settings["extra_body"] = settings.get("extra_body", {}) | think
    return {name: value for name, value in settings.items() if name not in unknown}


def _held(form: str) -> dict[str, Any]:
    """What asks a server to hold its reply to a form: OpenAI's ``response_format``; of a pattern vLLM's fields, the
    older and the newer one."""
    if form.startswith(REGEX):
        pattern = form.removeprefix(REGEX)
        return {"extra_body": {"guided_regex": pattern, "structured_outputs": {"regex": pattern}}}
    if form == "json":
        return {"response_format": {"type": "json_object"}}
    schema = {"name": "reply", "schema": schema_of(form), "strict": True} if form else {}
    return {"response_format": {"type": "json_schema", "json_schema": schema}} if form else {}


def _take(one: RemoteReply, chunk: Any, began_s: float) -> str:
    """Add a piece of a reply; returns why it ended, "" where it goes on."""
    state, finish = one.state, ""
    one.model = str(chunk.model or one.model)
    for choice in chunk.choices or ():
        text, thought = (
            choice.delta.content,
            next(filter(None, (getattr(choice.delta, one, "") for one in _THOUGHTS)), ""),
        )
        for piece in choice.delta.tool_calls or ():
            said, place = piece.function, piece.index
            if place is None:  # some servers number none: a name begins a call, what comes without one goes on with it
                last = next(reversed(one.calls), None)
                place = f"unnumbered {len(one.calls)}" if last is None or (said and said.name) else last
            call = one.calls.setdefault(place, {"name": "", "arguments": ""})
            call["name"] += (said and said.name) or ""
            call["arguments"] += (said and said.arguments) or ""
        if text or thought or choice.delta.tool_calls:
            state.first_token_s = state.first_token_s or time.monotonic() - began_s
            state.completion_tokens += 1
            one.text += text or ""
            state.thought += thought
            if _part(one) or thought:
                state.thought_tokens += 1
        finish = str(choice.finish_reason or finish)
    state.seconds = time.monotonic() - began_s
    if (usage := chunk.usage) is not None:
        one.reported = True
        state.prompt_tokens, state.completion_tokens = int(usage.prompt_tokens), int(usage.completion_tokens)
        details = usage.prompt_tokens_details
        one.cached_tokens = int((details.cached_tokens if details is not None else 0) or 0)
        thoughts = usage.completion_tokens_details
        state.thought_tokens = int((thoughts.reasoning_tokens if thoughts is not None else 0) or state.thought_tokens)
    return finish


def _part(one: RemoteReply, *, done: bool = False) -> bool:
    """Part the text that has come into thought and answer; returns whether it is still a thought."""
    found = parted(one.text, opened=None, done=done)
    one.state.text = found.answer
    if done and one.calls:
        each = [*one.calls.values()]
        try:
            one.state.text = with_calls(found.answer, [*map(call_of, each)])
        except ValueError:
            one.state.text = f"{found.answer}\n{json.dumps(each, ensure_ascii=False)}".strip()
    one.state.thought = found.thought or one.state.thought
    return found.is_open


def endpoint_error(endpoint: Endpoint, error: Exception, form: str = "") -> EndpointError:
    """What went wrong and what to do, never the key, nor what a server that refused it said. form: that the reply was
    to be held to."""
    import openai

    if isinstance(error, EndpointError):
        return error
    where = endpoint.source
    if isinstance(error, openai.APIStatusError):
        status, key = error.status_code, os.environ.get(endpoint.key_env, "") if endpoint.key_env else ""
        advice = {
            **dict.fromkeys((401, 403), f"Check {endpoint.key_env or 'whether it needs a key (key_env)'}."),
            404: f"Check {where}.",
            429: "It takes no more requests now. Try again later.",
            **dict.fromkeys(range(300, 400), f"Check {where}: point it straight to the server."),
        }
        said = ""
        if status in _OF_THE_ROW:
            text = " ".join(str(error.message).split())
            said = f" ({(text.replace(key, '…') if key else text)[:200]})"
            if form and _OF_THE_FORM.search(text):
                told = f"does not hold its replies to this form{said}. Leave format= out, and check its replies."
                return EndpointError(f"{endpoint.label} {told}")
        return EndpointError(f"{endpoint.label} answered {status}{said}. {advice.get(status, 'Try again.')}")
    if isinstance(error, openai.APIConnectionError | OSError):
        cause = error.__cause__ or error
        reason = type(cause).__name__
        return EndpointError(f"{endpoint.label} cannot be reached ({reason}). Check {where} and the network.")
    return EndpointError(f"{endpoint.label} does not answer as a chat completion. Check {where}.")
