"""Files of examples: the shipped sets, a person's own, and what training on them would see."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import threading
import uuid
import zipfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from playground.data.advice import Advice, advise
from playground.data.check import check_file
from playground.data.editing import Table, bad_rows_csv, edited_lines, good_rows_jsonl, table_of
from playground.data.example import Checked, Example, Message, Preference, Row, variants
from playground.data.files import MEBI, opened, read_files, read_records
from playground.data.hub import FIRST, parse_dataset, write_dataset
from playground.data.records import OnProgress, Records, reading_of
from playground.data.render import ALL, LAST, learned_turns
from playground.data.replies import Said, read_replies
from playground.data.retrieval import Documents, read_documents, with_documents
from playground.data.split import BY_CHANCE, VALIDATION, Columns, Parts, SplitBy, columns_of, share_for_test, split
from playground.data.text_formats import pasted_kind
from playground.data.token_counts import TokenPreview, TokenReport, preview_tokens, token_report
from playground.errors import InputError, NotFoundError
from playground.settings import Settings
from playground.workspace.visitors import LOCAL, Quota, handed_over

T = TypeVar("T")


@dataclass(frozen=True)
class ShippedSet:
    id: str
    title: str
    description: str
    file: Path
    heldout: Path
    prompt: Path
    ask: str  # a question to try
    check: str  # the form that its replies must have
    right: tuple[str, ...]  # and what else is right: criteria, all of which hold
    adapter: str  # its id
    documents: Path  # a text on the same matter, for sides that read before they answer

    @property
    def system_prompt(self) -> str:
        return self.prompt.read_text(encoding="utf-8").strip()


class DataService:
    """tokenizer: gives the current base's tokenizer, loading it on first use."""

    def __init__(self, settings: Settings, tokenizer: Callable[[], object], quota: Quota) -> None:
        self._settings, self._tokenizer, self._quota = settings, tokenizer, quota
        self._cache: dict[Hashable, tuple[Any, object]] = {}
        self._lock, self._read_by = threading.Lock(), dict[Path, dict[str, str]]()

    def sets(self) -> list[ShippedSet]:
        folder, paths = self._settings.examples_dir, ("file", "heldout", "prompt", "documents")
        entries = json.loads((folder / "sets.json").read_text(encoding="utf-8"))
        full = ({key: folder / value if key in paths else value for key, value in each.items()} for each in entries)
        return [ShippedSet(**(each | {"right": tuple(each["right"])})) for each in full]

    def shipped_with(self, file: Path) -> ShippedSet | None:
        """The shipped set that this file is of: its rows to learn from, or those held out."""
        path = Path(file).resolve()
        return next((one for one in self.sets() if path in (one.file.resolve(), one.heldout.resolve())), None)

    def right_of(self, file: Path) -> tuple[str, ...]:
        """What is right by a shipped set's own criteria; () of other files, whose references suggest it."""
        shipped = self.shipped_with(file)
        return shipped.right if shipped is not None else ()

    def shipped(self, id: str) -> ShippedSet:
        """Raises NotFoundError."""
        sets = {item.id: item for item in self.sets()}
        if id not in sets:
            raise NotFoundError(f"There is no shipped set {id!r}. There are: {', '.join(sets)}.")
        return sets[id]

    def test_share(self, path: Path, rows: int) -> float:
        """The share of so many rows that is held back for the verdict; none of a shipped set, which has a held-out
        file."""
        shipped = {item.file.resolve() for item in self.sets()}
        return 0.0 if Path(path).resolve() in shipped else share_for_test(rows)

    def split(
        self,
        path: Path,
        rows: Sequence[Row],
        seed: int,
        validation: float = VALIDATION,
        test: float | None = None,
        by: SplitBy = BY_CHANCE,
        owner: str = "",
        checked: Checked | None = None,
    ) -> Parts:
        """The parts of a file's rows; test None = ``test_share``. checked: what the rows are of, with how they were
        read and the splits that the file has of its own. Raises InputError, also for a column that is not there."""
        test = self.test_share(path, len(rows)) if test is None else test
        columns = Columns()
        if any(by):
            readable, limit = self._readable(Path(path), owner), self._settings.upload_limit_bytes
            said = checked.reading if checked else {}
            there, key = self.columns(path, owner, said), ("split by", *_identity(readable), by, *said.items())
            reading, _ = reading_of(said)
            columns = self._cached(key, lambda: columns_of(read_files(readable, limit, reading), by, there))
        return split(rows, seed, validation, test, columns, checked.held if checked else None)

    def check(
        self,
        path: Path,
        mapping: Mapping[str, str] | None = None,
        owner: str = "",
        on_progress: OnProgress | None = None,
    ) -> Checked:
        """What is in a file, or in a folder. Raises InputError when it is of no use, NotFoundError for somebody else's.

        owner: who asks; where the app is shared, nobody in particular may read the shipped sets only.
        """
        path = self._readable(Path(path), owner)
        key = ("check", *_identity(path), json.dumps(dict(mapping or {}), sort_keys=True))
        limit = self._settings.upload_limit_bytes
        found = self._cached(key, lambda: check_file(path, mapping or None, limit, on_progress))
        if mapping:
            self._read_by[path] = dict(mapping)
        return found

    def check_as_before(self, path: Path, owner: str = "") -> Checked:
        """As ``check``, by the mapping with which the file was read last: shots of a file whose columns a person named
        come from the same rows as its run."""
        return self.check(path, self._read_by.get(Path(path)), owner)

    def check_beside(
        self, path: Path, judged: Path, mapping: Mapping[str, str] | None = None, owner: str = ""
    ) -> Checked:
        """As ``check``, of a file that gives examples to the one that is judged by, whose ``mapping`` it is: of another
        file it says alone that rows are repaired."""
        if Path(path).resolve() == Path(judged).resolve():
            return self.check(path, mapping, owner)
        try:
            return self.check(path, {name: said for name, said in (mapping or {}).items() if name == "repair"}, owner)
        except InputError as error:
            only = f"Columns, encoding, sheet and split can be named of {Path(judged).name} alone"
            raise InputError(f"{error} {only}: save the examples as a file that is read without.") from error

    def fetch(
        self, name: str, owner: str, on_progress: OnProgress | None = None, first: int = FIRST, split: str = ""
    ) -> tuple[Path, str]:
        """(a file or folder as a command names it, ""); of a data set (its first rows as a file, what was read of it).

        split: of a data set, where its name says none.
        Raises InputError where a data set cannot be read, or a visitor of a shared app asks: none is fetched.
        """
        if self._settings.is_visitor(owner):
            raise InputError("Data sets of the hub are not fetched here. Upload a file of it.")
        dataset = parse_dataset(name)
        if dataset is None:
            return Path(name), ""
        dataset = replace(dataset, split=dataset.split or split)
        folder = self._own_folder(owner) / hashlib.sha256(f"{name} {split} {first}".encode()).hexdigest()[:12]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            file = Path(temporary, dataset.file_name)
            found = write_dataset(dataset, file, self._settings.upload_limit_bytes, first, on_progress)
            self._quota.check_disk(owner, file.stat().st_size, dataset.name)
            return file.replace(folder / file.name), str(found)

    def documents(self, path: Path, owner: str = "") -> Documents:
        """A text cut into passages. Raises InputError, and NotFoundError when it is somebody else's."""
        path = self._readable(Path(path), owner)
        return self._cached(("documents", *_identity(path)), lambda: read_documents(path))

    def replies(self, path: Path, column: str = "", side: str = "", owner: str = "") -> tuple[Said, ...]:
        """Recorded replies, as ``read_replies``. Raises InputError, and NotFoundError when it is somebody else's."""
        path, limit = self._readable(Path(path), owner), self._settings.upload_limit_bytes
        key = ("replies", *_identity(path), column, side)
        return self._cached(key, lambda: read_replies(path, limit, column, side))

    def with_documents(self, checked: Checked, path: Path, owner: str = "") -> Checked:
        """The same rows with the nearest passages of ``path`` in every question. Raises what ``documents`` does."""
        documents = self.documents(path, owner)
        key = ("with documents", id(checked), id(documents))
        return self._cached(key, lambda: with_documents(checked, documents), checked, documents)

    def records(self, path: Path, owner: str = "", mapping: Mapping[str, str] | None = None) -> tuple[Records, ...]:
        """What stands in each file, to choose columns, a sheet or a split from where its meaning cannot be guessed.
        mapping: as in ``check``, of which only how files are read counts. Raises what ``check`` does."""
        path, limit = self._readable(Path(path), owner), self._settings.upload_limit_bytes
        reading, _ = reading_of(mapping)
        key = ("records", *_identity(path), reading)

        def read() -> tuple[Records, ...]:
            with opened(path, limit) as paths:
                return tuple(read_records(one, limit, reading=reading) for one in paths)

        return self._cached(key, read)

    def columns(self, path: Path, owner: str = "", mapping: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """Every column's name. Raises what ``check`` does."""
        return tuple(dict.fromkeys(name for one in self.records(path, owner, mapping) for name in one.columns))

    def tokens(self, checked: Checked, max_tokens: int, on_progress: OnProgress | None = None) -> TokenReport:
        """Lengths under the current base's tokenizer, prompt and answer together."""
        tokenizer = self._tokenizer()
        key = ("tokens", id(checked), max_tokens, id(tokenizer))
        return self._cached(key, lambda: token_report(checked, tokenizer, max_tokens, on_progress=on_progress), checked)

    def preview(
        self, checked: Checked, index: int, max_tokens: int = 2048, turns: str = LAST
    ) -> tuple[TokenPreview, ...]:
        """Row ``index`` (from 0, among the usable ones) as the model is given it, token by token."""
        if not 0 <= index < checked.good:
            raise InputError(f"There is no row {index + 1} to show; there are {checked.good}.")
        return preview_tokens(self._tokenizer(), checked.usable[index], max_tokens, turns)

    def row(self, checked: Checked, number: int, max_tokens: int, turns: str = ALL) -> dict[str, Any]:
        """Row ``number`` as ``check --row`` gives it: its turns, whether each is learned, and its text as the base is
        given it; of two answers the worse one is not learned. Raises InputError where it cannot be trained on."""
        if bad := next((one for one in checked.bad if one.row == number), None):
            raise InputError(f"Row {number} cannot be trained on: {bad.reason}. {bad.fix}")
        for one in checked.repairs:
            if one.leaves_out and number in one.rows:
                raise InputError(f"Row {number} is left out by repair: {one.what}.")
        index = next((place for place, row in enumerate(checked.usable) if row.row == number), None)
        if index is None:
            first, last = checked.numbers[0], checked.numbers[-1]
            raise InputError(f"There is no row {number} among the {checked.rows} that are read, {first} to {last}.")
        row, tokenizer = checked.usable[index], self._tokenizer()
        said = [*row.prompt] if not row.answers else [*variants(row)[0].messages]
        learned = [False] * (len(said) - 1) + [bool(row.answers)]
        if isinstance(row, Example):
            learned = learned_turns(tokenizer, row, turns)
        if isinstance(row, Preference):
            said, learned = [*said, Message("assistant", row.rejected)], [*learned, False]
        shown = preview_tokens(tokenizer, row, max_tokens, turns)
        texts = (f"{one.title}:\n" * bool(one.title) + "".join(token.text for token in one.tokens) for one in shown)
        found = [
            {"role": turn.role, "content": turn.whole, "learned": is_learned}
            for turn, is_learned in zip(said, learned, strict=False)
        ]
        return {"number": number, "turns": found, "text": "\n\n".join(texts)}

    def advice(self, checked: Checked, tokens: TokenReport | None = None) -> tuple[Advice, ...]:
        """What a person should know of these rows before a run."""
        return self._cached(("advice", id(checked), id(tokens)), lambda: advise(checked, tokens), checked, tokens)

    def keep_uploads(self, paths: Sequence[Path], owner: str) -> Path:
        """Copy what was uploaded into the owner's folder: one file, or several in a folder that is read as one.

        Raises NotFoundError when a file was not uploaded, InputError when they are too large or two have one name.
        """
        paths = [handed_over(self._settings, path, owner) for path in paths]
        names = [path.name for path in paths]
        if twice := next((name for name in names if names.count(name) > 1), None):
            what = f"Two of the files are called {twice}"
            raise InputError(f"{what}. Rename one of them, so that their rows can be told apart.")
        size, limit = sum(path.stat().st_size for path in paths), self._settings.upload_limit_bytes
        what = names[0] if len(names) == 1 else f"The {len(names)} files"
        if size > limit:
            raise InputError(f"{what}: {size / MEBI:.0f} MB; the limit is {limit // MEBI} MB. Take a part of it.")
        self._quota.check_disk(owner, size, what)
        folder = self._new_folder(owner)
        folder.mkdir(parents=True)
        for path in paths:
            shutil.copyfile(path, folder / path.name)
        return folder / names[0] if len(names) == 1 else folder

    def handed_over(self, path: Path, owner: str = LOCAL) -> Path:
        """A file that was uploaded, read where it is. Raises NotFoundError for any other."""
        return handed_over(self._settings, path, owner)

    def keep_text(self, text: str, owner: str) -> Path:
        """What was pasted, as a file of the kind it looks like. Raises InputError when there is nothing."""
        if not text.strip():
            raise InputError("There is nothing to read yet. Paste rows from a sheet, JSON lines, or plain text.")
        return self.write(text, f"pasted{pasted_kind(text)}", owner)

    def write(self, text: str, name: str, owner: str) -> Path:
        """A new file among the owner's uploads. Raises InputError where the owner has no room for it."""
        data = text.encode("utf-8", errors="surrogatepass")
        self._quota.check_disk(owner, len(data), name)
        return _written(self._new_folder(owner), name, data)

    def edited(
        self,
        path: Path,
        changes: Mapping[int, Mapping[str, object]],
        owner: str,
        mapping: Mapping[str, str] | None = None,
    ) -> Path:
        """A copy of a file with some cells changed, as JSONL: row n is its line n. Raises what ``check`` does.

        changes: row -> column -> its new value. A row that could not be read and was not changed stays unusable.
        """
        path = self._readable(Path(path), owner)
        lines = edited_lines(path, changes, self._settings.upload_limit_bytes, reading_of(mapping)[0])
        return self.write("".join(lines), f"{path.stem.removesuffix('-edited')}-edited.jsonl", owner)

    def table(self, path: Path, rows: Sequence[int], owner: str, mapping: Mapping[str, str] | None = None) -> Table:
        """These rows as they stand in the file, every cell as text. Raises what ``check`` does."""
        readable, limit = self._readable(Path(path), owner), self._settings.upload_limit_bytes
        return table_of(readable, rows, limit, reading_of(mapping)[0])

    def bad_rows_file(self, path: Path, checked: Checked, tokens: TokenReport | None, owner: str) -> Path:
        """The rows that cannot be used, with reasons and their own content, as a CSV to open in a sheet."""
        path = self._readable(Path(path), owner)
        wanted = {row.row for row in (*checked.bad, *(tokens.bad if tokens else ()))}
        records = read_files(path, self._settings.upload_limit_bytes, reading_of(checked.reading)[0])
        held = {number: record for number, record in records if number in wanted and isinstance(record, dict)}
        return self.download(f"{path.stem}-bad-rows.csv", bad_rows_csv(checked, tokens, held), owner)

    def held_out_file(self, checked: Checked, rows: Sequence[int], name: str, owner: str) -> Path:
        """These rows, kept among the owner's uploads for when an adapter comes back that was trained elsewhere on the
        others; in a folder that is called by what they are. Raises InputError where the owner has no room for them."""
        data = good_rows_jsonl(checked, rows).encode("utf-8", errors="replace")
        folder = self._own_folder(owner) / hashlib.sha256(data).hexdigest()
        if not folder.exists():
            self._quota.check_disk(owner, len(data), name)
            _written(folder, f"{Path(name).stem}-held-out.jsonl", data)
        return next(folder.iterdir())

    def held_out(self, sha256: str, owner: str) -> Path | None:
        """The file that ``held_out_file`` kept, by its folder's name."""
        return next(iter((self._own_folder(owner) / sha256).glob("*-held-out.jsonl")), None)

    def good_rows_file(self, path: Path, checked: Checked, owner: str = LOCAL) -> Path:
        """The rows that can be used, as JSONL for anywhere else."""
        return self.download(f"{Path(path).stem}-good-rows.jsonl", good_rows_jsonl(checked), owner)

    def packed(self, files: Mapping[str, str], name: str, owner: str) -> Path:
        """Texts by their files' names as one file that the page hands out: a zip of a folder where they are several."""
        if len(files) == 1:
            return self.download(*next(iter(files.items())), owner)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
            for file, text in files.items():
                zipped.writestr(f"{name}/{file}", text.encode("utf-8", errors="replace"))
        data = out.getvalue()
        return _written(self._quota.room(owner, len(data), name), f"{name}.zip", data)

    def download(self, name: str, text: str, owner: str) -> Path:
        """A text as a file that the page hands out. Raises InputError where the owner has no room for it."""
        data = text.encode("utf-8", errors="replace")
        return _written(self._quota.room(owner, len(data), name), name, data)

    def _new_folder(self, owner: str) -> Path:
        return self._own_folder(owner) / uuid.uuid4().hex[:12]

    def _own_folder(self, owner: str) -> Path:
        return self._settings.uploads_dir / (owner if owner.isalnum() else LOCAL)

    def _readable(self, path: Path, owner: str) -> Path:
        """Raises NotFoundError for a file neither shipped nor this owner's; whoever runs the app may read any."""
        if not self._settings.is_visitor(owner):
            return path
        roots = [self._settings.examples_dir, *([self._own_folder(owner)] if owner else [])]
        if not any(path.resolve().is_relative_to(root.resolve()) for root in roots):
            what = f"There is no file {path.name[:80]!r} of yours"
            raise NotFoundError(f"{what}. Upload it again, or take one of the example sets.")
        return path

    def _cached(self, key: Hashable, make: Callable[[], T], *kept: object) -> T:
        """kept: objects whose ids are in the key, held so that no other object gets them."""
        with self._lock:
            if key in self._cache:
                found: T = self._cache[key][0]
                return found
        value = make()
        with self._lock:
            if len(self._cache) > 32:
                self._cache.clear()
            self._cache[key] = (value, kept)
        return value


def _written(folder: Path, name: str, data: bytes) -> Path:
    """A file in a folder that is new with it."""
    folder.mkdir(parents=True)
    (folder / name).write_bytes(data)
    return folder / name


def _identity(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), stat.st_size, stat.st_mtime_ns
