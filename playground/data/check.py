"""Numbered records -> rows that can be trained on, and bad rows with reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from playground.data.column_profile import Usage, own_part, spelling, truth
from playground.data.columns import Shape
from playground.data.example import (
    TOOLS,
    BadRow,
    Checked,
    Example,
    FilePart,
    Judged,
    Message,
    Passage,
    Preference,
    PromptOnly,
    Repair,
    Row,
    RowWarning,
    Unused,
    answer_turn,
    is_marked,
    picture_in,
    read_markup,
    texts_of,
    uses_tools,
    without_end,
)
from playground.data.files import MEBI, READING, Part, Paths, no_usable_rows, opened, plain_split, read_parts
from playground.data.layouts import first_won, options_text, source_text
from playground.data.records import AS_FOUND, OnProgress, Progress, Reading, reading_of
from playground.data.split import Repeats
from playground.data.turns import (
    Turns,
    Unusable,
    check_turns,
    is_turn,
    is_turns,
    mended,
    plain_text,
    read_transcript,
    read_turns,
    turn_text,
    with_tools,
)
from playground.errors import InputError

Record = Mapping[str, Any]
_DAMAGED = "\ufffd"
_TEXT_ONLY = "Only text can be trained on: leave the row out, or describe in words what it shows."
_LABELS = 50  # a column with more different answers than this is no set of labels


def check_file(
    path: Paths,
    mapping: Mapping[str, str] | None = None,
    limit_bytes: int = 256 * MEBI,
    progress: OnProgress | None = None,
) -> Checked:
    """What is in a file, several, or a folder, without a tokenizer; raises InputError where nothing is usable.

    mapping: role -> column of every file, and what of ``Reading`` was chosen, where the person knows better.
    limit_bytes: for all files together.
    """
    whole = Progress(progress)
    reading, roles = reading_of(mapping)
    with opened(path, limit_bytes) as paths:
        checked = validate(read_parts(paths, roles, limit_bytes, whole, reading), whole, reading)
    if not checked.good:
        error = no_usable_rows(paths[0].name if len(paths) == 1 else "The files", checked.rows, checked.bad)
        able = {row for one in checked.repairable if not one.leaves_out for row in one.rows}
        mends = f" Repair makes {len(able)} of them usable (on the command line: --repair)." if able else ""
        raise InputError(f"{error}{mends}")
    whole.at(1)
    return checked


def validate(parts: Sequence[Part], progress: Progress, reading: Reading = AS_FOUND) -> Checked:
    """Every record, numbered on through all files, as a row or a bad row; and the warnings, in the rows' order."""
    count, mender = sum(len(part.records.rows) for part in parts), Mender()
    rows: list[Row] = []
    bad: list[BadRow] = []
    warnings: list[RowWarning] = []
    files: list[FilePart] = []
    unused: dict[str, Unused] = {}
    spelt = {plain_split(name): name for part in reversed(parts) for name in reversed(part.splits)}
    splits: dict[str, int | None] = dict.fromkeys(reversed(spelt.values()))
    held: dict[int, str] = {}
    repeats = Repeats()
    last = done = 0
    for part in parts:
        offset, start, shape, splits_up = last, len(rows), part.shape, bool(part.split or part.column)
        usage = Usage(part.records.columns, shape.mapping)
        for own, record in part.records.rows:
            last, done = own + offset, done + 1
            if splits_up:
                said = record.get(part.column) if isinstance(record, dict) else None
                split = part.split or str(said or "")
                split = spelt.setdefault(plain_split(split), split)
                splits[split] = (splits.get(split) or 0) + 1
                if not reading.split and (kind := own_part(split)) in ("validation", "test"):
                    held[last] = kind
            if done % 256 == 0:
                progress.at(READING + (1 - READING) * done / count)
            if isinstance(record, Unusable):
                bad.append(BadRow(last, record.reason, record.fix))
                continue
            try:
                row = (mender.row if reading.repair else _row)(record, shape, last)
            except Unusable as error:
                if is_blank(record, shape.mapping):
                    mender.add(BLANK, last)
                    if reading.repair:
                        continue
                elif not reading.repair:
                    with suppress(Unusable):
                        mender.row(record, shape, last)
                bad.append(BadRow(last, error.reason, error.fix))
                continue
            text = "".join(texts_of(row))
            if not reading.repair and is_marked(text):
                mender.look(row)
            rows.append(row)
            repeats.add(row)
            usage.add(record, row, mender.before if reading.repair else ())
            if not text.isascii() and _DAMAGED in text:
                reason = f"holds {_DAMAGED}: a character was lost when the file was saved"
                warnings.append(RowWarning(last, reason, "damaged"))
        if shape.objective == "sft" and "messages" not in shape.mapping:
            warnings += _odd_labels([row for row in rows[start:] if isinstance(row, Example)])
        last = max(last, offset + part.last)
        files.append(FilePart(part.name, offset + 1, last - offset))
        unused |= {one.column: one for one in usage.found() if one.column != part.column}
    if (blank := splits.pop("", None)) is not None:  # rows that say nothing are of the split to train on
        train = next((name for name in splits if own_part(name) == "train"), "train")
        splits[train] = blank + (splits.get(train) or 0)
    again = [*repeats.warnings()]
    for warning in again:
        if warning.kind == DUPLICATE:
            mender.add(DUPLICATE, warning.row)
    repairs = mender.found()
    if reading.repair:
        left_out = {row for one in repairs if one.leaves_out for row in one.rows}
        count -= len(left_out)
        rows = [row for row in rows if row.row not in left_out]
        again, warnings = ([one for one in some if one.row not in left_out] for some in (again, warnings))
    shapes = [part.shape for part in parts]
    sure = min(shapes, key=lambda shape: shape.confidence)
    return Checked(
        format=" + ".join(dict.fromkeys(shape.format for shape in shapes)),
        objective=sure.objective,
        rows=count,
        examples=tuple(row for row in rows if isinstance(row, Example)),
        bad=tuple(bad),
        warnings=tuple(sorted((*again, *warnings), key=lambda warning: warning.row)),
        duplicates=sum(warning.kind == "duplicate" for warning in again),
        columns=tuple(dict.fromkeys(column for part in parts for column in part.records.columns)),
        mapping=shapes[0].mapping,
        others=tuple(row for row in rows if not isinstance(row, Example)),
        confidence=sure.confidence,
        why=sure.why if len(parts) == 1 else "; ".join(f"{part.name}: {part.shape.why}" for part in parts),
        unused=tuple(unused.values()),
        encoding=" + ".join(dict.fromkeys(part.records.encoding for part in parts if part.records.encoding)),
        reading=reading.said(),
        sheet=" + ".join(dict.fromkeys(part.records.sheet for part in parts if part.records.sheet)),
        sheets=tuple(dict.fromkeys(sheet for part in parts for sheet in part.records.sheets)),
        splits=splits,
        held=held,
        repairs=repairs if reading.repair else (),
        repairable=() if reading.repair else repairs,
        files=tuple(files) if len(parts) > 1 else (),
    )


