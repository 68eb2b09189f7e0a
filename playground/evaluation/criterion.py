"""What counts as a right answer: the content a reply must have, read from the references and correctable by the person.

A reply passes a row where it has the form (every check) AND the content (the criterion). One class a kind, as for
checks; ``suggested`` reads from the references which one fits. An empty, ``null`` or refused reply is never right.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from string import punctuation
from typing import Any, ClassVar, Literal, NamedTuple

from playground.errors import InputError
from playground.evaluation.forgetting import is_refusal
from playground.evaluation.inferred_checks import collapsed, label_in, labels_of

FieldKind = Literal["exact", "number", "text"]
TEXT_F1 = 0.6
"""A free-text field is right from this token F1 on, where all its numbers are right too."""
SIMILAR, LEAST_F1 = "token_f1>=0.6", 0.6
SHORT_WORDS = 8
"""References of at most so many words are short answers, which are matched whole."""
TEXT_WORDS = 4
"""A field is free text where its middle value has at least so many words, or its values are seldom alike."""
NEARLY_ALL = 0.95
FEWEST = 5
SIMILARITIES = ("token_f1", "rouge_l")
FIELD = "field:"
"""Before the name of a field: the metric of its accuracy."""
ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts that are written without spaces: each sign counts as a word."""
_SIGN = re.compile(f"([{ALONE}])")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_KINDS: dict[str, type[Criterion]] = {}
_LINE = re.compile(
    r"^[ \t]*(?:[-*•][ \t]+)?[*_]{0,2}([^\W\d_][^:\n{}\[\]\"]{0,40}?)[*_]{0,2}:[*_]{0,2}[ \t]+(\S[^\n]*)$", re.M
)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:[.,]\d+)*")
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.S)


@dataclass(frozen=True)
class Mark:
    """right: the content of one reply. fields: name -> right, where the criterion goes field by field."""

    right: bool
    fields: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Criterion(ABC):
    """spec: ``KIND`` or ``KIND:VALUE`` as it was written. A class with a kind is registered when it is defined."""

    spec: str
    kind: ClassVar[str] = ""
    takes: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            _KINDS[cls.kind] = cls

    @classmethod
    @abstractmethod
    def of(cls, spec: str, references: Sequence[str]) -> Criterion:
        """The criterion of a spec for answers such as these. Raises InputError where they do not fit it."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What it asks for, as a person reads it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that are marked one by one."""
        return ()

    def mark(self, reply: str, reference: str) -> Mark:
        """Whether a reply is right. An empty, ``null`` or refused one is not, whatever the reference says."""
        found = self._mark(reply.strip(), reference.strip())
        return (
            Mark(False, found.fields) if is_blank(reply) or (is_refusal(reply) and not is_refusal(reference)) else found
        )

    @abstractmethod
    def _mark(self, reply: str, reference: str) -> Mark: ...


def kinds() -> str:
    """How each kind is written, for a message: ``label, fields[:NAMES], ...``."""
    return ", ".join(name + one.takes for name, one in _KINDS.items())


def squad_words(text: str) -> list[str]:
    """The words without case, punctuation and articles; in scripts without spaces each sign is one."""
    bare = "".join(letter for letter in text.lower() if not _is_punctuation(letter))
    return _SIGN.sub(r" \1 ", _ARTICLE.sub(" ", bare)).split()


@lru_cache(maxsize=4096)
def _is_punctuation(letter: str) -> bool:
    return letter in punctuation or unicodedata.category(letter).startswith("P")


