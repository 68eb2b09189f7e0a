"""Who may judge replies: a side of the app, or a server that answers as OpenAI's chat completions do, whose address and
key come from the environment alone; and whether a judge goes with a person far enough to say what is right."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from playground.chat.batching import Asked, Batches
from playground.data.example import Message
from playground.data.render import render_prompt
from playground.engine.request import Sampling
from playground.errors import InputError
from playground.evaluation.criterion import mark_key
from playground.evaluation.values import is_blank
from playground.evaluation.verdict import Answered
from playground.evaluation.votes import RUBRIC, Agreed, Messages, agreed, parse_yes, rubric
from playground.library.adapters import AdapterCard
from playground.models.adapters import AdapterService
from playground.models.bases import BaseService
from playground.models.endpoints import Endpoint
from playground.verdict.files import Label, LineFiles, VerdictFiles
from playground.verdict.losses import texts
from playground.verdict.request import Progress
from playground.workspace.visitors import LOCAL

ENDPOINT_ANSWER_TOKENS = 256  # room for a judge that thinks aloud before its word


def endpoint_of(env: Mapping[str, str] | None = None) -> Endpoint | None:
    """``JUDGE_URL``, ``JUDGE_MODEL``, ``JUDGE_KEY``; None where no address is set. Raises InputError."""
    env = os.environ if env is None else env
    url, model = (env.get(f"JUDGE_{name}", "").strip() for name in ("URL", "MODEL"))
    key = "JUDGE_KEY" if env.get("JUDGE_KEY", "").strip() else ""
    return Endpoint("judge", url, model, key, source="JUDGE_URL and JUDGE_MODEL") if url else None


ENDPOINT, BASE = "endpoint", "base"
TOGETHER = 4  # comparisons or replies of one batch
ANSWER_TOKENS = 16
Ask = Callable[[Sequence[Messages], list[str]], Generator[str, None, None]]
"""Puts the answers behind a list; yields words while it waits. Closing it frees the device."""


class Judge(NamedTuple):
    """One that may be asked. name: for a person. key: changes with the model and with what it is asked, so that marks
    of another one are never taken for this one's."""

    ask: Ask
    name: str
    key: str


@dataclass(frozen=True)
class Trust:
    """How far a judge goes with this person. unmarked: labels that it has not marked. files: examples of the labelled
    verdicts. elsewhere: none of them is the file that is asked about."""

    judge: str
    name: str
    agreed: Agreed
    unmarked: int = 0
    files: tuple[str, ...] = ()
    elsewhere: bool = False

    @property
    def words(self) -> str:
        text = f"{self.name}: {self.agreed.words}"
        if self.unmarked:
            text += f" {self.unmarked} more {'is' if self.unmarked == 1 else 'are'} not marked by it yet."
        if self.elsewhere and self.agreed.n:
            text += f" The labels are of other examples ({', '.join(self.files)})."
        return text


