"""What programs and the command line ask: sides as they are written, chat completions, every turn of a comparison to
its end, and a reply again from its stamp (the same prompt, weights, sampling, seed and rows give the same text)."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from playground.chat.batching import Asked, Batches, Written, base_of, prompt_of
from playground.chat.compare import RECORDED, CompareService, Reply, Side, Turn
from playground.data.example import Message
from playground.data.render import encode
from playground.engine.request import SEED_MAX, Sampling
from playground.errors import BaseUnavailableError, InputError, NotFoundError, RunFailedError
from playground.evaluation.form import REFERENCES, read_form
from playground.gpu.manager import DeviceManager
from playground.library.adapters import AdapterCard
from playground.library.bases import label_of
from playground.library.card import weight_files
from playground.library.files import sha256_of
from playground.models.adapters import AdapterService
from playground.models.bases import BASE, PREFIX, BaseService
from playground.models.remote import NOT_REPLAYABLE
from playground.plain import plain_number, plain_text
from playground.settings import Settings

REPLIES_MAX = 4
PATIENCE_S = 120.0
"""How long a question waits for a base that is being prepared, where the caller does not leave before."""
LOOK_S = 0.5
"""How often it looks, and reports how far the base is."""
REPLAYED_MAX = 64
"""More rows than any batch of this app has ever had."""


MODELS = "model=base, model=ADAPTER, model=base:ID or model=endpoint:NAME"
BEST = "best"
"""In place of a prompt or a number of shots: what a prompt search found."""
RECORDED_FIELDS = ("replies", "column", "prices")


@dataclass(frozen=True)
class Chat:
    """What a program asks. model: ``base``, an adapter's id or ``base:ID``. replies: how many, in one batch; each takes
    the next seed. logprobs: as in ``Row``. fit: shorten ``sampling.max_tokens`` to what the base still holds, and to
    what may be asked for here, in place of refusing. pace_s: as in ``Row``."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    replies: int = 1
    logprobs: int | None = None
    fit: bool = False
    pace_s: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.replies <= REPLIES_MAX:
            raise InputError(f"{self.replies} replies are asked for; 1 to {REPLIES_MAX} can be had at once.")


