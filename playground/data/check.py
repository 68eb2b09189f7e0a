"""Files and folders -> numbered records and their shapes -> rows that can be trained on, and bad rows with reasons."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from playground.data.column_profile import NAMES, SPLIT, first_won, is_nested, listed, own_part, spelling, truth
from playground.data.columns import Shape, detect
from playground.data.documents import parse_document
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
    Unusable,
    Unused,
    answer_turn,
    check_turns,
    is_turn,
    is_turns,
    plain_text,
    read_transcript,
    read_turns,
    texts_of,
    turn_text,
)
from playground.data.layouts import Usage, options_text, source_text
from playground.data.markup import is_marked, picture_in, read_markup, without_end
from playground.data.records import (
    AS_FOUND,
    KEEP_FEWER,
    Limits,
    Numbered,
    OnProgress,
    Progress,
    Reading,
    Records,
    Text,
    open_text,
    reading_of,
    stream,
)
from playground.data.repair import BLANK, DUPLICATE, Mend, Mender, Turns, is_blank
from playground.data.split import Repeats
from playground.data.text_formats import parse_delimited, parse_json, parse_jsonl, parse_text
from playground.data.workbook import parse_parquet, parse_xlsx
from playground.errors import InputError

TEXT_READERS: dict[str, Callable[[Text, OnProgress], Records]] = {
    ".csv": lambda text, _: parse_delimited(text, ","),
    ".tsv": lambda text, _: parse_delimited(text, "\t"),
    ".json": parse_json,
    ".jsonl": parse_jsonl,
    ".ndjson": parse_jsonl,
    ".txt": lambda text, on_progress: parse_text(text, ".txt", on_progress),
    ".md": lambda text, on_progress: parse_text(text, ".md", on_progress),
}
DOCUMENTS = (".pdf", ".docx")
EXTENSIONS = (".csv", ".tsv", ".xlsx", ".json", ".jsonl", ".ndjson", ".parquet", ".txt", ".md", *DOCUMENTS, ".gz")
"""What is taken; ``.gz`` after the ending of any text kind, as in ``rows.csv.gz``."""
Paths = Path | str | Sequence[Path | str]  # a file, several, or a folder of them
MEBI = 1024 * 1024
_POINTER = b"version https://git-lfs.github.com/spec/"
READING = 0.5  # the share of a check's work that is reading; the rest is validating each row


def read_records(
    path: Path, limit_bytes: int, on_progress: OnProgress | None = None, reading: Reading = AS_FOUND
) -> Records:
    """Every record of a file of at most ``limit_bytes``; raises InputError when the file as a whole is of no use."""
    size = _file_size(path)
    kind, packed = _kind(path)
    _check_size(path.name, size, limit_bytes)
    again = "Choose the file again, or export it once more."
    if size == 0:
        raise InputError(f"{path.name} is empty (0 bytes). {again}")
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            what = f"{path.name} is a Git LFS pointer, not the data"
            raise InputError(f"{what}. Run git lfs pull where it was cloned, or download the file itself.")
    progress, limits = Progress(on_progress), Limits(path.name, limit_bytes)
    if reading.sheet and kind != ".xlsx":
        raise InputError(f"{path.name} is no workbook: it has no sheets. Leave the sheet out.")
    if reading.encoding and kind in (".xlsx", ".parquet", *DOCUMENTS):
        raise InputError(f"{path.name} says itself how its text is encoded. Leave the encoding out.")
    if kind == ".xlsx":
        records = parse_xlsx(path, limits, reading.sheet)
    elif kind == ".parquet":
        records = parse_parquet(path, limits, progress.part(0, 1))
    elif kind in DOCUMENTS:
        records = parse_document(path, limits, progress.part(0, 1))
    else:
        text = open_text(path, packed, limits, progress.part(0, 0.2), reading.encoding)
        if text.blank:
            raise InputError(f"{path.name} is empty: nothing but blank lines. {again}")
        records = replace(TEXT_READERS[kind](text, progress.part(0.2, 1)), encoding=text.encoding)
    limits.check_columns(len(records.columns))
    limits.check("rows", len(records.rows))
    limits.check("cells", len(records.columns) * len(records.rows))
    progress.at(1)
    return records


def _file_size(path: Path) -> int:
    """Bytes on disk. Raises InputError when it is no file that can be opened."""
    kinds = ", ".join(EXTENSIONS)
    try:
        if path.is_dir():
            raise InputError(f"{path.name or path} is a folder, not a file. Name one file: {kinds}.")
        if not path.exists():
            raise InputError(f"There is no file {path.name}. Check its name and folder.")
        if not path.is_file():
            raise InputError(f"{path.name} is not a regular file. Name a file on disk: {kinds}.")
        return path.stat().st_size
    except (OSError, ValueError) as error:  # no permission; a NUL or too long a name
        raise InputError(f"{path.name[:80]!r} cannot be opened: {error}. Check its name and permissions.") from error


def _check_size(name: str, size: int, limit_bytes: int) -> None:
    if size <= limit_bytes:
        return
    has, may = _human_size(size), _human_size(limit_bytes)
    if has == may:
        has, may = f"{size:,} bytes", f"{limit_bytes:,} bytes"
    raise InputError(f"{name} is {has}; the limit is {may}. {KEEP_FEWER}")


def _human_size(size: int) -> str:
    if size < 1024:
        return f"{size} bytes"
    return f"{size / MEBI:.0f} MB" if size >= MEBI else f"{size / 1024:.0f} KB"


def _kind(path: Path) -> tuple[str, bool]:
    """(the ending that says what it is, whether it is packed)."""
    kind = path.suffix.lower()
    if kind == ".gz":
        inner = Path(path.stem).suffix.lower()
        if inner not in TEXT_READERS:
            known = ", ".join(f"{ending}.gz" for ending in TEXT_READERS)
            what = f"does not say what it holds; known are {known}"
            raise InputError(f"{path.name} {what}. Rename it, or unpack it first.")
        return inner, True
    if kind not in EXTENSIONS:
        old = kind in (".xls", ".ods", ".numbers")
        how = "Save the workbook as .xlsx or CSV." if old else "Save it as one of these."
        known = ", ".join(EXTENSIONS)
        raise InputError(f"{path.name} is of an unknown kind ({kind or 'no extension'}); known are {known}. {how}")
    return kind, False


class Part(NamedTuple):
    """One of the files with its records and its shape. column: says which split each row is in. split: of all its rows,
    "" = its own or none. splits: those that there are, where one was chosen."""

    name: str
    records: Records
    shape: Shape
    column: str = ""
    split: str = ""
    splits: tuple[str, ...] = ()


def _match(wanted: str, there: Iterable[str], what: str) -> str:
    """The split that is meant: by its name, else by what it is for. Raises InputError."""
    names = [*dict.fromkeys(there)]
    same = [name for name in names if name.strip().casefold() == wanted.strip().casefold()]
    same = same or [name for name in names if own_part(wanted) and own_part(name) == own_part(wanted)]
    if len(same) == 1:
        return same[0]
    has = f"It has: {listed(names)}." if names else "It has no splits."
    raise InputError(f"{what} has no split {wanted[:40]!r}. {has}")


def _splits_of(paths: Sequence[Path]) -> dict[Path, str]:
    """What each file of a folder is for, by its name; {} where these do not say that some are held back."""
    named = {path: own_part(path.name.partition(".")[0]) for path in paths}
    return {path: part or "train" for path, part in named.items()} if {"train"} < {*named.values()} - {""} else {}


def _split_column(records: Records) -> str:
    """The column that says which split each row is in, "" for none."""
    for name in records.columns:
        if spelling(name) in NAMES["splits"]:
            parts = {own_part(str(value)) for row in records.sample if (value := row.get(name)) not in (None, "")}
            if {"train"} < parts - {""} == parts:
                return name
    return ""


def _chosen(name: str, records: Records, wanted: str, limits: Limits) -> tuple[Records, str, tuple[str, ...]]:
    """The records of one split, the column that says so, and all splits. Raises InputError where there is none such."""
    column = next((one for one in records.columns if spelling(one) in NAMES["splits"]), "")
    there = dict.fromkeys(str(row.get(column)) for _, row in records.rows if isinstance(row, dict) and row.get(column))
    split = _match(wanted, there, name)
    only = stream(
        lambda _: (one for one in records.rows if isinstance(one[1], Unusable) or str(one[1].get(column)) == split),
        limits,
        columns=records.columns,
    )
    return replace(records, rows=only.rows, sample=only.sample), column, tuple(there)


def gather(path: Paths) -> list[Path]:
    """The files meant: one, those of a folder but hidden ones, or of a list; by name. Raises InputError for none."""
    found: set[Path] = set()
    for each in [Path(path)] if isinstance(path, str | Path) else map(Path, path):
        if os.path.isdir(each):  # False for a NUL or too long a name: reported when it is opened
            found |= {inner for inner in each.iterdir() if inner.is_file() and not inner.name.startswith(".")}
        else:
            found.add(each)
    if not found:
        what = f"The folder {Path(path).name} holds no files" if isinstance(path, str | Path) else "No file was given"
        raise InputError(f"{what}. Name a file, or a folder with files in it.")
    return sorted(found, key=lambda file: (file.name, str(file)))


def read_parts(
    paths: Sequence[Path],
    mapping: Mapping[str, str] | None,
    limit_bytes: int,
    progress: Progress,
    reading: Reading = AS_FOUND,
) -> list[Part]:
    """Each file's records and shape; raises InputError where one is of no use, or they do not all train the same."""
    own, splits = _splits_of(paths), tuple[str, ...]()
    if own and reading.split:
        splits, split = tuple(dict.fromkeys(own.values())), _match(reading.split, own.values(), "The folder")
        own = {path: split for path in paths if own[path] == split}
        paths, reading = [*own], replace(reading, split="")
    sizes = [_file_size(path) for path in paths]
    total = sum(sizes)
    if len(paths) > 1:
        _check_size(f"All {len(paths)} files together", total, limit_bytes)
    parts, done, share = [], 0, READING / max(1, total)
    for path, size in zip(paths, sizes, strict=True):
        records = read_records(path, limit_bytes, progress.part(done * share, (done + size) * share), reading)
        done += size
        if reading.split:
            records, column, splits = _chosen(path.name, records, reading.split, Limits(path.name, limit_bytes))
        elif not all(map(own_part, records.splits)):
            counts = Counter(row.get(SPLIT) for _, row in records.rows if isinstance(row, dict))
            found = ", ".join(f"{name} ({count})" for name, count in counts.items())
            what = f"{path.name} holds several lists of rows: {found}"
            raise InputError(f"{what}. Choose one (on the command line: --split NAME).")
        else:
            column = "" if path in own else _split_column(records)
        if not records.sample:
            broken = [BadRow(number, row.reason, row.fix) for number, row in records.rows if isinstance(row, Unusable)]
            raise no_usable_rows(path.name, len(records.rows), broken)
        try:
            others = replace(records, columns=tuple(name for name in records.columns if name != column))
            shape = detect(others, mapping)
            parts.append(Part(path.name, records, shape, column, own.get(path, ""), splits))
        except InputError as error:
            note = f" It is {records.note}." if len(records.sheets) > 1 else ""
            raise InputError(f"{error}{note}" if len(paths) == 1 else f"{path.name}: {error}{note}") from None
    if len({part.shape.objective for part in parts}) > 1:
        what = "; ".join(f"{part.name} trains {part.shape.objective} ({part.shape.format})" for part in parts)
        raise InputError(f"The files do not train the same: {what}. Give those together that do, or map their columns.")
    return parts