def token_f1(reply: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words, each as often as it occurs (Rajpurkar et al. 2016,
    arXiv:1606.05250). Both without a word = 1."""
    said, wanted = squad_words(reply), squad_words(reference)
    if not said or not wanted:
        return float(said == wanted)
    return 2 * (Counter(said) & Counter(wanted)).total() / (len(said) + len(wanted))


def is_blank(reply: str) -> bool:
    """Nothing that anybody could use: empty, ``null``, empty JSON, or punctuation alone."""
    bare = reply.strip().strip("`\"'").strip()
    return bare.lower() in ("null", "none", "{}", "[]") or not re.search(r"\w", bare)


def parse_criterion(spec: str, references: Sequence[str]) -> Criterion:
    """Read ``KIND[:VALUE]``. references: all answers of the file. Raises InputError naming the kinds there are."""
    name, _, value = spec.partition(":")
    known = _KINDS.get(name.strip())
    if known is None or (not known.takes and value) or (":" in known.takes[:1] and not value.strip()):
        raise InputError(f"{spec[:60]!r} does not say what is right. There are: {kinds()}.")
    return known.of(spec.strip(), references)


def parse_criteria(specs: Sequence[str], references: Sequence[str]) -> Criterion:
    """Read one or several; of several, each must hold. Raises InputError for none."""
    if not specs:
        raise InputError(f"Say what is right: {kinds()}.")
    parts = tuple(parse_criterion(spec, references) for spec in dict.fromkeys(specs))
    return parts[0] if len(parts) == 1 else Every(" and ".join(part.spec for part in parts), parts)


def suggested(references: Sequence[str]) -> Criterion:
    """The criterion that the references look like: 1. labels; 2. JSON objects or ``Key: value`` lines, field by field;
    3. short answers, matched whole; 4. longer text, by similarity. Correct it where it is wrong."""
    texts = [text for text in references if text.strip()]
    if labels_of(texts):  # 1
        return Label.of("label", texts)
    if _common_fields(texts):  # 2
        return Fields.of("fields", texts)
    middle = sorted(len(text.split()) for text in texts)[len(texts) // 2] if texts else 0
    if middle <= SHORT_WORDS:  # 3
        return Exact.of("exact", texts)
    return Similarity.of(f"similarity:token_f1>={_threshold(texts):g}", texts)  # 4


class Sample(NamedTuple):
    """One reply as a criterion marks it. own: it is the row's own reference, not another row's."""

    place: int
    reply: str
    own: bool
    mark: Mark


def samples(criterion: Criterion, references: Sequence[str], most: int = 10) -> list[Sample]:
    """How a criterion marks known replies, before anything is measured: to every second row its own reference, which
    should be right, to the others the next row's, which should not."""
    made = []
    for place, reference in enumerate(references[:most]):
        own = place % 2 == 0
        reply = reference if own else references[(place + 1) % len(references)]
        made.append(Sample(place, reply, own, criterion.mark(reply, reference)))
    return made


def _threshold(texts: Sequence[str]) -> float:
    """From which token F1 on a reply says the same: at least 0.6, and where answers share much wording, what one
    answer in fifty reaches against the answer of another row."""
    others = sorted(token_f1(one, texts[place - 1]) for place, one in enumerate(texts))
    alike = others[math.ceil(0.98 * len(others)) - 1] if others else 0.0
    return min(0.95, max(LEAST_F1, math.ceil(20 * alike + 1e-9) / 20))


@dataclass(frozen=True)
class Label(Criterion):
    """The reply gives the reference's label and no other."""

    labels: tuple[str, ...] = ()
    kind = "label"

    @classmethod
    def of(cls, spec: str, references: Sequence[str]) -> Criterion:
        found = labels_of(references)
        if not found:
            raise InputError("The answers are no labels: they are long, or seldom alike. " + _instead(references))
        return cls(spec, tuple(found))

    @property
    def label(self) -> str:
        return f"The right one of {len(self.labels)} labels"

    def _mark(self, reply: str, reference: str) -> Mark:
        wanted = label_in(reference, self.labels)
        return Mark(wanted is not None and label_in(reply, self.labels) == wanted)


@dataclass(frozen=True)
class Fields(Criterion):
    """Every field that must be right, is. kinds: field -> how it is compared; must: those that decide."""

    compared: Mapping[str, FieldKind] = field(default_factory=dict)
    must: tuple[str, ...] = ()
    kind = "fields"
    takes = "[:NAMES]"

    @classmethod
    def of(cls, spec: str, references: Sequence[str]) -> Criterion:
        known = _common_fields(references)
        wanted = [name for part in spec.partition(":")[2].split(",") if (name := part.strip())]
        if not known:
            raise InputError(
                "The answers have no common fields (JSON keys, or lines such as 'Name: value'). " + _instead(references)
            )
        if missing := [name for name in wanted if name not in known]:
            raise InputError(f"No answer has the field {', '.join(missing)}. There are: {', '.join(known)}.")
        return cls(spec, known, tuple(wanted or known))

    @property
    def label(self) -> str:
        return f"{', '.join(self.must)} right" + ("" if len(self.must) < len(self.compared) else " (all fields)")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.compared)

    def _mark(self, reply: str, reference: str) -> Mark:
        said, wanted = fields_of(reply), fields_of(reference)
        marks = {
            name: same_value(said.get(name, _MISSING), wanted[name], how)
            for name, how in self.compared.items()
            if name in wanted
        }
        return Mark(bool(marks) and all(marks.get(name, name not in said) for name in self.must), marks)


@dataclass(frozen=True)
class Exact(Criterion):
    """The same words as the reference, without case, punctuation and articles (SQuAD's normalisation)."""

    kind = "exact"

    @classmethod
    def of(cls, spec: str, references: Sequence[str]) -> Criterion:
        return cls(spec)

    @property
    def label(self) -> str:
        return "The same answer, but for case and punctuation"

    def _mark(self, reply: str, reference: str) -> Mark:
        return Mark(_same_words(reply, reference))


