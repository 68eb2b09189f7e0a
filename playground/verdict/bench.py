"""The prompt bench: versions of a prompt, kept in the home folder and measured on the examples' validation part."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from filelock import FileLock

from playground.chat.compare import SHOTS_MAX, Side
from playground.data.split import BY_CHANCE, Parts, SplitBy
from playground.errors import InputError, NotFoundError, PlaygroundError
from playground.library.files import write_json
from playground.plain import plural
from playground.verdict.files import BENCH, LIVE, State, VerdictFiles
from playground.verdict.request import SIDES_MAX, VerdictRequest
from playground.workspace.examples import DataService
from playground.workspace.visitors import LOCAL, OWNER

if TYPE_CHECKING:
    from playground.verdict.service import VerdictService, VerdictView

SCHEMA = 1
VERSIONS_MAX = 50
LETTERS_MAX = 20_000  # of one prompt: more than any context of the bases here takes
NOTED_MAX = 200  # benches that are kept as read; older ones have left their scores long ago
SEED = 7  # of the parts and of the shots, as a run and a verdict have it
Columns = Mapping[str, str] | None  # role -> column
Record = Mapping[str, Any]  # of a bench that has ended, as ``VerdictFiles.record`` gives it


@dataclass(frozen=True)
class Score:
    """Of one version with so many shots on a file's validation rows. value: of the metric. passed: of n, where that is
    yes or no. tokens: of an average request. when_s: since 1970. bench: its id."""

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
    """id: ``v1`` ..., never given twice. file: it was written for, "" = any. scores: the last by file and shots."""

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
    """root: ``prompts`` in the home. Several processes may write: an owner's file changes under its lock."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self._root, self._clock = root, clock

    def versions(self, owner: str = LOCAL) -> list[Version]:
        """Oldest first. Raises PlaygroundError for a file that cannot be read."""
        return list(self._read(owner).versions)

    def get(self, id: str, owner: str = LOCAL) -> Version:
        """Raises NotFoundError."""
        there = {version.id: version for version in self.versions(owner)}
        if id not in there:
            known = ", ".join(there) or "none yet"
            raise NotFoundError(f"There is no version {id[:20]!r} of a prompt. There are: {known}.")
        return there[id]

    def keep(self, text: str, owner: str = LOCAL, file: str = "") -> Version:
        """A new version; the one that is there where it reads the same and is for the same file. Raises InputError."""
        text, file = text.strip(), file[:200]
        if not text:
            raise InputError("There is no text in this prompt. Write what the model is to do.")
        if len(text) > LETTERS_MAX:
            raise InputError(f"The prompt is {len(text):,} letters long; a version has at most {LETTERS_MAX:,}.")

        def add(book: _Book) -> _Book:
            if (text, file) in ((one.text, one.file) for one in book.versions):
                return book
            if (many := len(book.versions)) >= VERSIONS_MAX:
                raise InputError(f"{many} versions are kept, as many as there may be. Remove one that you do not need.")
            made = Version(f"v{book.next}", text, self._clock(), file)
            return replace(book, versions=(*book.versions, made), next=book.next + 1)

        kept = self._change(owner, add).versions
        return next(one for one in kept if (one.text, one.file) == (text, file))

    def remove(self, id: str, owner: str = LOCAL) -> None:
        """Raises NotFoundError."""
        self.get(id, owner)
        self._change(owner, lambda book: replace(book, versions=tuple(one for one in book.versions if one.id != id)))

    def noted(self, owner: str = LOCAL) -> frozenset[str]:
        """Benches whose scores are in."""
        return frozenset(self._read(owner).noted)

    def note(self, bench: str, scores: Mapping[str, Iterable[Score]], owner: str = LOCAL) -> None:
        """Put a bench's scores (text -> scores) to the versions, in the place of those for the same file and shots."""

        def scored(version: Version) -> Version:
            found = {(one.file, one.shots): one for one in (*version.scores, *scores.get(version.text, ()))}
            return replace(version, scores=tuple(found.values()))

        def add(book: _Book) -> _Book:
            return replace(book, versions=tuple(map(scored, book.versions)), noted=(*book.noted, bench)[-NOTED_MAX:])

        self._change(owner, add)

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
        (self._root / f".{owner}.lock").unlink(missing_ok=True)

    def _change(self, owner: str, make: Callable[[_Book], _Book]) -> _Book:
        file = self.file(owner)
        self._root.mkdir(parents=True, exist_ok=True)
        with FileLock(self._root / f".{owner}.lock"):
            book = make(before := self._read(owner))
            if book is not before:
                write_json(file, {"schema": SCHEMA, **asdict(book)})
        return book

    def _read(self, owner: str) -> _Book:
        file = self.file(owner)
        try:
            said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if said["schema"] != SCHEMA:
                raise ValueError(f"schema {said['schema']}, this is {SCHEMA}")
            scores = (tuple(Score(**score) for score in one["scores"]) for one in said["versions"])
            versions = (Version(**one | {"scores": had}) for one, had in zip(said["versions"], scores, strict=True))
            return _Book(tuple(versions), int(said["next"]), tuple(said["noted"]))
        except FileNotFoundError:
            return _Book()
        except (OSError, ValueError, KeyError, TypeError) as error:
            words = f"The kept prompts ({file.name}) cannot be read: {str(error)[:120]}."
            instead = "Move the file away, or remove it under Storage in the Device panel."
            raise PlaygroundError(f"{words} {instead}") from error


