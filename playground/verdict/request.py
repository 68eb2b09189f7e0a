"""What a person asks to be judged, and what of it is asked of whom; and sides whose replies were recorded elsewhere,
such as those of a model whose host closes: they are judged beside the others, and asked nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from playground.chat.compare import Side, side_as_json, side_from
from playground.data.example import Example, Message, question_of
from playground.data.replies import Joined, join, rows_words
from playground.data.split import BY_CHANCE, SplitBy
from playground.engine.request import Sampling
from playground.errors import InputError
from playground.evaluation.checks import parse_checks, schema_file
from playground.evaluation.comparison import Questions
from playground.evaluation.cost import Prices, TokenPrices
from playground.evaluation.decision import Terms
from playground.evaluation.verdict import Answered
from playground.library.adapters import AdapterCard
from playground.library.files import file_sha256
from playground.models.endpoints import Endpoint
from playground.models.remote import Spending
from playground.verdict.files import BENCH, VERDICT
from playground.workspace.examples import DataService

SIDES_MAX = 12
CANDIDATES_MAX = 64
"""Of a prompt search."""
REPEATS_MAX = 20
REPEAT_TEMPERATURE = 0.7
"""Repeats are drawn at least this freely: greedy ones would always agree."""


@dataclass(frozen=True)
class VerdictRequest:
    """file: the examples. sides: each draw of one that has several is a side here. rows: numbers of those to use, None
    = all. limit: at most so many of them, the first ones.

    examples: where shots come from, None = the other rows of the file. checks: as written. repeats: 1 = one reply an
    example; above, so many sampled ones beside it. losses: score the references. forgetting: measure what tuned sides
    forgot. refusals: ask sides with documents what these cannot answer. mapping: role -> column. tried: how the prompt
    was found, in words. right: criteria of a right answer, all of which hold, () = a shipped set's own, else as the
    references suggest; form_only: the checks alone decide. bar, margin, maximum: as in ``Terms``. looks: test rows of
    the earlier looks of the verdict that this one extends, and extends: its id. max_tokens: 0 = as references ask for.
    split_by: columns that the parts of the file follow. send: the person agreed that rows leave for other machines.
    spend_cap: the most that other servers may cost, in the prices' currency; the side that would pass it ends there.
    unseen: leave rows out that a tuned side may have been trained on.
    purpose: a bench is left out of the list of verdicts, and nothing is timed. budget_s: the sides are candidates of a
    prompt search, a bench that ends after so many seconds; pool: rows that it may draw shots from; proposer: a server
    that rewrites prompts, "" = none. Raises InputError that names every fault.
    """

    file: Path
    sides: tuple[Side, ...]
    checks: tuple[str, ...] = ()
    rows: tuple[int, ...] | None = None
    examples: Path | None = None
    repeats: int = 1
    limit: int | None = None
    max_tokens: int = 0
    temperature: float = 0.0
    seed: int = 7
    mapping: Mapping[str, str] | None = None
    name: str = ""
    owner: str = "local"
    questions: Questions = field(default_factory=Questions)
    prices: Prices = field(default_factory=Prices)
    losses: bool = True
    forgetting: bool = True
    refusals: bool = True
    tried: str = ""
    purpose: str = VERDICT
    right: tuple[str, ...] = ()
    form_only: bool = False
    bar: float = Terms.bar
    margin: float = Terms.margin
    maximum: int | None = None
    looks: tuple[int, ...] = ()
    extends: str = ""
    split_by: SplitBy = BY_CHANCE
    send: bool = False
    spend_cap: float | None = None
    unseen: bool = False
    budget_s: float | None = None
    pool: tuple[int, ...] = ()
    proposer: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sides", tuple(draw for side in self.sides for draw in side.drawn))
        labels, sides = [side.label for side in self.sides], len({side.approach for side in self.sides})
        most = SIDES_MAX if self.budget_s is None else CANDIDATES_MAX
        same = f"Two sides are called the same ({', '.join(labels)}). Give one another name."
        wrong = {
            f"A verdict has 1 to {most} sides; this one has {sides}.": not 1 <= sides <= most,
            same: len(set(labels)) < len(labels),
            f"Repeats go from 1 to {REPEATS_MAX}; {self.repeats} are asked for.": not 1 <= self.repeats <= REPEATS_MAX,
            f"{self.purpose!r} is no purpose. There are: {VERDICT}, {BENCH}.": self.purpose not in (VERDICT, BENCH),
            f"The limit of rows is {self.limit}; it is at least 1.": self.limit is not None and self.limit < 1,
            f"The spend cap is {self.spend_cap}; it is a number from 0.": self.spend_cap is not None
            and not 0 <= self.spend_cap < math.inf,
            f"The budget is {self.budget_s} seconds; it is more than none.": self.budget_s is not None
            and not 0 < self.budget_s < math.inf,
        }
        faults = [words for words, is_so in wrong.items() if is_so]
        if self.form_only and self.right:
            faults.append("Either say what is right, or that the form alone is looked at; not both.")
        try:
            self.terms()
        except ValueError as error:
            faults.append(str(error))
        try:
            parse_checks([check for check in self.checks if schema_file(check) is None])  # files are opened by who may
        except InputError as error:
            faults.append(str(error))
        if faults:
            raise InputError(" ".join(faults))
        self.sampling()  # raises what is wrong with it

    def sampling(self, repeat: int = 0) -> Sampling:
        """How the main reply (0) or a repeat (1 ...) is drawn."""
        temperature = max(self.temperature, REPEAT_TEMPERATURE) if repeat else self.temperature
        return Sampling(temperature=temperature, max_tokens=self.max_tokens or 1, seed=self.seed + repeat)

    def terms(self) -> Terms:
        """Bar, margin and maximum of rows. Raises ValueError."""
        return Terms(self.bar, self.margin, self.maximum)

    @property
    def has_recorded(self) -> bool:
        """Whether a side's replies come from a file."""
        return any(side.replies is not None for side in self.sides)

    @property
    def replies_each(self) -> int:
        """Replies of one side to one example: the main one, and its repeats."""
        return 1 if self.repeats == 1 else 1 + self.repeats

    def as_json(self) -> dict[str, Any]:
        """As it is sent to another process, and kept on disk; paths are absolute."""
        paths = {name: str(path.resolve()) if (path := getattr(self, name)) else None for name in ("file", "examples")}
        sides = [side_as_json(side) for side in self.sides]
        return {**asdict(self), **paths, "sides": sides, "mapping": dict(self.mapping) if self.mapping else None}


