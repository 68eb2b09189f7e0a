"""Where decoding and training happen: in this process and a child process, or on ZeroGPU.

On ZeroGPU each chat and each short training is one call of a wrapped function, with a duration requested beforehand.
What crosses the fork is paths, rows and states: plain values on the CPU. The fork loads the base itself (seconds) and
keeps it for as long as it lives. It has no children: the worker's ``run`` is called in it. An error comes back as a
value, since the wrapper would keep only its class.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from playground.engine.request import ROWS_MAX, AdapterFile, EngineLike, Row, RowState, Where
from playground.errors import BusyError, PlaygroundError
from playground.gpu.device import Wrap, settle_fork
from playground.training.processes import BEAT_S, HEARTBEAT, WAIT_S, folder_lock
from playground.training.run_files import DISK_FULL_FILE, EventWriter
from playground.training.spec import RunSpec

if TYPE_CHECKING:
    from playground.engine.engine import Engine


class Workers(Protocol):
    """Starts, recognises and stops what trains; the module ``processes`` is one. tokens_per_s: how fast it is before
    any run has been measured, None = as the estimate knows it. longest_s: the most a run may take;
    None = there is no limit."""

    tokens_per_s: float | None
    longest_s: float | None

    def start_worker(self, run_dir: Path, database: Path, attempt: int) -> tuple[int, float]:
        """(a number to know it by, when it began)."""

    def is_alive(self, pid: int | None, start: float | None) -> bool: ...

    def stop(self, pid: int, *, hard: bool) -> None: ...

    def activity(self, pid: int) -> tuple[float, bool]:
        """(a number that stands still while nothing is done, whether it only waits just now)."""


START_S = 20.0
"""To start a fork, and load a base in it."""
REPLY_TOKENS_PER_S = 15.0
"""A row's, cautiously: what is asked for and not used is given back."""
TRAIN_TOKENS_PER_S = 2000.0
"""Cautiously; replaced by what finished runs on this Space really did."""
SHORTEST_S = 30
STOP = "stop"
"""A file in a run's folder: stop after this step."""
CALLERS_MAX = 500

Message = tuple[str, Any]
"""("states", list of RowState), or ("failed", (class of the error, its words))."""
_engines: dict[tuple[int, str], Engine] = {}


def decode(
    seconds: int, folder: str, files: Sequence[AdapterFile], rows: Sequence[Row]
) -> Generator[Message, None, None]:
    """Decode rows on the base in ``folder`` with these adapters. Stop is seen between yields."""
    settle_fork()
    try:
        own = (os.getpid(), folder)  # an engine from before the fork has lost its thread
        if own not in _engines:
            from playground.engine.engine import Engine

            _engines.clear()
            _engines[own] = Engine(Path(folder))
        for file in files:
            _engines[own].attach(file)
        with contextlib.closing(_engines[own].stream(list(rows))) as stream:
            for states in stream:
                yield "states", [replace(state) for state in states]
    except PlaygroundError as error:
        yield "failed", (type(error), str(error))


def train(seconds: int, run_dir: str, attempt: int) -> int:
    """The whole run in this process; a file in its folder stops it after a step."""
    from playground.training.worker import run

    settle_fork()
    place = Path(run_dir)
    with folder_lock(place, WAIT_S):
        return run(place, attempt, Path(place, STOP).exists)


def _seconds(seconds: int, *job: Any) -> int:
    return seconds


