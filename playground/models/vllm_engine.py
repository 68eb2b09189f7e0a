"""A vLLM server as the engine: prompts go to its ``/v1/completions`` as token ids, so that no template of its own comes
between; adapters by its LoRA routes, or through a folder that its filesystem resolver reads (every replica behind Ray
Serve then finds them by itself)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urldefrag
from uuid import uuid4

from playground.data.render import encode, end_ids, load_tokenizer, thinking
from playground.engine.request import AdapterFile, Row, RowState, Score, ScoreRow, Where, refuse_too_many
from playground.errors import AdapterError, BaseUnavailableError, EndpointError, InputError
from playground.evaluation.form import REGEX, schema_of
from playground.library.adapters import AdapterCard
from playground.library.card import CONFIG
from playground.library.files import file_fingerprint
from playground.models.endpoints import Endpoint
from playground.models.remote import Client, endpoint_error, headers
from playground.plain import plain_text
from playground.settings import ENGINE_KEY

if TYPE_CHECKING:
    from playground.engine.sequence import Generation

PROBES = (
    "In 1969 three astronauts flew to the Moon.",
    "To make bread, mix flour, water, salt and yeast.",
)
"""Texts whose losses tell an adapter from its base, and the base from what it was."""
SAME_LOSS, NO_EFFECT = 0.03, 1e-3
"""Nats a token: up to the first the base is unchanged (other rows in the batch round otherwise in half precision); up
to the second an adapter does nothing."""
TOGETHER = 64
"""Tokens whose probabilities are asked for at once."""
LOOK_S = 2.0
"""How long a look at the server may take, a request."""
REPLICAS = 8
"""Servers behind one address, at most, that are each given an adapter by themselves."""
LOAD, UNLOAD = "/load_lora_adapter", "/unload_lora_adapter"
OF_THE_ROW = (400, 404, 413, 422)
"""Statuses that may be one request's fault; any other one is the server's."""
T = TypeVar("T")


def refused(card: AdapterCard) -> str:
    """Why vLLM cannot run an adapter, "" where it can: it adds low-rank products to one base, and nothing else."""
    if card.is_whole:
        return "a whole model, and the vLLM server holds one base. Serve it on a server of its own, as an endpoint"
    try:
        config = json.loads((card.path / CONFIG).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return ""  # said where it is read
    only = "vLLM, which answers here, runs LoRA alone (rsLoRA and QLoRA, too). Unset PLAYGROUND_ENGINE, or train a LoRA"
    if config.get("peft_type") != "LORA":
        return f"it is a {plain_text(config.get('peft_type'), 40)} adapter, and {only}"
    return f"it is a DoRA, and {only}" if config.get("use_dora") else ""


def look_at(engine: str) -> tuple[bool, str]:
    """(whether it answers, what it serves or what to do), within LOOK_S. engine: as ``Settings.engine``."""
    import httpx

    address, shared = urldefrag(engine.removeprefix("vllm:"))
    server = address.rstrip("/").removesuffix("/v1")
    key = os.environ.get(ENGINE_KEY, "").strip()
    try:
        with httpx.Client(timeout=LOOK_S, headers={"Authorization": f"Bearer {key}"} if key else {}) as client:
            models = client.get(f"{server}/v1/models").raise_for_status().json()["data"]
            version = client.get(f"{server}/version")
            api = client.get(f"{server}/openapi.json")
        paths = api.json().get("paths", {}) if api.is_success else {}
        named = plain_text(version.json().get("version"), 40) if version.is_success else ""
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError, AttributeError) as error:
        why = plain_text(str(error) or type(error).__name__, 200).rstrip(".")
        return False, f"{server} does not answer as vLLM does: {why}. Start it, or unset PLAYGROUND_ENGINE."
    bases = [one for one in models if not one.get("parent")]
    there = ", ".join(plain_text(one.get("root") or one.get("id"), 200) for one in bases) or "no model"
    routes = "by its routes" if f"/v1{LOAD}" in paths else "only if VLLM_ALLOW_RUNTIME_LORA_UPDATING is set there"
    return True, f"vLLM {named} at {server} serves {there}; adapters {f'from {shared}' if shared else routes}"


class VllmEngine:
    """An ``EngineLike``. url: as ``Settings.engine``. folder: of the base, which gives tokenizer and fingerprint. Safe
    to call from several threads. Raises EndpointError where the server does not answer, BaseUnavailableError where it
    serves another base."""

    weight_bytes = adapter_bytes = cache_bytes = 0
    proof = "by the losses of fixed texts, asked of its server"

    def __init__(self, url: str, folder: Path, client: Client) -> None:
        address, shared = urldefrag(url.removeprefix("vllm:"))
        key = ENGINE_KEY if os.environ.get(ENGINE_KEY, "").strip() else ""
        self._server = address.rstrip("/").removesuffix("/v1")
        self._endpoint = Endpoint("engine", f"{self._server}/v1", "vLLM", key, source="PLAYGROUND_ENGINE")
        self._client, self._shared, self.folder = client, Path(shared) if shared else None, folder
        self.tokenizer: Any = load_tokenizer(folder)
        self._ends = frozenset({*end_ids(self.tokenizer), *_ends_of(folder)})
        self._lock = threading.RLock()
        self._attached: dict[str, AdapterFile] = {}
        self._effects: dict[str, bool] = {}
        self._salt, self._lost, self._places = "", False, asyncio.Semaphore(TOGETHER)
        self._base, self._root, self._context = self._served()
        version = self._ask(self._sent(f"{self._server}/version"), missing={}).get("version")
        self.path = f"vLLM {plain_text(version, 40)}".strip() + f" at {self._endpoint.host}"
        self._losses = self._probed(None)

    # -- the base ------------------------------------------------------------------------------------------------------

    @property
    def where(self) -> Where:
        return {"engine": self.path, "dtype": None, "device": None}

    @cached_property
    def fingerprint(self) -> str:
        """Of the folder's weights, which the server was found to serve."""
        return file_fingerprint(self.folder)

    def check_fingerprint(self) -> tuple[str, bool, float]:
        started = time.perf_counter()
        same = _furthest(self._probed(None), self._losses) < SAME_LOSS
        return self.fingerprint, same, time.perf_counter() - started

    def _served(self) -> tuple[str, str, int]:
        """(name, root, tokens of context) of the server's model that is our base. Raises BaseUnavailableError."""
        models = [one for one in self._ask(self._sent("/models")).get("data") or () if not one.get("parent")]
        for one in models:
            name, root = str(one.get("id")), str(one.get("root") or one.get("id"))
            if self._is_ours(root) and self._reads_alike(name):
                return name, root, int(one.get("max_model_len") or 0)
        there = ", ".join(plain_text(one.get("root") or one.get("id"), 80) for one in models) or "none"
        raise BaseUnavailableError(
            f"The server at {self._endpoint.host} does not serve {self.folder.name}, the base that is asked for here; "
            f"it serves: {there}. Start vLLM with --model {self.folder}, or choose its base here (PLAYGROUND_BASE)."
        )

    def _is_ours(self, root: str) -> bool:
        """By fingerprint where the server's folder can be read here, else by the hub's id."""
        if (folder := Path(root)).is_dir():
            return folder.resolve() == self.folder.resolve() or file_fingerprint(folder) == self.fingerprint
        return self.folder.name.partition("--at--")[0] == "hub--" + root.replace("/", "--")

    def _reads_alike(self, name: str) -> bool:
        """Whether its tokenizer gives the tokens that ours gives; also where it has no route that says so."""
        ours = [encode(self.tokenizer, text) for text in PROBES]
        bodies = [{"model": name, "prompt": text, "add_special_tokens": False} for text in PROBES]
        asked = [self._sent(f"{self._server}/tokenize", body) for body in bodies]
        said = self._ask(_all(asked), missing=[{"tokens": ids} for ids in ours])
        return [one.get("tokens") for one in said] == ours

    # -- adapters ------------------------------------------------------------------------------------------------------

    def attach(self, adapter: AdapterFile) -> float:
        started = time.perf_counter()
        with self._lock:
            if (known := self._attached.get(adapter.id)) is not None and known.sha256 == adapter.sha256:
                return 0.0
            self._load(adapter)
            if known is not None:
                self._unload(known)
            self._attached[adapter.id] = adapter
        return (time.perf_counter() - started) * 1000

    def detach(self, adapter_id: str) -> None:
        with self._lock:
            if (known := self._attached.pop(adapter_id, None)) is not None:
                self._unload(known)

    def attached(self) -> dict[str, AdapterFile]:
        with self._lock:
            return dict(self._attached)

    def asleep(self) -> dict[str, AdapterFile]:
        """None: what leaves the server's memory for others comes back there by itself."""
        return {}

    def has_no_effect(self, adapter_id: str) -> bool:
        sha256 = self._find(adapter_id).sha256
        if sha256 not in self._effects:
            self._effects[sha256] = not _furthest(self._probed(adapter_id), self._losses) < NO_EFFECT
        return not self._effects[sha256]

    def select_ms(self, adapter_id: str | None) -> float:
        """0: a request names its adapter."""
        return 0.0

    def _find(self, adapter_id: str) -> AdapterFile:
        if (file := self._attached.get(adapter_id)) is None:
            raise AdapterError(f"{adapter_id} is not attached. Attach it first.")
        return file

    def _load(self, adapter: AdapterFile, times: int = 1) -> None:
        """times: as often, at most, where it is there already: another replica behind the address may lack it. Raises
        AdapterError with what to do, EndpointError where the server is away."""
        if self._shared is not None:
            self._publish(adapter, self._shared)
            return
        path = Path(adapter.path).resolve()
        for _ in range(times):
            try:
                self._ask(self._sent(LOAD, {"lora_name": _named(adapter), "lora_path": str(path)}))
                return
            except _RefusedError as error:
                if "already been loaded" not in error.said:
                    raise AdapterError(f"{adapter.id} cannot be used: {error.advice(path)}") from error

    def _publish(self, adapter: AdapterFile, shared: Path) -> None:
        """A copy in the folder that the server's resolver reads, whole or not at all. The resolver takes what names the
        served model as its base."""
        target = shared / _named(adapter)
        try:
            with tempfile.TemporaryDirectory(dir=shared, prefix=".") as staging:
                copy = Path(shutil.copytree(adapter.path, Path(staging, "copy")))
                config = json.loads((copy / CONFIG).read_text(encoding="utf-8-sig"))
                (copy / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": self._root}))
                if not target.is_dir():
                    copy.rename(target)
        except OSError as error:
            if not target.is_dir():  # another process was quicker
                why = f"{adapter.id} cannot be put into {shared}, where the vLLM server looks for adapters"
                raise AdapterError(f"{why}: {error.strerror}. Check PLAYGROUND_ENGINE and that folder.") from error

    def _unload(self, adapter: AdapterFile) -> None:
        if self._shared is not None:
            shutil.rmtree(self._shared / _named(adapter), ignore_errors=True)
            return
        with contextlib.suppress(_RefusedError, EndpointError):  # it has left there already, or with the server
            self._ask(self._sent(UNLOAD, {"lora_name": _named(adapter)}))

    # -- replies and losses --------------------------------------------------------------------------------------------

    def stream(self, rows: Sequence[Row]) -> Generator[list[RowState], None, None]:
        from playground.engine.sequence import Generation

        prompts = [encode(self.tokenizer, row.prompt) for row in rows]
        for ids, row in zip(prompts, rows, strict=True):
            self._check(ids, row)
        self._find_again()
        changed, began_s = threading.Event(), time.perf_counter()
        writing = []
        for row, ids in zip(rows, prompts, strict=True):
            file = self._find(row.adapter) if row.adapter else None  # the version that it is of to its end
            reply = Generation(row, ids, self.tokenizer, self._ends)
            writing.append(_Writing(row, ids, file, reply, changed, began_s))
        job = asyncio.run_coroutine_threadsafe(_all([self._reply(one) for one in writing]), self._client.loop)
        job.add_done_callback(lambda _: changed.set())
        try:
            over = False
            while not over:
                changed.wait()
                changed.clear()
                over = job.done()
                yield [replace(one.reply.state) for one in writing]
            job.result()
        except EndpointError:
            self._lost = True
            raise
        finally:
            job.cancel()

    def score(self, rows: Sequence[ScoreRow]) -> list[Score]:
        """A divergence takes both distributions over the whole vocabulary, which a server does not send: it is None."""
        self._find_again()
        texts: list[tuple[tuple[int, ...], int]] = []
        for row in rows:
            before, rest = (encode(self.tokenizer, part) for part in (row.prompt, row.completion))
            texts.append(((*before, *rest), max(1, len(before))))
            if len(texts[-1][0]) <= texts[-1][1]:
                why = "the text holds no token after the first"
                raise InputError(f"There is nothing to score: {why}. Write a longer one.")
            refuse_too_many(len(texts[-1][0]), self._context)
        pairs = list(zip(rows, texts, strict=True))
        own = [(row.adapter, *text) for row, text in pairs]
        base = [(None, *text) if row.divergence and row.adapter else None for row, text in pairs]
        asked = list(dict.fromkeys(one for one in (*own, *base) if one is not None))
        given = self._ask(_all([self._given(*one) for one in asked]))
        losses = {one: sum(many) / len(many) for one, many in zip(asked, given, strict=True)}
        return [
            Score(len(mine[1]) - mine[2], losses[mine], None, losses[other] if other is not None else None)
            for mine, other in zip(own, base, strict=True)
        ]

    def clear_prefix_cache(self) -> None:
        """What the server has cached is not found any more: another salt keeps it apart."""
        self._salt = uuid4().hex

    def close(self) -> None:
        """The server stays; what was attached leaves it."""
        for name in self.attached():
            self.detach(name)

    def _check(self, ids: Sequence[int], row: Row) -> None:
        """Raises InputError."""
        if not ids:
            raise InputError("The prompt is empty. Write at least one character.")
        refuse_too_many(len(ids), self._context, row.sampling.max_tokens)
        if row.sampling.format and thinking(self.tokenizer).comes_first(row.prompt, row.sampling.think):
            why = "the vLLM server, which answers here, holds a reply to its form from its first token on"
            raise InputError(f"Replies that think cannot be held to a form: {why}. Leave one of them out.")

    def _find_again(self) -> None:
        """After the server was away: it may have started anew, on another base. (Adapters: see ``_with``.)"""
        with self._lock:
            if self._lost:
                self._base, self._root, self._context = self._served()
                self._lost = False

    def _probed(self, adapter_id: str | None) -> list[float]:
        return [one.loss for one in self.score([ScoreRow("", text, adapter_id) for text in PROBES])]

    async def _with(self, file: AdapterFile | None, ask: Callable[[str], Awaitable[T]]) -> T:
        """ask: called with the model's name; again where an adapter has left the server, or is on another replica, and
        was loaded."""
        name = _named(file) if file is not None else self._base
        for _ in range(REPLICAS):
            try:
                return await ask(name)
            except _RefusedError as error:
                if file is None or error.status != 404:
                    raise
                await asyncio.to_thread(self._load, file, REPLICAS)
        return await ask(name)

    async def _reply(self, one: _Writing) -> None:
        """What is wrong with this row alone becomes its fault. Raises EndpointError."""
        try:
            await self._with(one.file, partial(self._written, one))
        except InputError as error:
            one.reply.fail(str(error))
            one.changed.set()

    async def _written(self, one: _Writing, model: str) -> None:
        """Raises as ``_telling``."""
        finish = ""
        with self._telling(one.row.sampling.format):
            chunks = await self._client.connected(self._endpoint).completions.create(
                model=model,
                prompt=list(one.ids),
                stream=True,
                extra_headers=headers(self._endpoint),
                **self._settings(one.row),
            )
            async with chunks:
                async for chunk in chunks:
                    for choice in chunk.choices:
                        self._take(one, choice)
                        finish = str(choice.finish_reason or finish)
                    one.changed.set()
                    if one.reply.state.finish:
                        return
        if finish not in ("stop", "length"):
            raise EndpointError(f"{self.path} broke off its reply. Try again.")
        one.reply.tell(finish)

    def _take(self, one: _Writing, choice: Any) -> None:
        """A piece's tokens, with their probabilities where these were asked for: each is named ``token_id:ID``."""
        from playground.engine.sequence import Drawn

        said, tokens = choice.logprobs, getattr(choice, "token_ids", None)
        if tokens is None and choice.text:
            raise EndpointError(f"{self.path} sends no token ids with its text. Install vLLM 0.11 or a later one.")
        for place, token in enumerate(tokens or ()):
            if one.reply.state.finish:
                return
            shares: tuple[float, ...] = ()
            if said is not None:
                top = sorted((said.top_logprobs[place] or {}).items(), key=lambda pair: -pair[1])
                ids = [float(name.partition(":")[2]) for name, _ in top]
                shares = (said.token_logprobs[place], *(value for _, value in top), *ids)
            one.reply.add(Drawn(token, shares), time.perf_counter() - one.began_s)

    def _settings(self, row: Row) -> dict[str, Any]:
        """OpenAI's fields; vLLM's own in ``extra_body``."""
        sampling, salt = row.sampling, f"{row.cache_salt}{self._salt}"
        settings = {name: getattr(sampling, name) for name in ("temperature", "top_p", "max_tokens", "seed")}
        settings |= {"stop": list(sampling.stop)} if sampling.stop else {}
        settings |= {"logprobs": row.logprobs} if row.logprobs is not None else {}
        goes_on = sampling.ignore_eos and not sampling.format
        own = {name: getattr(sampling, name) for name in ("top_k", "repetition_penalty", "min_tokens")}
        own |= {"stop_token_ids": [] if goes_on else sorted(self._ends), "ignore_eos": goes_on}
        own |= {"return_token_ids": True, "return_tokens_as_token_ids": True}
        own |= {"cache_salt": salt} if salt else {}
        if form := sampling.format:
            held = {"regex": form.removeprefix(REGEX)} if form.startswith(REGEX) else {"json": schema_of(form)}
            own |= {"structured_outputs": held}
        return settings | {"extra_body": own}

    async def _given(self, adapter_id: str | None, ids: Sequence[int], first: int) -> list[float]:
        """Losses of a text's tokens from ``first`` on, nats: each is drawn alone, with no other allowed, after those
        before it. (``prompt_logprobs`` would tell all at once, but beside adapters it ends vLLM 0.32 on a processor,
        and elsewhere leaves out what an adapter does to the head.) The last comes first, so that the
        others find what they have in common in the prefix cache."""
        *others, last = range(first, len(ids))
        file = self._find(adapter_id) if adapter_id else None
        end = await self._with(file, partial(self._loss, ids, last))
        return [*await _all([self._with(file, partial(self._loss, ids, place)) for place in others]), end]

    async def _loss(self, ids: Sequence[int], place: int, model: str) -> float:
        body: dict[str, Any] = {"model": model, "prompt": list(ids[:place]), "max_tokens": 1, "temperature": 0}
        body |= {"allowed_token_ids": [ids[place]], "logprobs": 0} | ({"cache_salt": self._salt} if self._salt else {})
        async with self._places:
            said = await self._sent("/completions", body)
        try:
            return -float(said["choices"][0]["logprobs"]["token_logprobs"][0])
        except (LookupError, TypeError, ValueError) as error:
            raise EndpointError(f"{self._endpoint.label} gives no probabilities. Check PLAYGROUND_ENGINE.") from error

    # -- requests ------------------------------------------------------------------------------------------------------

    def _ask(self, request: Coroutine[Any, Any, T], missing: T | None = None) -> T:
        """Its answer. missing: in place of one where the server has no such route. Raises as ``_telling``."""
        try:
            return asyncio.run_coroutine_threadsafe(request, self._client.loop).result()
        except _RefusedError as error:
            if missing is not None and error.status in (404, 405):
                return missing
            raise
        except EndpointError:
            self._lost = True
            raise

    async def _sent(self, route: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object that it answers with, {} where it answers with none. route: after /v1, or a whole address.
        body: to post, None = get it. Raises as ``_telling``."""
        with self._telling(route=route):
            client = self._client.connected(self._endpoint).with_options(max_retries=0)
            how: dict[str, Any] = {"cast_to": object, "options": {"headers": headers(self._endpoint)}}
            said = await (client.get(route, **how) if body is None else client.post(route, body=body, **how))
        return said if isinstance(said, dict) else {}

    @contextlib.contextmanager
    def _telling(self, form: str = "", route: str = "") -> Iterator[None]:
        """Raises what the server says of one request (_RefusedError), or that it does not answer (EndpointError)."""
        import httpx
        import openai

        try:
            yield
        except (openai.OpenAIError, httpx.HTTPError, OSError, ValueError, LookupError, TypeError) as error:
            told = endpoint_error(self._endpoint, error, form)
            if isinstance(error, openai.APIStatusError) and (error.status_code in OF_THE_ROW or route == LOAD):
                said = " ".join(str(error.message).split())
                raise _RefusedError(str(told), error.status_code, said) from error
            raise told from error


class _Writing(NamedTuple):
    """A reply on its way. changed: set with each piece. began_s: of the batch."""

    row: Row
    ids: Sequence[int]
    file: AdapterFile | None
    reply: Generation
    changed: threading.Event
    began_s: float


class _RefusedError(InputError):
    """One request was refused. said: by the server, in its words."""

    def __init__(self, words: str, status: int, said: str) -> None:
        super().__init__(words)
        self.status, self.said = status, said

    def advice(self, path: Path) -> str:
        """Why an adapter in this folder was not loaded, and what to do."""
        said = f"the vLLM server says: {plain_text(self.said, 300).rstrip('.')}"
        folder = "PLAYGROUND_ENGINE=vllm:URL#FOLDER"
        if "max_lora_rank" in self.said:
            return f"{said}. Start it with a larger --max-lora-rank."
        if self.status in (404, 405) and path.name not in self.said:
            how = f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or name the folder in which it looks for adapters ({folder})"
            return f"the vLLM server takes no adapters while it runs. Start it with --enable-lora and {how}."
        if self.status == 404:
            return f"{said}. Put PLAYGROUND_HOME where both see it, or name a folder that both see ({folder})."
        return f"{said}. Start it with --enable-lora, on the base in use."


def _named(adapter: AdapterFile) -> str:
    """What the server calls it: other weights are another name, so that none is taken for what it was before."""
    return f"{adapter.id}-{adapter.sha256[:12]}"


def _furthest(losses: Sequence[float], others: Sequence[float]) -> float:
    return max(abs(one - other) for one, other in zip(losses, others, strict=True))


def _ends_of(folder: Path) -> list[int]:
    """Tokens that end a reply by the model's own generation settings."""
    try:
        said = json.loads((folder / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError):
        return []
    return [one for one in (said if isinstance(said, list) else [said]) if isinstance(one, int)]


async def _all(asked: Sequence[Awaitable[T]]) -> list[T]:
    """Each to its end; then raises the first error."""
    ended = await asyncio.gather(*asked, return_exceptions=True)
    for one in ended:
        if isinstance(one, BaseException):
            raise one
    return [one for one in ended if not isinstance(one, BaseException)]
