"""Prompt search: the sides of a bench compete by successive halving until a budget of seconds is over.

Every answer stays on disk, so that a search which was stopped goes on from what it knows. Only validation rows are
asked, and shots come from training rows: ``VerdictRequest.rows`` and ``pool``."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from playground.chat.batching import Asked, Written
from playground.chat.compare import SHOTS_MAX, Side
from playground.data.example import Message
from playground.data.render import encode
from playground.data.split import MOST_HASHED, Parts, part, row_hash
from playground.engine.request import Sampling
from playground.errors import InputError, PlaygroundError
from playground.evaluation.criterion import judges_in
from playground.evaluation.prompt_search import finalists, halving, written_prompt
from playground.evaluation.statistics import wilson
from playground.evaluation.verdict import Answered
from playground.library.card import read_run
from playground.library.files import write_text
from playground.models.adapters import AdapterService
from playground.models.bases import BaseService
from playground.models.remote import Remote
from playground.plain import plain_number
from playground.verdict.answers import Answering
from playground.verdict.bench import LETTERS_MAX, SEED, Best, Drawn, PromptBench
from playground.verdict.files import BENCH, VerdictFiles
from playground.verdict.measuring import Marking, Work
from playground.verdict.records import RecordMaker
from playground.verdict.request import CANDIDATES_MAX, Asking, Item, Key, Progress, VerdictRequest, request_from
from playground.workspace.examples import DataService
from playground.workspace.visitors import LOCAL

BUDGET_S = 300.0
"""Of a search that competes with no training that is known."""
PHASE = "Searching"
DRAWS = 2
"""New subsets of each number of shots, whenever the candidates there are have been told apart."""
REWRITTEN, MOST_REWRITTEN = "rewritten", 8
"""What prompts are called that another server wrote, and at most how many candidates have one."""
REWRITES, REFLECTED, REWRITTEN_TOKENS = 2, 4, 1024
"""Prompts that it writes at a time, training rows that it reads for each, and the longest of these."""


class _Rewriting(NamedTuple):
    """waiting: for what, in words. sides: that are new."""

    waiting: str
    sides: tuple[Side, ...] = ()


class Searching:
    """clock: seconds, monotonic."""

    def __init__(
        self,
        answering: Answering,
        bases: BaseService,
        records: RecordMaker,
        files: VerdictFiles,
        marking: Marking,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answering, self._bases, self._records, self._files = answering, bases, records, files
        self._marking, self._clock = marking, clock

    def __call__(self, work: Work, asking: Asking) -> Generator[Progress, None, None]:
        """Rounds of halving until the budget is over, or nothing new is to be tried: the best prompt goes on with new
        draws of shots. Raises InputError where no candidate fits the context."""
        request, began_s = asking.request, self._clock()
        budget_s = request.budget_s or 0.0

        def left_s() -> float:
            return budget_s - (self._clock() - began_s)

        def now(one: Progress) -> Progress:
            return replace(one, phase=PHASE, done=round(budget_s - left_s()), of=round(budget_s))

        judges, items, tokens, passed = (
            judges_in(request.right),
            dict[Key, Item](),
            dict[str, float](),
            dict[Key, float](),
        )

        def learn() -> Iterator[Progress]:
            """What new answers are worth, once the judges have marked them."""
            if judges:
                said = f"{', '.join(judges)} reads the replies, within the budget"
                for one in self._marking(judges, list(work.answers.values()), request.owner):
                    yield now(replace(one, waiting=one.waiting or said))
            grade = self._records.graded(request, list(work.answers.values()))
            passed.update({key: grade(one) for key, one in work.answers.items() if key not in passed})

        yield from learn()
        rows = [example.row for example in self._answering.examples(request)]
        rows = random.Random(request.seed).sample(rows, len(rows))
        fresh: Sequence[Side] = request.sides
        while fresh and left_s() > 0:
            new = self._fitting(replace(request, sides=tuple(fresh)), work.failed)
            items |= {item.key: item for item, _ in new}
            for side in fresh:
                lengths = [length for item, length in new if item.side.label == side.label]
                tokens |= {side.label: sum(lengths) / len(lengths)} if lengths else {}
            if not tokens:
                raise InputError(
                    f"No candidate fits. {' '.join(f'{name}: {why}' for name, why in work.failed.items())}"
                )
            before = finalists(tokens, passed)[:2] if fresh is not request.sides else ()
            racing = {name: tokens[name] for name in (*before, *(side.label for side in fresh)) if name in tokens}
            for asks in halving(racing, rows, passed, left_s):
                asked = [items[key] for key in asks if key not in passed and key[1] not in work.failed]
                answers = self._answering.answers(asking._replace(request=request, items=asked))
                with contextlib.closing(answers):
                    for one in answers:
                        yield now(one)
                        if left_s() <= 0 and work.answers:  # one reply there is, however long it takes
                            break
                yield from learn()
            sides = {side.label: side for side in request.sides}
            best = next((sides[name] for name in finalists(tokens, passed)), None)
            if best is None or left_s() <= 0:
                return
            fresh = list(redrawn(best, request))
            if request.proposer and sum(one.name.startswith(REWRITTEN) for one in request.sides) < MOST_REWRITTEN:
                for step in self._rewriting(work, asking._replace(request=request), best):
                    fresh += step.sides
                    yield now(Progress(PHASE, 0, 0, waiting=step.waiting))
                    if left_s() <= 0:
                        return
            request = replace(request, sides=(*request.sides, *fresh))
            self._files.ask(work.state.id, request.as_json())

    def _rewriting(self, work: Work, asking: Asking, best: Side) -> Iterator[_Rewriting]:
        """The best prompt, rewritten by another server that reads how training rows were answered by it: the reflective
        step of GEPA (Agrawal et al. 2025, arXiv:2507.19457). A server that fails is noted, and the search goes on."""
        from gepa.strategies.instruction_proposal import InstructionProposalSignature as Reflection

        request, shown = asking.request, [row for row in asking.request.pool if row not in best.picked]
        rng = random.Random(f"{request.seed} {len(request.sides)}")
        learned = replace(request, sides=(best,), rows=tuple(rng.sample(shown, min(len(shown), REWRITES * REFLECTED))))
        said: list[Answered] = []
        with contextlib.closing(
            self._answering.answers(asking._replace(request=learned, items=self._answering.prepare(learned)))
        ) as answers:
            for step in answers:
                said += step.answers
                yield _Rewriting(step.waiting)
        for step in self._marking(judges_in(request.right), said, request.owner):
            marks: Mapping[Key, Any] = step.known
            said = [replace(one, marks=marks.get((one.example, one.side), one.marks)) for one in said]
            yield _Rewriting(step.waiting)
        passes = self._records.passing(request, said)
        told = [
            {
                "Inputs": one.question,
                "Generated Outputs": one.reply,
                "Feedback": "Right." if passes(one) else f"Wrong. The right answer is:\n{one.reference}",
            }
            for one in said
        ]
        endpoint, asked = self._answering.batches.endpoints.get(request.proposer), []
        for at in range(0, len(told), REFLECTED):
            about = {"current_instruction_doc": best.system_prompt, "dataset_with_feedback": told[at : at + REFLECTED]}
            messages = (Message("user", str(Reflection.prompt_renderer(about))),)
            sampling = Sampling(temperature=1.0, max_tokens=REWRITTEN_TOKENS, seed=request.seed + at)
            asked.append(Asked(None, "", sampling, remote=Remote(endpoint, messages, work.spending)))
        written: list[Written] = []
        with contextlib.closing(self._answering.batches.run(asked, asking.session, "measure")) as replies:
            for written in replies:
                yield _Rewriting(f"{endpoint.label} rewrites the prompt")
        work.notes.extend(dict.fromkeys(str(one.failure) for one in written if one.failure is not None))
        texts = [Reflection.output_extractor(one.state.text)["new_instruction"] for one in written if not one.failure]
        fresh = {text[:LETTERS_MAX] for text in texts if text} - {side.system_prompt for side in request.sides}
        for at, text in enumerate(sorted(fresh), len(request.sides) + 1):
            bare = Side(best.model, text, name=f"{REWRITTEN} {at}")
            how = best.approach.partition(" + ")[2]
            alike = [replace(best, system_prompt=text, name=f"{bare.name} + {how}")] if best.shots else []
            yield _Rewriting("", (bare, *alike))

    def _fitting(self, request: VerdictRequest, failed: dict[str, str]) -> list[tuple[Item, int]]:
        """The items of candidates whose prompt and reply the context holds on every row, with the prompt's tokens; the
        others go to ``failed`` with the reason."""
        found = []
        for item in self._answering.prepare(request):
            text = item.prompt or "\n".join(one.content for one in item.messages)
            found.append((item, length := len(encode(self._bases.tokenizer(item.card), text))))
            context = self._bases.context(item.card) if item.endpoint is None else None
            own = item.card.virtual_tokens if item.card else 0
            if context is not None and own + length + request.max_tokens > context:
                takes = f"its prompt takes {length} tokens on row {item.example.row}, its reply {request.max_tokens}"
                failed[item.side.label] = f"{takes}; this base holds {context}."
        return [(item, length) for item, length in found if item.side.label not in failed]

    def outcome(self, work: Work, seconds: float) -> tuple[VerdictRequest, dict[str, Any]]:
        """(the bench of the few candidates that were asked most rows, what the record says of the search)."""
        request = request_from(self._files.request(work.state.id))
        answers, grade = work.answers, self._records.graded(request, list(work.answers.values()))
        passed = {key: grade(one) for key, one in answers.items()}
        lengths: dict[str, list[int]] = {}
        for (_, name), one in answers.items():
            lengths.setdefault(name, []).append(one.prompt_tokens)
        tokens = {name: sum(each) / len(each) for name, each in lengths.items()}
        last = finalists(tokens, passed)
        said = [_candidate(side, passed, tokens, work.failed) for side in request.sides]
        place = {name: at for at, name in enumerate(last)}
        said.sort(key=lambda one: (place.get(one["side"], len(place)), -one["n"], -one["passed"], one["tokens"]))
        spent = sum(one.prompt_tokens + one.completion_tokens for one in answers.values())
        about = {"seconds": seconds, "tokens": spent, "budget_s": request.budget_s, "candidates": said}
        sides = tuple(side for side in request.sides if side.label in last)
        return replace(request, sides=sides or request.sides), about


@dataclass(frozen=True)
class Rival:
    """A training that a search competes with. seconds, tokens: that it took and read."""

    name: str
    seconds: float
    tokens: int


@dataclass(frozen=True)
class Found:
    """What a search found: its id, what it asked, and its best."""

    id: str
    request: VerdictRequest
    best: Best

    @property
    def side(self) -> Side:
        return self.best.as_side(self.request.file)


class PromptSearch:
    """Begins and finds searches."""

    def __init__(self, bench: PromptBench, data: DataService, adapters: AdapterService) -> None:
        self._bench, self._data, self._adapters = bench, data, adapters

    def request(
        self,
        file: Path,
        prompts: Mapping[str, str],
        shots: Sequence[int],
        checks: Sequence[str],
        budget_s: float | None = None,
        model: str = "base",
        parts: Parts | None = None,
        **drawn: Unpack[Drawn],
    ) -> VerdictRequest:
        """A prompt search: these prompts (name -> text), the set's own and one that is written from what is right, each
        with shots in several ways. budget_s: None = as long as the training that it competes with. parts: of the file,
        None = as a run with this seed draws them. Raises InputError."""
        source, owner, mapping = self._bench.learned_from(file), drawn.get("owner", LOCAL), drawn.get("mapping")
        seed = drawn.get("seed", SEED)
        parts = parts or self._bench.parts(source, owner, mapping, seed)
        if budget_s is None:
            budget_s = rival.seconds if (rival := self.rival(source, owner, mapping)) is not None else BUDGET_S
        if bad := [count for count in shots if not 0 <= count <= SHOTS_MAX]:
            raise InputError(f"{bad[0]} shots are asked for; they go from 0 to {SHOTS_MAX}.")
        shipped = self._data.shipped_with(source)
        checks = tuple(checks) or ((shipped.check,) if shipped is not None else ())
        asked = VerdictRequest(source, (Side(model),), checks, losses=False, forgetting=False, **drawn)
        asked = replace(asked, rows=parts.validation, pool=parts.train, split_by=parts.by, budget_s=budget_s)
        texts = {name: text.strip() for name, text in prompts.items()}
        texts |= {"shipped": shipped.system_prompt} if shipped is not None else {}
        texts["written"] = self._written(asked)
        named = {text: name for name, text in reversed(texts.items()) if text}  # of one text, the first name
        texts = {name: text for name, text in texts.items() if named.get(text) == name}
        sides = candidates(texts, shots or (0,), parts.train, source, model, seed)
        if len(sides) > CANDIDATES_MAX:
            few = f"{len(texts)} prompts with {len(set(shots))} numbers of shots make {len(sides)} candidates"
            raise InputError(f"{few}; a search begins with {CANDIDATES_MAX} at most. Leave out some prompts.")
        return replace(asked, sides=tuple(sides), name=f"Prompt search: {source.name}", purpose=BENCH)

    def _written(self, asked: VerdictRequest) -> str:
        """A prompt from what is right, by training rows alone."""
        there = self._data.check(asked.file, asked.mapping, asked.owner).examples
        learned = [one.completion for one in part(there, asked.pool)]
        return written_prompt(*self._bench.verdicts.stated(asked), learned)

    def rival(self, file: Path, owner: str = LOCAL, mapping: Mapping[str, str] | None = None) -> Rival | None:
        """The training that a search on these examples competes with: that of the newest adapter most of whose rows,
        by its run's record, are among them; of one whose record tells no rows, by the name of its file."""
        source = self._bench.learned_from(file)
        cards = [row.card for row in self._adapters.list(owner)]
        there = self._data.check(source, mapping, owner).examples if cards else ()
        mine = {row_hash(one) for one in there[:MOST_HASHED]}
        for card in sorted(cards, key=lambda card: -card.created_s):
            with contextlib.suppress(PlaygroundError):
                run = read_run(card.path)
                told = run.get("row_hashes") or ()
                if 2 * len(mine.intersection(told)) <= len(told) if told else card.trained_on != source.name:
                    continue
                if seconds := plain_number(run.get("seconds")):
                    return Rival(card.name, seconds, round(seconds * (plain_number(run.get("tokens_per_s")) or 0.0)))
        return None

    def resume(self, id: str, budget_s: float, owner: str = LOCAL, send: bool = False) -> VerdictRequest:
        """The same search for so many seconds more; what was asked stays. Raises NotFoundError, InputError."""
        view = self._bench.show(id, owner)
        before = request_from(self._bench.verdicts.files.request(view.id))
        if view.live or before.budget_s is None:
            raise InputError("This search still runs." if view.live else "This bench is no search. Begin one.")
        return replace(before, extends=view.id, budget_s=budget_s, send=send)

    def newest(self, file: Path, owner: str = LOCAL) -> tuple[str, VerdictRequest]:
        """(id, what it asked) of the newest ended search on these examples. Raises InputError where there is none."""
        source = self._bench.learned_from(file)
        for view in self._bench.views(owner):
            with contextlib.suppress(InputError):  # what it asked is gone
                request = request_from(self._bench.verdicts.files.request(view.id))
                if not view.live and request.budget_s is not None and request.file.resolve() == source.resolve():
                    return view.id, request
        how = f"Run: python -m playground search {source}"
        raise InputError(f"best is what a prompt search found; none has ended on {source.name} yet. {how}")

    def found(self, file: Path, owner: str = LOCAL) -> Found:
        """What that search found. Raises InputError where there is none, or nothing was measured."""
        id, request = self.newest(file, owner)
        return Found(id, request, self._bench.best(id, owner))

    def unseen(self, found: Found, file: Path) -> tuple[int, ...] | None:
        """Rows of a file that a verdict may judge what was found by: its test part where the search was on this file,
        None = all. Raises InputError where it has none."""
        asked = found.request
        if file.resolve() != asked.file.resolve():
            return None
        examples = self._data.check(file, asked.mapping, asked.owner).examples
        chosen = {*(asked.rows or ()), *asked.pool}
        if not (left := tuple(one.row for one in examples if one.row not in chosen)):
            raise InputError(
                f"Every row of {file.name} was used to find this prompt. Judge it by a file of other rows, and name "
                f"--examples {file}."
            )
        return left

    def prompt_file(self, id: str, owner: str = LOCAL) -> Path:
        """The best prompt as a file in the home. Raises as ``best``."""
        text, file = self._bench.best(id, owner).text, self._bench.verdicts.files.folder(id) / "prompt.txt"
        write_text(file, f"{text}\n")
        return file


