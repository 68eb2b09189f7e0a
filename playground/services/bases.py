"""The one base everything stands on: prepared and loaded in the background, looked at, chosen."""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.errors import BaseUnavailableError, InputError, PlaygroundError
from playground.gpu.manager import DeviceManager
from playground.library import bases
from playground.library.base_shapes import BaseShapes
from playground.library.bases import Base
from playground.library.files import plain_number
from playground.services.memory import retried
from playground.settings import DEFAULT_BASE, Settings

ADAPTERS_SHARE = 8
"""Attached adapters may take one part in so many of the budget; past it the least recently used leave memory."""
LOADED_FACTOR = 1.15
"""Memory of a loaded base per byte of fp32 weights: buffers and working space come on top."""


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


class BaseService:
    """Owns the loaded base (an ``Engine``). ``choose`` loads another one; a failure leaves what was there."""

    def __init__(self, settings: Settings, manager: DeviceManager) -> None:
        self._settings, self._manager = settings, manager
        self._lock = threading.RLock()
        self._loading = threading.Lock()
        self._state = BaseState("loading", "Preparing the base", settings.base)
        self._spec = settings.base
        self._base: Base | None = None
        self._engine: Any = None
        self._tokenizer: Any = None
        self._shapes: BaseShapes | None = None
        self._thread: threading.Thread | None = None

    @property
    def spec(self) -> str:
        return self._spec

    def start(self) -> None:
        """Prepare and load the chosen base in the background; ``state`` tells how far it is."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._load, args=(self._spec,), kwargs={"hold": True}, name="base", daemon=True
                )
                self._thread.start()

    def resident(self) -> tuple[str, int]:
        """The base's name among the device's residents, and the bytes it takes there."""
        return self._spec, int(self.resolve().bytes * LOADED_FACTOR)

    def account(self) -> None:
        """Tell the device what the base takes now, with its attached adapters and kept beginnings."""
        engine = self._engine
        if engine is not None:
            name, held = self.resident()
            self._manager.set_resident(name, held + engine.adapter_bytes + engine.kept_bytes, self._rest)

    def _rest(self) -> None:
        """Leave memory to others; the next question brings the base back."""
        with self._loading, self._lock:
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.close()
            at_rest = (
                f"{label_of(self._spec)} rests: other work has its memory, or nobody asked for long. It comes back by itself"
            )
            self._state = BaseState("ready", at_rest, self._spec, fingerprint=self._state.fingerprint)

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

    def engine(self, progress: bases.Progress = bases.no_progress) -> Any:
        """The loaded base, loading it now if nobody has. Raises PlaygroundError."""
        if self._engine is None:
            self._load(self._spec, progress, quiet=False)
        return self._engine

    @property
    def loaded(self) -> Any | None:
        """The engine if there is one already."""
        return self._engine

    def tokenizer(self) -> Any:
        """The base's tokenizer; does not need the model in memory."""
        from playground.data.tokenizer import load_tokenizer

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
        shapes = self.shapes()
        tied = shapes.config.get("tie_word_embeddings", True)
        return {name: shape for name, shape in shapes.shapes.items() if not (tied and name == "lm_head.weight")}

    def context(self) -> int | None:
        """Tokens that a prompt and its reply may take together; None = the base names no limit."""
        config = self.shapes().config
        found = plain_number(config.get("max_position_embeddings") or config.get("n_positions"))
        return int(found) if found else None

    def choices(self) -> list[BaseChoice]:
        """The default base, the one in use, and every other that is on disk."""
        specs = list(dict.fromkeys([DEFAULT_BASE, self._spec, *bases.on_disk(self._settings)]))
        found = []
        for spec in specs:
            try:
                found.append(self.inspect(spec))
            except PlaygroundError:
                continue
        return found

    def inspect(self, spec: str) -> BaseChoice:
        """Look at a base without loading it. Raises InputError when it is none."""
        spec = spec.strip()
        kind = bases.kind_of(spec)
        if kind == "local" and self._settings.shared:
            raise InputError("Local folders are not offered where the app is shared. Choose the default base or a hub id.")
        try:
            found = bases.resolve(spec, self._settings, offline=True)
        except BaseUnavailableError:
            if kind == "default":
                return BaseChoice(spec, label_of(spec), "Apache-2.0", 538_090_408, True)
            return BaseChoice(spec, label_of(spec), "shown once it is fetched", 0, True)
        needs = int(found.bytes * LOADED_FACTOR)
        free = self._manager.budget_bytes
        reason = "" if needs <= free else f"needs {needs / 1e9:.1f} GB, the budget is {free / 1e9:.1f} GB"
        return BaseChoice(spec, label_of(spec), found.licence, found.bytes, not reason, reason)

    def choose(self, spec: str) -> None:
        """Make ``spec`` the base, in the background. Raises InputError at once when it is none, does not fit, or others use it too."""
        if self._settings.shared:
            raise InputError(
                "Everybody here uses the same base; whoever runs this app chooses it. Try others on a machine of your own."
            )
        choice = self.inspect(spec)
        if not choice.fits:
            raise InputError(f"{choice.label} {choice.reason}. Choose a smaller base.")
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise InputError("A base is being prepared already. Wait until it is there.")
            self._thread = threading.Thread(
                target=self._load, args=(choice.spec,), kwargs={"hold": True}, name="base", daemon=True
            )
            self._thread.start()

    def fingerprint_check(self) -> Fingerprint:
        """Hash the weights in memory again."""
        return Fingerprint(*self.engine().check_fingerprint())

    def _load(self, spec: str, progress: bases.Progress = bases.no_progress, *, quiet: bool = True, hold: bool = False) -> None:
        """quiet: a failure is told by ``state`` alone. hold: take a lease for it; whoever answers has one already."""
        with contextlib.ExitStack() as held, self._loading:
            if self._engine is not None and spec == self._spec and self._base is not None and self._base.id == spec:
                return
            before = self._state

            def tell(phase: str, done: int, total: int) -> None:
                self._state = BaseState(phase, _words(phase, done, total), spec, done, total)
                progress(phase, done, total)

            try:
                base = bases.resolve(spec, self._settings, tell)
                tell("loading", 0, base.bytes)
                if hold:
                    wanted = ((spec, int(base.bytes * LOADED_FACTOR)),)
                    request = self._manager.request("chat", "", f"Loading {label_of(spec)}", 0, wanted)
                    held.callback(request.cancel)
                    request.wait()
                from playground.engine.engine import Engine

                engine = retried(
                    lambda: Engine(base.path, adapters_limit_bytes=self._manager.budget_bytes // ADAPTERS_SHARE),
                    self._manager,
                    f"{label_of(spec)} does not fit into memory ({base.bytes * LOADED_FACTOR / 1e9:.1f} GB)",
                )
            except Exception as error:
                words = str(error) if isinstance(error, PlaygroundError) else f"The base could not be loaded: {error}"
                if self._engine is not None:
                    still = f"{words} {label_of(self._spec)} is still in use."
                    self._state = BaseState("ready", still, self._spec, fingerprint=before.fingerprint)
                else:
                    self._state = BaseState("failed", words, spec)
                if quiet:
                    return
                raise
            with self._lock:
                old, self._engine = self._engine, None
                if old is not None:  # the new base replaces the old one with all that was attached to it
                    old.close()
                    self._manager.set_resident(self._spec, 0)
                self._spec, self._base, self._engine = spec, base, engine
                self._tokenizer, self._shapes = engine.loaded.tokenizer, None
            self.account()
            self._state = BaseState("ready", f"{label_of(spec)} is ready", spec, base.bytes, base.bytes, base.fingerprint)
            threading.Thread(target=lambda: engine.fingerprint, name="fingerprint", daemon=True).start()


def label_of(spec: str) -> str:
    """A base's name for a person."""
    return Path(spec).name if spec.startswith(("/", ".", "~")) else spec


def _words(phase: str, done: int, total: int) -> str:
    if phase == "fetching":
        return f"Fetching the base, {done // 1_000_000} of {total // 1_000_000} MB" if total else "Fetching the base"
    return {"converting": "Converting the base, about 50 s, once", "checking": "Checking the base"}.get(phase, "Loading the base")


def kv_bytes_per_token(folder: Path, weight_bytes: int) -> int:
    """Bytes one token takes in the cache of keys and values, from the base's config."""
    config = json.loads((folder / "config.json").read_text())
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    hidden = config.get("hidden_size") or config.get("n_embd") or 1
    size = config.get("head_dim") or hidden // heads
    return (
        2
        * int(config.get("num_hidden_layers") or config.get("n_layer") or 1)
        * int(config.get("num_key_value_heads") or heads)
        * int(size)
        * weight_bytes
    )