def _row(record: Record, shape: Shape, number: int, mend: Mend = lambda turns: turns) -> Row:
    """Raises Unusable."""
    for column in shape.pictures:
        if isinstance(record.get(column), list | dict | bytes) and record[column]:
            raise Unusable(f"holds more than text ({column})", _TEXT_ONLY)
    row = BUILDERS[shape.objective](record, shape, number, mend)
    for turn in row.prompt:
        if turn.role == "user" and picture_in(turn.content):
            raise Unusable("asks about a picture or a sound that stands beside the text", _TEXT_ONLY)
    return row


def _odd_labels(rows: list[Example]) -> Iterator[RowWarning]:
    """Labels that occur once and are spelt like a frequent one; only where short answers are a set of labels."""
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


def prompt_of(record: Record, mapping: Mapping[str, str]) -> tuple[Message, ...]:
    """The turns of a row before its answer; of a chat, all of them. mapping: as in ``Shape``. Raises Unusable."""
    if column := mapping.get("messages"):
        turns = read_turns(_present(record, column, "messages"), repr(column))
        return _offered(_with_system(turns, record, mapping), record, mapping)
    return _prompt(record, mapping)


def _offered(turns: tuple[Message, ...], record: Record, mapping: Mapping[str, str]) -> tuple[Message, ...]:
    """The turns with what may be called; as they are where the row names nothing. Raises Unusable."""
    column = mapping.get("tools")
    return with_tools(turns, record.get(column), column) if column else turns


def _example(record: Record, shape: Shape, row: int, mend: Mend) -> Example:
    """Up to the last answer that may be learned: what stands after it is no prompt to anything."""
    turns = prompt_of(record, shape.mapping)
    if "messages" not in shape.mapping:
        turns = _offered((*turns, *_answer(record, shape.mapping, "completion", "answer")), record, shape.mapping)
    turns = mend(turns)
    check_turns(turns)
    if turns[-1].learned and turns[-1].role == "assistant":
        return Example(turns, row)
    last = max((place for place, turn in enumerate(turns) if turn.role == "assistant" and turn.learned), default=None)
    if last is None:
        fix = "Give one of them the weight 1 (loss or train: true), or remove the row."
        raise Unusable("no answer of it may be learned: the weight of each is 0", fix)
    return Example(turns[: last + 1], row)


