"""Files of examples: the shipped sets, a person's own, and what training on them would see."""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.data.advice import Advice, advise
from playground.data.bad_rows import bad_rows_csv, good_rows_jsonl
from playground.data.check import check_file
from playground.data.editing import Table, edited_lines, table_of
from playground.data.example import Checked
from playground.data.files import gather, read_files
from playground.data.lengths import TokenReport
from playground.data.measure import token_report
from playground.data.passages import Documents, read_documents, told
from playground.data.pasted import pasted_kind
from playground.data.progress import Tell
from playground.data.read import MEBI, read_records
from playground.data.render import LAST
from playground.data.seen import Seen, seen
from playground.data.split import TEST
from playground.errors import InputError, NotFoundError
from playground.services.incoming import handed_over
from playground.services.quota import Quota
from playground.services.sessions import LOCAL
from playground.settings import Settings


@dataclass(frozen=True)
class ShippedSet:
    """A set of examples that comes with the app. ask: a question to try; check: how its replies are judged; adapter: its id.
    documents: a text on the same matter, for sides that read before they answer."""

    id: str
    title: str
    description: str
    file: Path
    heldout: Path
    prompt: Path
    ask: str
    check: str
    adapter: str
    documents: Path

    @property
    def system_prompt(self) -> str:
        return self.prompt.read_text(encoding="utf-8").strip()


