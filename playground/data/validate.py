"""Records -> rows that can be trained on, and a reason and a fix for each that cannot. Nothing is dropped uncounted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from playground.data.detect import Shape, truth
from playground.data.example import BadRow, Example, Judged, Message, Passage, Preference, RowWarning
from playground.data.records import Broken, Records
from playground.data.turns import Unusable, check_turns, is_turns, plain_text, read_turns

Row = Example | Preference | Judged | Passage
Record = Mapping[str, Any]
_DAMAGED = "\ufffd"
_CONFLICTS: dict[type, tuple[str, str]] = {
    Example: ("prompt", "another answer"),
    Judged: ("prompt and answer", "the opposite label"),
    Preference: ("prompt and answers", "the opposite choice"),
}


@dataclass
class Validated:
    """``len(rows) + len(bad)`` is the number of records. duplicates: rows that repeat an earlier one exactly."""

    rows: list[Row] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    warnings: list[RowWarning] = field(default_factory=list)
    duplicates: int = 0


def validate(records: Records, shape: Shape) -> Validated:
    """Every record as a row of ``shape``'s kind, or as a bad row; duplicates and damaged text as warnings."""
    build = BUILDERS[shape.objective]
    found = Validated()
    earlier: dict[object, int] = {}
    prompts: dict[object, int] = {}
    for number, record in records.rows:
        if isinstance(record, Broken):
            found.bad.append(BadRow(number, record.reason, record.fix))
            continue
        try:
            row = build(record, shape.mapping, number)
        except Unusable as error:
            found.bad.append(BadRow(number, error.reason, error.fix))
            continue
        found.rows.append(row)
        _compare(row, earlier, prompts, found)
        if any(not text.isascii() and _DAMAGED in text for text in _texts(row)):
            found.warnings.append(
                RowWarning(number, f"holds {_DAMAGED}: a character was lost when the file was saved", "damaged")
            )
    return found


def _compare(row: Row, earlier: dict[object, int], prompts: dict[object, int], found: Validated) -> None:
    key, prompt = _keys(row)
    if key in earlier:
        found.duplicates += 1
        found.warnings.append(RowWarning(row.row, f"the same as row {earlier[key]}", "duplicate"))
        return
    earlier[key] = row.row
    if prompt is None:
        return
    if prompt in prompts:
        same, other = _CONFLICTS[type(row)]
        found.warnings.append(RowWarning(row.row, f"same {same} as row {prompts[prompt]}, {other}", "conflict"))
    else:
        prompts[prompt] = row.row


def _keys(row: Row) -> tuple[object, object]:
    """(what makes a row the same as another, what makes it contradict another), character for character."""
    if isinstance(row, Passage):
        return row.text, None
    prompt = tuple((turn.role, turn.content) for turn in row.prompt)
    if isinstance(row, Example):
        return (prompt, row.completion), prompt
    if isinstance(row, Judged):
        return (prompt, row.completion, row.good), (prompt, row.completion)
    pair = (row.chosen, row.rejected)
    return (prompt, *pair), (prompt, *sorted(pair))


def _texts(row: Row) -> Iterator[str]:
    if isinstance(row, Passage):
        yield row.text
        return
    yield from (turn.content for turn in row.prompt)
    if isinstance(row, Preference):
        yield from (row.chosen, row.rejected)
    else:
        yield row.completion


def _example(record: Record, mapping: Mapping[str, str], row: int) -> Example:
    if "messages" in mapping:
        column = mapping["messages"]
        turns = read_turns(_present(record, column, "messages"), repr(column))
        if turns[:1] and turns[0].role != "system":
            turns = (*_system(record, mapping), *turns)
    else:
        turns = (*_prompt(record, mapping), *_answer(record, mapping, "completion", "answer"))
    check_turns(turns)
    return Example(turns, row)