class ZeroRunner:
    """A ``Decoder`` and ``Workers``. wrap: ``spaces.GPU``. cap_s: the longest single use."""

    tokens_per_s: float | None = TRAIN_TOKENS_PER_S
    longest_s: float | None
    together = ROWS_MAX

    def __init__(self, wrap: Wrap, cap_s: int, clock: Callable[[], float] = time.time) -> None:
        self._cap_s, self._clock, self.longest_s = cap_s, clock, float(cap_s)
        self._decode = wrap(duration=_seconds)(decode)
        self._train = wrap(duration=_seconds)(train)
        self._threads: dict[int, tuple[float, Path, threading.Thread]] = {}
        self._callers: OrderedDict[str, contextvars.Context] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, owner: str) -> None:
        """Who calls now: a run that starts later from the queue is counted as this visitor's use, not as the app's."""
        with self._lock:
            self._callers[owner] = contextvars.copy_context()
            self._callers.move_to_end(owner)
            while len(self._callers) > CALLERS_MAX:
                self._callers.popitem(last=False)

    def stream(self, engine: EngineLike, rows: Sequence[Row]) -> Generator[list[RowState], None, None]:
        """As ``Engine.stream``; ``engine`` is this process's own, on the CPU, and says what is attached."""
        there: dict[str, AdapterFile] = {**engine.asleep(), **engine.attached()}
        files = [there[name] for name in sorted({row.adapter for row in rows if row.adapter}) if name in there]
        turns = -(-len(rows) // ROWS_MAX)
        seconds = self._asked(turns * max(row.sampling.max_tokens for row in rows) / REPLY_TOKENS_PER_S)
        stream = self._decode(seconds, str(engine.folder), files, list(rows))
        with contextlib.closing(stream), _lent():
            for kind, value in stream:
                if kind == "failed":
                    raise value[0](value[1])
                yield value

    def where(self, engine: EngineLike) -> Where:
        return {"dtype": "bfloat16", "device": "cuda"}

    def start_worker(self, run_dir: Path, database: Path, attempt: int) -> tuple[int, float]:
        spec = RunSpec.read(run_dir)
        for left in (STOP, HEARTBEAT, DISK_FULL_FILE):  # of the attempt before
            (run_dir / left).unlink(missing_ok=True)
        with self._lock:
            caller = self._callers.get(spec.owner, contextvars.Context()).copy()
        job = (self._run, run_dir, attempt, self._asked(spec.estimated_seconds))
        thread = threading.Thread(target=caller.run, args=job, name="zero", daemon=True)
        thread.start()
        threading.Thread(target=_beat, args=(run_dir, thread), name="zero-beat", daemon=True).start()
        number, began = int(thread.native_id or 0), self._clock()
        self._threads[number] = (began, run_dir, thread)
        return number, began

    def is_alive(self, pid: int | None, start: float | None) -> bool:
        known = self._threads.get(pid or 0)
        return known is not None and known[0] == start and known[2].is_alive()

    def stop(self, pid: int, *, hard: bool) -> None:
        """Seen after the step that is being made: a fork of the device's cannot be killed from here."""
        if pid in self._threads:
            (self._threads[pid][1] / STOP).touch()

    def activity(self, pid: int) -> tuple[float, bool]:
        """The fork that works is not seen from here, and waiting for a device may take minutes: never idle."""
        return self._clock(), False

    def _run(self, run_dir: Path, attempt: int, seconds: int) -> None:
        try:
            with _lent():
                self._train(seconds, str(run_dir), attempt)
        except PlaygroundError as error:
            events = EventWriter(run_dir)
            events.write("failed", attempt=attempt, message=f"{error} The run can go on from its last checkpoint.")
            events.close()

    def _asked(self, seconds: float) -> int:
        return int(min(self._cap_s, max(SHORTEST_S, seconds * 1.5 + START_S)))


def _beat(run_dir: Path, thread: threading.Thread) -> None:
    """The sign of life of a run that has no process of its own: also while it waits for a device."""
    while thread.is_alive():
        with contextlib.suppress(OSError):
            (run_dir / HEARTBEAT).touch()
        thread.join(BEAT_S)


@contextlib.contextmanager
def _lent() -> Iterator[None]:
    """Raises BusyError with what ZeroGPU says when it lends nothing, as a sentence."""
    try:
        yield
    except PlaygroundError:
        raise
    except Exception as error:  # the wrapper's own, of no common class: no device, no time left, or the fork died
        words = str(getattr(error, "message", "") or error).strip() or type(error).__name__
        title = str(getattr(error, "title", "") or "").strip()
        text = f"{title}: {words}" if title and title.lower() not in ("error", words.lower()) else words
        raise BusyError(f"ZeroGPU lent no device: {text[:300].rstrip('.')}. Try again later.") from error
