"""The one base that adapters are attached to: fetched and loaded in the background, described, chosen."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playground.errors import BaseUnavailableError, InputError, PlaygroundError
from playground.gpu.device import Lanes, use_share
from playground.gpu.manager import DeviceManager
from playground.jobs import Jobs
from playground.library import bases
from playground.library.bases import Base, BaseShapes, label_of
from playground.models.memory import LOADED_FACTOR, loaded_bytes, own_weights, retried
from playground.plain import plain_number
from playground.settings import DEFAULT_BASE, Settings

if TYPE_CHECKING:
    from playground.engine.engine import Engine


@dataclass(frozen=True)
class BaseState:
    """phase: fetching, converting, checking, loading, ready or failed. message: the same in words."""

    phase: str
    message: str
    spec: str
    done_bytes: int = 0
    total_bytes: int = 0
    fingerprint: str = ""

    @property
    def label(self) -> str:
        return label_of(self.spec)


@dataclass(frozen=True)
class BaseChoice:
    """A base one may choose. bytes: in memory, 0 = unknown until fetched. fits: whether it does; reason: why not."""

    spec: str
    label: str
    licence: str
    bytes: int
    fits: bool
    reason: str = ""


@dataclass(frozen=True)
class Fingerprint:
    """value: the weights as they are in memory now. unchanged: as at load. seconds: what the check took."""

    value: str
    unchanged: bool
    seconds: float


def words_of(phase: str, done: int, total: int) -> str:
    """What is being done to a base, for a person."""
    if phase == "fetching":
        return f"Fetching the base, {done // 1_000_000} of {total // 1_000_000} MB" if total else "Fetching the base"
    return {"converting": "Converting the base, about 50 s, once", "checking": "Checking the base"}.get(
        phase, "Loading the base"
    )


JOB = "base"
"""Key of the job that loads a base."""
ADAPTERS_SHARE = 8
"""Attached adapters may take one part in so many of the budget; past it the least recently used leave memory."""
ONE_BASE = "Everybody here uses the same base; whoever runs this app chooses it. Try others on a machine of your own."
Load = Callable[[Path, int | None], "Engine"]
"""(folder, bytes that attached adapters may take) -> the engine."""


def load_engine(folder: Path, adapters_limit_bytes: int | None = None, *, lanes: Lanes | None = None) -> Engine:
    """lanes: shares the processor's cores out, None = they are all its own."""
    from playground.engine.engine import Engine

    if lanes is None:
        return Engine(folder, adapters_limit_bytes=adapters_limit_bytes)
    return Engine(folder, adapters_limit_bytes=adapters_limit_bytes, before=partial(use_share, lanes, "chat"))