@dataclass(frozen=True)
class Best:
    """text, shots: what goes into the verdict. sentence: how it was found. side: its name in the bench."""

    text: str
    shots: int
    sentence: str
    side: str
    model: str = "base"
    nearest: bool = False
    picked: tuple[int, ...] = ()

    def as_side(self, file: Path, name: str = "") -> Side:
        """file: where its shots come from."""
        source = file if self.shots else None
        return Side(self.model, self.text, self.shots, source, name, nearest=self.nearest, picked=self.picked)


def best_of(record: Record) -> Best:
    """The best by what passes, then by fewest tokens. Raises InputError where nothing was measured."""
    metric, sides = record.get("main_metric"), record["sides"]
    if metric is None or not sides:
        raise InputError("Nothing was measured that prompts could be compared by. Give a check, such as contains:TEXT.")
    sign = 1 if record["about"][metric]["higher_is_better"] else -1
    search = record.get("search")
    first = search["candidates"][0]["side"] if search else ""
    best = max(
        sides,
        key=lambda side: (side["side"] == first, sign * side["metrics"][metric]["value"], -side["prompt_tokens_mean"]),
    )
    tries = [one for one in search["candidates"] if one["n"]] if search else sides
    counts = sorted({side["shots"] for side in tries})
    *few, most = map(str, counts)
    several = f"{', '.join(few)} or {most}" if few else most
    shots = "without shots" if counts == [0] else f"with {several} {'shot' if counts == [1] else 'shots'}"
    tried = f"{plural(len({side['prompt'] for side in tries}), 'prompt')}, {shots}"
    which = f"The best of {len(tries)} ({tried})" if len(tries) > 1 else f"The only one that was tried ({tried})"
    rows = plural(record["examples"], "validation row")
    sentence = f"{which} on {rows}: {figure(record, best)}."
    sentence += f" Searched for {search['seconds'] / 60:.1f} min by successive halving." if search else ""
    how = best.get("nearest", False), tuple(best.get("picked", ()))
    return Best(best["prompt"], best["shots"], sentence, best["side"], best.get("model", "base"), *how)


def figure(record: Record, side: Record) -> str:
    """``21 of 24``, or ``rouge_l 0.831``."""
    one, passed = side["metrics"][record["main_metric"]], _passed(record, side)
    return f"{passed} of {one['n']}" if passed is not None else f"{record['main_metric']} {one['value']:.3f}"


