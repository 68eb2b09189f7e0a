"""A file -> rows that can be trained on, bad rows with reasons; and the report of ``check`` as JSON and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from playground.data.advice import Advice, advise
from playground.data.column_profile import first_won, spelling, truth
from playground.data.columns import Shape
from playground.data.duplicates import Repeats
from playground.data.example import (
    BadRow,
    Checked,
    Example,
    FilePart,
    Judged,
    Message,
    Passage,
    Preference,
    Row,
    RowWarning,
    texts_of,
)
from playground.data.read import MEBI, READING, Paths, gather, no_usable_rows, read_parts
from playground.data.records import OnProgress, Progress, Records
from playground.data.token_counts import TokenReport
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
_MAX_SHOWN = 10


def check_file(
    path: Paths,
    mapping: Mapping[str, str] | None = None,
    limit_bytes: int = 256 * MEBI,
    progress: OnProgress | None = None,
) -> Checked:
    """What is in a file, several, or a folder, without a tokenizer; raises InputError where nothing is usable.

    mapping: role -> column of every file, where the person knows better. limit_bytes: for all files together.
    """
    paths = gather(path)
    whole = Progress(progress)
    parts = read_parts(paths, mapping, limit_bytes, whole)
    rows = sum(len(part.records.rows) for part in parts)
    found, files, last, done = Validated(), [], 0, 0
    for part in parts:
        count = len(part.records.rows)
        spans = (READING + (1 - READING) * share / rows for share in (done, done + count))
        first, last = last + 1, found.add(part.records, part.shape, last, whole.part(*spans))
        files.append(FilePart(part.name, first, last - first + 1))
        done += count
    found.finish()
    if not found.rows:
        raise no_usable_rows(paths[0].name if len(paths) == 1 else "The files", rows, found.bad)
    whole.at(1)
    shapes = [part.shape for part in parts]
    sure = min(shapes, key=lambda shape: shape.confidence)
    return Checked(
        format=" + ".join(dict.fromkeys(shape.format for shape in shapes)),
        objective=sure.objective,
        rows=rows,
        examples=tuple(row for row in found.rows if isinstance(row, Example)),
        bad=tuple(found.bad),
        warnings=tuple(found.warnings),
        duplicates=found.duplicates,
        columns=tuple(dict.fromkeys(column for part in parts for column in part.records.columns)),
        mapping=shapes[0].mapping,
        others=tuple(row for row in found.rows if not isinstance(row, Example)),
        confidence=sure.confidence,
        why=sure.why if len(parts) == 1 else "; ".join(f"{part.name}: {part.shape.why}" for part in parts),
        files=tuple(files) if len(parts) > 1 else (),
    )


@dataclass
class Validated:
    """Rows and bad rows of the files that are added, together as many as there are records."""

    rows: list[Row] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    warnings: list[RowWarning] = field(default_factory=list)
    duplicates: int = 0
    _repeats: Repeats = field(default_factory=Repeats)

    def add(self, records: Records, shape: Shape, offset: int = 0, on_progress: OnProgress | None = None) -> int:
        """Every record of a file, numbered on from ``offset``; returns the highest number."""
        build = BUILDERS[shape.objective]
        last, total = offset, max(1, len(records.rows))
        start = len(self.rows)
        for place, (own, record) in enumerate(records.rows):
            last = number = own + offset
            if on_progress is not None and place % 256 == 0:
                on_progress(place / total)
            try:
                row = record if isinstance(record, Unusable) else build(record, shape, number)
            except Unusable as error:
                row = error
            if isinstance(row, Unusable):
                self.bad.append(BadRow(number, row.reason, row.fix))
                continue
            self.rows.append(row)
            self._repeats.add(row)
            if any(not text.isascii() and _DAMAGED in text for text in texts_of(row)):
                reason = f"holds {_DAMAGED}: a character was lost when the file was saved"
                self.warnings.append(RowWarning(number, reason, "damaged"))
        if shape.objective == "sft" and "messages" not in shape.mapping:
            self.warnings += _odd_labels([row for row in self.rows[start:] if isinstance(row, Example)])
        return last

    def finish(self) -> None:
        """Adds the warnings of duplicates and conflicts, and puts all in the order of the rows."""
        repeats = [*self._repeats.warnings()]
        self.duplicates = sum(warning.kind == "duplicate" for warning in repeats)
        self.warnings = sorted((*repeats, *self.warnings), key=lambda warning: warning.row)


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


def _example(record: Record, shape: Shape, row: int) -> Example:
    mapping = shape.mapping
    if "messages" in mapping:
        column = mapping["messages"]
        turns = _with_system(read_turns(_present(record, column, "messages"), repr(column)), record, mapping)
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
    """A prompt and two answers, or two whole chats that differ in the last answer; a label may say which is better."""
    mapping = shape.mapping
    whole = [_side(record, mapping, side) for side in ("chosen", "rejected")]
    head = whole[0][:-1]
    if head != whole[1][:-1]:
        raise Unusable("chosen and rejected do not share one prompt", "Let them differ in the last answer only.")
    if not head and "prompt" not in mapping:
        raise Unusable("no prompt: chosen and rejected are answers alone", "Add a prompt column.")
    if not head or (head[0].role == "assistant" and "prompt" in mapping):  # the turns go on from the prompt
        prompt = (*_prompt(record, mapping), *head)
    else:
        prompt = _with_system(head, record, mapping)
    chosen, rejected = (turns[-1].content for turns in whole)
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


def _with_system(turns: tuple[Message, ...], record: Record, mapping: Mapping[str, str]) -> tuple[Message, ...]:
    """The turns after the system column's text, unless they begin with a system turn of their own."""
    if "system" not in mapping or not turns or turns[0].role == "system":
        return turns
    value = record.get(mapping["system"])
    if isinstance(value, dict) and is_turn(value):  # Gemini's systemInstruction
        value = turn_text(value.get("parts", value.get("content")), 1)
    text = plain_text(value, f"the system prompt ({mapping['system']})")
    return (Message("system", text), *turns) if text.strip() else turns


