"""The base that adapters are attached to: fetched and loaded in the background, chosen; and the others there are."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from playground.engine.request import EngineLike
from playground.errors import BaseUnavailableError, EndpointError, InputError, NotFoundError, PlaygroundError
from playground.gpu.device import CudaDevice, Precision
from playground.gpu.manager import DeviceManager, Lanes, retried, use_share
from playground.jobs import Job, Jobs
from playground.library import bases
from playground.library.adapters import AdapterCard
from playground.library.bases import Base, BaseShapes, label_of
from playground.library.fetching import has_template, unusable
from playground.methods.method import weights_in
from playground.models.catalogue import LOADED_FACTOR, BaseChoice, Offer, next_larger, offers
from playground.plain import and_left
from playground.settings import DEFAULT_BASE, Settings

JOB = "base"  # key of the job that loads a base
BASE = "base"
"""The base in use, as a side's model."""
PREFIX = "base:"
"""Begins the name of a side's model that is another base of this machine."""
RETRY_S = 5.0
"""How often a server that is to compute and does not answer is asked again."""
ADAPTERS_SHARE = 8
"""Attached adapters may take one part in so many of the budget; past it the least recently used leave memory."""
ONE_BASE = "Everybody here uses the same base; whoever runs this app chooses it. Try others on a machine of your own."
Load = Callable[[Path, int | None], EngineLike]  # (folder, bytes that attached adapters may take) -> the engine


@dataclass(frozen=True)
class BaseState:
    """phase: fetching, converting, checking, loading, ready or failed. message: the same in words."""

    phase: str
    message: str
    spec: str
    fingerprint: str = ""

    @property
    def label(self) -> str:
        return label_of(self.spec)


class Tokenizer(Protocol):
    """What of a transformers tokenizer is used here and above."""

    chat_template: str | None

    def __call__(self, text: str, *, add_special_tokens: bool) -> Mapping[str, list[int]]: ...


class Fingerprint(NamedTuple):
    """value: the weights as they are in memory now. unchanged: as at load. seconds: what the check took. how: it was
    made, in words."""

    value: str
    unchanged: bool
    seconds: float
    how: str


def load_engine(
    folder: Path,
    adapters_limit_bytes: int | None = None,
    *,
    lanes: Lanes | None = None,
    precision: Precision | None = None,
) -> EngineLike:
    """precision: None = what suits the device. lanes: shares the processor's cores out, None = they are all its own."""
    from playground.engine.engine import Engine
    from playground.engine.load import pick_device

    before: Callable[[], None] = partial(use_share, lanes, "chat") if lanes is not None else lambda: None
    dtype = pick_device(precision.of(folder) if precision is not None else "auto")[1]
    return Engine(folder, adapters_limit_bytes=adapters_limit_bytes, before=before, dtype=dtype)


def own_weights(shapes: BaseShapes) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's weights; a head tied to the embeddings is counted once."""
    tied = shapes.config.get("tie_word_embeddings", True)
    return {name: shape for name, shape in shapes.shapes.items() if not (tied and name == "lm_head.weight")}


def loaded_bytes(folder: Path, file_bytes: int, precision: Precision) -> int:
    """Bytes of a model's weights in memory, from its files' headers. file_bytes: of the files; what cannot be read, or
    is packed, is taken to stay as large."""
    try:
        shapes = BaseShapes.from_folder(folder)
    except PlaygroundError:
        return file_bytes
    packed = file_bytes if shapes.config.get("quantization_config") else 0
    return weights_in(own_weights(shapes)) * precision.weight_bytes(folder) + packed


def kv_bytes_per_token(folder: Path, weight_bytes: int) -> int:
    """Bytes that one token takes in the KV cache, from the base's config."""
    config = json.loads((folder / "config.json").read_text())
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    hidden = config.get("hidden_size") or config.get("n_embd") or 1
    size = config.get("head_dim") or hidden // heads
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 1)
    return 2 * layers * int(config.get("num_key_value_heads") or heads) * int(size) * weight_bytes