def _passed(record: Record, side: Record) -> int | None:
    """Replies that pass, None where the main metric is no yes or no."""
    one = side["metrics"][record["main_metric"]]
    return round(one["value"] * one["n"]) if record["about"][record["main_metric"]]["kind"] == "yes-no" else None


def scores_of(record: Record, file: str) -> dict[str, list[Score]]:
    """Prompt -> its scores in this bench."""
    metric, found = record.get("main_metric"), dict[str, list[Score]]()
    for side in record["sides"] if metric is not None else ():
        one, passed, tokens = side["metrics"][metric], _passed(record, side), side["prompt_tokens_mean"]
        said = (one["value"], one["n"], passed, tokens, record["created_s"], record["id"])
        found.setdefault(side["prompt"], []).append(Score(file, side["shots"], str(metric), *said))
    return found


def tried_for(files: VerdictFiles, request: VerdictRequest) -> str:
    """The sentence of the newest bench on the same examples, where one of the sides is its best; "" otherwise."""
    source = Path(request.examples or request.file).resolve()
    ended = (state for state in files.all() if state.owner == request.owner and state.state not in LIVE)
    sides = {
        (side.model, side.system_prompt.strip(), side.shots, side.nearest, side.picked, side.docs)
        for side in request.sides
    }
    for bench in ended:
        if not _asks(files, bench, source) or not (record := files.record(bench.id)):
            continue
        with contextlib.suppress(InputError):
            best = best_of(record)
            if (best.model, best.text, best.shots, best.nearest, best.picked, None) in sides:
                both = {row["example"] for row in files.rows(bench.id)} if request.file.resolve() == source else set()
                both &= both if request.rows is None else set(request.rows)
                shared = f" {len(both)} of these rows are judged by too, which favours the prompt."
                return best.sentence + shared * bool(both)
        break  # only the newest counts
    return ""


def _asks(files: VerdictFiles, state: State, source: Path) -> bool:
    """Whether it is a bench on this file of examples."""
    with contextlib.suppress(InputError):
        return state.purpose == BENCH and files.request(state.id).get("file") == str(source)
    return False


class Drawn(TypedDict, total=False):
    """As in ``VerdictRequest``."""

    mapping: Columns
    limit: int | None
    max_tokens: int
    seed: int
    owner: str
    rows: tuple[int, ...]
    right: tuple[str, ...]
    form_only: bool
    send: bool
    spend_cap: float | None
    proposer: str


