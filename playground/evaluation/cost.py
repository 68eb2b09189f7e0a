"""What an answer costs, what training adds, and from how many requests on it pays."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from playground.errors import InputError

NOTE = "Made-up example prices. Put in your own: your provider's price list, or what your machine costs an hour."
MILLION, HOUR_S = 1_000_000, 3_600
CHANGES_A_YEAR = {"never": 0, "monthly": 12, "weekly": 52}


@dataclass(frozen=True)
class Prices:
    """A price table of examples to edit, nobody's offer; amounts are at least 0. currency: a word beside every amount.
    *_per_million: tokens read (prompt) and written (completion); tuned_*: of a tuned model, None = the same price.
    cached_per_million: tokens read that every request of a side repeats (system prompt, shots), None = as others.
    device_per_hour: where given, a request costs its seconds on the device, and token prices are not used.
    training_per_hour: the device that trains. training: one training, all told; None = by its seconds.
    *hosting_per_month: of a side with a tuned model, and of one without. labelling: once, and label_each: a row trained
    on. label_share: the part of the rows that is labelled anew at each change of the task. prompt_revision: one
    revision of an untuned side's prompt, at each change."""

    currency: str = "USD"
    prompt_per_million: float = 0.15
    completion_per_million: float = 0.60
    tuned_prompt_per_million: float | None = None
    tuned_completion_per_million: float | None = None
    device_per_hour: float | None = None
    training_per_hour: float = 1.0
    training: float | None = None
    cached_per_million: float | None = None
    hosting_per_month: float = 0.0
    base_hosting_per_month: float = 0.0
    labelling: float = 0.0
    label_each: float = 0.0
    label_share: float = 1.0
    prompt_revision: float = 0.0

    def __post_init__(self) -> None:
        faults, word = [], self.currency
        if not isinstance(word, str) or not word.strip() or len(word) > 12:
            faults.append(f"currency is {word!r}; it takes a word such as EUR")
        for one in fields(self)[1:]:
            value, or_null = getattr(self, one.name), " or null" * (one.default is None)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
            if not number and not (value is None and or_null):
                faults.append(f"{one.name} is {value!r}; it takes a number from 0{or_null}")
        if faults:
            raise InputError("The prices cannot be used: " + "; ".join(faults) + ".")

    @property
    def made_up(self) -> bool:
        """Whether what a request costs is still by the example's prices, whatever the currency is called."""
        read, written = self.prompt_per_million, self.completion_per_million
        example = (Prices.prompt_per_million, Prices.completion_per_million)
        return self.device_per_hour is None and (read, written) == example

    @property
    def unit(self) -> str:
        """The currency, and that the prices are examples where they are."""
        return f"{self.currency} at example prices" if self.made_up else self.currency


@dataclass(frozen=True)
class TokenPrices:
    """A million tokens read, written, and read from a cache (None = as others)."""

    prompt_per_million: float
    completion_per_million: float
    cached_per_million: float | None = None

    @property
    def is_free(self) -> bool:
        return not (self.prompt_per_million or self.completion_per_million or self.cached_per_million)

    def of(self, read: float, written: float, cached: float = 0.0) -> float:
        """What so many tokens cost. cached: of those read."""
        again = self.prompt_per_million if self.cached_per_million is None else self.cached_per_million
        known = min(cached, read)
        fresh = (read - known) * self.prompt_per_million
        return (fresh + known * again + written * self.completion_per_million) / MILLION


@dataclass(frozen=True)
class SideFigures:
    """Means over a side's requests. tuned: whether it runs a tuned model. cached_tokens: of the tokens read, those that
    every request repeats, or that a server read from its cache. own: prices of the server that answers, None = those of
    the table."""

    prompt_tokens: float
    completion_tokens: float
    seconds: float
    tuned: bool = False
    cached_tokens: float = 0.0
    own: TokenPrices | None = None


@dataclass(frozen=True)
class SideCost:
    """per_request: one answer, None = not known. beside: what else the first year costs, by what it is for
    (``beside``); known: whether that is all of it. All in the prices' currency."""

    per_request: float | None
    beside: Mapping[str, float] = field(default_factory=dict)
    known: bool = True

    @property
    def fixed(self) -> float:
        """The first year, without a request."""
        return sum(self.beside.values())

    @property
    def once(self) -> float:
        """What is paid before the first request."""
        return self.beside.get("training", 0.0) + self.beside.get("labels", 0.0)

    def items(self, requests: int) -> dict[str, float]:
        """The first year with so many requests, by what it is for: what is known of it."""
        asked = {"requests": requests * self.per_request} if self.per_request is not None else {}
        return {**asked, **self.beside}

    def total(self, requests: int) -> float | None:
        """The first year, with so many requests; None where not all of it is known."""
        return sum(self.items(requests).values()) if self.known and self.per_request is not None else None


@dataclass(frozen=True)
class Point:
    """at: requests, or tokens of instructions. totals: side -> cost there."""

    at: int
    totals: dict[str, float]


@dataclass(frozen=True)
class PromptLengths:
    """points: a request's cost by tokens of instructions. pays_from: tokens from which fine-tuning is no dearer."""

    points: tuple[Point, ...]
    pays_from: int | None


