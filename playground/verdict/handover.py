"""Whether another server answers as the adapter does here: the same held-out rows, greedily, compared row by row, and
what differs named."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from playground.chat.batching import Asked, Written
from playground.chat.compare import Side
from playground.data.render import encode, end_tokens
from playground.data.split import overlaps
from playground.engine.request import Sampling
from playground.errors import InputError, NotFoundError
from playground.evaluation.comparison import compare_sides
from playground.evaluation.statistics import Measured, wilson
from playground.evaluation.verdict import Answered
from playground.jobs import Job, Jobs
from playground.library.adapters import AdapterCard
from playground.library.card import read_run
from playground.models.adapters import AdapterService
from playground.models.bases import BaseService
from playground.models.endpoints import Endpoint
from playground.models.remote import Remote
from playground.plain import and_left, plural
from playground.settings import Settings
from playground.training.spec import RunSpec
from playground.verdict.answers import Answering
from playground.verdict.differences import (
    AGAIN,
    LOOKED_AT,
    NEAR_TIE,
    OURS,
    SAMPLING,
    THEIRS,
    UNPENALISED,
    Pair,
    goes_on,
    is_penalised,
    named,
    sentence_of,
)
from playground.verdict.files import BENCH
from playground.verdict.records import RecordMaker
from playground.verdict.request import Item, VerdictRequest
from playground.workspace.examples import DataService
from playground.workspace.visitors import LOCAL, Quota

MOST_ASKED = 5
"""Replies of a row, at most: ours, theirs, our base's, theirs without a penalty and our base's beside that."""
BUSY = "You compare a server already. Wait for its end, or stop it."
LIMIT = 100
"""Rows that are compared where nobody says how many."""


@dataclass(frozen=True)
class Handover:
    """What is to be compared. url: of an OpenAI-compatible server, with #MODEL where it serves several, or the name of
    a configured endpoint. file: of held-out rows, None = those of the adapter's run. send: the person agreed that rows
    leave this machine."""

    adapter: str
    url: str
    file: Path | None = None
    limit: int = LIMIT
    owner: str = LOCAL
    send: bool = False

    def as_json(self) -> dict[str, Any]:
        """As it is sent to another process."""
        return asdict(self) | {"file": str(self.file.resolve()) if self.file is not None else None}


def handover_from(said: Mapping[str, Any]) -> Handover:
    """From ``as_json``. Raises KeyError or TypeError."""
    return Handover(**{**said, "file": Path(said["file"]) if said["file"] else None})


def compared_from(said: Mapping[str, Any]) -> Compared:
    """As another process sent it."""
    without = said["without_penalty"]
    return Compared(**{**said, "without_penalty": compared_from(without) if without else None})


def step_from(said: Mapping[str, Any]) -> Step:
    """As another process sent it."""
    return Step(**{**said, "result": compared_from(said["result"]) if said["result"] else None})


@dataclass(frozen=True)
class Compared:
    """same: every reply is equal but for near-ties. differences: row, ours, theirs, reason. found: fault -> in how many
    rows. pairs: of pass rates, as a verdict's. sentence: for a person, with what to do.
    without_penalty: the same where a repeat penalty of the server's own was found, with each request turning it off."""

    same: bool
    rows: int
    equal: int
    sentence: str
    differences: tuple[dict[str, Any], ...] = ()
    found: dict[str, int] | None = None
    pairs: tuple[dict[str, Any], ...] = ()
    passed: dict[str, Any] | None = None
    endpoint: dict[str, Any] | None = None
    rows_file: str = ""
    without_penalty: Compared | None = None


@dataclass(frozen=True)
class Step:
    """How far it is; ``result`` at the end, or why there is none. seconds_left: of this phase, None = not known."""

    phase: str
    done: int = 0
    of: int = 0
    waiting: str = ""
    result: Compared | None = None
    seconds_left: float | None = None
    error: str = ""

    @property
    def live(self) -> bool:
        return self.result is None and not self.error

    @property
    def words(self) -> str:
        far = f"{self.phase}, {self.done} of {self.of}" if self.of else self.phase or "Starting"
        return self.waiting or far + and_left(self.seconds_left)