class BaseService:
    """Owns the loaded base. ``choose`` loads another one; a failure leaves the one that was there, or lets it be loaded
    again.

    ``_loading`` is held while a model is read into memory, and never while somebody waits for the device: making room
    for one base may mean unloading another, or waiting for a reply on it. ``_unload`` takes only ``_lock``.
    """

    def __init__(
        self, settings: Settings, manager: DeviceManager, load: Load = load_engine, jobs: Jobs | None = None
    ) -> None:
        self._settings, self._manager, self._load_engine, self._jobs = settings, manager, load, jobs or Jobs()
        self._lock = threading.RLock()
        self._loading = threading.Lock()
        self._proven = False  # whether ``_spec`` has been in memory, so that it can be loaded again
        self._state = BaseState("loading", "Preparing the base", settings.base)
        self._spec = settings.base
        self._base: Base | None = None
        self._engine: Engine | None = None
        self._tokenizer: Any = None
        self._shapes: BaseShapes | None = None

    @property
    def spec(self) -> str:
        return self._spec

    def start(self) -> None:
        """Prepare and load the chosen base in the background; ``state`` says how far it is."""
        self._start(self._spec, busy="")

    def _start(self, spec: str, busy: str) -> None:
        self._jobs.start(JOB, lambda job: self._prepare(spec), "The base", busy=busy, interruptible=False)

    def resident(self) -> tuple[str, int]:
        """The base's name among the device's residents, and the bytes it takes there."""
        engine = self._engine
        held = (engine.loaded.bytes if engine is not None else 0) or self._weight_bytes(self.resolve())
        return self._spec, int(held * LOADED_FACTOR)

    def _weight_bytes(self, base: Base) -> int:
        return loaded_bytes(base.path, base.bytes, self._manager.device)

    def account(self) -> None:
        """Report to the device what the base takes now, with its attached adapters and its KV cache."""
        engine = self._engine
        if engine is not None:
            name, held = self.resident()
            self._manager.set_resident(
                name, held + engine.adapter_bytes + engine.cache_bytes, partial(self._unload, engine)
            )

    def _unload(self, engine: Engine) -> None:
        """Free the memory; the next question loads the base again. Another one that was loaded meanwhile stays."""
        with self._lock:
            if self._engine is not engine:
                return
            self._engine = None
            if self._state.spec == self._spec:  # else it says how far another one is
                unloaded = "rests: other work has its memory, or nobody asked for long. It comes back by itself"
                self._state = BaseState(
                    "ready", f"{label_of(self._spec)} {unloaded}", self._spec, fingerprint=self._known()
                )
        engine.close()

    def state(self) -> BaseState:
        return self._state

    def resolve(self, progress: bases.Progress = bases.no_progress, *, offline: bool = False) -> Base:
        """The base on disk, prepared if need be. Raises PlaygroundError."""
        with self._lock:
            if self._base is None or self._base.id != self._spec:
                self._base = bases.resolve(self._spec, self._settings, progress, offline=offline)
            return self._base

    def folder(self) -> Path | None:
        """Where the base in use lies, if that is known yet."""
        return self._base.path if self._base is not None else None

    def engine(self, progress: bases.Progress = bases.no_progress, expected: str = "") -> Engine:
        """The loaded base, loading it now if nobody has. expected: the base that the caller has a lease on. Raises
        PlaygroundError, BaseUnavailableError where another one was chosen meanwhile."""
        engine = self._engine
        if engine is None:
            with self._loading:
                self._refuse_other(expected)
                engine = self._engine
                if engine is None:
                    try:
                        engine = self._load(self._spec, progress)
                    except Exception as error:  # noted in ``state``, and raised again
                        self._failed(self._spec, error)
                        raise
        self._refuse_other(expected)
        return engine

    def _refuse_other(self, expected: str) -> None:
        if expected and expected != self._spec:
            raise BaseUnavailableError(f"{label_of(self._spec)} was chosen meanwhile. Ask again.")

    @property
    def loaded(self) -> Engine | None:
        """The engine if there is one already."""
        return self._engine

    def tokenizer(self) -> Any:
        """The base's tokenizer, as ``data.render.load_tokenizer`` reads it; does not need the model in memory."""
        from playground.data.render import load_tokenizer

        base = self.resolve()
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(base.path)
            return self._tokenizer

    def shapes(self) -> BaseShapes:
        base = self.resolve()
        with self._lock:
            if self._shapes is None:
                self._shapes = BaseShapes.from_folder(base.path, base.fingerprint)
            return self._shapes

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights there are to train: a head tied to the embeddings is counted once."""
        return own_weights(self.shapes())

    def context(self) -> int | None:
        """Tokens that a prompt and its reply may take together; None = the base names no limit."""
        config = self.shapes().config
        found = plain_number(config.get("max_position_embeddings") or config.get("n_positions"))
        return int(found) if found else None

    def choices(self) -> list[BaseChoice]:
        """The default base, the one in use, and every other that is on disk; where the app is shared, the one in
        use."""
        specs = [self._spec]
        if not self._settings.shared:
            specs = list(dict.fromkeys([DEFAULT_BASE, self._spec, *bases.on_disk(self._settings)]))
        found = []
        for spec in specs:
            try:
                found.append(self._described(spec))
            except PlaygroundError:
                continue
        return found

    def inspect(self, spec: str) -> BaseChoice:
        """Look at a base without loading it. Raises InputError when it is none; where the app is shared whatever it
        is, so that the answer does not tell which folders and bases lie on this machine."""
        if self._settings.shared:
            raise InputError(ONE_BASE)
        return self._described(spec.strip())

    def _described(self, spec: str) -> BaseChoice:
        kind = bases.kind_of(spec)
        try:
            found = bases.resolve(spec, self._settings, offline=True)
        except BaseUnavailableError:
            if kind == "default":
                return BaseChoice(spec, label_of(spec), "Apache-2.0", 538_090_408, True)
            return BaseChoice(spec, label_of(spec), "shown once it is fetched", 0, True)
        size = self._weight_bytes(found)
        needs, free = int(size * LOADED_FACTOR), self._manager.budget_bytes
        reason = "" if needs <= free else f"needs {needs / 1e9:.1f} GB, the budget is {free / 1e9:.1f} GB"
        return BaseChoice(spec, label_of(spec), found.licence, size, not reason, reason)

    def choose(self, spec: str) -> None:
        """Make ``spec`` the base, in the background. Raises InputError at once when it is none, does not fit, or
        others use it too."""
        choice = self.inspect(spec)
        if not choice.fits:
            raise InputError(f"{choice.label} {choice.reason}. Choose a smaller base.")
        self._start(choice.spec, busy="A base is being prepared already. Wait until it is there.")

    def fingerprint_check(self) -> Fingerprint:
        """Hash the weights in memory again."""
        return Fingerprint(*self.engine().check_fingerprint())

    def _prepare(self, spec: str) -> None:
        """Fetch a base, wait for the memory that it needs and load it; ``state`` says how that goes."""
        if self._engine is not None and spec == self._spec:
            return
        try:
            base = bases.resolve(spec, self._settings, self._teller(spec))
            self._state = BaseState("loading", f"Waiting for memory to load {label_of(spec)}", spec)
            wanted = ((spec, int(self._weight_bytes(base) * LOADED_FACTOR)),)
            request = self._manager.request("chat", "", f"Loading {label_of(spec)}", 0, wanted)
            try:
                request.wait()
                with self._loading:
                    if self._engine is not None and spec == self._spec:  # loaded for a question meanwhile
                        self._tell_ready()
                    else:
                        self._load(spec)
            finally:
                request.cancel()
        except Exception as error:  # of whatever library reads the model: ``state`` says it
            self._failed(spec, error)

    def _load(self, spec: str, progress: bases.Progress = bases.no_progress) -> Engine:
        """Load a base in place of the one that is there. The caller has a lease for it, and holds ``_loading``."""
        tell = self._teller(spec, progress)
        base = bases.resolve(spec, self._settings, tell)
        tell("loading", 0, base.bytes)
        needs = self._weight_bytes(base) * LOADED_FACTOR
        engine = retried(
            lambda: self._load_engine(base.path, self._manager.budget_bytes // ADAPTERS_SHARE),
            self._manager,
            f"{label_of(spec)} does not fit into memory ({needs / 1e9:.1f} GB)",
        )
        with self._lock:
            before, old = self._spec, self._engine
            self._spec, self._base, self._engine, self._proven = spec, base, engine, True
            self._tokenizer, self._shapes = engine.loaded.tokenizer, None
        if old is not None:  # the new base replaces the old one with all that was attached to it
            old.close()
            self._manager.set_resident(before, 0)
        self.account()
        self._tell_ready()
        self._jobs.start(f"fingerprint {id(engine)}", lambda job: _hash(engine), "The fingerprint", interruptible=False)
        return engine

    def _teller(self, spec: str, progress: bases.Progress = bases.no_progress) -> bases.Progress:
        def tell(phase: str, done: int, total: int) -> None:
            self._state = BaseState(phase, words_of(phase, done, total), spec, done, total)
            progress(phase, done, total)

        return tell

    def _tell_ready(self) -> None:
        size = self._base.bytes if self._base is not None else 0
        self._state = BaseState("ready", f"{label_of(self._spec)} is ready", self._spec, size, size, self._known())

    def _failed(self, spec: str, error: Exception) -> None:
        """Say what went wrong, and what there is all the same."""
        words = str(error) if isinstance(error, PlaygroundError) else f"The base could not be loaded: {error}"
        with self._lock:
            if self._engine is None and (spec == self._spec or not self._proven):
                self._state = BaseState("failed", words, spec)
                return
            still = "comes back with the next question" if self._engine is None else "is still in use"
            self._state = BaseState(
                "ready", f"{words} {label_of(self._spec)} {still}.", self._spec, fingerprint=self._known()
            )

    def _known(self) -> str:
        """The fingerprint of the base in use, as far as it is known."""
        return self._base.fingerprint if self._base is not None else ""


def _hash(engine: Engine) -> None:
    with contextlib.suppress(BaseUnavailableError):  # it has left memory already
        _ = engine.fingerprint


def kv_bytes_per_token(folder: Path, weight_bytes: int) -> int:
    """Bytes that one token takes in the KV cache, from the base's config."""
    config = json.loads((folder / "config.json").read_text())
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    hidden = config.get("hidden_size") or config.get("n_embd") or 1
    size = config.get("head_dim") or hidden // heads
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 1)
    return 2 * layers * int(config.get("num_key_value_heads") or heads) * int(size) * weight_bytes