class BaseService:
    """Owns the loaded base. ``choose`` loads another one; a failure leaves the one that was there, or lets it be loaded
    again. ``_loading`` is held while a model is read into memory, and never while somebody waits for the device: making
    room for one base may mean unloading another, or waiting for a reply on it. ``_unload`` takes only ``_lock``."""

    def __init__(
        self,
        settings: Settings,
        manager: DeviceManager,
        load: Load | None = None,
        jobs: Jobs | None = None,
        precision: Precision | None = None,
    ) -> None:
        self.precision = precision or Precision(settings.precision, settings.home, manager.device.kind)
        load = load or partial(load_engine, precision=self.precision)
        self._settings, self._manager, self._load_engine, self._jobs = settings, manager, load, jobs or Jobs()
        self._lock, self._loading = threading.RLock(), threading.Lock()
        self._proven = False  # whether ``spec`` has been in memory, so that it can be loaded again
        self._state = BaseState("loading", "Preparing the base", settings.base)
        self.spec, self.retry_s = settings.base, RETRY_S
        self._base: Base | None = None
        self.loaded: EngineLike | None = None  # the engine, if there is one already
        self._tokenizers: dict[tuple[Path, str], Tokenizer] = {}  # by folder and fingerprint
        self._shapes: dict[tuple[Path, str], BaseShapes] = {}

    def start(self) -> None:
        """Prepare and load the chosen base in the background; ``state`` says how far it is."""
        self._start(self.spec, busy="")

    def _start(self, spec: str, busy: str, token: str = "") -> None:
        def prepare(job: Job) -> None:
            while True:
                try:
                    return self._prepare(spec, job, token)
                except EndpointError:  # of the server that computes: asked again until it is there
                    if job.pause(self.retry_s):
                        raise

        self._jobs.start(JOB, prepare, "The base", busy=busy, interruptible=False)

    @property
    def fetching(self) -> bool:
        """Whether a base is on its way from elsewhere, which ``stop`` ends."""
        return (job := self._jobs.get(JOB)) is not None and job.progress.phase == "fetching" and not job.stopping

    def stop(self) -> None:
        """End what is being fetched; what has arrived is kept, and choosing it again goes on from there."""
        if (job := self._jobs.get(JOB)) is not None:
            job.stop()

    def resident(self) -> tuple[str, int]:
        """The base's name among the device's residents, and the bytes it takes there."""
        engine = self.loaded
        held = (engine.weight_bytes if engine is not None else 0) or self._weight_bytes(self.resolve())
        return self.spec, int(held * LOADED_FACTOR)

    def _weight_bytes(self, base: Base) -> int:
        return 0 if self.elsewhere else loaded_bytes(base.path, base.bytes, self.precision)

    def account(self) -> None:
        """Report to the device what the base takes now, with its attached adapters and its KV cache."""
        if (engine := self.loaded) is not None:
            name, held = self.resident()
            held += engine.adapter_bytes + engine.cache_bytes
            self._manager.set_resident(name, held, partial(self._unload, engine))

    @property
    def elsewhere(self) -> bool:
        """Whether a server computes replies, so that neither base nor replies take memory here."""
        return bool(self._settings.engine)

    def _unload(self, engine: EngineLike) -> None:
        """Free the memory; the next question loads the base again. Another one that was loaded meanwhile stays."""
        with self._lock:
            if self.loaded is not engine:
                return
            self.loaded = None
            if self._state.spec == self.spec:  # else it says how far another one is
                unloaded = "rests: other work has its memory, or nobody asked for long. It comes back by itself"
                self._say_ready(f"{label_of(self.spec)} {unloaded}")
        engine.close()

    def state(self) -> BaseState:
        return self._state

    def resolve(self, progress: bases.Progress = bases.no_progress, *, offline: bool = False) -> Base:
        """The base on disk, prepared if need be. Raises PlaygroundError."""
        with self._lock:
            if self._base is None or self._base.id != self.spec:
                found = bases.resolve(self.spec, self._settings, progress, offline=offline)
                if why := unusable(found.path):
                    raise InputError(f"{label_of(self.spec)} {why}")
                self._base = found
            return self._base

    def folder(self) -> Path | None:
        """Where the base in use lies, if that is known yet."""
        return self._base.path if self._base is not None else None

    def engine(self, progress: bases.Progress = bases.no_progress, expected: str = "") -> EngineLike:
        """The loaded base, loading it now if nobody has. expected: the base that the caller has a lease on. Raises
        PlaygroundError, BaseUnavailableError where another one was chosen meanwhile."""
        engine = self.loaded
        if engine is None:
            with self._loading:
                self._refuse_other(expected)
                engine = self.loaded
                if engine is None:
                    with self._noting(self.spec):
                        engine = self._load(self.spec, progress)
        self._refuse_other(expected)
        return engine

    def _refuse_other(self, expected: str) -> None:
        if expected and expected != self.spec:
            raise BaseUnavailableError(f"{label_of(self.spec)} was chosen meanwhile. Ask again.")

    def _key(self, card: AdapterCard | None) -> tuple[Path, str]:
        """(folder, fingerprint) of the base that a card stands on: another one's own, else that of the base in use."""
        if card is not None and card.is_base:
            return card.path, card.sha256
        base = self.resolve()
        return base.path, base.fingerprint

    def tokenizer(self, card: AdapterCard | None = None) -> Tokenizer:
        """The tokenizer of a card's base, as ``data.render.load_tokenizer`` reads it; needs no model in memory."""
        from playground.data.render import load_tokenizer

        key = self._key(card)
        with self._lock:
            if key not in self._tokenizers:
                self._tokenizers[key] = load_tokenizer(key[0])
            return self._tokenizers[key]

    def shapes(self, card: AdapterCard | None = None) -> BaseShapes:
        key = self._key(card)
        with self._lock:
            if key not in self._shapes:
                self._shapes[key] = BaseShapes.from_folder(*key)
            return self._shapes[key]

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights there are to train: a head tied to the embeddings is counted once."""
        return own_weights(self.shapes())

    def context(self, card: AdapterCard | None = None) -> int | None:
        """Tokens that a prompt and its reply may take together; None = the base names no limit."""
        return self.shapes(card).context

    def card(self, spec: str) -> AdapterCard | None:
        """Another base of this machine, as a whole model that a side may ask; None = it is the one in use. Raises
        NotFoundError (says what there is), InputError where the app is shared."""
        if self._settings.shared:
            raise InputError(ONE_BASE)
        if spec == self.spec:
            return None
        try:
            return self._card(self._judged(spec, offline=True))
        except (InputError, BaseUnavailableError) as error:
            there = ", ".join([BASE, *(card.id for card in self.others())])
            raise NotFoundError(f"There is no base {spec[:200]!r} to ask. There is: {there}. {error}") from error

    def _card(self, base: Base) -> AdapterCard | None:
        if base.id == self.spec or base.path == self.folder():
            return None
        return AdapterCard(
            id=f"{PREFIX}{base.id}",
            name=label_of(base.id),
            method="base",
            base=base.id,
            base_fingerprint=base.fingerprint,
            rank=None,
            bytes=base.bytes,
            sha256=base.fingerprint,
            rows=0,
            created_s=base.path.stat().st_mtime,
            shipped=False,
            kind="base",
            path=base.path,
            owner="local",
            trained_on="",
        )

    def others(self) -> list[AdapterCard]:
        """Every base of this machine that can be asked, but the one in use; none where the app is shared."""
        found = []
        for spec in self._specs():
            with contextlib.suppress(PlaygroundError):
                found.append(self._card(self._judged(spec, offline=True)))
        return [card for card in found if card is not None]

    def of_fingerprint(self, fingerprint: object) -> AdapterCard | None:
        """The base of this machine with these weights, as ``card`` gives it; None = the one in use, or none."""
        return next((card for card in self.others() if card.sha256 == fingerprint), None)

    def choices(self) -> list[BaseChoice]:
        """The default base, the one in use, every other on disk; where the app is shared, only the one in use."""
        found = []
        for spec in self._specs():
            with contextlib.suppress(PlaygroundError):
                found.append(self._described(spec))
        return found

    def _specs(self) -> list[str]:
        if self._settings.shared:
            return [self.spec]
        on_disk = [spec for _, spec in bases.folders(self._settings)]
        return list(dict.fromkeys([DEFAULT_BASE, self.spec, *on_disk, *bases.local_folders(self._settings)]))

    def inspect(self, spec: str) -> BaseChoice:
        """Look at a base without loading it. Raises InputError when it is none, and where the app is shared whatever
        it is: the answer would tell what lies on this machine."""
        if self._settings.shared:
            raise InputError(ONE_BASE)
        return self._described(spec.strip())

    def offers(self) -> tuple[Offer, ...]:
        """The known bases with what each takes here; none where the app is shared."""
        if self._settings.shared:
            return ()
        return offers(self._manager.budget_bytes, cuda=isinstance(self._manager.device, CudaDevice))

    def larger(self, cards: Sequence[AdapterCard | None] = ()) -> Offer | None:
        """What to try where the base in use, and the other bases among these cards, are too weak for a task; None =
        nothing that is larger fits here."""
        tried = [None, *(card for card in cards if card is not None and card.is_base)]
        return next_larger(self.offers(), max(weights_in(own_weights(self.shapes(card))) for card in tried))

    def _described(self, spec: str) -> BaseChoice:
        try:
            found = bases.resolve(spec, self._settings, offline=True)
        except BaseUnavailableError:
            return self._offered(spec)
        size = self._weight_bytes(found)
        needs, free = int(size * LOADED_FACTOR), self._manager.budget_bytes
        much = f"needs {needs / 1e9:.1f} GB, the budget is {free / 1e9:.1f} GB. Choose a smaller base."
        reason = unusable(found.path) or much * (needs > free)
        note = "" if has_template(found.path) else "It ships no chat template: its turns are written plainly."
        return BaseChoice(spec, label_of(spec), found.licence, size, not reason, reason, note)

    def _offered(self, spec: str) -> BaseChoice:
        offer = next((one for one in self.offers() if one.known.id == spec), None)
        if offer is None:
            return BaseChoice(spec, label_of(spec), "shown once it is fetched", 0, fits=True)
        known, note = offer.known, f"Fetches {offer.known.download_bytes / 1e9:.1f} GB."
        if known.gated:
            mine = "sign in above" if self._settings.sign_in else "have HF_TOKEN set to a token of that account"
            note += f" It is gated: accept its terms on the hub, and {mine}."
        size = int(offer.chat_bytes / LOADED_FACTOR)
        reason = f"{offer.reason}." if offer.reason else ""
        return BaseChoice(spec, label_of(spec), known.licence, size, offer.fits, reason, note)

    def choose(self, spec: str, token: str = "") -> None:
        """Make ``spec`` the base, in the background. token: of the hub, to fetch it with, "" = that of the environment.
        Raises InputError when it is none, does not fit, or is shared."""
        choice = self.inspect(spec)
        if not choice.fits:
            raise InputError(f"{choice.label} {choice.reason}")
        self._start(choice.spec, "A base is being prepared already. Wait until it is there.", token)

    def fingerprint_check(self) -> Fingerprint:
        engine = self.engine()
        return Fingerprint(*engine.check_fingerprint(), engine.proof)

    def _prepare(self, spec: str, job: Job, token: str) -> None:
        """Fetch a base, wait for the memory that it needs and load it; ``state`` says how that goes."""
        if self.loaded is not None and spec == self.spec:
            return
        with self._noting(spec):
            base = self._judged(spec, self._teller(spec, job=job), token)
            job.report("loading")
            self._say("loading", f"Waiting for memory to load {label_of(spec)}", spec)
            wanted = ((spec, int(self._weight_bytes(base) * LOADED_FACTOR)),)
            request = self._manager.request("chat", "", f"Loading {label_of(spec)}", 0, wanted)
            try:
                request.wait()
                with self._loading:
                    if self.loaded is not None and spec == self.spec:  # loaded for a question meanwhile
                        self._say_ready(self._ready_words(spec))
                    else:
                        self._load(spec)
            finally:
                request.cancel()

    def _load(self, spec: str, progress: bases.Progress = bases.no_progress) -> EngineLike:
        """Load a base in place of the one that is there. The caller has a lease for it, and holds ``_loading``."""
        tell = self._teller(spec, progress)
        base = self._judged(spec, tell)
        tell("loading", 0, base.bytes)
        needs = self._weight_bytes(base) * LOADED_FACTOR
        engine = retried(
            lambda: self._load_engine(base.path, self._manager.budget_bytes // ADAPTERS_SHARE),
            self._manager,
            f"{label_of(spec)} does not fit into memory ({needs / 1e9:.1f} GB)",
        )
        with self._lock:
            before, old = self.spec, self.loaded
            self.spec, self._base, self.loaded, self._proven = spec, base, engine, True
            self._tokenizers.setdefault((base.path, base.fingerprint), engine.tokenizer)
        if old is not None:  # the new base replaces the old one with all that was attached to it
            old.close()
            self._manager.set_resident(before, 0)
        self.account()
        self._say_ready(self._ready_words(spec))
        self._jobs.start(f"fingerprint {id(engine)}", lambda job: _hash(engine), "The fingerprint", interruptible=False)
        return engine

    def _judged(
        self, spec: str, progress: bases.Progress = bases.no_progress, token: str = "", *, offline: bool = False
    ) -> Base:
        """A base on disk that can be loaded. Raises BaseUnavailableError, also where it cannot."""
        base = bases.resolve(spec, self._settings, progress, token=token, offline=offline)
        if why := unusable(base.path):
            raise BaseUnavailableError(f"{label_of(spec)} {why}")
        return base

    def _teller(
        self, spec: str, progress: bases.Progress = bases.no_progress, job: Job | None = None
    ) -> bases.Progress:
        """job: that this is part of; it may be stopped while it fetches."""

        def tell(phase: str, done: int, total: int) -> None:
            so_far = f", {done // 1_000_000} of {total // 1_000_000} MB" if total else ""
            if job is not None:
                job.check("Stopped. What has arrived is kept: choose it again, and it goes on from there.")
                job.report(phase if total or phase != "fetching" else "", done, total)
                so_far += and_left(job.seconds_left) if phase == "fetching" and total else ""
            words = {
                "fetching": f"Fetching the base{so_far}",
                "converting": "Converting the base, about 50 s, once",
                "checking": "Checking the base",
            }
            self._say(phase, words.get(phase, "Loading the base"), spec)
            progress(phase, done, total)

        return tell

    def _say(self, phase: str, words: str, spec: str) -> None:
        """How far a base is; while another one answers, beside that one's name."""
        if self._proven and spec != self.spec:
            self._say_ready(f"{label_of(self.spec)} answers meanwhile. {label_of(spec)}: {words}")
        else:
            self._state = BaseState(phase, words, spec)

    @contextlib.contextmanager
    def _noting(self, spec: str) -> Iterator[None]:
        """What goes wrong while ``spec`` is prepared is said in ``state``, with what there is all the same."""
        try:
            yield
        except Exception as error:  # of whatever library reads the model
            words = str(error) if isinstance(error, PlaygroundError) else f"The base could not be loaded: {error}"
            with self._lock:
                if self.loaded is None and (spec == self.spec or not self._proven):
                    self._state = BaseState("failed", words, spec)
                else:
                    still = "comes back with the next question" if self.loaded is None else "is still in use"
                    self._say_ready(f"{words} {label_of(self.spec)} {still}.")
            raise

    def _ready_words(self, spec: str) -> str:
        from playground.data.render import takes_system_turn

        joined = "; its template takes no system prompt, so this stands before the question"
        return f"{label_of(spec)} is ready{'' if takes_system_turn(self.tokenizer()) else joined}"

    def _say_ready(self, words: str) -> None:
        known = self._base.fingerprint if self._base is not None else ""
        self._state = BaseState("ready", words, self.spec, fingerprint=known)


def _hash(engine: EngineLike) -> None:
    with contextlib.suppress(BaseUnavailableError):  # it has left memory already
        _ = engine.fingerprint