class Comparing:
    """A comparison in the background."""

    def __init__(self, start: Callable[[Callable[[Job], None]], Job], steps: Callable[[], Generator[Step]]) -> None:
        self.id, self._steps, self._step = uuid4().hex, steps, Step("")
        self._job = start(self._work)

    def _work(self, job: Job) -> None:
        with closing(self._steps()) as steps:
            for self._step in steps:
                job.check()
                job.report(self._step.phase, self._step.done, self._step.of)

    @property
    def step(self) -> Step:
        ended = not self._job.live  # before the step is read: its last one is there then
        return replace(self._step, seconds_left=self._job.seconds_left, error=self._job.error if ended else "")

    def stop(self) -> None:
        self._job.stop()

    def follow(self) -> Generator[Step]:
        """How far it is, again and again to its end; closing it stops the comparison."""
        with closing(self._job.follow()) as following:
            for _ in following:
                yield self.step
        yield self.step


@dataclass(frozen=True)
class Returned:
    """An adapter that came back from where its launch file took it. words: sentences without their full stops.
    held_out: the rows that it has not learned from, None where they are not here; verdict: the command that judges it
    on them."""

    words: tuple[str, ...]
    held_out: Path | None = None
    verdict: str = ""


class HandoverService:
    """Asks, and compares; writes nothing."""

    def __init__(
        self,
        settings: Settings,
        bases: BaseService,
        data: DataService,
        adapters: AdapterService,
        answering: Answering,
        quota: Quota,
        jobs: Jobs,
    ) -> None:
        self._quota, self._jobs, self._latest = quota, jobs, dict[str, Comparing]()
        self._settings, self._bases, self._data, self._adapters = settings, bases, data, adapters
        self._answering, self._records = answering, RecordMaker(bases, data, answering.cards)

    def endpoint(self, url: str, owner: str = LOCAL) -> Endpoint:
        """The server that is asked. Raises InputError where it may not be or its model is not clear, NotFoundError,
        EndpointError."""
        there, client = self._answering.batches.endpoints, self._answering.batches.client
        if urlsplit(url).scheme not in ("http", "https"):
            try:
                return there.get(url)
            except NotFoundError as error:
                if self._settings.shared:
                    raise
                raise NotFoundError(f"{error} Or give an address, such as http://127.0.0.1:11434/v1#MODEL.") from error
        if self._settings.shared:
            raise InputError("No address is asked from a shared app. Name one of the endpoints that are set up here.")
        address, _, model = url.partition("#")
        source = "the address (http://HOST:PORT/v1#MODEL)"
        # one at a time: some break off at a second
        found = Endpoint("handover", address, model or "The server", concurrency=1, source=source)
        if model:
            return found
        models = client.models(found)
        if len(models) != 1:
            said = ", ".join(models[:20]) or "none that it tells of"
            raise InputError(
                f"{found.host} serves several models: {said}. Name one after the address: {address}#MODEL."
            )
        return replace(found, model=models[0])

    def request(self, asked: Handover) -> VerdictRequest:
        """Its rows, asked of the adapter. Raises InputError where there are none, NotFoundError."""
        card = self._adapters.get(asked.adapter, asked.owner)
        if why := self._adapters.unfit(card):
            raise InputError(f"{card.name} cannot answer here: {why}.")
        file, rows, mapping = self._held_out(card, asked)
        shipped = self._data.shipped_with(file)
        checks = (shipped.check,) if shipped is not None else ()
        about: dict[str, Any] = {"checks": checks, "rows": rows, "mapping": mapping, "limit": asked.limit}
        request = VerdictRequest(file, (Side(card.id, name=OURS),), owner=asked.owner, purpose=BENCH, **about)
        return replace(request, max_tokens=self._answering.reply_limit(request))

    def leaving(self, asked: Handover) -> str:
        """What the person agrees to before rows leave this machine, in words; "" where none does. Raises what
        ``endpoint`` and ``request`` raise."""
        if (endpoint := self.endpoint(asked.url, asked.owner)).is_here:
            return ""
        rows = len(self._answering.examples(self.request(asked)))
        return f"{rows} rows leave this machine for {endpoint.label}, {endpoint.price_words}."

    def _held_out(
        self, card: AdapterCard, asked: Handover
    ) -> tuple[Path, tuple[int, ...] | None, dict[str, str] | None]:
        """(file, its rows, None = all, mapping)."""
        if asked.file is not None:
            return asked.file, None, None
        if (shipped := next((one for one in self._data.sets() if one.file.name == card.trained_on), None)) is not None:
            return shipped.heldout, None, None
        run = read_run(card.path)
        if (there := self._data.held_out(str((run.get("held_out") or {}).get("sha256", "")), asked.owner)) is not None:
            return there, None, None
        place, split = self._settings.runs_dir / str(run.get("run") or "-"), run.get("split") or {}
        rows = tuple(split.get("test") or split.get("validation") or ())
        if rows and place.is_dir() and not self._settings.is_visitor(asked.owner):
            spec = RunSpec.read(place)
            if (file := Path(spec.file)).exists():
                return file, rows, dict(spec.mapping) or None
        raise InputError(f"The held-out rows of {card.name} are not here any more. Name a file of rows (--rows FILE).")

    def returned(self, card: AdapterCard, owner: str = LOCAL) -> Returned | None:
        """What the manifest of an adapter that was trained elsewhere says, checked; None where it has none."""
        run = read_run(card.path)
        if "template_sha256" not in run:
            return None
        template = str(self._bases.tokenizer().chat_template or "")
        words = [f"By its manifest it was trained elsewhere on {plural(card.rows, 'row')} of {card.trained_on}"]
        if hashlib.sha256(template.encode()).hexdigest() != run["template_sha256"]:
            words.append("The base's chat template is not the one that it was planned for: it is asked otherwise here")
        try:
            file, rows, mapping = self._held_out(card, Handover(card.id, "", owner=owner))
        except InputError as error:
            return Returned((*words, str(error).rstrip(".")))
        there = [row for row in self._data.check(file, mapping, owner).usable if rows is None or row.row in rows]
        known = sum(count or 0 for count in overlaps(there, run).values())
        seen = f"{known} of them are or resemble rows that it learned" if known else "it has learned none of them"
        words.append(f"{plural(len(there), 'row')} were held out of its training and are here; {seen}")
        asks = shlex.join(["python", "-m", "playground", "verdict", str(file)])
        return Returned(tuple(words), file, f"{asks} --side model=base --side model={card.id}")

    def result(self, asked: Handover, tell: Callable[[Step], None] = lambda step: None) -> Compared:
        """``compare`` to its end. Raises PlaygroundError."""
        step = Step("")
        with self._jobs.here(_key(asked), "The comparison", BUSY) as job:
            for step in self.compare(asked):
                job.report(step.phase, step.done, step.of)
                tell(replace(step, seconds_left=job.seconds_left))
        assert step.result is not None
        return step.result

    def start(self, asked: Handover, session: str = LOCAL) -> Comparing:
        """``compare`` in the background. Raises InputError while one of this owner runs."""

        def begin(work: Callable[[Job], None]) -> Job:
            return self._jobs.start(_key(asked), work, "The comparison", busy=BUSY)

        self._latest[asked.owner] = made = Comparing(begin, lambda: self.compare(asked, session))
        return made

    def latest(self, id: str, owner: str = LOCAL) -> Comparing:
        """The one that was started last, to be looked at from another process. Raises NotFoundError."""
        if (found := self._latest.get(owner)) is None or found.id != id:
            raise NotFoundError("This comparison is not known here any more. Start it again.")
        return found

    def compare(self, asked: Handover, session: str = LOCAL) -> Generator[Step, None, None]:
        """Yields how far it is, the result last; closing it ends the asking. Raises PlaygroundError."""
        yield Step("Looking at the server and the rows")
        endpoint, request = self.endpoint(asked.url, asked.owner), self.request(asked)
        items = self._answering.prepare(request)
        if not asked.send and (leaves := self.leaving(asked)):
            raise InputError(f"{leaves} Agree to that first (--send, or the box beside the button).")
        replies = MOST_ASKED * len(items)
        self._quota.take_replies(asked.owner, replies, "The comparison")
        try:
            yield from self._compared(request, items, endpoint, session)
        finally:
            self._quota.give_back_replies(asked.owner, replies)

    def _compared(
        self, request: VerdictRequest, items: Sequence[Item], endpoint: Endpoint, session: str
    ) -> Generator[Step, None, None]:
        sampling, pairs = request.sampling(), list[Pair]()
        for chunk in self._chunks(items, 2):
            both = [_ours(item, sampling) for item in chunk] + [_theirs(item, sampling, endpoint) for item in chunk]
            of = 2 * len(items)
            written = yield from self._run(both, session, Step("Asking both", 2 * len(pairs), of))
            ours, theirs = written[: len(chunk)], written[len(chunk) :]
            pairs += [Pair(*one) for one in zip(chunk, ours, theirs, strict=True)]
        pairs = yield from self._looked_into(pairs, sampling, endpoint, session)
        template = self._template(endpoint, items[0])
        result = self._result(request, endpoint, pairs, template)
        if (result.found or {}).get(SAMPLING) and is_penalised(pairs):
            fair = list[Pair]()
            for chunk in self._chunks(pairs, 1):
                asked_again = [_theirs(one.item, sampling, endpoint, UNPENALISED) for one in chunk]
                now = Step("Asking without a repeat penalty", len(fair), len(pairs))
                written = yield from self._run(asked_again, session, now)
                fair += [Pair(one.item, one.ours, theirs) for one, theirs in zip(chunk, written, strict=True)]
            fair = yield from self._looked_into(fair, sampling, endpoint, session)
            without = self._result(request, endpoint, fair, template)
            sentence = f"{result.sentence} With repeat_penalty 1 in each request: {without.sentence}"
            result = replace(result, sentence=sentence, without_penalty=without)
        yield Step("Done", len(items), len(items), result=result)

    def _looked_into(
        self, pairs: list[Pair], sampling: Sampling, endpoint: Endpoint, session: str
    ) -> Generator[Step, None, list[Pair]]:
        """With what our base says where replies differ, and with what the server says when some are asked again."""
        apart = [place for place, one in enumerate(pairs) if not one.same]
        for chunk in self._chunks(apart, 1):
            asked = [replace(_ours(pairs[at].item, sampling), card=None, logprobs=None) for at in chunk]
            now = Step("Asking the base where replies differ", apart.index(chunk[0]), len(apart))
            for at, said in zip(chunk, (yield from self._run(asked, session, now)), strict=True):
                pairs[at] = replace(pairs[at], base=said.state.text.strip())
        again, now = apart[:AGAIN], Step("Asking some again")
        asked = [_theirs(pairs[at].item, sampling, endpoint) for at in again]
        for at, said in zip(again, (yield from self._run(asked, session, now)), strict=True):
            pairs[at] = replace(pairs[at], again=said.state.text.strip())
        asked = [_theirs(pairs[at].item, sampling, endpoint, UNPENALISED) for at in again]
        for at, said in zip(again, (yield from self._run(asked, session, now, may_fail=True)), strict=True):
            text = None if said.failure is not None else said.state.text.strip()
            pairs[at] = replace(pairs[at], unpenalised=text)
        ended = [at for at in apart if goes_on(pairs[at])]
        asked = [_ours(pairs[at].item, _past_the_end(pairs[at], sampling)) for at in ended]
        for at, said in zip(ended, (yield from self._run(asked, session, Step("Looking at the ends"))), strict=True):
            pairs[at] = replace(pairs[at], longer=said)
        return pairs

    def _chunks(self, asked: Sequence[Any], each: int) -> Iterator[Any]:
        size = max(1, self._answering.batches.together // each)
        for begin in range(0, len(asked), size):
            yield asked[begin : begin + size]

    def _run(
        self, asked: Sequence[Asked], session: str, now: Step, *, may_fail: bool = False
    ) -> Generator[Step, None, list[Written]]:
        """All of these to their end. Raises the first failure."""
        written: list[Written] = []
        with closing(self._answering.batches.run(asked, session, "measure")) as running:
            for written in running:
                waiting = next((one.waiting for one in written if one.waiting), "")
                done = now.done + sum(one.done for one in written)
                yield replace(now, done=done, of=now.of or len(asked), waiting=waiting)
        for one in written:
            if one.failure is not None and not may_fail:
                raise one.failure
        return written

    def _template(self, endpoint: Endpoint, item: Item) -> str:
        """How the server's template writes the first row, in words, where it tells and that is not as here; "" else."""
        tokenizer: Any = self._bases.tokenizer(item.card)
        said, ours = self._answering.batches.client.rendered(endpoint, item.messages), encode(tokenizer, item.prompt)
        if said is None or said in (ours, len(ours)):
            return ""
        if isinstance(said, int):
            return f"its prompt of the first row has {said} tokens, ours {len(ours)}"
        text = said if isinstance(said, str) else str(tokenizer.decode(said))
        return f"it writes {text[:400]!r}" if text.strip() != item.prompt.strip() else ""

    def _result(self, request: VerdictRequest, endpoint: Endpoint, pairs: Sequence[Pair], template: str) -> Compared:
        tokenizer: Any = self._bases.tokenizer(pairs[0].item.card)
        ends = end_tokens(tokenizer)
        reasons = named(pairs, ends, template, lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)))
        differences, found = list[dict[str, Any]](), dict[str, int]()
        for one in pairs:
            if not one.same:
                fault, words = reasons[one.item.example.row]
                ours, theirs = one.texts
                found[fault] = found.get(fault, 0) + 1
                row = {"row": one.item.example.row, "ours": ours, "theirs": theirs, "fault": fault}
                differences.append(row | {"reason": f"{fault}: {words}"})
        passes = self._passes(request, pairs)
        table = compare_sides({side: {"pass": _measured(rows, pairs)} for side, rows in passes.items()})
        said = {"rows": len(pairs), "equal": sum(one.same for one in pairs)}
        (pair,) = table.pairs
        rates = {side: asdict(figures["pass"]) for side, figures in table.sides.items()}
        faults = dict(sorted(found.items(), key=lambda one: -one[1]))
        same = set(faults) <= {NEAR_TIE}
        change = f"{100 * pair.difference:+.0f} points ({100 * pair.low:.0f} to {100 * pair.high:.0f})"
        sentence = sentence_of(said["equal"], len(pairs), faults, same=same)
        if not same:
            there, here = (sum(passes[side]) for side in (THEIRS, OURS))
            sentence += f" Right there: {there} of {len(pairs)}, here {here}: {change}."
        about = {"url": endpoint.url, "model": endpoint.model}
        given = (tuple(differences), faults, (asdict(pair),), rates, about, str(request.file))
        return Compared(same, said["rows"], said["equal"], sentence, *given)

    def _passes(self, request: VerdictRequest, pairs: Sequence[Pair]) -> dict[str, list[bool]]:
        """Side -> whether each row's reply is right, as a verdict would say."""
        passing = self._records.passing(request)

        def right(one: Pair, text: str) -> bool:
            said = (one.item.prompt, text, one.item.example.completion)
            return passing(Answered(one.item.example.row, OURS, "", *said, 0, 0, None, None))

        sides = {THEIRS: [one.theirs.state.text for one in pairs], OURS: [one.ours.state.text for one in pairs]}
        return {side: [right(*one) for one in zip(pairs, texts, strict=True)] for side, texts in sides.items()}


def _key(asked: Handover) -> str:
    return f"handover {asked.owner}"


def _measured(passes: Sequence[bool], pairs: Sequence[Pair]) -> Measured:
    rows = tuple(one.item.example.row for one in pairs)
    share = wilson(sum(passes), len(passes)).value
    return Measured("pass", tuple(map(float, passes)), share, "yes-no", True, "right replies", rows)


def _ours(item: Item, sampling: Sampling) -> Asked:
    return Asked(item.card, item.prompt, sampling, LOOKED_AT)


def _theirs(item: Item, sampling: Sampling, endpoint: Endpoint, extra: Mapping[str, float] | None = None) -> Asked:
    return Asked(None, "", sampling, remote=Remote(endpoint, item.messages, extra=extra or {}))


def _past_the_end(one: Pair, sampling: Sampling) -> Sampling:
    return replace(sampling, ignore_eos=True, max_tokens=len(one.ours.state.tokens) + 1)
