"""Verdicts in the home folder, one folder each.

``request.json`` what was asked · ``state.json`` how far it is · ``answers.jsonl`` every answer as it came, after the
end those of sides that failed · ``rows.jsonl`` one line an example and side · ``known.json`` references that their form
was read from · ``verdict.json`` the record · ``votes.jsonl`` one line a vote on its replies, ``labels.jsonl`` one line
a label of a reply, in the order they were given.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from playground.errors import InputError, NotFoundError, PlaygroundError
from playground.evaluation.statistics import Measured
from playground.evaluation.verdict import SCHEMA as RECORD_SCHEMA
from playground.evaluation.verdict import VOLUME, Answered
from playground.evaluation.votes import WINNERS, Vote
from playground.library.files import write_json, write_text
from playground.training import processes
from playground.workspace.visitors import bytes_in

ID = re.compile(r"\d{8}-\d{6}-v[0-9a-f]{4}")
SCHEMA = 1
VERDICT, BENCH = "verdict", "bench"
"""What it is measured for: to judge by, or to choose a prompt by."""
QUEUED, MEASURING, DONE, STOPPED, FAILED = "QUEUED", "MEASURING", "DONE", "STOPPED", "FAILED"
LIVE = (QUEUED, MEASURING)


@dataclass(frozen=True)
class State:
    """pid, pid_started_s: of the process that measures. error: why it failed or ended early."""

    id: str
    owner: str
    name: str
    created_s: float
    state: str = QUEUED
    error: str = ""
    pid: int = 0
    pid_started_s: float = 0.0
    schema: int = SCHEMA
    purpose: str = VERDICT


class VerdictFiles:
    """Reads and writes them; every file is whole or not there."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def new(
        self,
        owner: str,
        name: str,
        request: dict[str, Any],
        now_s: float,
        purpose: str = VERDICT,
        pid: int = 0,
        extends: str = "",
    ) -> State:
        """pid: of the process that measures it, 0 = of none. extends: the verdict that is measured further, "" = a new
        one."""
        id = extends or time.strftime("%Y%m%d-%H%M%S-v", time.localtime(now_s)) + secrets.token_hex(2)
        started_s = (processes.started_s(pid) or 0.0) if pid else 0.0
        self.folder(id).mkdir(parents=True, exist_ok=bool(extends))
        write_json(self._root / id / "request.json", request)
        return self.put(State(id, owner, name[:80], now_s, pid=pid, pid_started_s=started_s, purpose=purpose))

    def put(self, state: State) -> State:
        write_json(self.folder(state.id) / "state.json", asdict(state))
        return state

    def all(self) -> list[State]:
        """Newest first; what cannot be read is left out."""
        folders = self._root.iterdir() if self._root.is_dir() else ()
        ids = (folder.name for folder in folders if ID.fullmatch(folder.name))
        found = [state for id in ids if (state := self.state(id)) is not None]
        return sorted(found, key=lambda state: (-state.created_s, state.id))

    def state(self, id: str) -> State | None:
        try:
            said = json.loads((self.folder(id) / "state.json").read_text(encoding="utf-8"))
            return State(**said) if said.get("schema") == SCHEMA else None
        except (OSError, ValueError, TypeError):
            return None

    def folder(self, id: str) -> Path:
        """Raises NotFoundError for what is no id: nothing else becomes a path."""
        if not ID.fullmatch(id):
            raise NotFoundError(f"There is no verdict {id[:40]!r}.")
        return self._root / id

    def bytes_of(self, owner: str) -> int:
        """What this owner's verdicts take on disk."""
        return sum(bytes_in(self.folder(state.id)) for state in self.all() if state.owner == owner)

    def request(self, id: str) -> dict[str, Any]:
        """Raises InputError when it is gone."""
        if not (found := self._json(id, "request.json")):
            raise InputError(f"What {id} asked is gone from the disk. Measure it anew.")
        return dict(found)

    def ask(self, id: str, request: dict[str, Any]) -> None:
        """What is asked has grown."""
        write_json(self.folder(id) / "request.json", request)

    def record(self, id: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._json(id, "verdict.json")
        return _current(found) if found is not None else None

    def rows(self, id: str) -> list[dict[str, Any]]:
        return self._lines(id, "rows.jsonl")

    def known(self, id: str) -> list[str]:
        """References that their form was read from."""
        return list(self._json(id, "known.json") or ())

    def keep(self, id: str, answers: Iterable[Answered]) -> None:
        """Write answers down as they come, for the case that nobody lives to save the record. Raises OSError."""
        lines = _jsonl(row_of(answer, {}) for answer in answers)
        if lines and self.folder(id).is_dir():
            with (self.folder(id) / "answers.jsonl").open("a", encoding="utf-8") as file:
                file.write(lines)

    def answers(self, id: str) -> dict[tuple[int, str], Answered]:
        """All that was answered so far, by example and side: the rows file, then what ``keep`` wrote down, of an answer
        that it wrote again the last; a line that was cut off ends them."""
        lines = (*self.rows(id), *self._lines(id, "answers.jsonl"))
        return {(row["example"], row["side"]): answer_of(row) for row in lines}

    def took_s(self, id: str) -> float:
        """How long one was measured whose process ended: from its last state to its last answer."""
        begun, last = (self.folder(id) / name for name in ("state.json", "answers.jsonl"))
        return max(0.0, last.stat().st_mtime - begun.stat().st_mtime) if last.exists() else 0.0

    def save(
        self,
        id: str,
        record: dict[str, Any],
        rows: Iterable[dict[str, Any]],
        known: Sequence[str],
        aside: Iterable[Answered] | None = None,
    ) -> None:
        """aside: answers of sides that failed, None = as they are on disk. Raises OSError."""
        folder = self.folder(id)
        write_text(folder / "rows.jsonl", _jsonl(rows))
        write_text(folder / "known.json", _jsonl([list(known)]))
        write_json(folder / "verdict.json", record)
        if aside is not None:
            (folder / "answers.jsonl").unlink(missing_ok=True)
            self.keep(id, aside)

    def write(self, id: str, how: str, folder: Path) -> Path:
        """Into ``folder`` as ``html``, ``jsonl`` or ``csv``. Raises InputError with nothing to write, or nowhere."""
        from playground.report.report import page_html, rows_csv

        record, rows = self.record(id), self.rows(id)
        if record is None:
            raise InputError("There is nothing to export yet: no example was answered by every side.")
        made: dict[str, Callable[[], str]] = {
            "html": lambda: page_html(record, rows),
            "jsonl": lambda: _jsonl(rows),
            "csv": lambda: rows_csv(rows),
        }
        if how not in made:
            raise InputError(f"A verdict can be written as {', '.join(made)}; {how!r} is none of them.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"verdict-{id}.{how}"
            file.write_text(made[how](), encoding="utf-8", newline="")
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"The verdict cannot be written to {folder}: {why}. Name another folder.") from error
        return file

    def remove(self, id: str) -> None:
        shutil.rmtree(self.folder(id), ignore_errors=True)

    def _lines(self, id: str, name: str) -> list[dict[str, Any]]:
        """The lines up to the first that cannot be read; a reply may hold other line ends."""
        found = []
        with contextlib.suppress(OSError, ValueError), (self.folder(id) / name).open("rb") as file:
            for line in file:
                found.append(json.loads(line))
        return found

    def _json(self, id: str, name: str) -> Any:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.folder(id) / name).read_text(encoding="utf-8"))
        return None


