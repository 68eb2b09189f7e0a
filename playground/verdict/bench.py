"""The prompt bench: versions of a prompt, kept in the home folder (one file an owner), and measured on the
validation part of the examples, so that prompting enters the verdict at its best."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from filelock import FileLock

from playground.chat.compare import SHOTS_MAX, Side
from playground.data.split import VALIDATION, split
from playground.errors import InputError, NotFoundError, PlaygroundError
from playground.library.files import write_json
from playground.verdict.files import BENCH, LIVE, State, VerdictFiles
from playground.verdict.request import SIDES_MAX, VerdictRequest
from playground.workspace.examples import DataService
from playground.workspace.visitors import LOCAL, OWNER

if TYPE_CHECKING:
    from playground.verdict.service import VerdictService, VerdictView

P = ParamSpec("P")
SCHEMA = 1
VERSIONS_MAX = 50
LETTERS_MAX = 20_000
"""Of one prompt: more than any context of the bases here takes."""
NOTED_MAX = 200
"""Benches that are kept as read; older ones have left their scores long ago."""
SEED = 7
"""Of the parts and of the shots, as a run and a verdict have it."""


@dataclass(frozen=True)
class Score:
    """What one version did with so many shots on the validation rows of a file.

    metric: as the verdict names it. value: its figure. passed: of n, where the metric is yes or no. tokens: of an
    average request. when_s: since 1970. bench: its id.
    """

    file: str
    shots: int
    metric: str
    value: float
    n: int
    passed: int | None = None
    tokens: float = 0.0
    when_s: float = 0.0
    bench: str = ""


@dataclass(frozen=True)
class Version:
    """id: ``v1``, ``v2`` ..., never given twice. file: the examples it was written for, "" = any. scores: the last
    one for each file and number of shots."""

    id: str
    text: str
    when_s: float
    file: str = ""
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True)
class _Book:
    """What one owner's file holds. next: the number of the next version. noted: benches whose scores are in."""

    versions: tuple[Version, ...] = ()
    next: int = 1
    noted: tuple[str, ...] = ()