class DataService:
    """tokenizer: gives the current base's tokenizer, loading it on first use."""

    def __init__(self, settings: Settings, tokenizer: Callable[[], Any], quota: Quota) -> None:
        self._settings, self._tokenizer, self._quota = settings, tokenizer, quota
        self._cache: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def sets(self) -> list[ShippedSet]:
        folder = self._settings.examples_dir
        entries = json.loads((folder / "sets.json").read_text(encoding="utf-8"))
        paths = ("file", "heldout", "prompt", "documents")
        return [
            ShippedSet(**{key: folder / value if key in paths else value for key, value in entry.items()}) for entry in entries
        ]

    def shipped(self, id: str) -> ShippedSet:
        """Raises NotFoundError."""
        for item in self.sets():
            if item.id == id:
                return item
        raise NotFoundError(f"There is no shipped set {id!r}. There are: {', '.join(item.id for item in self.sets())}.")

    def test_share(self, path: Path) -> float:
        """The share of a file that is held back for the verdict; none of a shipped set, which has held-out rows of its own."""
        shipped = {item.file.resolve() for item in self.sets()}
        return 0.0 if Path(path).resolve() in shipped else TEST

    def check(self, path: Path, mapping: Mapping[str, str] | None = None, owner: str = "", tell: Tell | None = None) -> Checked:
        """What is in a file, or in a folder of them. Raises InputError when nothing of it can be used, NotFoundError when it is
        somebody else's.

        owner: who asks; where the app is shared, nobody in particular may read the shipped sets only. tell: called with the share
        done, 0 to 1."""
        path = self._readable(Path(path), owner)
        key = ("check", *_identity(path), json.dumps(dict(mapping or {}), sort_keys=True))
        checked: Checked = self._cached(
            key, lambda: check_file(path, mapping or None, self._settings.upload_limit_bytes, progress=tell)
        )
        return checked

    def documents(self, path: Path, owner: str = "") -> Documents:
        """A text cut into passages. Raises InputError, and NotFoundError when it is somebody else's."""
        path = self._readable(Path(path), owner)
        found: Documents = self._cached(("documents", *_identity(path)), lambda: read_documents(path))
        return found

    def told(self, checked: Checked, path: Path, owner: str = "") -> Checked:
        """The same rows with the nearest passages of ``path`` in every question. Raises what ``documents`` does."""
        documents = self.documents(path, owner)
        found, *_ = self._cached(("told", id(checked), id(documents)), lambda: (told(checked, documents), checked, documents))
        rows: Checked = found
        return rows

    def columns(self, path: Path, owner: str = "") -> tuple[str, ...]:
        """The names to choose from where their meaning cannot be told. Raises what ``check`` does."""
        path = self._readable(Path(path), owner)
        files = gather(path)
        key = ("columns", *_identity(path))
        found: tuple[str, ...] = self._cached(
            key,
            lambda: tuple(
                dict.fromkeys(name for file in files for name in read_records(file, self._settings.upload_limit_bytes).columns)
            ),
        )
        return found

    def tokens(self, checked: Checked, max_tokens: int, tell: Tell | None = None) -> TokenReport:
        """Lengths under the current base's tokenizer, prompt and answer together."""
        tokenizer = self._tokenizer()
        key = ("tokens", id(checked), max_tokens, id(tokenizer))
        report, _ = self._cached(key, lambda: (token_report(checked, tokenizer, max_tokens, progress=tell), checked))
        found: TokenReport = report
        return found

    def seen(self, checked: Checked, index: int, max_tokens: int = 2048, turns: str = LAST) -> tuple[Seen, ...]:
        """Row ``index`` (from 0, among the usable ones) as the model is given it, token by token."""
        if not 0 <= index < checked.good:
            raise InputError(f"There is no row {index + 1} to show; there are {checked.good}.")
        return seen(self._tokenizer(), checked.usable[index], max_tokens, turns)

    def advice(self, checked: Checked, tokens: TokenReport | None = None) -> tuple[Advice, ...]:
        """What a person should know of these rows before a run."""
        key = ("advice", id(checked), id(tokens))
        found, *_ = self._cached(key, lambda: (advise(checked, tokens), checked, tokens))
        advice: tuple[Advice, ...] = found
        return advice

    def keep_uploads(self, paths: Sequence[Path], owner: str) -> Path:
        """Copy what was uploaded into the owner's folder: one file, or several in a folder that is then read as one.

        Raises NotFoundError when a file was not uploaded, InputError when they are too large or two have one name."""
        paths = [handed_over(self._settings, path, owner) for path in paths]
        names = [path.name for path in paths]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"Two of the files are called {twice}. Rename one of them, so that their rows can be told apart.")
        size, limit = sum(path.stat().st_size for path in paths), self._settings.upload_limit_bytes
        what = names[0] if len(names) == 1 else f"The {len(names)} files"
        if size > limit:
            raise InputError(f"{what}: {size / MEBI:.0f} MB; the limit is {limit // MEBI} MB. Take a part of it.")
        self._quota.check_disk(owner, size, what)
        folder = self._new_folder(owner)
        for path in paths:
            shutil.copyfile(path, folder / path.name)
        return folder / names[0] if len(names) == 1 else folder

    def handed_over(self, path: Path, owner: str = LOCAL) -> Path:
        """A file that was uploaded and is only looked at. Raises NotFoundError for any other."""
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
        file = self._new_folder(owner) / name
        file.write_bytes(data)
        return file

    def edited(self, path: Path, changes: Mapping[int, Mapping[str, Any]], owner: str) -> Path:
        """A copy of a file with some cells changed, as JSONL: row n is its line n. changes: row -> column -> its new value.

        A row that could not be read and was not changed stays one that cannot be used. Raises what ``check`` does."""
        path = self._readable(Path(path), owner)
        lines = edited_lines(path, changes, self._settings.upload_limit_bytes)
        return self.write("".join(lines), f"{path.stem.removesuffix('-edited')}-edited.jsonl", owner)

    def table(self, path: Path, rows: Sequence[int], owner: str) -> Table:
        """These rows as they stand in the file, every cell as text. Raises what ``check`` does."""
        return table_of(self._readable(Path(path), owner), rows, self._settings.upload_limit_bytes)

    def bad_rows_file(self, path: Path, checked: Checked, tokens: TokenReport | None, owner: str) -> Path:
        """The rows that cannot be used, with reasons and their own content, as a CSV to open in a sheet."""
        path = self._readable(Path(path), owner)
        held: dict[int, Mapping[str, Any]] = {}
        wanted = {row.row for row in (*checked.bad, *(tokens.bad if tokens else ()))}
        for number, record in read_files(path, self._settings.upload_limit_bytes):
            if number in wanted and isinstance(record, dict):
                held[number] = record
        return self.download(f"{path.stem}-bad-rows.csv", bad_rows_csv(checked, tokens, held.get), owner)

    def good_rows_file(self, path: Path, checked: Checked, owner: str = LOCAL) -> Path:
        """The rows that can be used, as JSONL for anywhere else."""
        return self.download(f"{Path(path).stem}-good-rows.jsonl", good_rows_jsonl(checked), owner)

    def download(self, name: str, text: str, owner: str) -> Path:
        """A text as a file that the page hands out. Raises InputError where the owner has no room for it."""
        data = text.encode("utf-8", errors="replace")
        file = self._quota.room(owner, len(data), name) / name
        file.parent.mkdir(parents=True)
        file.write_bytes(data)
        return file

    def _new_folder(self, owner: str) -> Path:
        folder = self._own_folder(owner) / uuid.uuid4().hex[:12]
        folder.mkdir(parents=True)
        return folder

    def _own_folder(self, owner: str) -> Path:
        return self._settings.uploads_dir / (owner if owner.isalnum() else LOCAL)

    def _readable(self, path: Path, owner: str) -> Path:
        """Raises NotFoundError for a file that is neither shipped nor this owner's. Whoever runs the app may read any."""
        if not self._settings.shared or owner == LOCAL:
            return path
        roots = [self._settings.examples_dir, *([self._own_folder(owner)] if owner else [])]
        if not any(path.resolve().is_relative_to(root.resolve()) for root in roots):
            raise NotFoundError(
                f"There is no file {path.name[:80]!r} of yours. Upload it again, or take one of the example sets."
            )
        return path

    def _cached(self, key: Any, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._cache:
                return self._cache[key]
        value = make()
        with self._lock:
            if len(self._cache) > 32:
                self._cache.clear()
            self._cache[key] = value
        return value


def _identity(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), stat.st_size, stat.st_mtime_ns