class CompletionService:
    """Answers programs. Where the app is shared a program sees the base and the shipped adapters only. clock: seconds,
    monotonic. pause: waits that many seconds."""

    def __init__(
        self,
        settings: Settings,
        manager: DeviceManager,
        bases: BaseService,
        adapters: AdapterService,
        batches: Batches,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._shared, self._manager, self._bases = settings.shared, manager, bases
        self._adapters, self._batches = adapters, batches
        self._clock, self._pause = clock, pause
        self._owner = "" if settings.shared else "local"

    @property
    def base(self) -> str:
        """The base's own id; where the app is shared, without the folder it lies in."""
        return label_of(self._bases.spec) if self._shared else self._bases.spec

    def models(self) -> list[AdapterCard]:
        """Every adapter that may be asked on the base in use, and every other base."""
        return [*(row.card for row in self._adapters.list(self._owner) if row.usable), *self._bases.others()]

    def card(self, model: str) -> AdapterCard | None:
        """None for the base. Raises NotFoundError (says what there is)."""
        try:
            return self._adapters.model(model, self._owner)
        except NotFoundError as error:
            if model.startswith(PREFIX):  # it says why
                raise
            there = ", ".join([BASE, *[card.id for card in self.models()]])
            raise NotFoundError(f"There is no model {plain_text(model, 80)!r}. There is: {there}.") from error

    def complete(self, chat: Chat, session: str) -> Generator[list[Written]]:
        """Yields how far each reply has come, the last time with every one done. Closing it frees the device. A base
        that is being prepared is waited for. Raises NotFoundError, InputError, BaseUnavailableError when there is none
        after PATIENCE_S or will be none, BusyError when the queue is full, OutOfMemoryError."""
        card = self.card(chat.model)
        for waiting in () if card is not None and card.is_base else self._until_there_is_a_base():
            yield [Written(waiting=waiting) for _ in range(chat.replies)]
        prompt = prompt_of(self._bases.tokenizer(card), chat.messages, card, chat.sampling.think)
        sampling = self._fitting(prompt, chat, card)
        asked = [
            Asked(card, prompt, replace(sampling, seed=seed % (SEED_MAX + 1)), chat.logprobs, pace_s=chat.pace_s)
            for seed in range(sampling.seed, sampling.seed + chat.replies)
        ]
        for written in self._batches.run(asked, session):
            for one in written:
                if one.failure is not None:
                    raise one.failure
            yield written

    def retry_after_s(self) -> int:
        """When a place in a full queue is likely to be free."""
        return max(1, round(min((request.wait_s for request in self._manager.queue()), default=1.0)))

    def _until_there_is_a_base(self) -> Iterator[str]:
        """How far the base is, in words, every LOOK_S. One that was unloaded is loaded by the question itself."""
        end_s = self._clock() + PATIENCE_S
        while self._bases.loaded is None and (state := self._bases.state()).phase != "ready":
            if state.phase == "failed":
                raise BaseUnavailableError(state.message)
            if self._clock() >= end_s:
                words = f"The base is still being prepared ({state.message}). Try again in a minute."
                raise BaseUnavailableError(words)
            yield state.message
            self._pause(LOOK_S)

    def _fitting(self, prompt: str, chat: Chat, card: AdapterCard | None) -> Sampling:
        """With a longest reply that the context holds beside the prompt and the virtual tokens of the adapter."""
        context, most, before = self._bases.context(card), self._batches.longest, card.virtual_tokens if card else 0
        if chat.fit and most is not None and chat.sampling.min_tokens <= most < chat.sampling.max_tokens:
            chat = replace(chat, sampling=replace(chat.sampling, max_tokens=most))
        length = before + len(encode(self._bases.tokenizer(card), prompt))
        longest = chat.sampling.max_tokens
        if context is None or length + longest <= context:
            return chat.sampling
        if chat.fit and chat.sampling.min_tokens < context - length:
            return replace(chat.sampling, max_tokens=context - length)
        asked = max(1, chat.sampling.min_tokens) if chat.fit else longest
        counted = f", {before} of them the adapter's," if before else ""
        why = f"The prompt is {length} tokens{counted} and the reply may take {asked}; this base holds {context}."
        raise InputError(f"{why} Shorten the messages, or ask for a shorter reply.")


def parse_side(spec: str, examples: Path | None = None, best: Callable[[], Side] | None = None) -> Side:
    """``model=base``, ``=ADAPTER``, ``=base:ID`` or ``=endpoint:NAME``, then ``,prompt=FILE|best`` ``,shots=K|best``
    ``,draws=K`` ``,pick=seed|nearest|ROW+ROW`` ``,docs=FILE``
    ``,format=json|json-schema:FILE|regex:PATTERN|references`` ``,think=on|off`` ``,name=LABEL``; patterns may hold
    commas. Or ``replies=FILE``, then ``,column=NAME`` ``,prices=IN/OUT`` ``,name=LABEL``. examples: where shots and the
    form of the references come from. best: what a prompt search found. Raises InputError."""
    names = ("model", "prompt", "shots", "draws", "pick", "docs", "format", "think", "name", *RECORDED_FIELDS)
    values: dict[str, str] = {}
    key = ""
    for field in spec.split(","):
        before, (key, equals, value) = key, (each.strip() for each in field.partition("="))
        if before == "format" and key not in names:
            key, values["format"] = before, f"{values['format']},{field}"
            continue
        if not equals or key not in names or key in values:
            more = "prompt=FILE, shots=K, draws=K, pick=nearest, docs=FILE, format=json, think=off, name=LABEL"
            said = f"Write {MODELS}, then, if wanted, with commas, {more}; or replies=FILE."
            raise InputError(f"{spec!r} is not a side. {said}")
        values[key] = value
    if "replies" in values:
        return _recorded(spec, values)
    if "model" not in values:
        raise InputError(f"{spec!r} names no model. Begin with {MODELS}.")
    pick, found = values.get("pick", "seed"), Side()
    if BEST in (values.get("prompt"), values.get("shots")):
        if best is None or (values.get("shots") == BEST and {"pick", "draws"} & values.keys()):
            raise InputError(f"{spec!r}: best is what a search found on examples, with its way to pick shots.")
        found = best()
    rows = tuple(int(row) for row in pick.split("+") if row.isdecimal() and len(row) < 10)
    if pick not in ("seed", "nearest") and len(rows) <= pick.count("+"):
        raise InputError(f"pick={pick} is not a way to pick shots. There are seed, nearest, and rows such as 3+17.")
    if (think := values.get("think")) not in (None, "on", "off"):
        raise InputError(f"think={think} is neither on nor off.")
    docs = Path(values["docs"]) if values.get("docs") else None
    if docs is not None and not docs.exists():
        raise InputError(f"There is no file {docs}. docs= takes a text file, or a folder of them.")
    try:
        file = values.get("prompt")
        read = found.system_prompt if file == BEST else ""
        read = read if file is None or file == BEST else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The prompt file {file} cannot be read: {error}.") from error
    shots, draws = values.get("shots", "0"), values.get("draws", "1")
    taken = {name: getattr(found, name) for name in ("shots_from", "nearest", "picked")} if shots == BEST else {}
    shots = str(found.shots) if shots == BEST else shots
    for key, said in (("shots", shots), ("draws", draws)):
        if not (said.isdecimal() and len(said) < 5):
            raise InputError(f"{key}={said} is not a whole number.")
    if int(shots) and examples is None and not taken:
        raise InputError("shots=K draws answered examples from a file; name it with --examples FILE.")
    form, name = read_form(values["format"]) if "format" in values else "", values.get("name", "")
    if form == REFERENCES and examples is None:
        raise InputError("format=references takes the form from answered examples; name a file with --examples FILE.")
    shots_from = examples if int(shots) or form == REFERENCES else None
    model = values["model"]
    if model.startswith(PREFIX) and (folder := Path(model.removeprefix(PREFIX)).expanduser()).is_dir():
        model = f"{PREFIX}{folder.resolve()}"  # an app that serves this home has a working folder of its own
    taken = taken if found.shots and taken else {"shots_from": shots_from, "nearest": pick == "nearest", "picked": rows}
    taken["think"] = None if think is None else think == "on"
    return Side(model, read.strip(), int(shots), name=name, docs=docs, draws=int(draws), format=form, **taken)


def _recorded(spec: str, values: Mapping[str, str]) -> Side:
    """Of ``replies=FILE``. Raises InputError."""
    if others := sorted(values.keys() - {"replies", "column", "prices", "name"}):
        raise InputError(
            f"{spec!r} asks nothing anew: leave out {', '.join(others)}. It takes column, prices and name."
        )
    file, (read, _, written) = Path(values["replies"]), values.get("prices", "").partition("/")
    if not file.is_file():
        raise InputError(f"There is no file {file}. replies= takes recorded replies: rows with prompt and reply.")
    try:
        prices = (float(read), float(written)) if "prices" in values else None
    except ValueError as error:
        raise InputError(f"prices={values['prices']} is not IN/OUT, a million tokens each, such as 2.5/10.") from error
    column, name = values.get("column", ""), values.get("name", "")
    return Side(RECORDED, name=name, replies=file, column=column, prices=prices)


def all_replies(
    service: CompareService,
    sides: Sequence[Side],
    questions: Sequence[str],
    sampling: Sampling,
    tell: Callable[[int, int], None] = lambda turn, tokens: None,
) -> list[dict[str, Any]]:
    """Ask ``questions`` as turns of one conversation with every side. tell: called with (turn, tokens written so far).
    A side that fails says why (``error``) in its last reply and is asked no more. Raises RunFailedError when all do."""
    histories: list[list[Turn]] = [[] for _ in sides]
    failed: dict[int, str] = {}
    found: list[dict[str, Any]] = []
    for turn, question in enumerate(questions):
        asked = [place for place in range(len(sides)) if place not in failed]
        replies: Sequence[Reply] = []
        there = [sides[place] for place in asked], [histories[place] for place in asked]
        for replies in service.ask(*there, question, sampling):
            tell(turn, sum(reply.completion_tokens for reply in replies))
        for place, reply in zip(asked, replies, strict=True):
            if reply.error:
                failed[place] = reply.error
            else:
                histories[place].append(Turn(question, reply.text))
            record = {"side": sides[place].label, "turn": turn, "text": reply.text}
            record |= {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
            record |= {"first_token_s": round(reply.first_token_s or 0.0, 4), "seconds": round(reply.seconds, 4)}
            thought = {"thought": reply.thought, "thought_tokens": reply.thought_tokens}
            record |= thought if reply.thought_tokens else {}
            found.append(record | {"stamp": reply.stamp} | ({"error": reply.error} if reply.error else {}))
        if len(failed) == len(sides):
            raise RunFailedError("\n".join(f"{sides[place].label}: {why}" for place, why in failed.items()))
    return found


@dataclass(frozen=True)
class Saved:
    """A stamp, and the text that came with it if there was one. name: which reply of its file, for a person."""

    stamp: dict[str, Any]
    text: str | None = None
    name: str = ""


class ReplayService:
    def __init__(self, bases: BaseService, adapters: AdapterService, batches: Batches) -> None:
        self._bases, self._adapters, self._batches = bases, adapters, batches

    def check(self, saved: Saved, owner: str = "local") -> tuple[Asked, int]:
        """What to ask and in how many rows; loads nothing. Raises InputError where the same text cannot be had here."""
        stamp = saved.stamp
        if isinstance(file := stamp.get("recorded"), Mapping):
            read = f"It was read from {plain_text(file.get('file'), 80)}; no model here wrote it."
            raise InputError(f"This reply is not replayable: recorded. {read}")
        if isinstance(from_ := stamp.get("endpoint"), Mapping):
            model, host = (plain_text(from_.get(name), 80) for name in ("model", "host"))
            why = f"It came from {model} at {host}, another server, whose weights and sampling are not in its stamp."
            raise InputError(f"This reply is {NOT_REPLAYABLE}. {why} Ask that endpoint again with compare.")
        prompt, rows = _prompt(stamp), plain_number(stamp.get("rows"))
        if not isinstance(rows, int) or not 1 <= rows <= REPLAYED_MAX:
            raise InputError(f"The stamp's rows are {rows}; a batch has 1 to {REPLAYED_MAX}.")
        card = None if stamp.get("adapter") is None else self._same_adapter(stamp, owner)
        here = base_of(card, self._bases)
        if card is None and stamp.get("base") != here and (card := self._bases.of_fingerprint(stamp.get("base"))):
            here = card.sha256
        if stamp.get("base") != here:
            made, base = _short(stamp.get("base")), label_of(self._bases.spec)
            named = f"{plain_text(stamp.get('base_name'), 80)} " if stamp.get("base_name") else ""
            why = f"{named}with the fingerprint {made}; {base}, the base here, has {_short(here)}"
            raise InputError(f"This reply was made on a base {why}. Choose the base it was made on.")
        return Asked(card, prompt, _sampling(stamp)), rows

    def again(
        self,
        saved: Saved,
        tell: Callable[[int], None] = lambda tokens: None,
        owner: str = "local",
        session: str = "local",
    ) -> dict[str, Any]:
        """``same`` (None when nothing was saved to compare with), ``text``, ``first_difference`` (index of a
        character) and ``notes``: what is other here than it was. tell: called with how many tokens are written.
        Raises PlaygroundError."""
        asked, rows = self.check(saved, owner)
        written: list[Written] = []
        for written in self._batches.run([asked] * rows, session):
            tell(written[0].state.completion_tokens)
        first = written[0]
        if first.failure is not None:
            raise first.failure
        text = first.state.text
        at = None if saved.text is None else first_difference(saved.text, text)
        return {
            "same": None if saved.text is None else at is None,
            "text": text,
            "first_difference": at,
            "notes": _notes(saved.stamp, first.stamp or {}),
        }

    def _same_adapter(self, stamp: Mapping[str, Any], owner: str) -> AdapterCard:
        """The stamp's adapter, its weights hashed now. Raises NotFoundError, or InputError when they differ."""
        card = self._adapters.get(str(stamp["adapter"]), owner)
        here = sha256_of(weight_files(card.path, card.kind))
        if here != stamp.get("adapter_sha256"):
            why = f"its weights have the SHA-256 {_short(here)}, the stamp names {_short(stamp.get('adapter_sha256'))}"
            raise InputError(f"The adapter {card.id} has changed since: {why}. Import the one that was used.")
        return card


def read_saved(value: object) -> list[Saved]:
    """The replies a file holds: one reply or stamp, all of a comparison, or a chat completion. Raises InputError."""
    if isinstance(value, Mapping) and isinstance(value.get("replies"), list):
        found = [_reply(item) for item in value["replies"]]
    elif isinstance(value, Mapping) and isinstance(value.get("choices"), list):
        found = [_choice(value, item) for item in value["choices"]]
    else:
        found = [_reply(value)]
    if not found:
        raise InputError("The file holds no replies. Save a reply with its stamp, and replay that.")
    return found


def together(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One answer for a whole file: that of its only reply; or all of them as ``replies``, with the text of the first
    that differs (else of the first), and ``same`` only if all are."""
    if len(results) == 1:
        return results[0]
    shown = next((result for result in results if result["same"] is False), results[0])
    found = {result["same"] for result in results}
    same = False if False in found else None if None in found else True
    at = shown["first_difference"]
    return {"same": same, "text": shown["text"], "first_difference": at, "replies": list(results)}


def first_difference(a: str, b: str) -> int | None:
    """Index of the first character in which two texts differ, None when they are the same."""
    return None if a == b else len(os.path.commonprefix([a, b]))  # noqa: RUF071 (text)


def _reply(item: object) -> Saved:
    """A reply of a comparison, a row of a verdict (its text is ``reply``), or a bare stamp."""
    if not isinstance(item, Mapping):
        raise InputError(f"A saved reply is a JSON object with a stamp; this is a {type(item).__name__}.")
    stamp = item.get("stamp", item if "prompt" in item and "seed" in item else None)
    if not isinstance(stamp, Mapping):
        taken = "Replay takes a reply or all of `compare --json`, a chat completion, or a stamp."
        raise InputError(f"There is no stamp in it. {taken}")
    text = item.get("text", item.get("reply")) if stamp is not item else None
    name = plain_text(item.get("side"), 80)
    if name and isinstance(item.get("turn"), int):
        name = f"{name}, turn {item['turn'] + 1}"
    return Saved(dict(stamp), text if isinstance(text, str) else None, name)


def _choice(completion: Mapping[str, Any], choice: object) -> Saved:
    """A choice of a chat completion; where there are several, each carries its own stamp."""
    choice = choice if isinstance(choice, Mapping) else {}
    stamp = choice.get("playground", completion.get("playground"))
    if not isinstance(stamp, Mapping):
        raise InputError("This chat completion carries no `playground` field, the stamp. Save the whole answer of /v1.")
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else None
    name = f"choice {choice.get('index')}" if len(completion["choices"]) > 1 else ""
    return Saved(dict(stamp), text if isinstance(text, str) else None, name)


def _prompt(stamp: Mapping[str, Any]) -> str:
    prompt = stamp.get("prompt")
    text, digest = (prompt.get("text"), prompt.get("sha256")) if isinstance(prompt, Mapping) else (None, None)
    if not isinstance(text, str):
        raise InputError("The stamp holds no prompt. Save the whole stamp.")
    if hashlib.sha256(text.encode(errors="replace")).hexdigest() != digest:
        raise InputError("The stamp's prompt is not the one that ran: its SHA-256 differs. Save the stamp unchanged.")
    return text


def _sampling(stamp: Mapping[str, Any]) -> Sampling:
    drawn = stamp.get("sampling")
    try:
        return Sampling(**drawn, seed=stamp["seed"])  # type: ignore[arg-type]
    except (TypeError, KeyError) as error:
        why = "it was changed, or comes from another version"
        raise InputError(f"The stamp's sampling cannot be read: {why}.") from error


def _notes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    none, near = "not named", "near-ties may fall the other way."
    return [
        f"The {what} is {now.get(what) or none} here and was {plain_text(str(then.get(what) or none), 60)}: {near}"
        for what in ("engine", "device", "dtype")
        if then.get(what) != now.get(what)
    ]


def _short(fingerprint: object) -> str:
    return f"{plain_text(fingerprint, 80)[:12]}…" if fingerprint else "none"