class PromptBook:
    """root: ``prompts`` in the home. Several processes may write: each change is read and written under a lock of
    its owner."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self._root, self._clock = root, clock

    def versions(self, owner: str = LOCAL) -> list[Version]:
        """Oldest first. Raises PlaygroundError for a file that cannot be read."""
        return list(self._read(owner).versions)

    def get(self, id: str, owner: str = LOCAL) -> Version:
        """Raises NotFoundError."""
        there = {version.id: version for version in self.versions(owner)}
        if id not in there:
            raise NotFoundError(
                f"There is no version {id[:20]!r} of a prompt. There are: {', '.join(there) or 'none yet'}."
            )
        return there[id]

    def keep(self, text: str, owner: str = LOCAL, file: str = "") -> Version:
        """A new version; the one that is there where it reads the same and is for the same file. Raises InputError."""
        text = text.strip()
        if not text:
            raise InputError("There is no text in this prompt. Write what the model is to do.")
        if len(text) > LETTERS_MAX:
            raise InputError(f"The prompt is {len(text):,} letters long; a version has at most {LETTERS_MAX:,}.")
        with self._changing(owner):
            book = self._read(owner)
            same = next((one for one in book.versions if (one.text, one.file) == (text, file)), None)
            if same is not None:
                return same
            if (many := len(book.versions)) >= VERSIONS_MAX:
                raise InputError(f"{many} versions are kept, as many as there may be. Remove one that you do not need.")
            made = Version(f"v{book.next}", text, self._clock(), file[:200])
            self._write(owner, replace(book, versions=(*book.versions, made), next=book.next + 1))
        return made

    def remove(self, id: str, owner: str = LOCAL) -> None:
        """Raises NotFoundError."""
        self.get(id, owner)
        with self._changing(owner):
            book = self._read(owner)
            self._write(owner, replace(book, versions=tuple(one for one in book.versions if one.id != id)))

    def noted(self, owner: str = LOCAL) -> frozenset[str]:
        """Benches whose scores are in."""
        return frozenset(self._read(owner).noted)

    def note(self, bench: str, scores: Mapping[str, Iterable[Score]], owner: str = LOCAL) -> None:
        """Put a bench's scores to the versions: text -> its scores. What was scored before on the same file with as
        many shots goes."""
        with self._changing(owner):
            book = self._read(owner)
            versions = tuple(_scored(one, tuple(scores.get(one.text, ()))) for one in book.versions)
            self._write(owner, replace(book, versions=versions, noted=(*book.noted, bench)[-NOTED_MAX:]))

    # -- as a whole ------------------------------------------------------------------------------------------------

    def owners(self) -> set[str]:
        """Everybody who has a file."""
        return {file.stem for file in self._root.glob("*.json")} if self._root.is_dir() else set()

    def file(self, owner: str) -> Path:
        """Raises NotFoundError for what is no owner: nothing else becomes a path."""
        if owner != LOCAL and not OWNER.fullmatch(owner):
            raise NotFoundError("There are no prompts of yours. Reload the page.")
        return self._root / f"{owner}.json"

    def forget(self, owner: str) -> None:
        self.file(owner).unlink(missing_ok=True)
        self._lock(owner).unlink(missing_ok=True)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _lock(self, owner: str) -> Path:
        return self.file(owner).with_name(f".{owner}.lock")

    def _changing(self, owner: str) -> FileLock:
        self._root.mkdir(parents=True, exist_ok=True)
        return FileLock(self._lock(owner))

    def _read(self, owner: str) -> _Book:
        file = self.file(owner)
        try:
            said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if said["schema"] != SCHEMA:
                raise ValueError(f"schema {said['schema']}, this is {SCHEMA}")
            versions = tuple(
                Version(**{**one, "scores": tuple(Score(**score) for score in one["scores"])})
                for one in said["versions"]
            )
            return _Book(versions, int(said["next"]), tuple(said["noted"]))
        except FileNotFoundError:
            return _Book()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PlaygroundError(
                f"The kept prompts ({file.name}) cannot be read: {str(error)[:120]}. Move the file away, or remove "
                "it under "
                "Storage in the Device panel."
            ) from error

    def _write(self, owner: str, book: _Book) -> None:
        write_json(self.file(owner), {"schema": SCHEMA, **asdict(book)})


def _scored(version: Version, new: tuple[Score, ...]) -> Version:
    fresh = {(score.file, score.shots) for score in new}
    return replace(version, scores=(*(one for one in version.scores if (one.file, one.shots) not in fresh), *new))


@dataclass(frozen=True)
class Best:
    """text, shots: what goes into the verdict. sentence: how it was found. side: its name in the bench."""

    text: str
    shots: int
    sentence: str
    side: str


def best_of(record: Mapping[str, Any]) -> Best:
    """The side with the best figure of the main metric; where several have it, the one with the fewest tokens, then
    the first. Raises InputError where nothing was measured."""
    metric, sides = record.get("main_metric"), record["sides"]
    if metric is None or not sides:
        raise InputError("Nothing was measured that prompts could be compared by. Give a check, such as contains:TEXT.")
    sign = 1 if record["about"][metric]["higher_is_better"] else -1
    best = max(sides, key=lambda side: (sign * side["metrics"][metric]["value"], -side["prompt_tokens_mean"]))
    prompts = len({side["prompt"] for side in sides})
    tried = f"{prompts} {'prompt' if prompts == 1 else 'prompts'}, {_shots([side['shots'] for side in sides])}"
    which = f"The best of {len(sides)} ({tried})" if len(sides) > 1 else f"The only one that was tried ({tried})"
    rows = f"{record['examples']} validation {'row' if record['examples'] == 1 else 'rows'}"
    return Best(best["prompt"], best["shots"], f"{which} on {rows}: {figure(record, best)}.", best["side"])


def figure(record: Mapping[str, Any], side: Mapping[str, Any]) -> str:
    """``21 of 24``, or ``rouge_l 0.831``."""
    metric = record["main_metric"]
    one = side["metrics"][metric]
    if record["about"][metric]["kind"] == "yes-no":
        return f"{round(one['value'] * one['n'])} of {one['n']}"
    return f"{metric} {one['value']:.3f}"


def scores_of(record: Mapping[str, Any], file: str) -> dict[str, list[Score]]:
    """Prompt -> its scores in this bench."""
    metric, found = record.get("main_metric"), dict[str, list[Score]]()
    for side in record["sides"] if metric is not None else ():
        one = side["metrics"][metric]
        passed = round(one["value"] * one["n"]) if record["about"][metric]["kind"] == "yes-no" else None
        tokens, when_s = side["prompt_tokens_mean"], record["created_s"]
        score = Score(
            file, side["shots"], str(metric), one["value"], one["n"], passed, tokens, when_s, bench=record["id"]
        )
        found.setdefault(side["prompt"], []).append(score)
    return found


def tried_for(files: VerdictFiles, request: VerdictRequest) -> str:
    """How the prompt of a verdict was found: the sentence of the newest bench on the same examples, where one of the
    sides is its best; "" otherwise. Says how many rows both use."""
    source = str(Path(request.examples or request.file).resolve())
    for state in files.all():
        asked = _asked(files, state, request.owner, source)
        record = files.record(state.id) if asked is not None else None
        if asked is None or record is None:
            continue
        try:
            best = best_of(record)
        except InputError:
            return ""
        sides = {(side.model, side.system_prompt.strip(), side.shots, side.docs) for side in request.sides}
        if ("base", best.text, best.shots, None) in sides:
            return best.sentence + _shared(files, state, asked, request)
        return ""
    return ""


def _asked(files: VerdictFiles, state: State, owner: str, source: str) -> Mapping[str, Any] | None:
    """What an ended bench of this owner on this file asked; None for anything else."""
    if state.purpose != BENCH or state.owner != owner or state.state in LIVE:
        return None
    try:
        asked = files.request(state.id)
    except InputError:
        return None
    return asked if asked.get("file") == source else None


def _shared(files: VerdictFiles, state: State, asked: Mapping[str, Any], request: VerdictRequest) -> str:
    """A warning where the prompt was chosen on rows that it is judged by."""
    if str(Path(request.file).resolve()) != asked.get("file"):
        return ""
    chosen_by = {row["example"] for row in files.rows(state.id)}
    both = chosen_by if request.rows is None else chosen_by & set(request.rows)
    return f" {len(both)} of these rows are judged by too, which favours the prompt." if both else ""


def _shots(counts: Sequence[int]) -> str:
    there = sorted(set(counts))
    if there == [0]:
        return "without shots"
    words = " or ".join([", ".join(map(str, there[:-1])), str(there[-1])]) if len(there) > 1 else str(there[0])
    return f"with {words} {'shot' if there == [1] else 'shots'}"


def _started(
    request: Callable[Concatenate[PromptBench, P], VerdictRequest],
) -> Callable[Concatenate[PromptBench, P], str]:
    """Takes what ``request`` takes, starts it in the background, and returns the bench's id."""

    def score(bench: PromptBench, /, *args: P.args, **named: P.kwargs) -> str:
        return bench.verdicts.start(request(bench, *args, **named))

    return score