def candidates(
    prompts: Mapping[str, str],
    counts: Sequence[int],
    pool: Sequence[int],
    file: Path,
    model: str = "base",
    seed: int = 7,
) -> list[Side]:
    """What a search begins with: every prompt (name -> text) alone, with the most shots as the nearest to the question,
    and with a random draw of each number of shots from the pool's rows. All ways of the first prompt come first, since
    a short budget does not reach the last ones."""
    rng, shown = random.Random(seed), sorted({count for count in counts if 0 < count <= len(pool)})
    found = []
    for at, (name, text) in enumerate(prompts.items(), 1):
        one = Side(model, text, name=name)
        found += [one] if 0 in counts or not shown else []
        for count in shown[-1:]:
            near = f"{name} + {count} nearest shot{'s' * (count > 1)}"
            found.append(replace(one, shots=count, shots_from=file, nearest=True, name=near))
        found += [_with_shots(one, rng.sample(pool, count), file, f"#{at}") for count in shown]
    return found


def redrawn(best: Side, request: VerdictRequest) -> Iterator[Side]:
    """New candidates once those there are have been told apart (bootstrap random search, Khattab et al. 2023,
    arXiv:2310.03714, on answered rows): the best prompt with other draws of shots, and its own in another order."""
    counts, many = sorted({side.shots for side in request.sides if side.shots}), len(request.sides)
    rng, there = random.Random(f"{request.seed} {many}"), {(side.system_prompt, side.picked) for side in request.sides}
    rows = [rng.sample(request.pool, count) for count in counts for _ in range(DRAWS) if count <= len(request.pool)]
    rows += [rng.sample(best.picked, len(best.picked))] if len(best.picked) > 1 else []
    bare = replace(best, name=best.label.partition(" + ")[0])
    fresh = [tuple(picked) for picked in rows if (best.system_prompt, tuple(picked)) not in there]
    for at, picked in enumerate(list(dict.fromkeys(fresh))[: CANDIDATES_MAX - many], many + 1):
        yield _with_shots(bare, picked, request.file, f"#{at}")


def _with_shots(side: Side, picked: Sequence[int], file: Path, mark: str) -> Side:
    name = f"{side.name} + {len(picked)} shot{'s' * (len(picked) > 1)} {mark}"
    return replace(side, name=name, shots=len(picked), shots_from=file, picked=tuple(picked), nearest=False)


def _candidate(
    side: Side, passed: Mapping[Key, float], tokens: Mapping[str, float], failed: Mapping[str, str]
) -> dict[str, Any]:
    """score: of the rows that it was asked, with Wilson's interval; None where it was asked none."""
    own = [value >= 1 for (_, name), value in passed.items() if name == side.label]
    one = wilson(sum(own), len(own)) if own else None
    return {
        "side": side.label,
        "prompt": side.system_prompt,
        "shots": side.shots,
        "nearest": side.nearest,
        "picked": list(side.picked),
        "tokens": round(tokens.get(side.label, 0.0), 1),
        "passed": sum(own),
        "n": len(own),
        "score": {"value": one.value, "low": one.low, "high": one.high, "n": one.n} if one else None,
        "left_out": failed.get(side.label, "" if own else "the budget ended before it was asked"),
    }
