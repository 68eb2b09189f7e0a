"""Verdicts: several sides on a person's held-out examples, measured in the background, kept in the home folder."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from playground.data.example import Example
from playground.data.split import row_hash
from playground.errors import CancelledError, InputError, NotFoundError, PlaygroundError
from playground.evaluation.checks import Check, parse_check
from playground.evaluation.cost import Prices
from playground.evaluation.inferred import looks_like
from playground.evaluation.questions import Facts, Questions, SideKind
from playground.evaluation.scored import Answered
from playground.evaluation.verdict import SideFacts, conclude
from playground.library.card import AdapterCard
from playground.library.files import read_json, sha256_of
from playground.services import processes
from playground.services.adapters import AdapterService
from playground.services.answering import Answering, Item, Progress
from playground.services.bases import BaseService
from playground.services.bench_best import tried_for
from playground.services.data import DataService
from playground.services.forgetting import ForgettingService
from playground.services.sides import Side, side_as_json
from playground.services.verdict_files import DONE, FAILED, LIVE, MEASURING, STOPPED, State, VerdictFiles, answers_of, row_of
from playground.services.verdict_request import VERDICT, VerdictRequest, named, request_from
from playground.settings import Settings

__all__ = ["VerdictRequest", "VerdictService", "VerdictView"]

SHOTS = 4
"""Answered examples of the ready-made few-shot side."""
LIVE_OF_ONE = 3
"""Verdicts of one person that may wait or run."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class VerdictView:
    """A verdict as it is now. done, of: replies. message: what it is doing. seconds_left: an estimate, None before there is one.
    record: once it has ended and something could be compared."""

    id: str
    name: str
    state: str
    done: int = 0
    of: int = 0
    message: str = ""
    seconds_left: float | None = None
    created_s: float = 0.0
    error: str = ""
    record: dict[str, Any] | None = None
    purpose: str = VERDICT

    @property
    def live(self) -> bool:
        return self.state in LIVE


@dataclass
class _Work:
    """What a running verdict has so far."""

    state: State
    stop: threading.Event = field(default_factory=threading.Event)
    progress: Progress = field(default_factory=lambda: Progress("Waiting for its turn", 0, 0))
    began_s: float = 0.0
    answers: dict[tuple[int, str], Answered] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    forgotten: dict[str, Any] = field(default_factory=dict)