class PromptBench:
    """A bench is a verdict with a purpose of its own: the same queue, progress and stop, left out of the list of
    verdicts."""

    def __init__(self, verdicts: VerdictService, data: DataService, book: PromptBook) -> None:
        self.verdicts, self._data, self.book = verdicts, data, book

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
        self,
        file: Path,
        owner: str = LOCAL,
        mapping: Mapping[str, str] | None = None,
        seed: int = SEED,
        test: float | None = None,
    ) -> tuple[int, ...]:
        """Row numbers of the validation part, as a run with this seed draws it. test: the share that is held back
        for the verdict, None = the file's own. Raises InputError where there is no such part."""
        source = self._learned_from(file)
        checked = self._data.check(source, mapping, owner)
        share = self._data.test_share(source) if test is None else test
        found = split(checked.examples, seed, VALIDATION, share).validation
        if not found:
            many = len(checked.examples)
            raise InputError(
                f"{source.name} has {many} {'row' if many == 1 else 'rows'} with an answer and no validation part, "
                "which is drawn "
                "from 10 on. Add rows: a prompt must not be chosen by the rows that the verdict asks."
            )
        return found

    def request(
        self,
        file: Path,
        versions: Sequence[str],
        shots_counts: Sequence[int],
        checks: Sequence[str],
        owner: str = LOCAL,
        rows: Sequence[int] | None = None,
        *,
        mapping: Mapping[str, str] | None = None,
        limit: int | None = None,
        max_tokens: int = 96,
        seed: int = SEED,
    ) -> VerdictRequest:
        """Every version with every number of shots, for ``VerdictService.start``.

        file: examples; the held-out file of a shipped set stands for the set. versions: their ids. rows: numbers to
        measure on, None = the validation part. Raises InputError that names every fault, NotFoundError.
        """
        source, counts = self._learned_from(file), list(dict.fromkeys(shots_counts))
        kept = [self.book.get(id, owner) for id in dict.fromkeys(versions)]
        many = len(kept) * len(counts)
        too_many = (
            f"{len(kept)} versions with {len(counts)} numbers of shots make {many}; one bench takes {SIDES_MAX}. "
            "Remove a version "
            "or choose fewer shots."
        )
        wrong = {
            "There is no version to score. Keep one first.": not kept,
            "No number of shots is chosen. Take 0 for none.": not counts,
            f"Shots go from 0 to {SHOTS_MAX}.": any(not 0 <= count <= SHOTS_MAX for count in counts),
            too_many: many > SIDES_MAX,
        }
        if faults := [words for words, is_so in wrong.items() if is_so]:
            raise InputError(" ".join(faults))
        chosen = tuple(rows) if rows is not None else self.rows(source, owner, mapping, seed)
        sides = tuple(
            Side("base", one.text, count, source if count else None, _label(one, count))
            for one in kept
            for count in counts
        )
        asked = VerdictRequest(source, sides, tuple(checks), chosen, limit=limit, max_tokens=max_tokens, seed=seed)
        name = f"Prompt bench: {source.name}"
        return replace(asked, mapping=mapping, name=name, owner=owner, losses=False, forgetting=False, purpose=BENCH)

    score = _started(request)

    # -- looking ---------------------------------------------------------------------------------------------------

    def views(self, owner: str = LOCAL) -> list[VerdictView]:
        """Benches, newest first."""
        return self.verdicts.views(owner, BENCH)

    def show(self, id: str, owner: str = LOCAL) -> VerdictView:
        """Raises NotFoundError, also for a verdict that is no bench."""
        view = self.verdicts.show(id, owner)
        if view.purpose != BENCH:
            raise NotFoundError(f"There is no prompt bench {id[:40]!r}.")
        return view

    def newest(self, file: Path, owner: str = LOCAL) -> VerdictView | None:
        """The last bench on these examples, None where there was none."""
        source = str(self._learned_from(file).resolve())
        for view in self.views(owner):
            try:
                if self.verdicts.files.request(view.id).get("file") == source:
                    return self.show(view.id, owner)
            except InputError:
                continue
        return None

    def stop(self, id: str, owner: str = LOCAL) -> None:
        """End it and keep what is measured. Raises NotFoundError."""
        self.verdicts.stop(self.show(id, owner).id, owner)

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
            record = self.verdicts.show(view.id, owner).record
            if record is not None:
                self.book.note(view.id, scores_of(record, record["file"]), owner)


def _label(version: Version, shots: int) -> str:
    return f"{version.id} + {shots} {'shot' if shots == 1 else 'shots'}" if shots else version.id