@dataclass(frozen=True)
class Similarity(Criterion):
    """A similarity to the reference at or above a threshold, and every number of the reference in the reply."""

    metric: str = ""
    least: float = 0.0
    kind = "similarity"
    takes = ":METRIC>=X"

    @classmethod
    def of(cls, spec: str, references: Sequence[str]) -> Criterion:
        name, _, least = spec.partition(":")[2].partition(">=")
        try:
            threshold = float(least)
        except ValueError:
            threshold = -1.0
        if name.strip() not in SIMILARITIES or not 0 < threshold <= 1:
            there = ", ".join(SIMILARITIES)
            raise InputError(
                f"{spec[:60]!r} is no similarity. Write similarity:METRIC>=X, METRIC one of {there}, X up to 1, "
                f"such as similarity:{SIMILAR}."
            )
        return cls(spec, name.strip(), threshold)

    @property
    def label(self) -> str:
        return f"{self.metric} to the reference at least {self.least:g}"

    def _similarity(self, reply: str, reference: str) -> float:
        if self.metric == "token_f1":
            return token_f1(reply, reference)
        from playground.evaluation.metrics import RougeL  # evaluate imports torch, which takes seconds

        return RougeL().value(reply, reference)

    def _mark(self, reply: str, reference: str) -> Mark:
        return Mark(self._similarity(reply, reference) >= self.least)


@dataclass(frozen=True)
class Every(Criterion):
    """Each of several criteria; written as several."""

    parts: tuple[Criterion, ...] = ()

    @classmethod
    def of(cls, spec: str, references: Sequence[str]) -> Criterion:
        return parse_criteria(spec.split(" and "), references)

    @property
    def label(self) -> str:
        return "; ".join(part.label for part in self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.names))

    def _mark(self, reply: str, reference: str) -> Mark:
        marks = [part.mark(reply, reference) for part in self.parts]
        fields = {name: right for mark in marks for name, right in mark.fields.items()}
        return Mark(all(mark.right for mark in marks), fields)


_MISSING = object()


def fields_of(text: str) -> dict[str, Any]:
    """The fields of an answer: those of a JSON object (also one in a code fence; nested ones as ``a.b``), else its
    ``Key: value`` lines; {} for neither."""
    bare = text.strip()
    fenced = _FENCE.search(bare)
    for part in filter(None, (bare, fenced.group(1) if fenced else "")):
        try:
            read = json.loads(part)
        except (ValueError, RecursionError):
            continue
        if isinstance(read, dict):
            return _flat(read)
    return {match.group(1).strip(): match.group(2).strip() for match in _LINE.finditer(bare)}


def _flat(read: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in read.items():
        made.update(_flat(value, f"{before}{key}.") if isinstance(value, dict) and value else {f"{before}{key}": value})
    return made


def same_value(said: Any, wanted: Any, how: FieldKind) -> bool:
    """Whether one field is right. Numbers by value; lists item by item in any order; free text by token F1 and its
    numbers; everything else (ids, dates, enums) by its letters, without case and outer punctuation."""
    if said is _MISSING:
        return False
    if isinstance(wanted, list) or isinstance(said, list):
        return (
            isinstance(said, list) and isinstance(wanted, list) and sorted(map(_key, said)) == sorted(map(_key, wanted))
        )
    if isinstance(wanted, bool) or wanted is None or isinstance(said, bool) or said is None:
        return said is wanted
    if how == "number":
        return _number(said) is not None and _number(said) == _number(wanted)
    if how == "text":
        return _numbers(str(said)) == _numbers(str(wanted)) and token_f1(str(said), str(wanted)) >= TEXT_F1
    return _key(said) == _key(wanted)


def _key(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return collapsed(text).strip(" .,;:!\"'").casefold()


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = re.sub(r"[\s_,](?=\d{3}\b)", "", str(value).strip().strip("$€£%"))
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(text: str) -> list[str]:
    return sorted(number.replace(",", "") for number in _NUMBER.findall(text))


def _same_words(reply: str, reference: str) -> bool:
    said, wanted = squad_words(reply), squad_words(reference)
    return said == wanted if said or wanted else collapsed(reply) == collapsed(reference)


def _common_fields(references: Sequence[str]) -> dict[str, FieldKind]:
    """Fields that nearly all references have, with how each is compared; {} where there are none."""
    texts = [text for text in references if text.strip()]
    each = [fields_of(text) for text in texts]
    if len(each) < FEWEST:
        return {}
    names = dict.fromkeys(name for one in each for name in one)
    common = [name for name in names if sum(name in one for one in each) >= NEARLY_ALL * len(each)]
    return {name: _kind_of([one[name] for one in each if name in one]) for name in common}


def _kind_of(values: Sequence[Any]) -> FieldKind:
    known = [value for value in values if value is not None]
    if known and all(_number(value) is not None and not isinstance(value, bool) for value in known):
        return "number"
    texts = [value for value in known if isinstance(value, str)]
    lengths = sorted(len(text.split()) for text in texts)
    free = bool(texts) and lengths[len(texts) // 2] >= TEXT_WORDS and len(set(map(_key, texts))) > len(texts) / 2
    return "text" if free else "exact"


def _instead(references: Sequence[str]) -> str:
    return f"What would fit: {suggested(references).spec}."