def _jsonl(values: Iterable[object]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values)


def _current(record: dict[str, Any]) -> dict[str, Any]:
    """A record of an earlier version, with the kinds of sides and the items of their costs as they are now."""
    if record["schema"] >= RECORD_SCHEMA:
        return record
    renamed = {"tuned": "fine-tune", "tuned+documents": "fine-tune+documents"}
    year, sides = 12 * (record["questions"]["volume"] or VOLUME), []
    for side in record["sides"]:
        items = {"training": side["cost"]["once"], "requests": year * (side["cost"]["per_request"] or 0.0)}
        cost = {"items": {name: paid for name, paid in items.items() if paid}, "known": True, **side["cost"]}
        sides.append({**side, "kind": renamed.get(side["kind"], side["kind"]), "cost": cost})
    empty: dict[str, Any] = {name: [] for name in ("ladder", "guards", "left_out")}
    return {"right": "", "right_words": "", "planned_rows": None, **empty, **record, "sides": sides}


def row_of(answer: Answered, measured: Mapping[str, Measured]) -> dict[str, Any]:
    """One answer as a line of the rows file: with its figures, and what it takes to judge it again."""
    row = {**vars(answer), "metrics": {}, "passages": list(answer.passages), "repeats": list(answer.repeats)}
    row["finish_reason"], marks = row.pop("finish"), dict(row.pop("marks"))
    of_row = {name: one.by_example.get(answer.example) for name, one in measured.items()}
    row["metrics"] = {name: value for name, value in of_row.items() if value is not None}
    return row | ({"marks": marks} if marks else {})