def read_files(path: Paths, limit_bytes: int, reading: Reading = AS_FOUND) -> Iterator[Numbered]:
    """Every record as it stands in the files, numbered on through all of them; of nested columns the entries alone."""
    paths, last = gather(path), 0
    if reading.split and (own := _splits_of(paths)):
        split = _match(reading.split, own.values(), "The folder")
        paths = [one for one in paths if own[one] == split]
    for one in paths:
        offset = last
        for number, record in read_records(one, limit_bytes, reading=reading).rows:
            last = offset + number
            if isinstance(record, dict):
                record = {name: value for name, value in record.items() if not is_nested(value)}
            yield last, record


def no_usable_rows(name: str, rows: int, bad: Sequence[BadRow]) -> InputError:
    """The refusal of a file of which nothing can be used, with the first reasons."""
    first = " ".join(f"Row {row.row}: {row.reason}. {row.fix}" for row in bad[:3])
    return InputError(f"{name}: none of the {rows} rows can be used. {first}")


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
    paths = gather(path)
    whole = Progress(progress)
    reading, roles = reading_of(mapping)
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
    splits: dict[str, int | None] = {name: None for part in parts for name in part.splits}
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
                split = part.split or str(said or "train")
                splits[split] = (splits.get(split) or 0) + 1
                if not reading.split and (kind := own_part(split)) in ("validation", "test"):
                    held[last] = kind
            if done % 256 == 0:
                progress.at(READING + (1 - READING) * done / count)
            if isinstance(record, Unusable):
                bad.append(BadRow(last, record.reason, record.fix))
                continue
            build = partial(_row, record, shape, last)
            try:
                row = mender.row(last, build) if reading.repair else build(_as_they_are)
            except Unusable as error:
                if is_blank(record, shape.mapping):
                    mender.add(BLANK, last)
                    if reading.repair:
                        continue
                elif not reading.repair:
                    with suppress(Unusable):
                        mender.row(last, build)
                bad.append(BadRow(last, error.reason, error.fix))
                continue
            text = "".join(texts_of(row))
            if not reading.repair and is_marked(text):
                mender.look(row)
            rows.append(row)
            repeats.add(row)
            usage.add(record, row, mender.before)
            if not text.isascii() and _DAMAGED in text:
                reason = f"holds {_DAMAGED}: a character was lost when the file was saved"
                warnings.append(RowWarning(last, reason, "damaged"))
        if shape.objective == "sft" and "messages" not in shape.mapping:
            warnings += _odd_labels([row for row in rows[start:] if isinstance(row, Example)])
        files.append(FilePart(part.name, offset + 1, last - offset))
        unused |= {one.column: one for one in usage.found() if one.column != part.column}
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