def _judged(record: Record, shape: Shape, row: int, mend: Mend) -> Judged:
    example = _example(record, shape, row, mend)
    column = shape.mapping["label"]
    value = _present(record, column, "label")
    good = truth(value)
    if good is None:
        said = "empty" if value in (None, "") else f"{str(value)[:40]!r}, neither true nor false"
        raise Unusable(f"the label ({column}) is {said}", "Write true for a good answer, false for a bad one.")
    return Judged(example.prompt, example.messages[-1].whole, good, row)


def _preference(record: Record, shape: Shape, row: int, mend: Mend) -> Preference:
    """A prompt and two answers, or two whole chats that differ in the last answer; a label may say which is better."""
    mapping = shape.mapping
    sides = [_side(record, mapping, side) for side in ("chosen", "rejected")]
    calls = uses_tools(sides[0] + sides[1])
    sides = [tuple(turn for turn in turns if turn.role != TOOLS) for turns in sides]
    heads = [tuple(replace(turn, learned=True) for turn in turns[:-1]) for turns in sides]  # the answers alone are
    head = heads[0]
    if head != heads[1]:
        raise Unusable("chosen and rejected do not share one prompt", "Let them differ in the last answer only.")
    if not head and "prompt" not in mapping:
        raise Unusable("no prompt: chosen and rejected are answers alone", "Add a prompt column.")
    if not head or (head[0].role == "assistant" and "prompt" in mapping):  # the turns go on from the prompt
        prompt = (*_prompt(record, mapping), *head)
    else:
        prompt = _with_system(head, record, mapping)
    prompt = (Message(TOOLS, "[]"), *prompt) if calls and not uses_tools(prompt) else prompt
    chosen, rejected = (turns[-1].whole for turns in sides)
    whole = _offered((*prompt, Message("assistant", chosen)), record, mapping)
    if prompt and prompt[-1].role == "user":
        whole = mend(whole)
    prompt, chosen = whole[:-1], whole[-1].content
    check_turns(whole)
    if chosen.strip() == rejected.strip():
        raise Unusable("chosen and rejected are the same", "Give two different answers, or remove the row.")
    if column := mapping.get("label"):
        value = _present(record, column, "choice")
        won = first_won(value, shape.lowest)
        if won is None:
            said = "is empty" if value in (None, "") else f"says {str(value)[:40]!r}, neither of the two answers"
            fix = "Say which answer is better (a or b), or leave the row out."
            raise Unusable(f"the choice ({column}) {said}", fix)
        if not won:
            chosen, rejected, sides = rejected, chosen, sides[::-1]
    if not sides[0][-1].learned:
        fix = "Give it the weight 1 (loss or train: true), or remove the row."
        raise Unusable("the better answer may not be learned: its weight is 0", fix)
    return Preference(prompt, chosen, rejected, row)


def _prompt_only(record: Record, shape: Shape, row: int, mend: Mend) -> PromptOnly:
    answer = Message("assistant", "?")
    turns = mend((*prompt_of(record, shape.mapping), answer))
    check_turns(turns)
    return PromptOnly(turns[:-1], row)


BUILDERS: dict[str, Callable[[Record, Shape, int, Mend], Row]] = {
    "sft": _example,
    "preference": _preference,
    "unpaired_preference": _judged,
    "prompts": _prompt_only,
    "text": lambda record, shape, row, _: Passage(_text(record, shape.mapping["text"], "text"), row),
}


def _present(record: Record, column: str, what: str) -> Any:
    if column not in record:
        raise Unusable(f"no {what}: {column!r} is missing", f"Add {column!r}, or remove the row.")
    return record[column]


def _text(record: Record, column: str, what: str) -> str:
    if (text := plain_text(_present(record, column, what), f"the {what} ({column})")).strip():
        return text
    raise Unusable(f"the {what} is empty ({column})", "Fill it in, or remove the row.")


def _with_system(turns: tuple[Message, ...], record: Record, mapping: Mapping[str, str]) -> tuple[Message, ...]:
    """The turns after the system column's text, unless they begin with a system turn of their own."""
    if "system" not in mapping or not turns or turns[0].role == "system":
        return turns
    value = record.get(mapping["system"])
    if isinstance(value, dict) and is_turn(value):  # Gemini's systemInstruction
        value = value.get("parts", value.get("content"))
    if isinstance(value, list):  # Anthropic's blocks
        value = turn_text(value, 1)
    text = plain_text(value, f"the system prompt ({mapping['system']})")
    return (Message("system", text), *turns) if text.strip() else turns