class PromptBench:
    """A bench is a verdict with a purpose of its own, left out of the list of verdicts."""

    def __init__(self, verdicts: VerdictService, data: DataService, book: PromptBook) -> None:
        self.verdicts, self._data, self.book = verdicts, data, book

    def keep(self, text: str, file: Path | None = None, owner: str = LOCAL) -> Version:
        """A new version of the prompt for these examples. Raises InputError."""
        return self.book.keep(text, owner, self.learned_from(file).name if file is not None else "")

    def versions(self, file: Path | None = None, owner: str = LOCAL) -> list[Version]:
        """Those for these examples (None = all), oldest first, with the scores of every bench that has ended."""
        noted = self.book.noted(owner)
        for view in reversed(self.views(owner)):
            ended = not view.live and view.id not in noted
            if ended and (record := self.verdicts.show(view.id, owner).record) is not None:
                self.book.note(view.id, scores_of(record, record["file"]), owner)
        name = self.learned_from(file).name if file is not None else None
        return [one for one in self.book.versions(owner) if name is None or one.file in ("", name)]

    def forget(self, id: str, owner: str = LOCAL) -> None:
        """Raises NotFoundError."""
        self.book.remove(id, owner)

    def parts(
        self,
        file: Path,
        owner: str = LOCAL,
        mapping: Columns = None,
        seed: int = SEED,
        test: float | None = None,
        by: SplitBy = BY_CHANCE,
    ) -> Parts:
        """As a run with this seed draws them. test: the share that is held back for the verdict, None = the file's own.
        by: columns that they follow. Raises InputError where there is no validation part."""
        source = self.learned_from(file)
        checked = self._data.check(source, mapping, owner)
        found = self._data.split(source, checked.examples, seed, test=test, by=by, owner=owner, checked=checked)
        if not found.validation:
            has = f"{source.name} has {plural(len(checked.examples), 'row')} with an answer and no validation part"
            instead = "Add rows: a prompt must not be chosen by the rows that the verdict asks."
            raise InputError(f"{has}, which is drawn from 10 on. {instead}")
        return found

    def request(
        self,
        file: Path,
        versions: Sequence[str],
        shots: Sequence[int],
        checks: Sequence[str],
        model: str = "base",
        **drawn: Unpack[Drawn],
    ) -> VerdictRequest:
        """Asked of this model: every version (by id) with every number of shots, on the validation part where no rows
        are named. Raises InputError that names every fault, NotFoundError."""
        source, counts = self.learned_from(file), list(dict.fromkeys(shots))
        owner = drawn.get("owner", LOCAL)
        kept = [self.book.get(id, owner) for id in dict.fromkeys(versions)]
        many = len(kept) * len(counts)
        made = f"{len(kept)} versions with {len(counts)} numbers of shots make {many}"
        wrong = {
            "There is no version to score. Keep one first.": not kept,
            "No number of shots is chosen. Take 0 for none.": not counts,
            f"Shots go from 0 to {SHOTS_MAX}.": any(not 0 <= count <= SHOTS_MAX for count in counts),
            f"{made}; one bench takes {SIDES_MAX}. Remove a version or choose fewer shots.": many > SIDES_MAX,
        }
        if faults := [words for words, is_so in wrong.items() if is_so]:
            raise InputError(" ".join(faults))
        if "rows" not in drawn:
            drawn["rows"] = self.parts(source, owner, drawn.get("mapping"), drawn.get("seed", SEED)).validation
        sides = []
        for one, count in itertools.product(kept, counts):
            name = f"{one.id} + {plural(count, 'shot')}" if count else one.id
            sides.append(Side(model, one.text, count, source if count else None, name))
        asked = VerdictRequest(source, tuple(sides), tuple(checks), losses=False, forgetting=False, **drawn)
        return replace(asked, name=f"Prompt bench: {source.name}", purpose=BENCH)

    def score(
        self, file: Path, versions: Sequence[str], shots: Sequence[int], checks: Sequence[str], **drawn: Unpack[Drawn]
    ) -> str:
        """Start what ``request`` makes of the same in the background; returns the bench's id."""
        return self.verdicts.start(self.request(file, versions, shots, checks, **drawn))

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
        source, files = self.learned_from(file).resolve(), self.verdicts.files
        states = (files.state(view.id) for view in self.views(owner))
        found = (self.show(state.id, owner) for state in states if state is not None and _asks(files, state, source))
        return next(found, None)

    def stop(self, id: str, owner: str = LOCAL) -> None:
        """End it and keep what is measured. Raises NotFoundError."""
        self.verdicts.stop(self.show(id, owner).id, owner)

    def best(self, id: str, owner: str = LOCAL) -> Best:
        """What goes into the verdict. Raises NotFoundError, and InputError while there is none."""
        view = self.show(id, owner)
        if view.live:
            raise InputError("This bench still measures. Wait for its end.")
        if view.record is None:
            raise InputError(f"This bench measured nothing. {view.error}".strip())
        return best_of(view.record)

    def learned_from(self, file: Path) -> Path:
        """The file whose parts count: for a shipped set's held-out rows, those that are trained on."""
        real = Path(file).resolve()
        return next((one.file for one in self._data.sets() if one.heldout.resolve() == real), Path(file))
