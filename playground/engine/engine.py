"""One frozen base with its attached adapters: sequences of any mix of them decode in one batch.

Two backends, one interface: ``llama_backend`` batches continuously, so that sequences join and leave between steps;
``hf_backend`` serves any other family. ``Engine.path`` says which one it is, and why.
"""

from __future__ import annotations

import contextlib
import gc
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from playground.data.render import encode, end_ids
from playground.engine.constraint import Grammars
from playground.engine.hf_backend import HfBackend
from playground.engine.llama_backend import LlamaBackend
from playground.engine.llama_model import unfit
from playground.engine.load import AdapterWeights, Loaded, fitted, live_fingerprint, load, out_in, read_adapter
from playground.engine.request import GONE, AdapterFile, Row, RowState, Score, ScoreRow, Text, Where, refuse_too_many
from playground.errors import AdapterError, BaseUnavailableError, InputError
from playground.library.bases import cannot_run
from playground.library.safety import check_vocabulary
from playground.methods.method import VirtualTokens

PROBES = ("Hello.", "Write one sentence about rain.", "1, 2, 3,")
EFFECT_MIN = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Logits that differ by less than this are the same but for rounding."""
T = TypeVar("T")
Job = Callable[[], object]


class WorkerThread:
    """Everything that multiplies large matrices, in the order it came. The thread starts with the first job and ends
    after ``idle_s`` without one, and its team of OpenMP workers with it: with two teams a step takes 1.5 times as long.

    idle: called on the thread before it ends; jobs that come meanwhile are done next. before: called before every job.
    """

    def __init__(
        self, idle: Callable[[], None] = lambda: None, idle_s: float = 30.0, before: Callable[[], None] = lambda: None
    ) -> None:
        self.idle, self._idle_s, self._before = idle, idle_s, before
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.thread: threading.Thread | None = None
        self.closed = False

    def check_open(self) -> None:
        """Raises BaseUnavailableError after ``close``."""
        if self.closed:
            raise BaseUnavailableError(GONE)

    def post(self, job: Job) -> None:
        """Queue a job, whose result and errors are its own affair. Raises as ``check_open``."""
        with self._lock:
            self.check_open()
            self._put(job)

    def run(self, job: Callable[[], T]) -> T:
        """Queue a job and return its result or raise its error; on the thread itself at once. Raises as ``post``."""
        if threading.current_thread() is self.thread:
            return job()
        done: Future[T] = Future()
        self.post(lambda: _fulfil(done, job))
        return done.result()

    def close(self, last: Callable[[], None]) -> None:
        """Run ``last`` after the queued jobs, and nothing after it. A second time does nothing."""
        done: Future[None] = Future()
        with self._lock:
            if self.closed:
                return
            self.closed, self.idle = True, lambda: None
            self._put(lambda: _fulfil(done, last))
        done.result()

    def _put(self, job: Job) -> None:
        self._jobs.put(job)
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="compute", daemon=True)
            self.thread.start()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._idle_s)
            except queue.Empty:
                self.idle()  # without the lock: it may wait for somebody who is just posting a job
                if self._ended():
                    return
                continue
            with contextlib.suppress(Exception):  # sharing out cores is a courtesy, the job is not
                self._before()
            job()
            del job  # it may hold the model
            if self.closed and self._ended():
                return

    def _ended(self) -> bool:
        """Whether the thread may end: nothing is queued, and the next job starts another."""
        with self._lock:
            if not self._jobs.empty():
                return False
            self.thread = None
            return True


def _fulfil(done: Future[T], job: Callable[[], T]) -> None:
    try:
        done.set_result(job())
    except BaseException as error:  # raised again where ``run`` waits
        done.set_exception(error)


class _Read(NamedTuple):
    """An adapter read from disk and fitted to the base. key: of its weights and settings."""

    key: str
    weights: AdapterWeights
    virtual: VirtualTokens | None


class Engine:
    """One base in memory and the adapters attached to it. Safe to call from several threads.

    hf: take the Hugging Face backend even where the Llama one would serve. adapters_limit_bytes: past it the least
    recently used adapters leave memory, and are read again when they are asked for. before: as ``WorkerThread``'s."""

    def __init__(
        self,
        folder: Path,
        *,
        hf: bool = False,
        adapters_limit_bytes: int | None = None,
        dtype: torch.dtype | None = None,
        quantised: bool = False,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.proof = folder, "all weights read again"
        self.worker = WorkerThread(before=before)
        self.loaded: Loaded = self.worker.run(lambda: load(folder, dtype=dtype, quantised=quantised))
        self._limit = adapters_limit_bytes
        self._lock = threading.RLock()
        self._attached: OrderedDict[str, AdapterFile] = OrderedDict()
        self._asleep: dict[str, AdapterFile] = {}
        self._effects: dict[str, bool] = {}
        self._virtual_tokens: dict[str, int] = {}
        model = self.loaded.model
        self._context: int = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
        self._vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self.linears = {name: module for name, module in model.named_modules() if out_in(module) is not None}
        reason = "asked for" if hf else unfit(model)
        self.path = f"Hugging Face ({reason})" if reason else "llama"
        backend, ends = HfBackend if reason else LlamaBackend, _end_ids(self.loaded)
        self.grammars = Grammars(self.loaded.tokenizer, self._vocabulary, ends)
        made = self.loaded, ends, self.worker, self.grammars
        self.backend: LlamaBackend | HfBackend = self.worker.run(lambda: backend(*made))
        self.decoder = self.backend.scheduler if isinstance(self.backend, LlamaBackend) else self.backend
        if isinstance(self.backend, LlamaBackend):
            self.loaded = replace(self.loaded, packed_bytes=self.backend.model.matmul.packed_bytes)

    def attach(self, adapter: AdapterFile) -> float:
        """Attach an adapter, replacing an older version of itself; rows in flight keep what they began with. Returns
        milliseconds, 0 when it was there. Raises AdapterError, with nothing changed, when it does not fit this base."""
        started, read = time.perf_counter(), None
        while True:
            with self._lock:
                known = self._attached.get(adapter.id)
                if known is not None and known.sha256 == adapter.sha256:  # since before, or another thread was first
                    self._attached.move_to_end(adapter.id)
                    return 0.0
                if read is not None:
                    self._put(adapter, read)
                    return (time.perf_counter() - started) * 1000
            read = self._read(adapter)

    def detach(self, adapter_id: str) -> None:
        """Remove an adapter and free its memory. Unknown ids are ignored."""
        with self._lock:
            self._asleep.pop(adapter_id, None)
            self._virtual_tokens.pop(adapter_id, None)
            if self._attached.pop(adapter_id, None) is not None:
                with contextlib.suppress(BaseUnavailableError):  # the base has left, and the adapter with it
                    self.worker.run(lambda: self.backend.drop(adapter_id))

    def attached(self) -> dict[str, AdapterFile]:
        """Adapters in memory by id, the least recently used first."""
        with self._lock:
            return dict(self._attached)

    def asleep(self) -> dict[str, AdapterFile]:
        """Adapters that left memory for others and come back when they are asked for."""
        with self._lock:
            return dict(self._asleep)

    def has_no_effect(self, adapter_id: str) -> bool:
        """Whether an adapter's logits on fixed prompts are the base's, but for rounding; measured once a version."""
        with self._holding({adapter_id}):  # to the end, so that it does not leave memory meanwhile
            file = self._attached[adapter_id]
            if file.sha256 not in self._effects:
                prompts = [encode(self.loaded.tokenizer, probe) for probe in PROBES]
                own, base = (self.backend.logits(prompts, name).float() for name in (adapter_id, None))
                difference = float((own - base).abs().max())
                self._effects[file.sha256] = not difference < EFFECT_MIN.get(self.loaded.dtype, 1e-3)
            return not self._effects[file.sha256]

    def select_ms(self, adapter_id: str | None) -> float:
        """Milliseconds that making an attached adapter the active one takes: what the next row pays to carry it."""
        if adapter_id is None:
            return 0.0
        with self._holding({adapter_id}):
            return self.backend.switch_ms(adapter_id)

    @property
    def tokenizer(self) -> Any:
        return self.loaded.tokenizer

    @property
    def where(self) -> Where:
        return {"dtype": str(self.loaded.dtype).removeprefix("torch."), "device": str(self.loaded.device)}

    @property
    def weight_bytes(self) -> int:
        return self.loaded.bytes

    @property
    def adapter_bytes(self) -> int:
        return self.decoder.adapter_bytes

    @property
    def cache_bytes(self) -> int:
        """Memory that stays between questions: the prefix cache, and KV cache for the next sequences."""
        return self.decoder.cache_bytes

    def clear_prefix_cache(self) -> None:
        """The next prompts are prefilled as if they were the first."""
        with contextlib.suppress(BaseUnavailableError):  # then nothing is kept
            self.decoder.clear_prefix_cache()

    def close(self) -> None:
        """Free the model's memory. Sequences in flight end with an error, and so does every later call."""
        self.backend.close()
        self.linears = {}
        self.loaded = replace(self.loaded, model=None, weights={})
        gc.collect()  # parts of a model hold each other
        if self.loaded.device.type == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def fingerprint(self) -> str:
        """The weights as they were at load: hashed once, right after it, while nobody waits (0.4 s for 538 MB)."""
        return self._hashed()

    def check_fingerprint(self) -> tuple[str, bool, float]:
        """(fingerprint of the weights as they are now, whether it is the one at load, seconds it took)."""
        before = self.fingerprint
        started = time.perf_counter()
        now = self._hashed()
        return now, now == before, time.perf_counter() - started

    def _hashed(self) -> str:
        loaded = self.loaded
        self.worker.check_open()
        # on a thread of its own that ends with it: it must not hold up the others
        return WorkerThread(idle_s=0.0).run(lambda: live_fingerprint(loaded))

    def stream(self, rows: Sequence[Row]) -> Generator[list[RowState], None, None]:
        """Decode ``rows`` together; yields every row's state after each step. Close the iterator to stop. Raises
        InputError for what does not fit the base's context and for a form that cannot be held to in so many tokens,
        AdapterError for an unknown adapter."""
        prompts = [encode(self.loaded.tokenizer, row.prompt) for row in rows]
        for ids, row in zip(prompts, rows, strict=True):
            self._check(ids, row.adapter, row.sampling.max_tokens)
            if row.sampling.format:
                self.grammars.check(row)
        with self._holding({row.adapter for row in rows if row.adapter}):
            stream = self.decoder.stream(rows, prompts)
            first = next(stream)  # rows hold their adapters from here on
        with contextlib.closing(stream):
            yield first
            yield from stream

    def score(self, rows: Sequence[ScoreRow]) -> list[Score]:
        """The loss of each row's completion, in their order; replies that are being written go on in between. Raises as
        ``stream``, and InputError for a row with nothing to score."""
        texts = []
        for row in rows:
            before, rest = (encode(self.loaded.tokenizer, part) for part in (row.prompt, row.completion))
            first = max(1, len(before))  # without a prompt the first token of the rest takes its place
            texts.append(Text((*before, *rest), first, row.adapter, row.divergence and row.adapter is not None))
            if texts[-1].scored < 1:
                why = "the text holds no token after the first"
                raise InputError(f"There is nothing to score: {why}. Write a longer one.")
            self._check(texts[-1].ids, row.adapter)
        with self._holding({row.adapter for row in rows if row.adapter}):
            found = self.backend.scores(texts)
            next(found)  # rows hold their adapters from here on
        with contextlib.closing(found):
            by_place = dict(one for one in found if one is not None)
        return [by_place[place] for place in range(len(texts))]

    @contextlib.contextmanager
    def _holding(self, needed: Collection[str]) -> Iterator[None]:
        """The lock, with ``needed`` in memory and the most recently used. Those that had left are read before it is
        taken, so that nobody waits for a file. Raises AdapterError."""
        read: dict[AdapterFile, _Read] = {}
        while True:
            with self._lock:
                self.worker.check_open()
                absent = [file for name in needed if (file := self._asleep.get(name)) is not None and file not in read]
                if not absent:
                    for name in sorted(needed):
                        if (file := self._asleep.get(name)) is not None:
                            self._put(file, read[file], needed)
                        if name not in self._attached:
                            raise AdapterError(f"{name} is not attached. Attach it first.")
                        self._attached.move_to_end(name)
                    yield
                    return
            for file in absent:
                read[file] = self._read(file)

    def _read(self, adapter: AdapterFile) -> _Read:
        """An adapter's file laid over this base; changes nothing, and needs no lock. Raises AdapterError."""
        self.worker.check_open()
        folder = Path(adapter.path)
        check_vocabulary(folder, self.loaded.tokenizer.get_vocab)
        found = read_adapter(folder)
        virtual = found.virtual.count if found.virtual is not None else 0
        prefix = found.virtual is not None and found.virtual.prefix
        if why := cannot_run(found.modules, virtual, self.loaded.model.config.to_dict(), prefix=prefix):
            raise AdapterError(f"{adapter.id} {why}.")
        settings = (folder / "adapter_config.json").read_bytes()  # they may scale the same weights otherwise
        key = f"{adapter.sha256}:{sha256(settings).hexdigest()}"
        return _Read(key, fitted(adapter.id, found.modules, self.linears), found.virtual)

    def _put(self, adapter: AdapterFile, read: _Read, needed: Collection[str] = ()) -> None:
        """Under the lock. needed: those that must not leave for it."""
        self.worker.check_open()
        self.worker.run(lambda: self.backend.put(adapter.id, read.key, read.weights, read.virtual))
        self._virtual_tokens[adapter.id] = read.virtual.count if read.virtual is not None else 0
        self._attached[adapter.id] = adapter
        self._attached.move_to_end(adapter.id)
        self._asleep.pop(adapter.id, None)
        for name in [name for name in self._attached if name != adapter.id and name not in needed]:
            if self._limit is None or self.decoder.held_bytes <= self._limit:
                break
            self._asleep[name] = self._attached.pop(name)
            self.worker.run(lambda name=name: self.backend.drop(name))  # type: ignore[misc]

    def _check(self, ids: Sequence[int], adapter: str | None, reply: int = 0) -> None:
        """Raise InputError for what would end the whole batch: no token, one without an embedding, or too many."""
        if not ids:
            raise InputError("The prompt is empty. Write at least one character.")
        if max(ids) >= self._vocabulary:
            word = f"{self.loaded.tokenizer.decode([max(ids)])!r:.40}"
            raise InputError(f"The text holds {word}, which the tokenizer knows and this base does not. Leave it out.")
        virtual = self._virtual_tokens.get(adapter or "", 0)
        refuse_too_many(len(ids), self._context, reply, virtual)


def _end_ids(loaded: Loaded) -> frozenset[int]:
    """Every token that ends a reply, by the tokenizer, its chat template and the model's own generation settings."""
    said = *end_ids(loaded.tokenizer), getattr(loaded.model.generation_config, "eos_token_id", None)
    ids = [one for value in said for one in (value if isinstance(value, list) else [value])]
    return frozenset(one for one in ids if one is not None)