def _prompt(record: Record, mapping: Mapping[str, str]) -> tuple[Message, ...]:
    """The system turn if there is one and the user's; an instruction and its input make one turn."""
    column = mapping["prompt"]
    value = _present(record, column, "prompt")
    if is_turns(value):
        return _with_system((*_history(record, mapping), *read_turns(value, repr(column))), record, mapping)
    if isinstance(value, str) and (marked := read_markup(value)):
        return _with_system(tuple(Message(role, said) for role, said in marked), record, mapping)
    extra = source_text(record.get(mapping["input"]), f"the input ({mapping['input']})") if "input" in mapping else ""
    if extra.strip():
        instruction = plain_text(value, f"the prompt ({column})")
        text = f"{instruction}\n\n{extra}" if instruction.strip() else extra
    else:
        text = _text(record, column, "prompt")
    if "options" in mapping:
        text += options_text(record, mapping["options"], record.get(mapping.get("completion", "")))
    return _with_system((*_history(record, mapping), Message("user", text)), record, mapping)


def _history(record: Record, mapping: Mapping[str, str]) -> tuple[Message, ...]:
    """The turns before the prompt; () where a row has none."""
    column = mapping.get("history")
    value = record.get(column) if column else None
    return () if value in (None, "", [], "[]") else read_turns(value, repr(column))


def _side(record: Record, mapping: Mapping[str, str], side: str) -> tuple[Message, ...]:
    """One of two answers; without a prompt column a text such as ``Human: … Assistant: …`` is a whole chat."""
    value = record.get(mapping[side])
    turns = read_transcript(value) if isinstance(value, str) and "prompt" not in mapping else ()
    if not turns:
        return _answer(record, mapping, side, f"{side} answer")
    if turns[-1].role != "assistant" or not turns[-1].content:
        what = f"the {side} answer ({mapping[side]})"
        raise Unusable(f"{what} does not end with the assistant's words", "Add its answer.")
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
    if isinstance(value, str) and "<|" in value and (marked := read_markup(value)) and len(marked) == 1:
        value = [marked[0][1]]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        record = {column: next(filter(str.strip, value), "")}
    thought = plain_text(record.get(mapping["thought"]), "the thought") if "thought" in mapping else ""
    if not (turn := answer_turn(without_end(_text(record, column, what)), thought)).content.strip():
        raise Unusable(f"the {what} ({column}) holds a thought and no answer", "Add the answer, or remove the row.")
    return (turn,)


# -- repair: rows that are easily mended, and rows that teach nothing: what is done to their turns, or would be --------

BLANK, DUPLICATE = "blank", "duplicate"
_FILLED = ("prompt", "input", "completion", "messages", "chosen", "rejected", "text")
"""Roles of which one at least holds something in a row that is not blank."""
Mend = Callable[[Turns], Turns]


def is_blank(record: Mapping[str, Any], mapping: Mapping[str, str]) -> bool:
    """Whether a row holds nothing to learn from, whatever stands beside that. mapping: role -> column."""
    held = (record.get(column) for role, column in mapping.items() if role in _FILLED)
    return not any(value.strip() if isinstance(value, str) else value not in (None, [], {}) for value in held)


def _said(record: Record, column: str) -> Record:
    """A row without the turns at a chat's end that say nothing."""
    turns = record.get(column)
    if not isinstance(turns, list):
        return record
    end = len(turns)
    while end and isinstance(turn := turns[end - 1], dict) and is_turn(turn) and not any(map(turn.get, _SAYS)):
        end -= 1
    return record if end == len(turns) else {**record, column: turns[:end]}


_SAYS = ("content", "value", "text", "parts", "message", "utterance", "tool_calls", "function_call")


class Mender:
    """Mends one row after another, and keeps what it did to which."""

    def __init__(self) -> None:
        self._rows: dict[str, list[int]] = {}
        self.before: list[str] = []  # texts of the last row's turns as they were, empty where nothing was done to them

    def row(self, record: Record, shape: Shape, number: int) -> Row:
        """The row that is built of mended turns. Raises Unusable."""
        said = _said(record, shape.mapping.get("messages", ""))
        kinds = ["end"] if said is not record else []

        def mend(turns: Turns) -> Turns:
            found, did = mended(turns)
            kinds.extend(did)
            self.before += [turn.content for turn in turns if did]
            return found

        self.before = []
        row = _row(said, shape, number, mend)
        for kind in dict.fromkeys(kinds):
            self.add(kind, number)
        return row

    def add(self, kind: str, row: int) -> None:
        self._rows.setdefault(kind, []).append(row)

    def look(self, row: Row) -> None:
        """At a row that can be used as it is, but may hold a template's marks."""
        if "markup" in mended(row.messages if isinstance(row, Example) else row.prompt)[1]:
            self.add("markup", row.row)

    def found(self) -> tuple[Repair, ...]:
        return tuple(Repair(kind, tuple(self._rows[kind])) for kind in Repair.WORDS if kind in self._rows)
