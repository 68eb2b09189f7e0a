"""Replies that were recorded elsewhere: a file of prompts and what a model said to them, joined to examples by the
prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.data.check import prompt_of
from playground.data.columns import detect
from playground.data.example import TOOL, TOOLS, Example, Message, parted
from playground.data.files import opened, read_records
from playground.data.records import Records
from playground.data.turns import Unusable, is_turn, plain_text, turn_text
from playground.errors import InputError

REPLIES = ("reply", "response", "model_output", "prediction")
"""Columns that hold a reply where another one may hold the right answer."""
TABLES = (".csv", ".tsv", ".xlsx", ".csv.gz", ".tsv.gz")
"""Where an empty cell is no reply: a table cannot say anything else by it. In JSON ``""`` is an empty reply."""
OF_A_VERDICT = {"example", "side", "question", "reply"}
"""Columns of the rows file of a verdict, whose ``prompt`` is rendered and whose ``question`` is as it was asked."""
SHOWN = 12
TAKES = "It takes rows with prompt and reply, or with messages that end with the assistant's reply (JSONL or CSV)"


@dataclass(frozen=True)
class Said:
    """One recorded reply. row: its number in the file. tokens: read and written, None where the file does not say."""

    row: int
    prompt: tuple[Message, ...]
    reply: str
    tokens: tuple[int, int] | None = None


@dataclass(frozen=True)
class Joined:
    """replies: number of an example -> its reply. missing: examples without one. several: examples whose prompt has
    several different replies, of which the first counts. unused: replies to no example."""

    replies: Mapping[int, Said]
    missing: tuple[int, ...] = ()
    several: tuple[int, ...] = ()
    unused: int = 0

    @property
    def words(self) -> str:
        """``Replies to 38 of 40 rows; none to rows 3 and 9; 4 replies are to other prompts.``"""
        parts = [f"Replies to {len(self.replies)} of {len(self.replies) + len(self.missing)} rows"]
        parts += [f"none to {rows_words(self.missing)}"] if self.missing else []
        if self.several:
            parts.append(f"several different ones to {rows_words(self.several)}, of which the first counts")
        parts += [f"{self.unused} are to other prompts"] if self.unused else []
        return "; ".join(parts) + "."


def rows_words(rows: Sequence[int]) -> str:
    """``row 3``, ``rows 3, 9 and 12``, ``rows 1, 2, … and 40 more``."""
    shown = [str(row) for row in rows[:SHOWN]]
    last = f"{len(rows) - SHOWN} more" if len(rows) > SHOWN else shown.pop()
    return f"rows {', '.join(shown)} and {last}" if shown else f"row {last}"


def read_replies(path: Path, limit_bytes: int, column: str = "", side: str = "") -> tuple[Said, ...]:
    """Every reply of a file, in its order; rows without a prompt or a reply are left out. column: that holds them, "" =
    by its name. side: whose, in the rows file of a verdict that has several. Raises InputError."""
    with opened(path, limit_bytes) as files:
        if len(files) > 1:
            raise InputError(f"{path.name} holds {len(files)} files, and replies are read from one. Name that one.")
        return _read(files[0], limit_bytes, column, side)


def _read(path: Path, limit_bytes: int, column: str, side: str) -> tuple[Said, ...]:
    records = read_records(path, limit_bytes)
    if column and column not in records.columns:
        raise InputError(f"{path.name} has no column {column!r}. It has {', '.join(records.columns)[:300]}.")
    column = column or next((name for name in REPLIES if name in records.columns), "")
    mapping, is_table = _mapping(path.name, records, column), path.name.lower().endswith(TABLES)
    rows = [(number, record) for number, record in records.rows if not isinstance(record, Unusable)]
    if set(records.columns) >= OF_A_VERDICT and len(sides := {str(one["side"]): None for _, one in rows}) > 1:
        if side not in sides:
            raise InputError(f"{path.name} holds replies of {', '.join(sides)}. Say whose: name=LABEL, as it is there.")
        rows = [(number, record) for number, record in rows if record["side"] == side]
    found = []
    for number, record in rows:
        try:
            prompt, reply = _exchange(record, mapping, column)
        except Unusable:
            continue
        if reply is not None and (reply.strip() or not is_table):
            found.append(Said(number, prompt, reply, _tokens(record)))
    if not found:
        raise InputError(f"{path.name} holds no reply to a prompt. {TAKES}.")
    return tuple(found)


def _mapping(name: str, records: Records, column: str) -> Mapping[str, str]:
    """Which column holds the prompt and which the reply, or which one the chat. Raises InputError."""
    guesses: list[dict[str, str]] = [{}, {"completion": column}] if column else [{}]
    if set(records.columns) >= OF_A_VERDICT:
        guesses = [{"prompt": "question", "completion": column}]
    for given in guesses:
        try:
            found = detect(records, given).mapping
        except InputError:
            continue
        if "messages" in found or (found.keys() >= {"prompt", "completion"} and column in ("", found["completion"])):
            return found
    raise InputError(f"{name} has the columns {', '.join(records.columns)[:300]}. {TAKES}.")


def _exchange(
    record: Mapping[str, Any], mapping: Mapping[str, str], column: str
) -> tuple[tuple[Message, ...], str | None]:
    """(the prompt; what was replied, None = nothing is recorded). Raises Unusable."""
    column, chat = column or mapping.get("completion", ""), mapping.get("messages", "")
    said, turns = record.get(column), record.get(chat)
    if isinstance(turns, list) and len(turns) > 1 and not column and is_turn(turns[-1]):
        head, last = prompt_of({**record, chat: turns[:-1]}, mapping), turns[-1]
        if head and head[-1].role in ("user", TOOL) and not last.get("tool_calls"):
            content = next((last[key] for key in ("content", "value", "parts") if last.get(key) is not None), "")
            return head, parted(turn_text(content, len(turns)), opened=None).answer
    prompt = prompt_of(record, mapping)
    if prompt and prompt[-1].role == "assistant":
        said, prompt = (prompt[-1].content if said is None else said), prompt[:-1]
    if not prompt or prompt[-1].role not in ("user", TOOL):
        raise Unusable("no prompt before the reply", "Add it.")
    return prompt, None if said is None else parted(plain_text(said, "the reply"), opened=None).answer


def _tokens(record: Mapping[str, Any]) -> tuple[int, int] | None:
    read, written = record.get("prompt_tokens"), record.get("completion_tokens")
    known = str(read).isdecimal() and str(written).isdecimal()
    return (int(str(read)), int(str(written))) if known else None


def join(said: Sequence[Said], examples: Sequence[Example], *, same_file: bool = False) -> Joined:
    """Each example's reply, by its prompt: the whole of it, then without its system prompt, then its question alone
    where no more was recorded; each exact, then but for white space. same_file: by the row, since examples and replies
    stand in one."""
    if same_file:
        by_row = {one.row: one for one in said}
        replies = {one.row: by_row[one.row] for one in examples if one.row in by_row}
        return Joined(replies, tuple(one.row for one in examples if one.row not in replies))
    there: dict[Hashable, list[Said]] = {}
    for one in said:
        for key in _keys(one.prompt):
            there.setdefault(key, []).append(one)
    asked = Counter(key for one in examples for key in {*_keys(one.prompt), *_keys(one.prompt[-1:])})
    replies, several, used = {}, [], set[int]()
    for example in examples:
        keys = _keys(example.prompt)
        keys += [key for key in _keys(example.prompt[-1:]) if asked[key] == 1]
        found = next((there[key] for key in keys if key in there), None)
        if found is None:
            continue
        replies[example.row] = found[0]
        used |= {one.row for one in found}
        several += [example.row] * (len({one.reply.strip() for one in found}) > 1)
    missing = tuple(one.row for one in examples if one.row not in replies)
    return Joined(replies, missing, tuple(several), len(said) - len(used))


def _keys(prompt: Sequence[Message]) -> list[Hashable]:
    asked = [one for one in prompt if one.role not in ("system", TOOLS)]
    exact = [tuple((one.role, one.content) for one in turns) for turns in (prompt, asked)]
    return [*exact, *(tuple((role, " ".join(text.split())) for role, text in turns) for turns in exact)]
