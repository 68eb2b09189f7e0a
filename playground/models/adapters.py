"""The adapters a person may use: listed, attached, switched, imported, exported, blended, renamed, removed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from playground.errors import AdapterError, InputError
from playground.library.adapters import NAME_LIMIT, AdapterLibrary
from playground.library.card import AdapterCard
from playground.library.exporting import blend
from playground.models.bases import BaseService
from playground.models.live_adapters import Learning
from playground.models.residents import Residents
from playground.settings import Settings
from playground.workspace.quota import Quota
from playground.workspace.visitors import handed_over


@dataclass(frozen=True)
class AdapterRow:
    """A card, whether it is attached, and if it cannot be used on the base in use, why."""

    card: AdapterCard
    attached: bool
    usable: bool
    reason: str


@dataclass(frozen=True)
class Switch:
    """What it took to make an adapter active: ms for the switch itself; attach_ms if it had to be attached first.

    fingerprint, unchanged: the base's weights, hashed after the switch.
    """

    ms: float
    attach_ms: float
    fingerprint: str
    unchanged: bool

    @property
    def attached_now(self) -> bool:
        return self.attach_ms > 0


class AdapterService:
    """Thin over the library; adds what is in memory and whose it is."""

    def __init__(
        self,
        settings: Settings,
        bases: BaseService,
        residents: Residents,
        library: AdapterLibrary,
        quota: Quota,
        learning: Learning,
    ) -> None:
        self._settings, self._bases, self._residents = settings, bases, residents
        self.library, self._quota, self._learning = library, quota, learning

    def list(self, owner: str = "local") -> list[AdapterRow]:
        attached = self._residents.attached()
        cards = [(card, self.unfit(card)) for card in self.library.list(owner, self._settings.shared)]
        return [AdapterRow(card, card.id in attached, not reason, reason) for card, reason in cards]

    def unfit(self, card: AdapterCard) -> str:
        """Why an adapter cannot run on the base in use, or ""."""
        return self._residents.unfit(card)

    def learning(self, owner: str = "local") -> Sequence[AdapterCard]:
        """The newest checkpoint of each run that trains, as a card that ``get`` knows too. They can be asked, and
        nothing else."""
        return [card for card in self._learning.cards(owner) if not self._residents.unfit(card)]

    def became(self, adapter_id: str, owner: str = "local") -> str:
        """The adapter that a run's own id stands for once it has ended; any other id as it is."""
        return self._learning.made(adapter_id, owner) or adapter_id

    def get(self, adapter_id: str, owner: str = "local") -> AdapterCard:
        """Of the library, or of a run that still trains. Raises NotFoundError."""
        adapter_id = self.became(adapter_id, owner)
        return self._learning.get(adapter_id, owner) or self.library.get(adapter_id, owner, self._settings.shared)

    def attach(self, adapter_id: str, owner: str = "local") -> float:
        """Milliseconds it took; 0 when it was attached already."""
        return self._residents.attach(self.get(adapter_id, owner))

    def detach(self, adapter_id: str, owner: str = "local") -> None:
        self._residents.detach(self.get(adapter_id, owner).id)

    def switch(self, adapter_id: str, owner: str = "local") -> Switch:
        """Make an adapter the active one (attached first if need be), and prove that the base's weights are as they
        were.

        ``base`` switches back to the base alone. A full fine-tune is a base of its own and cannot be switched to.
        """
        engine = self._bases.engine()
        attach_ms, active = 0.0, None
        if adapter_id != "base":
            card = self.get(adapter_id, owner)
            if card.kind == "full":
                raise InputError(
                    f"{card.name} is a whole model, not an adapter on this base. Use it as a side of a comparison."
                )
            attach_ms, active = self._residents.attach(card), card.id
        ms = engine.select_ms(active)
        value, unchanged, _ = engine.check_fingerprint()
        return Switch(ms, attach_ms, value, unchanged)

    def import_file(self, path: Path, owner: str = "local") -> AdapterCard:
        """A PEFT folder, one among other files, or a zip of one; the card's ``notes`` say what was left. Raises
        AdapterError when it is unsafe, damaged, made for another base, or cannot run here."""
        path = Path(path)
        if path.is_file() and path.stat().st_size > self._settings.upload_limit_bytes:
            limit = self._settings.upload_limit_bytes // 1048576
            raise InputError(f"{path.name} is {path.stat().st_size / 1048576:.0f} MB; the limit is {limit} MB.")
        self._quota.check_adapter(owner, path.stat().st_size if path.is_file() else 0)
        return self.library.import_path(
            path, self._bases.shapes(), owner, admit=lambda size: self._quota.check_adapter(owner, size)
        )

    def import_uploads(self, paths: Sequence[Path], owner: str = "local") -> AdapterCard:
        """What a browser sent: one zip, or the files of one PEFT folder. Raises NotFoundError for a path that was
        not uploaded."""
        paths = [handed_over(self._settings, Path(path), owner) for path in paths]
        if len(paths) == 1 and paths[0].suffix.lower() == ".zip":
            return self.import_file(paths[0], owner)
        if not paths:
            raise AdapterError("Choose a zip of a PEFT folder, or its files.")
        with tempfile.TemporaryDirectory(prefix="import-") as folder:
            for path in paths:
                shutil.copyfile(path, Path(folder, path.name))
            return self.import_file(Path(folder), owner)

    def export_folder(self, adapter_id: str, target: Path, owner: str = "local") -> Path:
        return self.library.export(self.get(adapter_id, owner).id, target, owner, self._settings.shared)

    def export_zip(self, adapter_id: str, owner: str = "local") -> Path:
        """A zip in a folder of its own, ready to be downloaded."""
        card = self.get(adapter_id, owner)
        folder = self._quota.room(owner, card.bytes, "The export")
        folder.mkdir(parents=True)
        return self.library.export_zip(card.id, folder, owner, self._settings.shared)

    def blend(self, parts: Mapping[str, float], how: str, name: str, owner: str = "local") -> AdapterCard:
        """A new adapter out of several, each with its weight. Raises InputError, NotFoundError."""
        cards = [self.get(adapter_id, owner) for adapter_id in parts]
        for card in cards:
            if reason := self.unfit(card):
                raise InputError(f"{card.name} cannot be part of a blend: {reason}.")
        self._quota.check_adapter(owner, sum(card.bytes for card in cards))
        base, staging = self._bases.resolve(), self.library.staging()
        try:
            blend(cards, list(parts.values()), how, base.path, staging, name.strip()[:NAME_LIMIT] or "blend", owner)
            return self.library.publish(staging, self.library.reserve_id(name.strip() or "blend", owner))
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def rename(self, adapter_id: str, new_name: str, owner: str = "local") -> AdapterCard:
        return self.library.rename(adapter_id, new_name, owner, self._settings.shared)

    def remove(self, adapter_id: str, owner: str = "local") -> None:
        """Delete an adapter from disk and from memory. Shipped ones stay."""
        self.library.remove(adapter_id, owner, self._settings.shared)
        self._residents.detach(adapter_id)