def _prompt(record: Record, mapping: Mapping[str, str]) -> tuple[Message, ...]:
    """The system turn if there is one and the user's; an instruction and its input make one turn."""
    column = mapping["prompt"]
    value = _present(record, column, "prompt")
    if is_turns(value):
        return _with_system(read_turns(value, repr(column)), record, mapping)
    extra = plain_text(record.get(mapping["input"]), f"the input ({mapping['input']})") if "input" in mapping else ""
    if extra.strip():
        instruction = plain_text(value, f"the prompt ({column})")
        text = f"{instruction}\n\n{extra}" if instruction.strip() else extra
    else:
        text = _text(record, column, "prompt")
    return _with_system((Message("user", text),), record, mapping)


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
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        text = next((text for text in value if text.strip()), "")
        record = {column: text}
    return (Message("assistant", _text(record, column, what)),)


def as_json(
    checked: Checked,
    tokens: TokenReport | None = None,
    advice: Sequence[Advice] | None = None,
    split: Mapping[str, Any] | None = None,
    batch_size: int = 8,
) -> dict[str, Any]:
    """The JSON of ``check``; without a token report ``tokens`` is null. split: the parts as run.json records them."""
    bad, warnings = bad_rows(checked, tokens), kept_warnings(checked, tokens)
    advice = advise(checked, tokens) if advice is None else advice
    found: dict[str, Any] = {
        "format": checked.format,
        "objective": checked.objective,
        "rows": checked.rows,
        "good": checked.rows - len(bad),
        "bad": [asdict(row) for row in bad],
        "warnings": [asdict(row) for row in warnings],
        "duplicates": checked.duplicates,
        "tokens": {key: getattr(tokens, key) for key in ("min", "median", "p95", "max")} if tokens else None,
        "truncated": tokens.truncated if tokens else 0,
        "mapping": dict(checked.mapping),
        "confidence": round(checked.confidence, 3),
        "why": checked.why,
        "advice": [asdict(item) | {"rows": list(item.rows)} for item in advice],
    }
    if tokens:
        found["histogram"] = [{"from": low, "to": high, "rows": rows} for low, high, rows in tokens.histogram()]
        found["padding"] = {key: round(value, 4) for key, value in asdict(tokens.padding(batch_size)).items()}
    if checked.files:
        found["files"] = [asdict(part) for part in checked.files]
    if split is not None:
        found["split"] = dict(split)
    return found


def as_text(
    checked: Checked, tokens: TokenReport | None = None, advice: Sequence[Advice] | None = None, batch_size: int = 8
) -> str:
    """The same in a few lines for a terminal; long lists are shortened and say so."""
    bad, warnings = bad_rows(checked, tokens), kept_warnings(checked, tokens)
    advice = advise(checked, tokens) if advice is None else advice
    mapping = ", ".join(f"{role} = {column}" for role, column in checked.mapping.items())
    guessed = checked.confidence < 1 and checked.why
    sure = f" This is a guess, {checked.confidence:.0%} sure: {checked.why}." if guessed else ""
    good = f"{checked.rows - len(bad)} good and {len(bad)} bad"
    lines = [
        f"Format: {checked.format} ({mapping}); trains {checked.objective}.{sure}",
        f"Rows: {checked.rows}, of them {good}; {len(warnings)} warnings, {checked.duplicates} duplicates.",
    ]
    if tokens:
        padding = tokens.padding(batch_size)
        lines.append(
            f"Tokens per row: {tokens.min} at least, {tokens.median} median, {tokens.p95} for 95 %, "
            f"{tokens.max} at most; {tokens.truncated} rows cut."
        )
        if not tokens.packed:
            lines.append(
                f"Padding: {padding.random:.0%} of a batch of {padding.batch_size} in random order, "
                f"{padding.by_length:.0%} with rows of like length together."
            )
    sections = {
        "Bad rows (not trained on):": [f"row {checked.place(row.row)}: {row.reason}. {row.fix}" for row in bad],
        "Warnings (kept):": [f"row {checked.place(row.row)}: {row.reason}" for row in warnings],
        "Advice:": [item.text for item in advice],
    }
    for title, items in sections.items():
        more = [f"  … and {len(items) - _MAX_SHOWN} more"] if len(items) > _MAX_SHOWN else []
        lines += [title, *(f"  {item}" for item in items[:_MAX_SHOWN]), *more] if items else []
    return "\n".join(lines)


def bad_rows(checked: Checked, tokens: TokenReport | None = None) -> list[BadRow]:
    """Every bad row in the file's order: those of the file, and those that the token report found."""
    return sorted((*checked.bad, *(tokens.bad if tokens else ())), key=lambda item: item.row)


def kept_warnings(checked: Checked, tokens: TokenReport | None = None) -> list[RowWarning]:
    """Every warning in the file's order. A row that turned out bad is not warned of as well."""
    bad = {row.row for row in tokens.bad} if tokens else set()
    both = (*checked.warnings, *(tokens.warnings if tokens else ()))
    return sorted((item for item in both if item.row not in bad), key=lambda item: item.row)