class VerdictService:
    """Measuring lives in a thread of this process, one verdict after another; whoever looks only looks."""

    def __init__(
        self, settings: Settings, bases: BaseService, data: DataService, adapters: AdapterService, answering: Answering,
        forgetting: ForgettingService, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._settings, self._bases, self._data, self._adapters = settings, bases, data, adapters
        self._answering, self._forgetting, self._clock = answering, forgetting, clock
        self.files = VerdictFiles(settings.home / "verdicts")
        self._work: dict[str, _Work] = {}
        self._turn = threading.Lock()
        self._lock = threading.Lock()

    # -- what a person does --------------------------------------------------------------------------------------

    def start(self, request: VerdictRequest) -> str:
        """Check it, and measure in the background; returns its id. Raises InputError, NotFoundError."""
        request = self._told(request)
        state = self._admit(request)
        threading.Thread(target=self._measure, args=(state.id, request), name=f"verdict-{state.id}", daemon=True).start()
        return state.id

    def run(self, request: VerdictRequest) -> Iterator[VerdictView]:
        """The same here and now, for the command line: yields how far it is, the last time when it has ended. Closing it stops it."""
        request = self._told(request)
        state = self._admit(request)
        thread = threading.Thread(target=self._measure, args=(state.id, request), daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.2)
                yield self.show(state.id, request.owner)
        finally:
            if thread.is_alive():
                self._work[state.id].stop.set()
                thread.join()
        yield self.show(state.id, request.owner)

    def views(self, owner: str = "local", purpose: str | None = VERDICT) -> list[VerdictView]:
        """The person's verdicts, newest first. purpose: those measured for it, None = for any."""
        mine = [state for state in self.files.all() if self._mine(state, owner)]
        return [self._view(state, whole=False) for state in mine if purpose in (None, state.purpose)]

    def show(self, id: str, owner: str = "local") -> VerdictView:
        """Raises NotFoundError."""
        return self._view(self._own(id, owner), whole=True)

    def stop(self, id: str, owner: str = "local") -> None:
        """End it and keep what is measured. One that has ended stays as it is."""
        state = self._own(id, owner)
        if (work := self._work.get(state.id)) is not None:
            work.stop.set()

    def remove(self, id: str, owner: str = "local") -> None:
        """Delete it, stopped first if it runs."""
        state = self._own(id, owner)
        self.stop(id, owner)
        if (work := self._work.get(state.id)) is not None:
            with self._lock:
                work.state = replace(work.state, state=STOPPED)
        self.files.remove(state.id)

    def rows(self, id: str, owner: str = "local") -> list[dict[str, Any]]:
        """The rows file: one object an example and side."""
        return self.files.rows(self._own(id, owner).id)

    def export(self, id: str, how: str, owner: str = "local") -> Path:
        """As ``html`` (one file that needs nothing else), ``jsonl`` or ``csv``, in a folder that nobody can guess. Raises InputError
        when there is nothing to export yet."""
        state = self._own(id, owner)
        folder = self._settings.exports_dir / secrets.token_hex(16)
        return self.write(state.id, how, folder)

    def write(self, id: str, how: str, folder: Path) -> Path:
        """The same into ``folder``."""
        from playground.evaluation.report import page_html, rows_csv

        record, rows = self.files.record(id), self.files.rows(id)
        if record is None:
            raise InputError("There is nothing to export yet: no example was answered by every side.")
        made: dict[str, Callable[[], str]] = {
            "html": lambda: page_html(record, rows),
            "jsonl": lambda: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
            "csv": lambda: rows_csv(rows),
        }
        if how not in made:
            raise InputError(f"A verdict can be written as {', '.join(made)}; {how!r} is none of them.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"verdict-{id}.{how}"
            file.write_text(made[how](), encoding="utf-8", newline="")
        except OSError as error:
            raise InputError(
                f"The verdict cannot be written to {folder}: {error.strerror or error}. Name another folder."
            ) from error
        return file

    def again(self, id: str, questions: Questions, prices: Prices, owner: str = "local") -> VerdictView:
        """Costs and choice by other answers and prices, from what was measured: nothing is asked again. Raises InputError."""
        state = self._own(id, owner)
        record, rows = self.files.record(state.id), self.files.rows(state.id)
        if record is None:
            raise InputError("There is nothing to judge anew: no example was answered by every side.")
        request = request_from(self.files.request(state.id))
        request = replace(request, questions=questions, prices=prices)
        facts = Facts(**{**record["facts"], "currency": prices.currency})
        checks = self._checks(request, [row["reference"] for row in rows])
        known = {side["side"]: side for side in record["sides"]}
        sides = [
            SideFacts(name, side["kind"], side["training_s"], {key: side[key] for key in ("model", "adapter_sha256", "shots", "documents", "prompt") if key in side})
            for name, side in known.items()
        ]  # fmt: skip
        judged = conclude(answers_of(rows), sides, checks, questions, prices, facts)
        kept = {key: value for key, value in record.items() if key not in judged.record}
        self.files.save(state.id, judged.record | kept, rows)
        return self._view(state, whole=True)

    def line_up(self, file: Path, adapter: str, prompt: str, docs: Path | None, owner: str = "local") -> tuple[Side, ...]:
        """The ready-made sides: base, with the prompt, with a few answered examples, with documents, and the adapter (with documents).
        file: where shots come from. adapter: "" = none. docs: None = no sides with documents."""
        sides = [Side("base", name="Base")]
        if prompt.strip():
            sides.append(Side("base", prompt.strip(), name="Base + prompt"))
        sides.append(Side("base", prompt.strip(), SHOTS, file, f"Base + {SHOTS} shots"))
        if docs is not None:
            sides.append(Side("base", prompt.strip(), name="Base + documents", docs=docs))
        if adapter:
            name = self._adapters.get(adapter, owner).name
            sides.append(Side(adapter, name=name))
            if docs is not None:
                sides.append(Side(adapter, name=f"{name} + documents", docs=docs))
        return tuple(sides)

    # -- measuring -----------------------------------------------------------------------------------------------

    def _told(self, request: VerdictRequest) -> VerdictRequest:
        """The same with how its prompt was found, where a bench found it."""
        if request.tried or request.purpose != VERDICT:
            return request
        return replace(request, tried=tried_for(self.files, request))

    def _admit(self, request: VerdictRequest) -> State:
        request = named(request)
        self._answering.examples(request)
        self._answering.cards(request)
        live = [state for state in self.files.all() if state.owner == request.owner and self._state(state).state in LIVE]
        if len(live) >= LIVE_OF_ONE:
            raise InputError(f"{len(live)} verdicts of yours are waiting or running. Let one end, or stop it, and try again.")
        state = self.files.new(request.owner, request.name, request.as_json(), self._clock(), request.purpose)
        state = self.files.put(replace(state, pid=os.getpid(), pid_started_s=processes.started_s(os.getpid()) or 0.0))
        self._work[state.id] = _Work(state)
        return state

    def _measure(self, id: str, request: VerdictRequest) -> None:
        work = self._work[id]
        try:
            with self._in_turn(work):
                work.state, work.began_s = self.files.put(replace(work.state, state=MEASURING)), time.monotonic()
                items: list[Item] = []
                try:
                    items = self._answering.prepare(request)
                    self._ask(work, request, items)
                except CancelledError:
                    work.state = replace(work.state, state=STOPPED, error="Stopped: what was measured by then is kept.")
                self._settle(work, request, items)
        except PlaygroundError as error:
            self._end(work, FAILED, str(error))
        except OSError as error:
            self._end(work, FAILED, f"{error.strerror or error}. Free some space on the disk and measure again.")
        except Exception as error:
            _LOG.exception("verdict %s", id)
            self._end(work, FAILED, f"The measuring stopped ({type(error).__name__}: {str(error)[:200]}). Measure again.")
        finally:
            self._work.pop(id, None)

    @contextlib.contextmanager
    def _in_turn(self, work: _Work) -> Iterator[None]:
        """One verdict at a time. Raises CancelledError for one that is stopped while it waits."""
        while not self._turn.acquire(timeout=0.2):
            if work.stop.is_set():
                self._end(work, STOPPED, "Stopped before it began.")
                raise CancelledError("Stopped before it began.")
        try:
            yield
        finally:
            self._turn.release()

    def _ask(self, work: _Work, request: VerdictRequest, items: Sequence[Item]) -> None:
        """All that has to be asked. Raises CancelledError when it is stopped."""
        session = f"verdict {request.owner}"
        self._follow(work, "answers_s", self._answering.answers(request, items, session))
        repeats = self._follow(work, "repeats_s", self._answering.repeats(request, items, session)) or {}
        self._add(work, "repeats", {key: tuple(replies) for key, replies in repeats.items()})
        if request.purpose == VERDICT:
            self._add(work, "seconds", self._follow(work, "timing_s", self._answering.timings(request, items, session)) or {})
        if request.losses:
            self._add(work, "loss", self._follow(work, "losses_s", self._answering.losses(items, session)) or {})
        if request.forgetting:
            self._forgot(work, items, session)

    def _follow(self, work: _Work, timing: str, steps: Any) -> Any:
        """Run a generator to its end, or until it is stopped; returns what it returns."""
        started = time.monotonic()
        try:
            while True:
                try:
                    step = next(steps)
                except StopIteration as ended:
                    return ended.value
                work.progress = step
                for answer in step.answers:
                    work.answers[answer.example, answer.side] = answer
                if work.stop.is_set():
                    raise CancelledError("Stopped.")
        finally:
            steps.close()
            work.timings[timing] = round(time.monotonic() - started, 2)

    def _add(self, work: _Work, name: str, values: dict[tuple[int, str], Any]) -> None:
        for key, value in values.items():
            if key in work.answers:
                work.answers[key] = replace(work.answers[key], **{name: value})

    def _forgot(self, work: _Work, items: Sequence[Item], session: str) -> None:
        cards: dict[str, AdapterCard] = {item.card.id: item.card for item in items if item.card is not None}
        if not cards:
            return
        found: Any = ()

        def steps() -> Iterator[Progress]:
            nonlocal found
            for one in self._forgetting.measure(list(cards.values()), session):
                found = one.found
                yield Progress("What was forgotten", one.done, one.of, waiting=one.waiting)

        self._follow(work, "forgetting_s", steps())
        by_card = dict(zip(cards, found, strict=True))
        for item in items:
            if item.card is not None:
                forgotten = by_card[item.card.id]
                work.forgotten[item.side.label] = asdict(forgotten) | {"words": forgotten.words}

    # -- the record ----------------------------------------------------------------------------------------------

    def _settle(self, work: _Work, request: VerdictRequest, items: Sequence[Item]) -> None:
        """From answers to the record, on disk."""
        answers: dict[str, list[Answered]] = {side.label: [] for side in request.sides}
        for answer in work.answers.values():
            answers[answer.side].append(answer)
        examples = {item.example.row: item.example for item in items}
        checks = self._checks(request, [example.completion for example in examples.values()])
        work.progress = replace(work.progress, phase="Judging", waiting="")
        try:
            judged = conclude(
                {side: rows for side, rows in answers.items() if rows} if work.state.state != STOPPED else answers,
                self._sides(request, items), checks, request.questions, request.prices, self._facts(request, items, examples),
            )  # fmt: skip
        except ValueError:
            self._end(work, STOPPED, "Stopped before any example was answered by every side.")
            return
        state = work.state.state if work.state.state == STOPPED else DONE
        about = {
            "id": work.state.id, "name": work.state.name, "created_s": work.state.created_s, "state": state,
            "file": request.file.name, "data_sha256": sha256_of(_files(request.file)),
            "base": self._bases.resolve().id, "base_fingerprint": self._bases.resolve().fingerprint,
            "seed": request.seed, "repeats": request.repeats, "max_tokens": request.max_tokens, "temperature": request.temperature,
            "checks": [check.spec for check in checks], "tried": request.tried, "timings": work.timings, "forgetting": work.forgotten,
            "seconds": round(time.monotonic() - work.began_s, 1), "device": _device(work.answers.values()),
        }  # fmt: skip
        rows = [
            row_of(answer, judged.measured[side]) for side, said in answers.items() for answer in said if side in judged.measured
        ]
        rows.sort(key=lambda row: row["example"])
        self.files.save(work.state.id, judged.record | about, rows)
        self._end(work, state, work.state.error)

    def _checks(self, request: VerdictRequest, references: Sequence[str]) -> list[Check]:
        """The person's checks, then what the references look like: those of the rows that are not judged by, where there are some."""
        checks = [parse_check(spec) for spec in dict.fromkeys(request.checks)]
        known = list(references)
        if request.rows is not None:
            judged, checked = set(request.rows), self._data.check(request.file, request.mapping, request.owner)
            others = [example.completion for example in checked.examples if example.row not in judged]
            known = others if len(others) >= 5 else known
        inferred = looks_like(known)
        return [*checks, inferred] if inferred is not None else checks

    def _sides(self, request: VerdictRequest, items: Sequence[Item]) -> list[SideFacts]:
        cards = {item.side.label: item.card for item in items}
        found = []
        for side in request.sides:
            card, said = cards.get(side.label), side_as_json(side)
            described = {
                "model": side.model, "adapter_sha256": card.sha256 if card else None, "shots": side.shots, "prompt": said["system_prompt"],
                "documents": side.docs.name if side.docs else None,
            }  # fmt: skip
            training_s = float(_run(card).get("seconds") or 0.0) if card else 0.0
            found.append(SideFacts(side.label, _kind(side), training_s, described))
        return found

    def _facts(self, request: VerdictRequest, items: Sequence[Item], examples: dict[int, Example]) -> Facts:
        cards = {item.card.id: item.card for item in items if item.card is not None}.values()
        trained = {known for card in cards for known in _run(card).get("row_hashes") or ()}
        rows = [card.rows for card in cards if card.rows]
        checked = self._data.check(request.file, request.mapping, request.owner)
        poor = (len(checked.bad) + checked.duplicates) / max(1, checked.rows)
        overlap = sum(row_hash(example) in trained for example in examples.values())
        return Facts(min(rows) if rows else None, poor, overlap, request.prices.currency)

    # -- inside --------------------------------------------------------------------------------------------------

    def _end(self, work: _Work, state: str, error: str) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self.files.folder(work.state.id).is_dir():  # it may have been removed meanwhile
                work.state = self.files.put(replace(work.state, state=state, error=error))

    def _state(self, state: State) -> State:
        """As it truly is: what a process measured that has ended since is stopped."""
        if state.state in LIVE and state.id not in self._work and not processes.is_alive(state.pid, state.pid_started_s):
            return replace(state, state=STOPPED, error="The app ended while it was measured. Measure it again.")
        return state

    def _view(self, state: State, *, whole: bool) -> VerdictView:
        work, state = self._work.get(state.id), self._state(state)
        if work is None or state.state not in LIVE:
            record = self.files.record(state.id) if whole else None
            return VerdictView(
                state.id, state.name, state.state, created_s=state.created_s, error=state.error, record=record, purpose=state.purpose
            )  # fmt: skip
        step = work.progress
        message = step.waiting or step.phase
        return VerdictView(
            state.id, state.name, state.state, step.done, step.of, message, _left(work), state.created_s, state.error, purpose=state.purpose
        )  # fmt: skip

    def _mine(self, state: State, owner: str) -> bool:
        return not self._settings.shared or state.owner == owner

    def _own(self, id: str, owner: str) -> State:
        state = self.files.state(id) if id else None
        if state is None or not self._mine(state, owner):
            raise NotFoundError(f"There is no verdict {id[:40]!r}. Open the Verdict tab to see those there are.")
        return state


def _kind(side: Side) -> SideKind:
    if side.model != "base":
        return "tuned+documents" if side.docs else "tuned"
    return "documents" if side.docs else "few-shot" if side.shots else "prompt" if side.system_prompt.strip() else "base"


def _run(card: AdapterCard | None) -> dict[str, Any]:
    """The record of the run that made an adapter, {} where there is none."""
    if card is None:
        return {}
    try:
        return dict(read_json(card.path / "run.json"))
    except (PlaygroundError, OSError, ValueError):
        return {}


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _device(answers: Any) -> dict[str, Any]:
    stamp = next((answer.stamp for answer in answers if answer.stamp), None) or {}
    return {name: stamp.get(name) for name in ("device", "dtype", "rows")}


def _left(work: _Work) -> float | None:
    """By the pace of the answers so far; what comes after them is counted as a third of them."""
    if not work.began_s or not work.progress.done or work.progress.phase != "Answering":
        return None
    passed = time.monotonic() - work.began_s
    return passed / work.progress.done * (work.progress.of * 1.3 - work.progress.done)