class Judges:
    """shared: by people who do not know each other: no endpoint, which somebody pays and which sees replies."""

    def __init__(
        self,
        bases: BaseService,
        adapters: AdapterService,
        batches: Batches,
        *,
        shared: bool = False,
        endpoint: Callable[[], Endpoint | None] = endpoint_of,
    ) -> None:
        self._bases, self._adapters, self._batches = bases, adapters, batches
        self._endpoint = (lambda: None) if shared else endpoint

    def known(self, owner: str = LOCAL) -> list[tuple[str, str]]:
        """(name, id) of everything that may judge: the bases, adapters, and an endpoint where one is set."""
        found = [("The base", BASE)]
        cards = [*(row.card for row in self._adapters.list(owner) if row.usable), *self._bases.others()]
        found += [(card.name, card.id) for card in cards]
        try:
            elsewhere = self._endpoint()
        except InputError:  # told when it is chosen
            return [*found, ("The endpoint, which is not set right", ENDPOINT)]
        return [*found, (elsewhere.label, ENDPOINT)] if elsewhere is not None else found

    def get(self, judge: str, owner: str = LOCAL) -> Judge:
        """judge: an id or a name. Raises NotFoundError, InputError."""
        judge = next((id for name, id in self.known(owner) if judge == name), judge)
        if judge != ENDPOINT:
            card = self._adapters.model(judge, owner)
            name, base = card.name if card is not None else "The base", self._bases.resolve()
            weights = (base.id, base.fingerprint, card.sha256 if card is not None else "")
            return Judge(partial(self._written, card, f"judge {owner}"), name, _key(name, *weights))
        if (elsewhere := self._endpoint()) is None:
            sets = "Whoever runs the app sets JUDGE_URL, JUDGE_MODEL and JUDGE_KEY in its environment."
            raise InputError(f"No endpoint is set. {sets}")

        def answered(asked: Sequence[Messages], said: list[str]) -> Generator[str, None, None]:
            """One after another, so that it can be stopped in between. Raises EndpointError."""
            for messages in asked:
                yield ""
                turns = [Message(one["role"], one["content"]) for one in messages]
                reply = self._batches.client.ask(elsewhere, turns, ENDPOINT_ANSWER_TOKENS)
                said.append(reply.state.text)

        return Judge(answered, elsewhere.label, _key(elsewhere.label, elsewhere.url))

    def _written(
        self, card: AdapterCard | None, session: str, asked: Sequence[Messages], said: list[str]
    ) -> Generator[str, None, None]:
        """One batch of the playground's own. Raises the first failure."""
        tokenizer, sampling = self._bases.tokenizer(card), Sampling(max_tokens=ANSWER_TOKENS)
        prompts = (
            render_prompt(tokenizer, [Message(one["role"], one["content"]) for one in messages], think=False)
            for messages in asked
        )
        batch = [Asked(card, prompt, sampling) for prompt in prompts]
        for waiting, _ in texts(self._batches, batch, session, said):
            yield waiting

    def trust(self, files: VerdictFiles, judge: str, owner: str = LOCAL, file: str = "") -> Trust:
        """How far this judge's marks go with the labels that this person gave in their verdicts: in those on this file
        where there are any, else in all. Raises NotFoundError, InputError."""
        one, labels = self.get(judge, owner), LineFiles(files, Label)
        found: dict[str, list[tuple[float, bool, bool | None]]] = {}
        for state in files.all():
            if state.owner != owner or not (there := labels.read(state.id)):
                continue
            marks = {mark.place: mark.label == "right" for mark in there if mark.judge == one.key}
            said = {mark.place: mark for mark in there if mark.owner == owner and mark.is_said}
            of = str((files.record(state.id) or {}).get("file", state.name))
            found.setdefault(of, []).extend(
                (mark.when, mark.label == "right", marks.get(place)) for place, mark in said.items()
            )
        chosen = {file: found[file]} if found.get(file) else {of: pairs for of, pairs in found.items() if pairs}
        pairs = [(right, mark) for _, right, mark in sorted(itertools.chain(*chosen.values()), key=lambda one: one[0])]
        both = [(right, mark) for right, mark in pairs if mark is not None]
        reached = agreed([mark for _, mark in both], [right for right, _ in both])
        return Trust(judge, one.name, reached, len(pairs) - len(both), tuple(chosen), bool(file) and file not in chosen)

    def trusted(self, files: VerdictFiles, judge: str, owner: str, file: str) -> Trust:
        """``trust`` where it is enough for the judge to say what is right. Raises InputError that says what is missing,
        NotFoundError."""
        found = self.trust(files, judge, owner, file)
        if not found.agreed.enough:
            raise InputError(
                f"judge:{judge} may not say what is right yet. {found.words} "
                'Label replies of an earlier verdict in the Verdict tab ("Label replies"), and let the judge mark them.'
            )
        return found

    def marking(
        self, names: Collection[str], answers: Collection[Answered], owner: str
    ) -> Generator[Progress, None, None]:
        """Each judge's mark of each reply, of those that say the same to the same once: the marks of an answer as they
        come. An answer of the judge that cannot be read is no yes. Raises what keeps a judge from answering."""
        marks = {(one.example, one.side): dict(one.marks) for one in answers}

        def marked(name: str, group: Collection[Answered], right: bool) -> dict[tuple[int, str], object]:
            for one in group:
                marks[one.example, one.side][name] = right
            return {(one.example, one.side): dict(marks[one.example, one.side]) for one in group}

        for name in names:
            left = [one for one in answers if name not in one.marks]
            known: dict[tuple[int, str], object] = {place: dict(had) for place, had in marks.items() if name in had}
            known |= marked(name, [one for one in left if is_blank(one.reply, one.reference)], False)
            groups: dict[tuple[str, ...], list[Answered]] = {}
            for one in left:
                if not is_blank(one.reply, one.reference):
                    groups.setdefault(mark_key(name, one.question, one.reply, one.reference), []).append(one)
            asked, done = list(groups.values()), 0
            now = Progress("Judging the replies", 0, len(asked), what="marks")
            yield replace(now, known=known)
            messages = [[rubric(one.question, one.reply, one.reference)] for one, *_ in asked]
            for waiting, said in in_batches(self.get(name, owner).ask, messages):
                known = {}
                for group, (text,) in zip(asked[done:], said[done:], strict=False):
                    known |= marked(name, group, parse_yes(text) is True)
                done = len(said)
                yield replace(now, done=done, waiting=waiting, known=known)


def in_batches(ask: Ask, asked: Sequence[Sequence[Messages]]) -> Generator[tuple[str, list[list[str]]], None, None]:
    """A few of these together; yields what it waits for, and all answers so far, those of one item in one list. Closing
    it frees the device."""
    found: list[list[str]] = []
    for begin in range(0, len(asked), TOGETHER):
        chunk, said = asked[begin : begin + TOGETHER], list[str]()
        with contextlib.closing(ask([messages for one in chunk for messages in one], said)) as steps:
            for waiting in steps:
                yield waiting, found
        answers = iter(said)
        found = [*found, *([next(answers) for _ in one] for one in chunk)]
        yield "", found


def _key(name: str, *of: str) -> str:
    """A judge's name and a digest of what it is and is asked."""
    return f"{name} {hashlib.sha256(chr(0).join((RUBRIC, *of)).encode()).hexdigest()[:12]}"