def _judged(record: Record, mapping: Mapping[str, str], row: int) -> Judged:
    example = _example(record, mapping, row)
    column = mapping["label"]
    value = _present(record, column, "label")
    good = truth(value)
    if good is None:
        said = "empty" if value is None or value == "" else f"{str(value)[:40]!r}, neither true nor false"
        raise Unusable(f"the label ({column}) is {said}", "Write true for a good answer, false for a bad one.")
    return Judged(example.prompt, example.completion, good, row)


def _preference(record: Record, mapping: Mapping[str, str], row: int) -> Preference:
    """TRL's two shapes: a prompt and two answers, or two whole conversations that differ in the last answer only."""
    whole = {side: _answer(record, mapping, side, f"{side} answer") for side in ("chosen", "rejected")}
    heads = {turns[:-1] for turns in whole.values()}
    if len(heads) > 1:
        raise Unusable("chosen and rejected do not share one prompt", "Let them differ in the last answer only.")
    head = heads.pop()
    if not head and "prompt" not in mapping:
        raise Unusable("no prompt: chosen and rejected are answers alone", "Add a prompt column.")
    prompt = (*_system(record, mapping), *head) if head and head[0].role != "system" else head or _prompt(record, mapping)
    chosen, rejected = (turns[-1].content for turns in whole.values())
    check_turns((*prompt, Message("assistant", chosen)))
    if chosen.strip() == rejected.strip():
        raise Unusable("chosen and rejected are the same", "Give two different answers, or remove the row.")
    return Preference(prompt, chosen, rejected, row)


def _passage(record: Record, mapping: Mapping[str, str], row: int) -> Passage:
    return Passage(_text(record, mapping["text"], "text"), row)


BUILDERS: dict[str, Callable[[Record, Mapping[str, str], int], Row]] = {
    "sft": _example,
    "preference": _preference,
    "unpaired_preference": _judged,
    "text": _passage,
}


def _present(record: Record, column: str, what: str) -> Any:
    if column not in record:
        raise Unusable(f"no {what}: {column!r} is missing", f"Add {column!r}, or remove the row.")
    return record[column]


def _text(record: Record, column: str, what: str) -> str:
    text = plain_text(_present(record, column, what), f"the {what} ({column})")
    if not text.strip():
        raise Unusable(f"the {what} is empty ({column})", "Fill it in, or remove the row.")
    return text


def _system(record: Record, mapping: Mapping[str, str]) -> tuple[Message, ...]:
    text = plain_text(record.get(mapping["system"]), f"the system prompt ({mapping['system']})") if "system" in mapping else ""
    return (Message("system", text),) if text.strip() else ()


def _prompt(record: Record, mapping: Mapping[str, str]) -> tuple[Message, ...]:
    """The system turn if there is one and the user's; an instruction and its input make one turn."""
    column = mapping["prompt"]
    value = _present(record, column, "prompt")
    if is_turns(value):
        turns = read_turns(value, repr(column))
        return turns if turns[:1] and turns[0].role == "system" else (*_system(record, mapping), *turns)
    extra = plain_text(record.get(mapping["input"]), f"the input ({mapping['input']})") if "input" in mapping else ""
    if extra.strip():
        instruction = plain_text(value, f"the prompt ({column})")
        text = f"{instruction}\n\n{extra}" if instruction.strip() else extra
    else:
        text = _text(record, column, "prompt")
    return (*_system(record, mapping), Message("user", text))


def _answer(record: Record, mapping: Mapping[str, str], role: str, what: str) -> tuple[Message, ...]:
    """An answer's text, or the turns that end with it."""
    column = mapping[role]
    value = _present(record, column, what)
    if is_turns(value):
        turns = read_turns(value, repr(column))
        if not turns or turns[-1].role != "assistant":
            raise Unusable(f"the {what} ({column}) does not end with an assistant turn", "Add the assistant's answer.")
        return turns
    return (Message("assistant", _text(record, column, what)),)
