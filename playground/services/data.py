"""Files of examples: the shipped sets, a person's own, and what training on them would see."""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.data.check import TokenReport, check_file, token_report
from playground.data.example import Checked
from playground.data.render import Rendered, render_example
from playground.errors import InputError, NotFoundError
from playground.services.incoming import handed_over
from playground.services.quota import Quota
from playground.services.sessions import LOCAL
from playground.settings import Settings


@dataclass(frozen=True)
class ShippedSet:
    """A set of examples that comes with the app. ask: a question to try; check: how its replies are judged; adapter: its id."""

    id: str
    title: str
    description: str
    file: Path
    heldout: Path
    prompt: Path
    ask: str
    check: str
    adapter: str

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
        paths = ("file", "heldout", "prompt")
        return [
            ShippedSet(**{key: folder / value if key in paths else value for key, value in entry.items()}) for entry in entries
        ]

    def shipped(self, id: str) -> ShippedSet:
        """Raises NotFoundError."""
        for item in self.sets():
            if item.id == id:
                return item
        raise NotFoundError(f"There is no shipped set {id!r}. There are: {', '.join(item.id for item in self.sets())}.")

    def check(self, path: Path, mapping: Mapping[str, str] | None = None, owner: str = "") -> Checked:
        """What is in a file. Raises InputError when nothing of it can be used, NotFoundError when it is somebody else's.

        owner: who asks; where the app is shared, nobody in particular may read the shipped sets only."""
        path = self._readable(Path(path), owner)
        key = ("check", *_identity(path), json.dumps(dict(mapping or {}), sort_keys=True))
        checked: Checked = self._cached(
            key, lambda: check_file(path, mapping or None, limit_bytes=self._settings.upload_limit_bytes)
        )
        return checked

    def tokens(self, checked: Checked, max_tokens: int) -> TokenReport:
        """Lengths under the current base's tokenizer, prompt and answer together."""
        tokenizer = self._tokenizer()
        key = ("tokens", id(checked), max_tokens, id(tokenizer))
        report, _ = self._cached(key, lambda: (token_report(checked, tokenizer, max_tokens), checked))
        found: TokenReport = report
        return found

    def preview(self, checked: Checked, index: int, max_tokens: int = 2048) -> Rendered:
        """Row ``index`` (from 0, among the good ones) as the model sees it."""
        if not 0 <= index < len(checked.examples):
            raise InputError(f"There is no row {index + 1} to show; there are {len(checked.examples)}.")
        return render_example(self._tokenizer(), checked.examples[index], max_tokens)

    def keep_upload(self, path: Path, owner: str) -> Path:
        """Copy an uploaded file into the owner's folder. Raises NotFoundError when it was not uploaded, InputError when it is too
        large."""
        path = handed_over(self._settings, path)
        size, limit = path.stat().st_size, self._settings.upload_limit_bytes
        if size > limit:
            raise InputError(f"{path.name} is {size / 1048576:.0f} MB; the limit is {limit // 1048576} MB. Take a part of it.")
        self._quota.check_disk(owner, size, path.name)
        folder = self._own_folder(owner) / uuid.uuid4().hex[:12]
        folder.mkdir(parents=True)
        return Path(shutil.copyfile(path, folder / path.name))

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