def request_from(said: Mapping[str, Any]) -> VerdictRequest:
    """From ``as_json``. Raises InputError, KeyError or TypeError."""
    made = dict(said)
    made["file"], made["examples"] = Path(said["file"]), Path(said["examples"]) if said.get("examples") else None
    made["sides"] = tuple(side_from(side) for side in said["sides"])
    made |= {name: tuple(said.get(name, ())) for name in ("checks", "right", "looks", "pool")}
    made["rows"] = tuple(said["rows"]) if said.get("rows") is not None else None
    made["split_by"] = SplitBy(*said.get("split_by", ()))
    made["questions"], made["prices"] = Questions(**said.get("questions", {})), Prices(**said.get("prices", {}))
    return VerdictRequest(**made)


Key = tuple[int, str]
"""(row, side)."""


class Item(NamedTuple):
    """One example for one side. prompt: rendered, "" where another server renders it; messages: what it was rendered
    from. endpoint: that server."""

    example: Example
    side: Side
    card: AdapterCard | None
    prompt: str
    messages: tuple[Message, ...]
    passages: tuple[str, ...]
    endpoint: Endpoint | None = None

    @property
    def key(self) -> Key:
        return self.example.row, self.side.label

    @property
    def shares_tokens(self) -> bool:
        """Whether it reads the tokens of the base in use, so that losses can be compared."""
        return self.endpoint is None and not (self.card is not None and self.card.is_base)


class Asking(NamedTuple):
    """What a verdict asks, of whom. items: in this phase. session: whose turn it is. failed: side -> why it fails and
    is asked no more. spending: what pays other servers."""

    request: VerdictRequest
    items: Sequence[Item]
    session: str
    failed: dict[str, str]
    spending: Spending | None = None


@dataclass(frozen=True)
class Progress:
    """phase: what is done, in words. done, of: replies (or texts scored). answers: those that are new. known: (row,
    side) -> what is new of an answer that is there: its repeats, seconds, loss or marks, as ``what`` says."""

    phase: str
    done: int
    of: int
    answers: tuple[Answered, ...] = ()
    waiting: str = ""
    what: str = ""
    known: Mapping[Key, object] = field(default_factory=dict)


class Size(NamedTuple):
    """rows: that are judged by. seen: left out, since a tuned side may know them. replies: that are asked."""

    rows: int
    seen: int
    replies: int


NOT_REPLAYABLE = "not replayable: recorded"


def recorded_replies(
    data: DataService, request: VerdictRequest, examples: Sequence[Example]
) -> Iterator[tuple[Side, Path, Joined]]:
    """Each recorded side, its file, and its replies to these examples. Raises InputError, NotFoundError."""
    for side in request.sides:
        if (file := side.replies) is None:
            continue
        same = file.resolve() == request.file.resolve()
        if same and not side.column:
            raise InputError(f"{file.name} is the file of examples: say column=NAME, which of it holds the replies.")
        said = data.replies(file, side.column, side.label, request.owner)
        yield side, file, join(said, examples, same_file=same)


def refuse_missing_replies(
    data: DataService, request: VerdictRequest, examples: Sequence[Example], answered: Collection[tuple[int, str]]
) -> None:
    """Raises InputError where a recorded side lacks a reply to a row that it has not ``answered`` yet: it would be
    judged by other rows than the others."""
    for side, file, found in recorded_replies(data, request, examples):
        if missing := [row for row in found.missing if (row, side.label) not in answered]:
            there = f"{file.name} has replies to {len(found.replies)} of {len(examples)} rows"
            raise InputError(
                f"{side.label} cannot be judged beside the others: {there}, and none to {rows_words(missing)} of "
                f"{request.file.name}. Add them, or take these rows out."
            )


def recorded_answers(
    data: DataService, request: VerdictRequest, examples: Sequence[Example], count: Callable[[str], int]
) -> Iterator[Answered]:
    """What recorded sides say to these examples. count: tokens of a text, where the file does not count them."""
    for side, file, found in recorded_replies(data, request, examples):
        prices = asdict(TokenPrices(*side.prices)) if side.prices is not None else None
        about = {"file": file.name, "sha256": file_sha256(file), "column": side.column, "prices": prices}
        for example in examples:
            if (said := found.replies.get(example.row)) is None:
                continue
            prompt = "\n\n".join(one.content for one in example.prompt)
            tokens = said.tokens or (count(prompt), count(said.reply))
            stamp: dict[str, Any] = {"replay": NOT_REPLAYABLE, "recorded": about, "row": said.row}
            stamp |= {"several": True} if example.row in found.several else {}
            texts = (question_of(example.prompt), prompt, said.reply, example.completion)
            yield Answered(example.row, side.label, *texts, *tokens, None, stamp)