def answer_of(row: Mapping[str, Any]) -> Answered:
    """An answer as ``row_of`` wrote it."""
    values = {name: value for name, value in row.items() if name not in ("metrics", "finish_reason")}
    lists = {name: tuple(row[name]) for name in ("passages", "repeats")}
    return Answered(**values | lists | {"finish": row.get("finish_reason", "")})


Said = Literal["a", "b", "tie", "skip"]
Place = tuple[int, str, str]
"""(example, a, b): what is voted on."""
JUDGE = "judge"
"""The owner of a model's votes and labels; no visitor is ever called so."""
LINES_MAX = 20_000
"""Of one verdict: twelve sides on a hundred examples make 6,600 comparisons."""


@dataclass(frozen=True)
class Cast:
    """One vote. winner: ``skip`` = passed by, ``tie`` = as good. judge: which model, "" = none; key: what tells it from
    others of that name. when: since 1970."""

    example: int
    a: str
    b: str
    winner: Said
    owner: str
    when: float
    judge: str = ""
    key: str = ""

    @property
    def place(self) -> Place:
        return self.example, self.a, self.b

    @property
    def holds(self) -> bool:
        return self.winner in (*WINNERS, "skip") and self.a != self.b


def as_votes(cast: Sequence[Cast]) -> list[Vote]:
    """Those that say something."""
    return [Vote(one.a, one.b, one.winner) for one in cast if one.winner != "skip"]


LABELS = ("right", "wrong", "unsure")


@dataclass(frozen=True)
class Label:
    """Whether one reply is right, by a person or a judge. judge: as in ``Cast``; label: ``unsure`` says neither."""

    example: int
    side: str
    label: str
    owner: str
    when: float
    judge: str = ""

    @property
    def place(self) -> tuple[int, str]:
        return self.example, self.side

    @property
    def holds(self) -> bool:
        return self.label in LABELS

    @property
    def is_said(self) -> bool:
        """It says right or wrong."""
        return self.label != "unsure"


Line = TypeVar("Line", Cast, Label)


class LineFiles(Generic[Line]):
    """One file of a verdict's folder, an entry a line: reads, appends, and takes back."""

    def __init__(self, files: VerdictFiles, kind: type[Line]) -> None:
        self._files, self._lock = files, threading.RLock()
        self._kind: type[Line] = kind
        self._name = "vote" if kind is Cast else "label"

    def read(self, id: str) -> list[Line]:
        """A line that cannot be read, such as the last one after a full disk, is left out."""
        try:
            lines = self._file(id).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []
        return [found for line in lines if (found := self._read(line)) is not None]

    def of(self, id: str, owner: str) -> list[Line]:
        """One owner's, as ``read``."""
        return [one for one in self.read(id) if one.owner == owner]

    def add(self, id: str, make: Callable[[list[Line]], Line | None]) -> None:
        """Append what ``make`` says to the entries there are; None = nothing. Raises PlaygroundError."""

        def grown(there: list[Line]) -> list[Line]:
            if (new := make(there)) is not None and len(there) >= LINES_MAX:
                raise PlaygroundError(f"This verdict has {len(there):,} {self._name}s, as many as it may have.")
            return there if new is None else there + [new]  # noqa: RUF005  which mypy takes for lists of either kind

        self.change(id, grown)

    def change(self, id: str, make: Callable[[list[Line]], list[Line]]) -> None:
        """Put what ``make`` makes of the entries in their place, in one step. Raises PlaygroundError."""
        with self._lock:
            there = self.read(id)
            if (new := make(there)) == there:
                return
            try:
                write_text(self._file(id), _as_lines(new))
            except OSError as error:
                why = error.strerror or error
                raise PlaygroundError(f"The {self._name}s were not changed: {why}. Try again.") from error

    def take_back(self, id: str, owner: str) -> None:
        """Remove this owner's last entry, where there is one. Raises PlaygroundError."""

        def make(there: list[Line]) -> list[Line]:
            *_, last = (None, *(one for one in there if one.owner == owner))
            return [one for one in there if one is not last]

        self.change(id, make)

    def _file(self, id: str) -> Path:
        return self._files.folder(id) / f"{self._name}s.jsonl"

    def _read(self, line: str) -> Line | None:
        try:
            found = self._kind(**json.loads(line))
        except (ValueError, TypeError):
            return None
        return found if found.holds else None


def _as_lines(entries: Sequence[Cast] | Sequence[Label]) -> str:
    said = (asdict(one) for one in entries)
    return _jsonl({name: value for name, value in one.items() if name not in ("judge", "key") or value} for one in said)
