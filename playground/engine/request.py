"""What is asked of the engine and what comes back, and which texts are scored together: plain values, no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from playground.data.example import HALF_CHARACTER
from playground.errors import InputError
from playground.evaluation.form import grammar

SEED_MAX = 2**31 - 1
TOP_K_MAX = 1000
TEMPERATURE_MIN = 1e-3
"""A lower one is greedy: logits divided by it overflow."""
TOP_P_MIN = 1e-6
"""A lower one is taken as this: the likeliest token alone. In single precision it may be no number above 0."""
STOPS_MAX = 8
STOP_LENGTH = 200
LOGPROBS_MAX = 20
GONE = "The base has left memory. Ask again."
ROWS_MAX = 16
"""Sequences in a batch; of more, the next begins as one ends (on the Hugging Face backend, as all have)."""
REPLIES_TOGETHER = 48
"""Replies under one lease, so that few steps run with an empty place; more would keep whoever waits waiting."""
TOGETHER = 8
"""Texts that are scored together, at most."""
ROOM = 2048
"""Tokens that these may take in all, each as long as the longest; a longer row goes alone."""
PLACES = 128
"""Places whose distributions over the whole vocabulary are held at once."""


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn, and when it ends.

    temperature: 0 = greedy, and so is one below TEMPERATURE_MIN. top_p: share of the probability kept (Holtzman et al.
    2019), at least TOP_P_MIN. top_k: most likely tokens kept, 0 = all. repetition_penalty: 1 = none; above, tokens seen
    in the prompt or the reply become less likely (Keskar et al. 2019). max_tokens, min_tokens: longest and shortest
    reply. seed: of this row's generator. stop: strings that end the reply and are cut off. ignore_eos: go on past the
    model's own end. format: what the reply is held to (``evaluation.form``), "" = free; with one, the document's
    end is the reply's, also where ignore_eos is set. think: on or off, None = as the base's template does by itself;
    where it is on, the form begins after the thought."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 128
    seed: int = 7
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    format: str = ""
    think: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(self.stop))
        for name, value in vars(self).items():
            if name in ("max_tokens", "seed", "top_k", "min_tokens") and not isinstance(value, int):
                raise InputError(f"{name} is {value!r:.40}; it is a whole number.")
            if name in ("temperature", "top_p", "repetition_penalty") and not isinstance(value, int | float):
                raise InputError(f"{name} is {value!r:.40}; it is a number.")
        if not all(isinstance(text, str) for text in self.stop):
            raise InputError("A stop string is no text.")
        longest, shortest, penalty, stops = self.max_tokens, self.min_tokens, self.repetition_penalty, self.stop
        many = f"There are {len(stops)} stop strings; at most {STOPS_MAX} are taken"
        half = "A stop string holds half a character (a lone surrogate). Send whole characters."
        fits = len(stops) <= STOPS_MAX and all(0 < len(text) <= STOP_LENGTH for text in stops)
        ranges = (
            (0 <= self.temperature <= 2, f"The temperature is {self.temperature}; it goes from 0 (greedy) to 2."),
            (0 < self.top_p <= 1, f"Top-p is {self.top_p}; it lies above 0 and at most 1."),
            (1 <= longest <= 8192, f"The longest reply is {longest} tokens; it goes from 1 to 8192."),
            (0 <= self.seed <= SEED_MAX, f"The seed is {self.seed}; it goes from 0 to {SEED_MAX}."),
            (0 <= self.top_k <= TOP_K_MAX, f"Top-k is {self.top_k}; it goes from 0 (off) to {TOP_K_MAX}."),
            (0.1 <= penalty <= 10, f"The repetition penalty is {penalty}; it goes from 0.1 to 10, 1 = none."),
            (
                0 <= shortest <= longest,
                f"The shortest reply is {shortest} tokens; it goes from 0 to the longest, {longest}.",
            ),
            (fits, f"{many}, each of 1 to {STOP_LENGTH} characters."),
            (
                not (stops and self.format),
                "A stop string would cut a reply off that is held to a form. Leave one of them out.",
            ),
            (not any(HALF_CHARACTER.search(text) for text in stops), half),
        )
        if faults := [said for fits, said in ranges if not fits]:
            raise InputError(" ".join(faults))
        if self.format:
            grammar(self.format)  # raises what is wrong with it
        if self.temperature < TEMPERATURE_MIN:
            object.__setattr__(self, "temperature", 0.0)
        object.__setattr__(self, "top_p", max(self.top_p, TOP_P_MIN))


@dataclass(frozen=True)
class Row:
    """One reply to write: the rendered prompt, the adapter's id (None = the base), and how to draw.

    logprobs: None, or how many of the most likely tokens to report at each place, beside the one drawn. cache_salt:
    rows of one salt share a prefix cache, so that nobody can guess another's prompt by how soon the first token comes
    (vLLM's field of this name). shared_prefix: the start of the prompt that all may share. pace_s: how often, at most,
    the caller is told how far a reply has come, but for its begin and its end; 0 = after every step."""

    prompt: str
    adapter: str | None = None
    sampling: Sampling = Sampling()
    logprobs: int | None = None
    cache_salt: str = ""
    shared_prefix: str = ""
    pace_s: float = 0.0

    def __post_init__(self) -> None:
        if self.logprobs is not None and not 0 <= self.logprobs <= LOGPROBS_MAX:
            raise InputError(f"Logprobs of {self.logprobs} tokens are asked for; 0 to {LOGPROBS_MAX} can be had.")


@dataclass(frozen=True)
class TokenLogprob:
    """A drawn token's text and natural-log probability (of the model's own distribution, before sampling changes it),
    and the most likely ones at its place, likeliest first."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass
class RowState:
    """How far a row has come. first_token_s and seconds count from the start of the batch; ``finish``: "" while it
    runs, then ``stop`` (the model, or a stop string, ended it), ``length``, or ``error``. tokens: ids drawn so far.
    fault: what the error was, in a sentence. thought, thought_tokens: what was thought before the text, and how many of
    the completion's tokens that took; the engine leaves it in the text, ``chat.batching`` parts it."""

    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None
    seconds: float = 0.0
    finish: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    fault: str = ""
    thought: str = ""
    thought_tokens: int = 0


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as the engine needs it: id, folder, SHA-256 of its weights."""

    id: str
    path: Any
    sha256: str


def stamp_hash(stamp: dict[str, Any]) -> str:
    """Twelve hex digits that stand for a stamp; the page shows the first four."""
    return hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class ScoreRow:
    """A text to be scored.

    prompt: rendered text that is given, "" = none: then the text's first token is given. completion: what is scored,
    rendered, its end token included where training learned it (``Rendered.completion_text``). adapter: whose weights,
    None = the base. divergence: also measure how far the adapter is from the base; the base's loss comes with it."""

    prompt: str
    completion: str
    adapter: str | None = None
    divergence: bool = False


@dataclass(frozen=True)
class Score:
    """tokens: of the completion, how many were scored. loss: mean nats a token, the completion's own tokens always
    given (teacher forcing). divergence: KL(adapter || base), mean nats a token over the same places; base_loss: the
    base's loss there. Both None where they were not asked for."""

    tokens: int
    loss: float
    divergence: float | None = None
    base_loss: float | None = None


@dataclass(frozen=True)
class Text:
    """A row as token ids. first: the first of them that is scored, at least 1. adapter: None = the base."""

    ids: tuple[int, ...]
    first: int
    adapter: str | None
    divergence: bool

    @property
    def scored(self) -> int:
        return len(self.ids) - self.first


def parts(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of the rows that are read together, in their order."""
    part: list[int] = []
    for place, length in enumerate(lengths):
        longest = max([length, *(lengths[other] for other in part)])
        if part and (len(part) == TOGETHER or longest * (len(part) + 1) > ROOM):
            yield part
            part = []
        part.append(place)
    if part:
        yield part


Where = Mapping[str, str | None]
"""What a stamp says of where a reply was computed: ``dtype`` and ``device``; of a server, None and ``engine``."""


def refuse_too_many(tokens: int, context: int, reply: int = 0, virtual: int = 0) -> None:
    """Raises InputError for a text, with its reply and an adapter's virtual tokens, that a base does not hold. context:
    tokens that it holds, 0 = it names no limit."""
    if not context or virtual + tokens + reply <= context:
        return
    before = f", the adapter puts {virtual} before it" if virtual else ""
    if not reply:
        raise InputError(f"The text is {tokens} tokens{before}; this base holds {context}. Shorten it.")
    raise InputError(
        f"The prompt is {tokens} tokens{before} and the reply may take {reply}; this base holds {context}. "
        "Shorten the prompt, use fewer shots, or clear the conversation."
    )


class EngineLike(Protocol):
    """One base with its adapters: ``engine.Engine`` in this process, whose methods say what these do, or
    ``models.vllm_engine.VllmEngine`` on a server. path: what computes, in words. proof: how ``check_fingerprint`` told,
    in words. weight_bytes, adapter_bytes, cache_bytes: of this machine's memory."""

    folder: Path
    path: str
    proof: str

    @property
    def tokenizer(self) -> Any: ...
    @property
    def where(self) -> Where: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def adapter_bytes(self) -> int: ...
    @property
    def cache_bytes(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def check_fingerprint(self) -> tuple[str, bool, float]: ...
    def attach(self, adapter: AdapterFile) -> float: ...
    def detach(self, adapter_id: str) -> None: ...
    def attached(self) -> dict[str, AdapterFile]: ...
    def asleep(self) -> dict[str, AdapterFile]: ...
    def has_no_effect(self, adapter_id: str) -> bool: ...
    def select_ms(self, adapter_id: str | None) -> float: ...
    def clear_prefix_cache(self) -> None: ...
    def stream(self, rows: Sequence[Row]) -> Generator[list[RowState], None, None]: ...
    def score(self, rows: Sequence[ScoreRow]) -> list[Score]: ...
    def close(self) -> None: ...


class Decoder(Protocol):
    """Decodes rows with an engine, and tells where. together: how many it is given at most."""

    together: int

    def stream(self, engine: EngineLike, rows: Sequence[Row]) -> Generator[list[RowState], None, None]: ...
    def where(self, engine: EngineLike) -> Where: ...


class Direct:
    """In this process."""

    together = REPLIES_TOGETHER

    def stream(self, engine: EngineLike, rows: Sequence[Row]) -> Generator[list[RowState], None, None]:
        return engine.stream(rows)

    def where(self, engine: EngineLike) -> Where:
        return engine.where
