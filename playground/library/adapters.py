"""All adapters on this machine, those that came with the app and those in the home folder, and the card of each, read
from its folder. One is put together in ``.staging`` and renamed into place when it is complete; dot folders are never
listed. Ids are made here, and a path is only ever one id below one of the two roots."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

from filelock import FileLock, Timeout

from playground.errors import AdapterError, BusyError, InputError, NotFoundError
from playground.library import card as cards
from playground.library.archive import COMPARED, KEPT, copy_known, listed, pack, unpack
from playground.library.bases import HUB_ID, Progress
from playground.library.card import CONFIG, NOTES, OFF, RECORD, WEIGHTS, read_run, weight_files
from playground.library.files import (
    copy_file,
    is_plain_file,
    read_header,
    read_json,
    sha256_of,
    sync_folder,
    write_json,
)
from playground.library.safety import check_folder, check_vocabulary, keep_config, vocabulary_of
from playground.methods import method_of
from playground.methods.shapes import BaseLayout
from playground.plain import plain_number, plain_text

ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
NAME_LIMIT = 100
RESERVATION_S = 24 * 3600.0  # how long an id is kept for somebody who asked for it and has not published yet

_TAKEN = frozenset({"base"})  # means the bare base wherever a model is named
_SHA256 = re.compile(r"[0-9a-f]{64}")
Admit: TypeAlias = Callable[[int], None]
Cards: TypeAlias = "list[AdapterCard]"
Damaged: TypeAlias = list[tuple[str, str]]


@dataclass(frozen=True)
class AdapterCard:
    """One adapter. name: what a person reads. method: such as ``lora``. base: what it was trained on. base_fingerprint:
    of that base's weights, '' = unknown. rank: of LoRA and DoRA. bytes: of the weights on disk. rows: training rows, 0
    = unknown. created_s: seconds since 1970. shipped: came with the app. kind: ``peft`` for a PEFT folder, ``full`` for
    a whole model trained from the base, ``base`` for another base, which has a tokenizer of its own. trained_on: the
    data file's name. objective: such as ``sft``; ``reward`` is never a side of a comparison. virtual_tokens: how many
    it puts before a text. notes: what its import changed and left out. think: how it is asked where nobody says
    otherwise: False = with thinking off, since it learned answers without thoughts on a base that thinks; None = as the
    base's template does by itself."""

    id: str
    name: str
    method: str
    base: str
    base_fingerprint: str
    rank: int | None
    bytes: int
    sha256: str
    rows: int
    created_s: float
    shipped: bool
    kind: Literal["peft", "full", "base"]
    path: Path
    owner: str
    trained_on: str
    objective: str = ""
    virtual_tokens: int = 0
    notes: tuple[str, ...] = ()
    think: bool | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is a model of its own in memory, beside the base in use."""
        return self.kind != "peft"

    @property
    def is_base(self) -> bool:
        """Whether it is another base."""
        return self.kind == "base"


def read_card(folder: Path, *, shipped: bool = False) -> AdapterCard:
    """Describe the adapter in ``folder``, by its config where it has no run.json. Raises AdapterError."""
    folder = Path(folder)
    if folder.is_symlink() or not folder.is_dir():
        raise AdapterError(f"{folder} is not a folder of an adapter.")
    run = read_run(folder)
    kind: Literal["peft", "full"] = "peft" if (folder / CONFIG).exists() else "full"
    config = read_json(folder / (CONFIG if kind == "peft" else "config.json"))
    weights = weight_files(folder, kind)
    for file in weights:
        read_header(file)  # finds a file that was cut off
    known, notes = run.get("sha256"), run.get(NOTES)
    rank = (plain_number(config.get("r")) if config.get("peft_type") == "LORA" else 0) or plain_number(run.get("rank"))
    return AdapterCard(
        id=folder.name,
        name=plain_text(run.get("name"), 100) or folder.name,
        method=plain_text(run.get("method"), 40) or (method_of(config) if kind == "peft" else "full"),
        base=plain_text(run.get("base")) or plain_text(config.get("base_model_name_or_path")) or "unknown",
        base_fingerprint=plain_text(run.get("base_fingerprint"), 64),
        rank=int(rank) if rank else None,
        bytes=sum(file.stat().st_size for file in weights),
        sha256=known if isinstance(known, str) and _SHA256.fullmatch(known) else sha256_of(weights),
        rows=int(plain_number(run.get("rows_used")) or 0),
        created_s=float(plain_number(run.get("created_s")) or weights[0].stat().st_mtime),
        shipped=shipped,
        kind=kind,
        path=folder,
        owner=plain_text(run.get("owner")) or "local",
        trained_on=plain_text(run.get("data")),
        objective=plain_text(run.get("objective"), 40),
        virtual_tokens=int(plain_number(config.get("num_virtual_tokens")) or 0) if kind == "peft" else 0,
        notes=tuple(plain_text(note, 400) for note in notes[:10]) if isinstance(notes, list) else (),
        think=False if run.get("think") == OFF else None,
    )


class AdapterLibrary:
    """own_dir: the person's, written to. shipped_dir: the app's, only read. clock: seconds since 1970."""

    def __init__(self, own_dir: Path, shipped_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self._own = Path(own_dir)
        self._staging, self._reserved = self._own / ".staging", self._own / ".reserved"
        self._shipped = Path(shipped_dir)
        self._clock = clock

    def list(self, owner: str = "local", shared: bool = False) -> Cards:
        """Shipped ones as they were made, then the newest first; none damaged. shared: only ``owner``'s own."""
        own = [card for card in self._read(self._own, shipped=False)[0] if not shared or card.owner == owner]
        ids = {card.id for card in own}  # an id keeps meaning the person's own adapter, whatever a later version ships
        shipped = [card for card in self._read(self._shipped, shipped=True)[0] if card.id not in ids]
        newest = sorted(own, key=lambda card: (-card.created_s, card.id))
        return sorted(shipped, key=lambda card: card.created_s) + newest

    def owners(self) -> set[str]:
        """Everybody who has an adapter here."""
        return {card.owner for card in self._read(self._own, shipped=False)[0]}

    def damaged(self) -> Damaged:
        """(folder name, reason) of every folder that cannot be used."""
        return [*self._read(self._shipped, shipped=True)[1], *self._read(self._own, shipped=False)[1]]

    def get(self, id: str, owner: str = "local", shared: bool = False) -> AdapterCard:
        """The adapter with this id. Raises NotFoundError (says what there is), AdapterError when it is damaged."""
        if ID.fullmatch(id):
            for root, shipped in ((self._own, False), (self._shipped, True)):
                folder = root / id
                if folder.is_symlink() or not folder.is_dir():
                    continue
                try:
                    card = _card(folder, shipped, _version(folder))
                except FileNotFoundError:
                    continue  # removed while we looked
                except (AdapterError, OSError) as exc:
                    if shared and not shipped:
                        continue  # whose it was is unknown
                    raise AdapterError(f"The adapter {id} is damaged: {exc}") from exc
                if shipped or not shared or card.owner == owner:
                    return card
        there = ", ".join(card.id for card in self.list(owner, shared))
        raise NotFoundError(f"There is no adapter {plain_text(id, 80)!r}. There is: {there or 'none yet'}.")

    def reserve_id(self, name: str, owner: str = "local") -> str:
        """A new id made from a person's name: ``Hospital reports`` -> ``hospital_reports``, then
        ``hospital_reports-2``. A visitor's ends in a random number, so that it does not tell what others have. Nobody
        else is given it until it is published, released, or a day has passed."""
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        slug = re.sub(r"[^a-z0-9-]+", "_", plain).strip("_-")[:56].rstrip("_-") or "adapter"
        for number in itertools.count(1):
            id = slug if number == 1 else f"{slug}-{number}"
            if owner != "local":
                id = f"{slug[:55]}-{secrets.token_hex(4)}"
            if self._is_free(id) and self._reserve(id):
                break
        return id

    def release_id(self, id: str) -> None:
        """Give back a reserved id that will not be published."""
        if ID.fullmatch(id):
            (self._reserved / id).unlink(missing_ok=True)

    def staging(self) -> Path:
        """A new, empty folder on the same disk, to put an adapter together in."""
        self._staging.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self._staging))

    def publish(self, folder: Path, id: str) -> AdapterCard:
        """Move a finished staging folder into place, in one step. Writes the SHA-256 of the weights into run.json, and
        a model card where there is none. Never overwrites. Raises AdapterError when it is not complete."""
        folder, target = Path(folder), self._own / id
        if not ID.fullmatch(id) or target.resolve().parent != self._own.resolve():
            said = plain_text(id, 80)
            raise InputError(f"{said!r} is not an id (small letters, digits, _ and -). Ask reserve_id for one.")
        if folder.is_symlink() or not folder.is_dir() or folder.resolve().parent != self._staging.resolve():
            said = f"{folder} is not a staging folder of this library."
            raise InputError(f"{said} Put the adapter together in staging().")
        if not self._is_free(id):
            raise InputError(f"There is an adapter {id} already. Ask reserve_id for another id.")
        cards.check_names(folder)
        run = read_run(folder)
        kind = "peft" if (folder / CONFIG).exists() else "full"
        run = {"created_s": self._clock(), "name": id, "owner": "local"} | run
        run |= {"schema": cards.SCHEMA, "sha256": sha256_of(weight_files(folder, kind))}
        write_json(folder / RECORD, run)
        if not is_plain_file(folder / cards.CARD):
            cards.write_model_card(folder, run)
        card = read_card(folder)
        sync_folder(folder)
        try:
            folder.rename(target)
        except OSError as exc:
            why = f"{id} could not be put in place ({exc.strerror}). Ask reserve_id for another id."
            raise InputError(why) from exc
        sync_folder(self._own, with_files=False)
        self.release_id(id)
        return replace(card, id=id, path=target)

    def import_hub(
        self, spec: str, base: BaseLayout | None, owner: str, admit: Admit, progress: Progress
    ) -> AdapterCard:
        """The same for ``owner/name[@revision]`` of the hub. What has arrived of it stays for a day where this fails or
        ``progress`` raises, and the next try goes on from there. Raises BaseUnavailableError too."""
        from playground.library.fetching import fetch_adapter

        if not (HUB_ID.fullmatch(spec) and ".." not in spec):
            said = f"{plain_text(spec, 80)!r} is no id of the hub, which are such as owner/name or owner/name@revision."
            raise InputError(said)
        self._staging.mkdir(parents=True, exist_ok=True)
        staging = self._staging / f"hub--{re.sub(r'[/@]', '--', spec)}"
        try:
            with FileLock(f"{staging}.lock", timeout=0):
                staging.mkdir(exist_ok=True)
                said = fetch_adapter(spec, staging, progress)
                name = spec.partition("@")[0].partition("/")[2]
                try:
                    return self.import_path(staging, base, owner, admit, name=name, notes=(said,))
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
        except Timeout:
            raise BusyError(f"{spec} is being fetched already. Wait for it.") from None

    def import_path(
        self,
        path: Path,
        base: BaseLayout | None,
        owner: str = "local",
        admit: Admit = lambda size: None,
        *,
        name: str = "",
        notes: Sequence[str] = (),
    ) -> AdapterCard:
        """Take in an adapter from a folder or a zip. Only its known files are copied, and checked as copied. base: what
        it must fit; None = not known yet. admit: hears how many bytes are to stay, and may raise. name: "" = the
        folder's. The card's ``notes`` say what was changed and what was left, after those given. Raises AdapterError;
        nothing is left behind then."""
        path = Path(path).expanduser().resolve()
        if not path.exists() or path.suffix in (".safetensors", ".json"):
            wrong = "is a single file" if path.exists() else "does not exist"
            raise AdapterError(f"{path} {wrong}. Name the folder that holds {CONFIG} and {WEIGHTS}, or a zip of it.")
        unreadable = _said_plainly(f"{path} cannot be read", "Check that it may be read, and the disk's space.")
        name = name or (path.name if path.is_dir() else path.stem) or "adapter"
        with self._temporary() as work, unreadable:
            source = Path(work, re.sub(r"[^\w-]+", "_", name)[:60])  # errors say it
            if path.is_dir():
                source.mkdir()
                left = copy_known(path, source)
            else:
                cards.refuse_names([path.name])
                left = unpack(path, source)
            admit(sum(file.stat().st_size for file in source.iterdir() if file.name not in COMPARED))
            notes = [*notes, *keep_config(source, base), *([f"left where it was: {listed(left)}"] if left else [])]
            check_folder(source, base)
            if base is not None and (place := base.folder) is not None:
                notes += check_vocabulary(source, lambda: vocabulary_of(place))
            record, config, now_s = read_run(source), read_json(source / CONFIG), self._clock()
            run = cards.sanitised(record, config, name=name, owner=owner, now_s=now_s)
            write_json(source / RECORD, run | ({cards.NOTES: notes} if notes else {}))
            folder, id = self.staging(), self.reserve_id(run["name"], owner)
            try:
                for file in KEPT:
                    if is_plain_file(source / file):
                        (source / file).rename(folder / file)
                return self.publish(folder, id)
            except BaseException:
                self.release_id(id)
                raise
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def export(self, id: str, dir: Path, owner: str = "local", shared: bool = False) -> Path:
        """Copy an adapter into ``dir`` (new or empty) as a folder that PEFT or Transformers loads. Returns ``dir``."""
        card = self.get(id, owner, shared)
        target = Path(dir).expanduser()
        if any(root.resolve() in (target.resolve(), *target.resolve().parents) for root in (self._own, self._shipped)):
            raise InputError(f"{target} lies inside the library itself. Name a folder elsewhere.")
        if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{target} exists and is not an empty folder. Name a new folder; nothing is overwritten.")
        with _said_plainly(f"{target} cannot be written", "Name another folder."):
            target.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
            try:
                self._copy_out(card, part)
                part.chmod(0o755)
                part.rename(target)  # takes the place of an empty folder too
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
        return target

    def export_zip(self, id: str, dir: Path, owner: str = "local", shared: bool = False) -> Path:
        """Write ``dir/ID.zip`` with the same files. Raises InputError if it exists."""
        card = self.get(id, owner, shared)
        target = Path(dir).expanduser() / f"{card.id}.zip"
        with self._temporary() as work, _said_plainly(f"{target} cannot be written", "Name another folder."):
            folder = Path(work, card.id)
            folder.mkdir()
            self._copy_out(card, folder)
            return pack(folder, target)

    def rename(self, id: str, new_name: str, owner: str = "local", shared: bool = False) -> AdapterCard:
        """Change the name that people read; the id stays. Not for shipped adapters."""
        card = self._changeable(id, owner, shared)
        name = plain_text(new_name, NAME_LIMIT + 1)
        if not 1 <= len(name) <= NAME_LIMIT:
            raise InputError(f"A name has 1 to {NAME_LIMIT} characters; this one has {len(new_name.strip())}.")
        run = {"schema": cards.SCHEMA, "sha256": card.sha256} | read_run(card.path) | {"name": name}
        write_json(card.path / RECORD, run)
        return replace(card, name=name)

    def remove(self, id: str, owner: str = "local", shared: bool = False) -> None:
        """Delete an adapter that is not shipped; a damaged one too, except where the app is shared."""
        folder = self._own / id
        broken = not shared and ID.fullmatch(id) and not folder.is_symlink() and folder.is_dir()
        if not broken:
            folder = self._changeable(id, owner, shared).path
        with self._temporary() as work:  # first out of sight in one step, then away
            try:
                folder.rename(Path(work, "removed"))
            except FileNotFoundError:
                raise NotFoundError(f"The adapter {id} has been removed already.") from None
        sync_folder(self._own, with_files=False)

    def _read(self, root: Path, *, shipped: bool) -> tuple[Cards, Damaged]:
        found: Cards = []
        damaged: Damaged = []
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if folder.name.startswith((".", "__")) or not (folder.is_dir() or folder.is_symlink()):
                continue
            try:
                if folder.is_symlink():
                    raise AdapterError("It is a link. Import the folder that it leads to.")
                if not ID.fullmatch(folder.name):
                    raise AdapterError("Its name is not an id. Move it elsewhere and import it from there.")
                found.append(_card(folder, shipped, _version(folder)))
            except FileNotFoundError:
                continue  # removed while we looked
            except (AdapterError, OSError) as exc:
                damaged.append((folder.name, str(exc)))
        return found, damaged

    def _is_free(self, id: str) -> bool:
        return id not in _TAKEN and not os.path.lexists(self._own / id) and not os.path.lexists(self._shipped / id)

    def _reserve(self, id: str) -> bool:
        """Create the mark of a reservation; False when somebody holds one that has not run out."""
        self._reserved.mkdir(parents=True, exist_ok=True)
        mark = self._reserved / id
        with contextlib.suppress(FileNotFoundError, ValueError):
            if self._clock() - float(mark.read_text()) > RESERVATION_S:
                mark.unlink(missing_ok=True)
        try:
            with mark.open("x") as out:
                out.write(str(plain_number(self._clock()) or 0.0))
        except FileExistsError:
            return False
        return True

    def _changeable(self, id: str, owner: str, shared: bool) -> AdapterCard:
        card = self.get(id, owner, shared)
        if card.shipped:
            why = f"{id} came with the app and stays as it is."
            raise InputError(f"{why} Export it and import the copy to have one of your own.")
        return card

    def _copy_out(self, card: AdapterCard, folder: Path) -> None:
        for path in sorted(card.path.iterdir()):
            if is_plain_file(path) and not path.name.startswith("."):
                copy_file(path, folder / path.name)
        if is_plain_file(folder / RECORD):
            write_json(folder / RECORD, {k: v for k, v in read_run(folder).items() if k not in cards.PRIVATE})
        sync_folder(folder)

    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        self._staging.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=self._staging, ignore_cleanup_errors=True)


def _version(folder: Path) -> tuple[object, ...]:
    """Tells one state of a folder from every other, without reading its files."""
    with os.scandir(folder) as there:  # dot files: of a write that goes on
        stats = [(one.name, one.stat(follow_symlinks=False)) for one in there if not one.name.startswith(".")]
    return tuple(sorted((name, s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats))


@lru_cache(maxsize=1_000)
def _card(folder: Path, shipped: bool, version: tuple[object, ...]) -> AdapterCard:
    """``read_card``, once for each version of the folder; what raises is looked at again."""
    return read_card(folder, shipped=shipped)


@contextlib.contextmanager
def _said_plainly(what: str, mend: str) -> Iterator[None]:
    """Turn an OSError into words for a person."""
    try:
        yield
    except OSError as exc:
        raise InputError(f"{what}: {exc.strerror or exc}. {mend}") from exc
