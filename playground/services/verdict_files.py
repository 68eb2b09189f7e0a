"""Verdicts in the home folder, one folder each: what was asked, how far it is, the answers, the record.

``request.json`` what was asked · ``state.json`` how far it is · ``answers.jsonl`` every answer as it came, until the end ·
``rows.jsonl`` one line an example and side · ``known.json`` references that their form was read from · ``verdict.json`` the record.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playground.errors import InputError, NotFoundError
from playground.evaluation.measured import Measured
from playground.evaluation.scored import Answered
from playground.library.files import write_json, write_text
from playground.services.verdict_request import VERDICT

ID = re.compile(r"\d{8}-\d{6}-v[0-9a-f]{4}")
SCHEMA = 1
QUEUED, MEASURING, DONE, STOPPED, FAILED = "QUEUED", "MEASURING", "DONE", "STOPPED", "FAILED"
LIVE = (QUEUED, MEASURING)


@dataclass(frozen=True)
class State:
    """state: as above. pid, pid_started_s: of the process that measures. message: in words. error: why it failed or ended early.
    purpose: as in the request."""

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

    def new(self, owner: str, name: str, request: dict[str, Any], now_s: float, purpose: str = VERDICT) -> State:
        stamp = time.strftime("%Y%m%d-%H%M%S-v", time.localtime(now_s))
        state = State(f"{stamp}{secrets.token_hex(2)}", owner, name[:80], now_s, purpose=purpose)
        folder = self._root / state.id
        folder.mkdir(parents=True)
        write_json(folder / "request.json", request)
        self.put(state)
        return state

    def put(self, state: State) -> State:
        write_json(self.folder(state.id) / "state.json", asdict(state))
        return state

    def all(self) -> list[State]:
        """Newest first; what cannot be read is left out."""
        found = []
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            if ID.fullmatch(folder.name) and (state := self.state(folder.name)) is not None:
                found.append(state)
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

    def request(self, id: str) -> dict[str, Any]:
        """Raises InputError when it is gone."""
        found: dict[str, Any] = self._json(id, "request.json") or _gone(id)
        return found

    def record(self, id: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._json(id, "verdict.json")
        return found

    def rows(self, id: str) -> list[dict[str, Any]]:
        return self._lines(id, "rows.jsonl")

    def known(self, id: str) -> list[str]:
        """References that their form was read from."""
        return list(self._json(id, "known.json") or ())

    def keep(self, id: str, answers: Iterable[Answered]) -> None:
        """Write answers down as they come, for the case that nobody lives to save the record. Raises OSError."""
        lines = [json.dumps(row_of(answer, {}), ensure_ascii=False) + "\n" for answer in answers]
        if lines and self.folder(id).is_dir():
            with (self.folder(id) / "answers.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(lines)

    def answers(self, id: str) -> list[Answered]:
        """What ``keep`` wrote down, of one that it wrote again the last; a line that was cut off ends them."""
        kept = answers_of(self._lines(id, "answers.jsonl")).values()
        return list({(answer.example, answer.side): answer for one in kept for answer in one}.values())

    def save(self, id: str, record: dict[str, Any], rows: Iterable[dict[str, Any]], known: Sequence[str]) -> None:
        """Raises OSError."""
        folder = self.folder(id)
        partial = folder / ".rows.jsonl"
        partial.write_text("".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows), encoding="utf-8")
        partial.replace(folder / "rows.jsonl")
        write_text(folder / "known.json", json.dumps(list(known), ensure_ascii=False) + "\n")
        write_json(folder / "verdict.json", record)
        (folder / "answers.jsonl").unlink(missing_ok=True)

    def write(self, id: str, how: str, folder: Path) -> Path:
        """As ``html`` (one file that needs nothing else), ``jsonl`` or ``csv`` into ``folder``. Raises InputError when there is nothing to
        write yet, or nowhere."""
        from playground.evaluation.report import page_html, rows_csv

        record, rows = self.record(id), self.rows(id)
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

    def remove(self, id: str) -> None:
        shutil.rmtree(self.folder(id), ignore_errors=True)

    def _lines(self, id: str, name: str) -> list[dict[str, Any]]:
        """The lines up to the first that cannot be read."""
        found = []
        with contextlib.suppress(OSError, ValueError), (self.folder(id) / name).open(encoding="utf-8", newline="\n") as file:
            for line in file:  # a reply may hold other line ends
                found.append(json.loads(line))
        return found

    def _json(self, id: str, name: str) -> Any:
        try:
            found: Any = json.loads((self.folder(id) / name).read_text(encoding="utf-8"))
            return found
        except (OSError, ValueError):
            return None


def row_of(answer: Answered, measured: dict[str, Measured]) -> dict[str, Any]:
    """One answer as a line of the rows file: the public part first, then what it takes to judge it again."""
    values = {}
    for name, one in measured.items():
        places = {number: at for at, number in enumerate(one.numbers)}
        if answer.example in places and (value := one.values[places[answer.example]]) is not None:
            values[name] = value
    return {
        "example": answer.example, "side": answer.side, "prompt": answer.prompt, "reply": answer.reply, "reference": answer.reference,
        "metrics": values, "stamp": answer.stamp, "question": answer.question, "passages": list(answer.passages),
        "repeats": list(answer.repeats), "prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens,
        "seconds": answer.seconds, "loss": answer.loss,
    }  # fmt: skip


def answers_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[Answered]]:
    """Side -> its answers, as ``row_of`` wrote them."""
    found: dict[str, list[Answered]] = {}
    for row in rows:
        values = {name: row[name] for name in row if name != "metrics"}
        answer = Answered(**{**values, "passages": tuple(row["passages"]), "repeats": tuple(row["repeats"])})
        found.setdefault(answer.side, []).append(answer)
    return found


def _gone(id: str) -> dict[str, Any]:
    raise InputError(f"What {id} asked is gone from the disk. Measure it anew.")
