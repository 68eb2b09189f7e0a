"""Records -> rows that can be trained on, and a reason and a fix for each that cannot. Nothing is dropped uncounted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from playground.data.column_aliases import spelling
from playground.data.column_profile import first_won, truth
from playground.data.columns import Shape
from playground.data.duplicates import Repeats
from playground.data.example import BadRow, Example, Judged, Message, Passage, Preference, Row, RowWarning, texts_of
from playground.data.readers.limits import OnProgress
from playground.data.readers.records import Broken, Records
from playground.data.turns import (
    Unusable,
    check_turns,
    is_turn,
    is_turns,
    plain_text,
    read_transcript,
    read_turns,
    turn_text,
)

Record = Mapping[str, Any]
_DAMAGED = "\ufffd"
_LABELS = 50
"""A column with more different answers than this is no set of labels."""


@dataclass
class Validated:
    """``len(rows) + len(bad)`` is the number of records. duplicates: rows that repeat an earlier one exactly.

    Several files go in one after the other with ``add``; ``finish`` compares the rows of all of them.
    """

    rows: list[Row] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    warnings: list[RowWarning] = field(default_factory=list)
    duplicates: int = 0
    _repeats: Repeats = field(default_factory=Repeats)

    def add(self, records: Records, shape: Shape, offset: int = 0, on_progress: OnProgress | None = None) -> int:
        """Every record of a file, numbered on from ``offset``; returns the highest number. on_progress: called with the
        share done."""
        build = BUILDERS[shape.objective]
        last, total = offset, max(1, len(records.rows))
        start = len(self.rows)
        for place, (own, record) in enumerate(records.rows):
            last = number = own + offset
            if on_progress is not None and place % 256 == 0:
                on_progress(place / total)
            if isinstance(record, Broken):
                self.bad.append(BadRow(number, record.reason, record.fix))
                continue
            try:
                row = build(record, shape, number)
            except Unusable as error:
                self.bad.append(BadRow(number, error.reason, error.fix))
                continue
            self.rows.append(row)
            self._repeats.add(row)
            if any(not text.isascii() and _DAMAGED in text for text in texts_of(row)):
                reason = f"holds {_DAMAGED}: a character was lost when the file was saved"
                self.warnings.append(RowWarning(number, reason, "damaged"))
        if shape.objective == "sft" and "messages" not in shape.mapping:
            self.warnings += _odd_labels([row for row in self.rows[start:] if isinstance(row, Example)])
        return last

    def finish(self) -> Validated:
        """Adds the warnings of duplicates and conflicts, and puts all in the order of the rows."""
        repeats = [*self._repeats.warnings()]
        self.duplicates = sum(warning.kind == "duplicate" for warning in repeats)
        self.warnings = sorted((*repeats, *self.warnings), key=lambda warning: warning.row)
        return self


def validate(records: Records, shape: Shape) -> Validated:
    """Every record as a row of ``shape``'s kind, or as a bad row; duplicates, odd labels and damaged text as
    warnings."""
    found = Validated()
    found.add(records, shape)
    return found.finish()


def _odd_labels(rows: list[Example]) -> Iterator[RowWarning]:
    """A label that occurs once and is spelt like a frequent one: ``Spam`` among two hundred of ``spam``.

    Only where the answers are a set of labels: at least 20 rows, short answers, few of them different.
    """
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row.completion] += 1
        if len(counts) > _LABELS:
            return
    if len(rows) < 20 or len(counts) * 4 > len(rows) or max(map(len, counts)) > 60:
        return
    usual: dict[str, str] = {}
    for label, _ in counts.most_common():
        usual.setdefault(spelling(label) or label, label)
    for row in rows:
        twin = usual[spelling(row.completion) or row.completion]
        if counts[row.completion] <= 2 and counts[twin] >= 5 and twin != row.completion:
            reason = f"the label {row.completion[:40]!r} is spelt {twin[:40]!r} in {counts[twin]} other rows"
            yield RowWarning(row.row, reason, "label")


def _example(record: Record, shape: Shape, row: int) -> Example:
    mapping = shape.mapping
    if "messages" in mapping:
        column = mapping["messages"]
        turns = read_turns(_present(record, column, "messages"), repr(column))
        if turns[:1] and turns[0].role != "system":
            turns = (*_system(record, mapping), *turns)
    else:
        turns = (*_prompt(record, mapping), *_answer(record, mapping, "completion", "answer"))
    check_turns(turns)
    return Example(turns, row)


def _judged(record: Record, shape: Shape, row: int) -> Judged:
    example = _example(record, shape, row)
    column = shape.mapping["label"]
    value = _present(record, column, "label")
    good = truth(value)
    if good is None:
        said = "empty" if value is None or value == "" else f"{str(value)[:40]!r}, neither true nor false"
        raise Unusable(f"the label ({column}) is {said}", "Write true for a good answer, false for a bad one.")
    return Judged(example.prompt, example.completion, good, row)


def _preference(record: Record, shape: Shape, row: int) -> Preference:
    """A prompt and two answers, or two whole chats that differ in the last answer only; a label may say which is
    better."""
    mapping = shape.mapping
    whole = {side: _side(record, mapping, side) for side in ("chosen", "rejected")}
    heads = {turns[:-1] for turns in whole.values()}
    if len(heads) > 1:
        raise Unusable("chosen and rejected do not share one prompt", "Let them differ in the last answer only.")
    head = heads.pop()
    if not head and "prompt" not in mapping:
        raise Unusable("no prompt: chosen and rejected are answers alone", "Add a prompt column.")
    if not head:
        prompt = _prompt(record, mapping)
    elif head[0].role == "assistant" and "prompt" in mapping:  # the turns go on from the prompt
        prompt = (*_prompt(record, mapping), *head)
    else:
        prompt = head if head[0].role == "system" else (*_system(record, mapping), *head)
    chosen, rejected = (turns[-1].content for turns in whole.values())
    check_turns((*prompt, Message("assistant", chosen)))
    if chosen.strip() == rejected.strip():
        raise Unusable("chosen and rejected are the same", "Give two different answers, or remove the row.")
    if "label" in mapping and not _first_is_better(record, mapping["label"], shape.lowest):
        chosen, rejected = rejected, chosen
    return Preference(prompt, chosen, rejected, row)


def _first_is_better(record: Record, column: str, lowest: int) -> bool:
    value = _present(record, column, "choice")
    won = first_won(value, lowest)
    if won is None:
        said = "is empty" if value is None or value == "" else f"says {str(value)[:40]!r}, neither of the two answers"
        raise Unusable(f"the choice ({column}) {said}", "Say which answer is better (a or b), or leave the row out.")
    return won


BUILDERS: dict[str, Callable[[Record, Shape, int], Row]] = {
    "sft": _example,
    "preference": _preference,
    "unpaired_preference": _judged,
    "text": lambda record, shape, row: Passage(_text(record, shape.mapping["text"], "text"), row),
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
    if "system" not in mapping:
        return ()
    value = record.get(mapping["system"])
    what = f"the system prompt ({mapping['system']})"
    if isinstance(value, dict) and is_turn(value):  # Gemini's systemInstruction
        value = turn_text(value.get("parts", value.get("content")), 1)
    text = plain_text(value, what)
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


def _side(record: Record, mapping: Mapping[str, str], side: str) -> tuple[Message, ...]:
    """One of two answers; without a prompt column a text such as ``Human: … Assistant: …`` is a whole chat."""
    value = record.get(mapping[side])
    turns = read_transcript(value) if isinstance(value, str) and "prompt" not in mapping else ()
    if not turns:
        return _answer(record, mapping, side, f"{side} answer")
    if turns[-1].role != "assistant" or not turns[-1].content:
        raise Unusable(
            f"the {side} answer ({mapping[side]}) does not end with the assistant's words", "Add its answer."
        )
    return read_turns(value, repr(mapping[side]))


def _answer(record: Record, mapping: Mapping[str, str], role: str, what: str) -> tuple[Message, ...]:
    """An answer's text, the turns that end with it, or the first of several right ones (SQuAD)."""
    column = mapping[role]
    value = _present(record, column, what)
    if isinstance(value, dict) and is_turn(value):
        value = [value]
    if is_turns(value):
        turns = read_turns(value, repr(column))
        if not turns or turns[-1].role != "assistant":
            raise Unusable(f"the {what} ({column}) does not end with an assistant turn", "Add the assistant's answer.")
        return turns
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        text = next((text for text in value if text.strip()), "")
        if not text:
            raise Unusable(f"the {what} is empty ({column})", "Fill it in, or remove the row.")
        return (Message("assistant", plain_text(text, f"the {what} ({column})")),)
    return (Message("assistant", _text(record, column, what)),)