def prices_from_json(text: str, name: str = "The price table") -> Prices:
    """Read a price table. Raises InputError that names every fault: not JSON, unknown names, numbers that are none."""
    known = [one.name for one in fields(Prices)]
    try:
        read = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{name} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from error
    if not isinstance(read, dict):
        raise InputError(f"{name} holds no object. It takes {{name: number}} with {', '.join(known)}.")
    read.pop("note", None)
    if unknown := sorted(set(read) - set(known)):
        raise InputError(f"{name} names {', '.join(unknown)}. There are: {', '.join(known)}.")
    return Prices(**read)


def prices_to_json(prices: Prices) -> str:
    """As ``prices_from_json`` reads it, with a note that the numbers are to be edited."""
    return json.dumps({"note": NOTE, **asdict(prices)}, indent=2, ensure_ascii=False) + "\n"


def read_prices(path: Path) -> Prices:
    """The table in a file. Raises InputError where there is none, or it cannot be used."""
    try:
        return prices_from_json(path.read_text(encoding="utf-8-sig"), path.name)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}. --prices takes a JSON file such as: {asdict(Prices())}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} cannot be read as text: {error}.") from error


def cost_per_request(figures: SideFigures, prices: Prices) -> float:
    """One answer: its tokens at the server's own prices, else its device seconds where the device has a price, else its
    tokens."""
    if figures.own is None and prices.device_per_hour is not None:
        return figures.seconds * prices.device_per_hour / HOUR_S
    own = figures.own or _token_prices(figures.tuned, prices)
    return own.of(figures.prompt_tokens, figures.completion_tokens, figures.cached_tokens)


def training_cost(seconds: float, prices: Prices) -> float:
    """One training that took so many seconds."""
    return prices.training if prices.training is not None else seconds / HOUR_S * prices.training_per_hour


def beside(tuned: bool, training: float, rows: int | None, changes: str, prices: Prices) -> dict[str, float]:
    """What the first year of a side costs beside its requests, by what it is for; nothing that is 0, or not known.
    training: one; rows: trained on, None = not known, and what their labels cost neither. At each change of the task a
    tuned side is trained again, on rows of which a share is labelled anew; the prompt of an untuned one is revised."""
    times, labels = CHANGES_A_YEAR[changes], (rows or 0) * prices.label_each
    found = {
        "training": training,
        "labels": prices.labelling + labels if rows is not None or not prices.label_each else 0.0,
        "retraining": times * training,
        "relabelling": times * prices.label_share * labels,
        "hosting": 12 * prices.hosting_per_month,
    }
    if not tuned:
        found = {"hosting": 12 * prices.base_hosting_per_month, "revisions": times * prices.prompt_revision}
    return {name: amount for name, amount in found.items() if amount}


def is_training_known(seconds: float | None, prices: Prices) -> bool:
    """Whether what a training cost is known: a model from elsewhere has no record of its run, and was not free."""
    return bool(seconds) or prices.training is not None or prices.training_per_hour == 0


def break_even(a: float, b: float, training_cost: float) -> int | None:
    """Requests from which b is no dearer than a; a, b: cost a request; training_cost: what b costs more beside its
    requests. None = never, or at the first requests only."""
    if training_cost <= 0 and b <= a:
        return 0
    return math.ceil(training_cost / (a - b)) if b < a else None


def curve(costs: Mapping[str, SideCost], most_requests: int) -> tuple[Point, ...]:
    """What is known of a year's cost of every side whose answers have a price, at up to 25 evenly spaced numbers of
    requests, from 0 to ``most_requests``; () where there is no such side."""
    priced = {side: one for side, one in costs.items() if one.per_request is not None}
    at = sorted({round(most_requests * step / 24) for step in range(25)}) if priced else ()
    return tuple(Point(many, {side: sum(one.items(many).values()) for side, one in priced.items()}) for many in at)


def prompt_length_curve(
    untuned: SideFigures, tuned: SideFigures, prices: Prices, training_cost: float, requests: int
) -> PromptLengths:
    """Cost a request by the tokens of instructions (prompt, examples, passages), up to 2,000, of the untuned model.

    tuned reads the question alone; ``training_cost``, what it costs more beside its requests, is shared out over
    ``requests`` (at least 1). By device seconds, what a token more costs is taken from these two sides' times; where
    the longer prompt was not slower, nothing."""
    fixed = cost_per_request(tuned, prices) + training_cost / max(1, requests)
    extra = untuned.prompt_tokens - tuned.prompt_tokens
    if prices.device_per_hour is None:
        slope = _token_prices(untuned.tuned, prices).of(1, 0, 1)
    else:
        slower = max(0.0, untuned.seconds - tuned.seconds)
        slope = slower / extra * prices.device_per_hour / HOUR_S if extra > 0 else 0.0
    bare = cost_per_request(untuned, prices) - slope * extra
    at = range(0, 2_001, 100)
    drawn = tuple(Point(tokens, {"prompt": bare + slope * tokens, "fine-tune": fixed}) for tokens in at)
    pays_from = math.ceil((fixed - bare) / slope - 1e-9) if slope > 0 else None
    return PromptLengths(drawn, 0 if fixed <= bare else pays_from)


def _token_prices(tuned: bool, prices: Prices) -> TokenPrices:
    read, written = prices.prompt_per_million, prices.completion_per_million
    if tuned:
        own = prices.tuned_prompt_per_million, prices.tuned_completion_per_million
        read, written = (price if mine is None else mine for mine, price in zip(own, (read, written), strict=True))
    return TokenPrices(read, written, prices.cached_per_million)
