"""The prompt bench: versions of a prompt, measured on the validation part, so that prompting enters the verdict at its best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from playground.data.split import VALIDATION, split
from playground.errors import InputError, NotFoundError
from playground.services.bench_best import Best, best_of, scores_of
from playground.services.data import DataService
from playground.services.prompts import PromptBook, Version
from playground.services.sessions import LOCAL
from playground.services.sides import SHOTS_MAX, Side
from playground.services.verdict_request import BENCH, SIDES_MAX, VerdictRequest
from playground.services.verdicts import VerdictService, VerdictView

SEED = 7
"""Of the parts and of the shots, as a run and a verdict have it."""


class PromptBench:
    """A bench is a verdict with a purpose of its own: the same queue, progress and stop, left out of the list of verdicts."""

    def __init__(self, verdicts: VerdictService, data: DataService, book: PromptBook) -> None:
        self._verdicts, self._data, self.book = verdicts, data, book

    # -- versions --------------------------------------------------------------------------------------------------

    def keep(self, text: str, file: Path | None = None, owner: str = LOCAL) -> Version:
        """A new version of the prompt for these examples. Raises InputError."""
        return self.book.keep(text, owner, self._learned_from(file).name if file is not None else "")

    def versions(self, file: Path | None = None, owner: str = LOCAL) -> list[Version]:
        """Those for these examples (None = all), oldest first, with the scores of every bench that has ended."""
        self._note(owner)
        name = self._learned_from(file).name if file is not None else None
        return [one for one in self.book.versions(owner) if name is None or one.file in ("", name)]

    def forget(self, id: str, owner: str = LOCAL) -> None:
        """Raises NotFoundError."""
        self.book.remove(id, owner)

    # -- measuring -------------------------------------------------------------------------------------------------

    def rows(
        self, file: Path, owner: str = LOCAL, mapping: Mapping[str, str] | None = None, seed: int = SEED, test: float | None = None
    ) -> tuple[int, ...]:  # fmt: skip
        """Row numbers of the validation part, as a run with this seed draws it. test: the share that is held back for the verdict, None = the
        file's own. Raises InputError where there is no such part."""
        source = self._learned_from(file)
        checked = self._data.check(source, mapping, owner)
        share = self._data.test_share(source) if test is None else test
        found = split(checked.examples, seed, VALIDATION, share).validation
        if not found:
            many = len(checked.examples)
            raise InputError(
                f"{source.name} has {many} {'row' if many == 1 else 'rows'} with an answer and no validation part, which is drawn from 10 on. "
                "Add rows: a prompt must not be chosen by the rows that the verdict asks."
            )
        return found

    def request(
        self, file: Path, versions: Sequence[str], shots_counts: Sequence[int], checks: Sequence[str], owner: str = LOCAL,
        rows: Sequence[int] | None = None, *, mapping: Mapping[str, str] | None = None, limit: int | None = None, max_tokens: int = 96,
        seed: int = SEED,
    ) -> VerdictRequest:  # fmt: skip
        """What ``score`` starts. Raises InputError that names every fault, NotFoundError."""
        source, counts = self._learned_from(file), list(dict.fromkeys(shots_counts))
        kept = [self.book.get(id, owner) for id in dict.fromkeys(versions)]
        many = len(kept) * len(counts)
        faults = [
            said
            for wrong, said in (
                (not kept, "There is no version to score. Keep one first."),
                (not counts, "No number of shots is chosen. Take 0 for none."),
                (any(not 0 <= count <= SHOTS_MAX for count in counts), f"Shots go from 0 to {SHOTS_MAX}."),
                (
                    many > SIDES_MAX,
                    f"{len(kept)} versions with {len(counts)} numbers of shots make {many}; one bench takes {SIDES_MAX}. Remove a version or choose fewer shots.",
                ),
            )
            if wrong
        ]
        if faults:
            raise InputError(" ".join(faults))
        chosen = tuple(rows) if rows is not None else self.rows(source, owner, mapping, seed)
        sides = tuple(
            Side("base", version.text, count, source if count else None, _label(version, count))
            for version in kept
            for count in counts
        )
        return VerdictRequest(
            source, sides, tuple(checks), chosen, limit=limit, max_tokens=max_tokens, seed=seed, mapping=mapping,
            name=f"Prompt bench: {source.name}", owner=owner, losses=False, forgetting=False, purpose=BENCH,
        )  # fmt: skip

    def score(
        self, file: Path, versions: Sequence[str], shots_counts: Sequence[int], checks: Sequence[str], owner: str = LOCAL,
        rows: Sequence[int] | None = None, *, mapping: Mapping[str, str] | None = None, limit: int | None = None, max_tokens: int = 96,
        seed: int = SEED,
    ) -> str:  # fmt: skip
        """Measure every version with every number of shots, in the background; returns the bench's id.

        file: examples; the held-out file of a shipped set stands for the set. versions: their ids. rows: numbers to measure on, None =
        the validation part. Raises InputError that names every fault, NotFoundError."""
        made = self.request(
            file, versions, shots_counts, checks, owner, rows, mapping=mapping, limit=limit, max_tokens=max_tokens, seed=seed
        )
        return self._verdicts.start(made)

    # -- looking ---------------------------------------------------------------------------------------------------

    def views(self, owner: str = LOCAL) -> list[VerdictView]:
        """Benches, newest first."""
        return self._verdicts.views(owner, BENCH)

    def show(self, id: str, owner: str = LOCAL) -> VerdictView:
        """Raises NotFoundError, also for a verdict that is no bench."""
        view = self._verdicts.show(id, owner)
        if view.purpose != BENCH:
            raise NotFoundError(f"There is no prompt bench {id[:40]!r}.")
        return view

    def newest(self, file: Path, owner: str = LOCAL) -> VerdictView | None:
        """The last bench on these examples, None where there was none."""
        source = str(self._learned_from(file).resolve())
        for view in self.views(owner):
            try:
                if self._verdicts.files.request(view.id).get("file") == source:
                    return self.show(view.id, owner)
            except InputError:
                continue
        return None

    def stop(self, id: str, owner: str = LOCAL) -> None:
        """End it and keep what is measured. Raises NotFoundError."""
        self._verdicts.stop(self.show(id, owner).id, owner)

    def best(self, id: str, owner: str = LOCAL) -> Best:
        """What goes into the verdict. Raises NotFoundError, and InputError while there is none."""
        view = self.show(id, owner)
        if view.record is None:
            raise InputError(
                "This bench still measures. Wait for its end."
                if view.live
                else f"This bench measured nothing. {view.error}".strip()
            )
        return best_of(view.record)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _learned_from(self, file: Path) -> Path:
        """The file whose parts count: for a shipped set's held-out rows, those that are trained on."""
        real = Path(file).resolve()
        return next((one.file for one in self._data.sets() if one.heldout.resolve() == real), Path(file))

    def _note(self, owner: str) -> None:
        """Put the scores of benches that have ended since the last look to the versions, the oldest first."""
        noted = self.book.noted(owner)
        for view in reversed(self.views(owner)):
            if view.live or view.id in noted:
                continue
            record = self._verdicts.show(view.id, owner).record
            if record is not None:
                self.book.note(view.id, scores_of(record, record["file"]), owner)


def _label(version: Version, shots: int) -> str:
    return f"{version.id} + {shots} {'shot' if shots == 1 else 'shots'}" if shots else version.id