def _as_they_are(turns: Turns) -> Turns:
    return turns


def _row(record: Record, shape: Shape, number: int, mend: Mend) -> Row:
    """Raises Unusable."""
    for column in shape.pictures:
        if isinstance(record.get(column), list | dict | bytes) and record[column]:
            raise Unusable(f"holds more than text ({column})", _TEXT_ONLY)
    row = BUILDERS[shape.objective](record, shape, number, mend)
    for turn in row.prompt:
        if "<" in turn.content and turn.role == "user" and picture_in(turn.content):
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
        return _with_system(read_turns(_present(record, column, "messages"), repr(column)), record, mapping)
    return _prompt(record, mapping)


def _example(record: Record, shape: Shape, row: int, mend: Mend) -> Example:
    """Up to the last answer that may be learned: what stands after it is no prompt to anything."""
    turns = prompt_of(record, shape.mapping)
    if "messages" not in shape.mapping:
        turns = (*turns, *_answer(record, shape.mapping, "completion", "answer"))
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
    whole = [_side(record, mapping, side) for side in ("chosen", "rejected")]
    heads = [tuple(replace(turn, learned=True) for turn in turns[:-1]) for turns in whole]  # the answers alone are
    head = heads[0]
    if head != heads[1]:
        raise Unusable("chosen and rejected do not share one prompt", "Let them differ in the last answer only.")
    if not head and "prompt" not in mapping:
        raise Unusable("no prompt: chosen and rejected are answers alone", "Add a prompt column.")
    if not head or (head[0].role == "assistant" and "prompt" in mapping):  # the turns go on from the prompt
        prompt = (*_prompt(record, mapping), *head)
    else:
        prompt = _with_system(head, record, mapping)
    chosen, rejected = (turns[-1].whole for turns in whole)
    if prompt and prompt[-1].role == "user":
        prompt = mend((*prompt, Message("assistant", chosen)))[:-1]
    check_turns((*prompt, Message("assistant", chosen)))
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
            chosen, rejected, whole = rejected, chosen, whole[::-1]
    if not whole[0][-1].learned:
        fix = "Give it the weight 1 (loss or train: true), or remove the row."
        raise Unusable("the better answer may not be learned: its weight is 0", fix)
    return Preference(prompt, chosen, rejected, row)


BUILDERS: dict[str, Callable[[Record, Shape, int, Mend], Row]] = {
    "sft": _example,
    "preference": _preference,
    "unpaired_preference": _judged,
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
