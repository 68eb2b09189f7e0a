"""What counts as a right answer: the content a reply must have, read from the references and correctable by the person.

A reply passes a row where it has the form (every check) AND the content (the criterion). One class a kind, as for
checks; ``suggested`` reads from the references which one fits. An empty, ``null`` or refused reply is never right.
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from itertools import combinations, islice
from string import punctuation
from typing import Any, ClassVar, Literal, NamedTuple

import regex

from playground.data.tools import Call, calls_in
from playground.errors import InputError
from playground.evaluation.forgetting import is_refusal
from playground.evaluation.inferred_checks import ALONE, collapsed, folded, key_of, label_in, labels_of

FieldKind = Literal["exact", "number", "text"]
LEAST_F1 = 0.6
"""A text is right from this token F1 on (a field, where all its numbers are right too), or from a higher one."""
SHORT_WORDS = 8
"""References of at most so many words are short answers, which are matched whole."""
TEXT_WORDS = 4
"""A field is free text where its middle value has at least so many words, or its values are seldom alike."""
NEARLY_ALL = 0.95
FEWEST = 5
MOST_ARGUMENTS = 12
"""So many arguments, the commonest, are told one by one."""
FIELD = "field:"
"""Before the name of a field: the metric of its accuracy."""
Marks = Mapping[tuple[str, str, str, str], bool]
"""(judge, question, reply, reference) -> whether the judge calls the reply right; reply and reference stripped."""
_SIGN = re.compile(f"([{ALONE}])")
_BARE = regex.compile(rf"[\p{{P}}{re.escape(punctuation)}]")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_KINDS: dict[str, type[Criterion]] = {}
_KEY = re.compile(
    r"[ \t]*(?:(?:#{1,6}|[-*•+]|\d{1,2}[.)])[ \t]+)?[*_]{0,2}([^\W\d_][^\n:：{}\[\]\"]{0,40}?)[*_]{0,2}[ \t]*"
    r"[:：](?!//)[*_]{0,2}(.*)"
)
_ITEM = re.compile(r"[ \t]+\S|[-*•+][ \t]|\d{1,2}[.)][ \t]")
_FENCE = re.compile(r"^```\w*\s*|\s*```$")
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:[.,]\d+)*")
_WITHIN = re.compile(r"((?<=\d)[.,:/-](?=\d)|(?<![\w.])-(?=\d)|(?<=\w)[+#]+(?!\w))")
"""Punctuation that tells 1.5 from 15, -5 from 5, and C++ from C."""
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_UNITS = {"$": "usd", "€": "eur", "euro": "eur", "£": "gbp", "¥": "jpy", "₺": "try", "tl": "try", "₹": "inr", "%": "%"}
_UNIT = "|".join(map(re.escape, (*_UNITS, "usd", "eur", "gbp", "jpy", "try", "inr", "chf", "cny")))
_AMOUNT = re.compile(rf"([-+]?)({_UNIT})?\s*([-+]?)(\d[\d .,'_]*)(?<! )\s*({_UNIT})?")
_MARKS = ((",", "."), (".", ","), (" ", "."), (" ", ","), ("'", "."), ("_", "."))
"""Of thousands, and of decimals."""


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
    def of(cls, spec: str, references: Sequence[str]) -> Criterion:
        """The criterion of a spec for answers such as these. Raises InputError where they do not fit it."""
        return cls(spec)

    @property
    @abstractmethod
    def label(self) -> str:
        """What it asks for, as a person reads it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that are marked one by one."""
        return ()

    def mark(self, reply: str, reference: str, question: str = "") -> Mark:
        """Whether a reply is right. An empty, ``null`` or refused one is not, unless the reference says the same. A
        reply refuses where its first sentence does, and it has no fields to be looked at."""
        found = self._mark(reply.strip(), reference.strip(), question)
        first = re.split(r"(?<=[.!?])\s", reply.strip(), maxsplit=1)[0]
        refused = not found.fields and is_refusal(first) and not is_refusal(reference)
        return Mark(False, found.fields) if refused or is_blank(reply, reference) else found

    @abstractmethod
    def _mark(self, reply: str, reference: str, question: str) -> Mark: ...

    def near(self, reply: str, reference: str) -> float:
        """How near a reply comes to being right, 0 to 1: what tells replies apart of which none is."""
        return token_f1(reply, reference)


def kinds() -> str:
    """How each kind is written, for a message: ``label, fields[:NAMES], ...``."""
    return ", ".join(name + one.takes for name, one in _KINDS.items())


@lru_cache(maxsize=4096)
def squad_words(text: str) -> tuple[str, ...]:
    """The words without case, punctuation (but that inside numbers and names such as C++) and articles; in scripts
    without spaces each sign is one."""
    parts = _WITHIN.split(_THOUSANDS.sub("", folded(text)))
    bare = "".join(part if place % 2 else _BARE.sub("", part) for place, part in enumerate(parts))
    return tuple(_SIGN.sub(r" \1 ", _ARTICLE.sub(" ", bare)).split())


def token_f1(reply: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words, each as often as it occurs (Rajpurkar et al. 2016,
    arXiv:1606.05250). Both without a word = 1."""
    said, wanted = squad_words(reply), squad_words(reference)
    if not said or not wanted:
        return float(said == wanted)
    return 2 * (Counter(said) & Counter(wanted)).total() / (len(said) + len(wanted))


@lru_cache(maxsize=4096)
def _rouge_l(reply: str, reference: str) -> float:
    from playground.evaluation.metrics import ROUGE  # evaluate imports torch, which takes seconds

    return float(ROUGE.score(reference, reply)["rougeL"].fmeasure)


SIMILARITIES: dict[str, Callable[[str, str], float]] = {"token_f1": token_f1, "rouge_l": _rouge_l}


def is_blank(reply: str, reference: str = "") -> bool:
    """Nothing that anybody could use: empty, ``null``, empty JSON, or punctuation alone. But ``none`` or ``[]`` is an
    answer where the reference is one of these too."""
    if reply.strip() and reference.strip() and is_blank(reference):
        return False
    bare = reply.strip().strip("`\"'").strip()
    return bare.lower() in ("null", "none", "{}", "[]") or not re.search(r"\w", bare)


def parse_criterion(spec: str, references: Sequence[str]) -> Criterion:
    """Read ``KIND[:VALUE]``. references: all answers of the file. Raises InputError naming the kinds there are."""
    name, _, value = spec.partition(":")
    known = _KINDS.get(name.strip())
    if known is not None and known.takes.startswith(":") and not value.strip():
        raise InputError(f"{spec[:60]!r} lacks a part: write {name.strip()}{known.takes}. There are: {kinds()}.")
    if known is None or (not known.takes and value):
        raise InputError(f"{spec[:60]!r} does not say what is right. There are: {kinds()}.")
    return known.of(spec.strip(), references)


def parse_criteria(specs: Sequence[str], references: Sequence[str], marks: Marks | None = None) -> Criterion:
    """Read one or several; of several, each must hold. marks: of judges. Raises InputError for none."""
    if not specs:
        raise InputError(f"Say what is right: {kinds()}.")
    found = [parse_criterion(spec, references) for spec in dict.fromkeys(specs)]
    parts = tuple(replace(one, marks=marks or {}) if isinstance(one, Judged) else one for one in found)
    return parts[0] if len(parts) == 1 else Every(" and ".join(part.spec for part in parts), parts)


def suggested(references: Sequence[str]) -> Criterion:
    """The criterion that the references look like: 1. calls of tools; 2. JSON, field by field; 3. labels; 4. ``Key:
    value`` lines; 5. short answers, matched whole; 6. longer text, by similarity. Correct it where it is wrong."""
    return _suggested(tuple(text for text in references if text.strip()))


@lru_cache(maxsize=8)
def _suggested(texts: tuple[str, ...]) -> Criterion:
    if 2 * sum(map(bool, map(calls_in, texts))) > len(texts):  # 1
        return Tool.of("tool", texts)
    known = _common_fields(texts)
    if known and all(_json_of(text) is not None for text in texts):  # 2
        return Fields.of("fields", texts)
    if labels_of(texts):  # 3
        return Label.of("label", texts)
    if known and len(texts) >= FEWEST:  # 4
        return Fields.of("fields", texts)
    middle = sorted(_length(text) for text in texts)[len(texts) // 2] if texts else 0
    if middle <= SHORT_WORDS:  # 5
        return Exact.of("exact", texts)
    return Similarity.of(f"similarity:token_f1>={_threshold(texts):g}", texts)  # 6


def _length(text: str) -> int:
    """Words; of scripts without spaces, two signs make about one."""
    return len(text.split()) + len(_SIGN.findall(text)) // 2


class Sample(NamedTuple):
    """One reply as a criterion marks it. own: it is the row's own reference, not another row's."""

    place: int
    reply: str
    own: bool
    mark: Mark


def samples(criterion: Criterion, references: Sequence[str], most: int = 10) -> list[Sample]:
    """How a criterion marks known replies, before anything is measured: to every second row its own reference, which
    should be right, to the others that of another row, far from it and not the same, which should not."""
    made = []
    for place, reference in enumerate(references[:most]):
        far = (place + len(references) // 2) % len(references)
        others = (*references[far:], *references[:far]) if place % 2 else ()
        reply = next((other for other in others if key_of(other) != key_of(reference)), reference)
        made.append(Sample(place, reply, reply is reference, criterion.mark(reply, reference)))
    return made


def _threshold(texts: Sequence[str], *, numbers: bool = False) -> float:
    """From which token F1 on a reply says the same: at least 0.6, and where answers share much wording, what one pair
    of different ones in twenty reaches. Of up to 40 answers, evenly from all of them: neighbours are often alike.
    numbers: these are compared apart, so that only pairs with the same ones count."""
    some = dict.fromkeys(texts[:: math.ceil(len(texts) / 40) or 1])
    pairs = ((a, b) for a, b in combinations(some, 2) if not numbers or _numbers(a) == _numbers(b))
    others = sorted(token_f1(a, b) for a, b in pairs)
    alike = others[math.ceil(0.95 * len(others)) - 1] if others else 0.0
    return min(0.95, max(LEAST_F1, math.ceil(20 * alike + 1e-9) / 20))


@dataclass(frozen=True)
class Label(Criterion):
    """The reply gives the reference's label and no other."""

    labels: tuple[str, ...] = ()
    kind = "label"

    @classmethod
    def of(cls, spec: str, references: Sequence[str]) -> Criterion:
        found = labels_of([text for text in references if text.strip()])
        if not found:
            raise InputError("The answers are no labels: they are long, or seldom alike. " + _instead(references))
        return cls(spec, tuple(found))

    @property
    def label(self) -> str:
        return f"The right one of {len(self.labels)} labels"

    def _mark(self, reply: str, reference: str, question: str) -> Mark:
        wanted = label_in(reference, self.labels)
        return Mark(wanted is not None and label_in(reply, self.labels) == wanted)


@dataclass(frozen=True)
class Fields(Criterion):
    """Every field that must be right, is. compared: field -> how; must: those that decide; least: free-text field ->
    the token F1 from which it is right."""

    compared: Mapping[str, FieldKind] = field(default_factory=dict)
    must: tuple[str, ...] = ()
    least: Mapping[str, float] = field(default_factory=dict)
    kind = "fields"
    takes = "[:NAMES]"

    @classmethod
    def of(cls, spec: str, references: Sequence[str]) -> Criterion:
        texts = tuple(text for text in references if text.strip())
        known = _common_fields(texts)
        wanted = [name for part in spec.partition(":")[2].split(",") if (name := part.strip())]
        if not known:
            none = "The answers have no common fields (JSON keys, or lines such as 'Name: value')."
            raise InputError(f"{none} {_instead(references)}")
        if missing := [name for name in wanted if name not in known]:
            raise InputError(f"No answer has the field {', '.join(missing)}. There are: {', '.join(known)}.")
        return cls(spec, known, tuple(wanted or known), _thresholds(texts))

    @property
    def label(self) -> str:
        return f"{', '.join(self.must)} right" + ("" if len(self.must) < len(self.compared) else " (all fields)")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.compared)

    def _mark(self, reply: str, reference: str, question: str) -> Mark:
        said, wanted = fields_of(reply), fields_of(reference)
        said = {key_of(name): value for name, value in said.items()} | dict(said)
        marks = {
            name: same_value(said.get(name, said.get(key_of(name), _MISSING)), wanted[name], how, self.least.get(name))
            for name, how in self.compared.items()
            if name in wanted
        }
        return Mark(bool(marks) and all(marks.get(name, key_of(name) not in said) for name in self.must), marks)

    def near(self, reply: str, reference: str) -> float:
        marks = self._mark(reply, reference, "").fields
        return (sum(marks.values()) / max(1, len(marks)) + super().near(reply, reference)) / 2


@dataclass(frozen=True)
class Tool(Criterion):
    """The reply calls the reference's tools with its arguments and no others, in any order, whatever the form it writes
    calls in; where the reference calls none, neither does the reply. compared, least: as of ``Fields``, by
    ``TOOL.ARGUMENT``."""

    compared: Mapping[str, FieldKind] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)
    kind = "tool"

    @classmethod
    def of(cls, spec: str, references: Sequence[str]) -> Criterion:
        held: dict[str, list[Any]] = {}
        each = [_arguments(call) for text in references for call in calls_in(text)]
        for name, value in (pair for one in each for pair in one.items()):
            held.setdefault(name, []).append(value)
        if not each:
            raise InputError(f"The answers call no tools. {_instead(references)}")
        held = dict(sorted(held.items(), key=lambda item: -len(item[1])))
        kinds = {name: _kind_of(values) for name, values in held.items()}
        texts = (name for name, how in kinds.items() if how == "text")
        return cls(spec, kinds, {name: _threshold([*map(str, held[name])], numbers=True) for name in texts})

    @property
    def label(self) -> str:
        return "The right tool with the right arguments, and none where none is called for"

    @property
    def names(self) -> tuple[str, ...]:
        return ("tool", *[*self.compared][:MOST_ARGUMENTS])

    def _mark(self, reply: str, reference: str, question: str) -> Mark:
        said, wanted = [*calls_in(reply)], [*calls_in(reference)]
        named = Counter(call.name for call in said) == Counter(call.name for call in wanted)
        fields, right = {"tool": named}, named
        for closely in (True, False):  # calls that are right first, so that no other takes their place
            for call in [*wanted]:
                asked = _arguments(call)
                able = [(one, self._same(asked, _arguments(one))) for one in said if one.name == call.name]
                best, marks = max(
                    able, key=lambda pair: sum(pair[1].values()), default=(call, dict.fromkeys(asked, False))
                )
                if closely and not (able and all(marks.values())):
                    continue
                wanted.remove(call)
                said = [one for one in said if one is not best]
                right = right and all(marks.values())
                fields |= {name: fields.get(name, True) and marks[name] for name in asked}
        return Mark(right, fields)

    def _same(self, asked: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, bool]:
        """Argument -> whether it is right; one that was not asked for is not."""
        same = dict.fromkeys(given, False)
        for name, value in asked.items():
            how, least = self.compared.get(name, "exact"), self.least.get(name)
            same[name] = same_value(given.get(name, _MISSING), value, how, least)
        return same


def _arguments(call: Call) -> dict[str, Any]:
    return _flat(call.arguments, f"{call.name}.")


@dataclass(frozen=True)
class Exact(Criterion):
    """The same number, or the same words as the reference, without case, punctuation and articles (about SQuAD's
    normalisation)."""

    kind = "exact"

    @property
    def label(self) -> str:
        return "The same answer, but for case and punctuation"

    def _mark(self, reply: str, reference: str, question: str) -> Mark:
        return Mark(_same_words(reply, reference))


@dataclass(frozen=True)
class Similarity(Criterion):
    """A similarity to the reference at or above a threshold."""

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
            how = f"METRIC one of {', '.join(SIMILARITIES)}, X up to 1, such as similarity:token_f1>={LEAST_F1}"
            raise InputError(f"{spec[:60]!r} is no similarity. Write similarity:METRIC>=X, {how}.")
        return cls(spec, name.strip(), threshold)

    @property
    def label(self) -> str:
        return f"{self.metric} to the reference at least {self.least:g}"

    def _mark(self, reply: str, reference: str, question: str) -> Mark:
        return Mark(self.near(reply, reference) >= self.least)

    def near(self, reply: str, reference: str) -> float:
        return SIMILARITIES[self.metric](reply, reference)


@dataclass(frozen=True)
class Judged(Criterion):
    """A model calls the reply right. marks: what it said; a reply without a mark is not right."""

    marks: Marks = field(default_factory=dict)
    kind = "judge"
    takes = ":NAME"

    @property
    def judge(self) -> str:
        return self.spec.partition(":")[2].strip()

    @property
    def label(self) -> str:
        return f"Called right by {self.judge}, a model"

    def _mark(self, reply: str, reference: str, question: str) -> Mark:
        return Mark(self.marks.get(mark_key(self.judge, question, reply, reference), False))


def mark_key(judge: str, question: str, reply: str, reference: str) -> tuple[str, str, str, str]:
    """As in ``Marks``; half surrogate pairs become question marks, as in the metrics."""
    parts = (judge, question, reply.strip(), reference.strip())
    plain = [part.encode("utf-8", "replace").decode("utf-8") for part in parts]
    return plain[0], plain[1], plain[2], plain[3]


def judges_in(specs: Sequence[str]) -> tuple[str, ...]:
    """The judges that criteria name, each once."""
    parts = [spec.partition(":") for spec in specs]
    return tuple(dict.fromkeys(name.strip() for kind, _, name in parts if kind.strip() == Judged.kind))


@dataclass(frozen=True)
class Every(Criterion):
    """Each of several criteria; written as several."""

    parts: tuple[Criterion, ...] = ()

    @property
    def label(self) -> str:
        return "; ".join(part.label for part in self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.names))

    def _mark(self, reply: str, reference: str, question: str) -> Mark:
        marks = [part.mark(reply, reference, question) for part in self.parts]
        fields = {name: right for mark in marks for name, right in mark.fields.items()}
        return Mark(all(mark.right for mark in marks), fields)

    def near(self, reply: str, reference: str) -> float:
        return sum(part.near(reply, reference) for part in self.parts) / len(self.parts)


_MISSING = object()
ITEMS = "items"
"""What the field of an answer is called that is a JSON list."""


@lru_cache(maxsize=4096)
def fields_of(text: str) -> Mapping[str, Any]:
    """The fields of an answer: those of a JSON object (also one in a code fence or among words; nested ones as
    ``a.b``) or list (``items``), else its ``Key: value`` lines; {} for neither."""
    read = _json_of(text)
    return _line_fields(text) if read is None else read


def _json_of(text: str) -> dict[str, Any] | None:
    bare, decoder = _FENCE.sub("", text.strip()), json.JSONDecoder()
    starts = islice((found.start() for found in re.finditer(r"\{", bare)), 20)
    for start in (0, *starts):
        try:
            read, end = decoder.raw_decode(bare, start)
            if isinstance(read, dict) and (read or end == len(bare)):
                return _flat(read)
        except (ValueError, RecursionError):
            continue
        if isinstance(read, list) and start == 0 and end == len(bare):
            return {ITEMS: read}
    return None


def _flat(read: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in read.items():
        made.update(_flat(value, f"{before}{key}.") if isinstance(value, dict) and value else {f"{before}{key}": value})
    return made


def _line_fields(text: str) -> dict[str, str]:
    """``Key: value`` lines. A value goes on over lines that are indented or list items, and, where it begins below its
    key, to the next empty line. One that is said twice and differently is both."""
    found: dict[str, str] = {}
    name, below = "", False
    for line in text.strip().splitlines():
        if key := _KEY.fullmatch(line):
            name, value = key.group(1).strip(), key.group(2).strip()
            below = not value
            if value and found.get(name, value) != value:
                value = f"{found[name]}\n{value}"
            found[name] = value or found.get(name, "")
        elif name and line.strip() and (below or _ITEM.match(line)):
            found[name] = f"{found[name]}\n{line.strip()}".strip()
        elif line.strip() or not below or found.get(name):
            name = ""
    return {name: value for name, value in found.items() if value}


def same_value(said: Any, wanted: Any, how: FieldKind, least: float | None = None) -> bool:
    """Whether one field is right. Numbers by value, however they are written; lists item by item in any order; free
    text by token F1 (``least``, 0.6 where it is None) and its numbers; everything else (ids, dates, enums) by its
    letters, without case and outer punctuation."""
    if said is _MISSING:
        return False
    if list in (type(said), type(wanted)):
        return type(said) is type(wanted) and sorted(map(_key, said)) == sorted(map(_key, wanted))
    plain = any(value is None or isinstance(value, bool) for value in (said, wanted))
    if how == "text" and not plain:
        wanted, said = str(wanted), str(said)
        return _numbers(said) == _numbers(wanted) and token_f1(said, wanted) >= (least or LEAST_F1)
    by_value = how == "number" or isinstance(wanted, int | float)
    return _key(said) == _key(wanted) or (by_value and not plain and _same_number(said, wanted))


def _key(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return collapsed(folded(text)).strip(" .,;:!\"'*_`")


def _same_number(said: Any, wanted: Any) -> bool:
    (one, some), (other, others) = _amount(str(said)), _amount(str(wanted))
    return bool(some & others) and (one == other or not (one and other))


@lru_cache(maxsize=4096)
def _amount(text: str) -> tuple[str, frozenset[Decimal]]:
    """(currency or %, what a number may mean): 1,234 and 1.234 are two numbers each, by whose sign marks thousands.
    No number: neither. One that begins with 0 as ids do (007) is none."""
    found = _AMOUNT.fullmatch(folded(text).strip())
    if found is None or re.match(r"0\d", found.group(4)) or len(text) > 100:
        return "", frozenset()
    outer, first, inner, digits, last = found.groups()
    read = set()
    for group, mark in _MARKS:
        cut = re.fullmatch(rf"(\d+|\d{{1,3}}(?:[{group}]\d{{2,3}})*[{group}]\d{{3}})(?:[{mark}](\d+))?", digits)
        if cut:
            read.add(Decimal(f"{outer or inner}{cut.group(1).replace(group, '')}.{cut.group(2) or 0}"))
    unit = first or last or ""
    return _UNITS.get(unit, unit), frozenset(read)


def _numbers(text: str) -> list[str]:
    return sorted(_THOUSANDS.sub("", number).replace(",", ".") for number in _NUMBER.findall(text))


def _same_words(reply: str, reference: str) -> bool:
    said, wanted = squad_words(reply), squad_words(reference)
    return (said == wanted if said and wanted else key_of(reply) == key_of(reference)) or _same_number(reply, reference)


@lru_cache(maxsize=8)
def _common_fields(texts: tuple[str, ...]) -> Mapping[str, FieldKind]:
    """Fields that nearly all references have, with how each is compared; {} where there are none."""
    each = [fields_of(text) for text in texts]
    names = dict.fromkeys(name for one in each for name in one)
    common = [name for name in names if sum(name in one for one in each) >= NEARLY_ALL * len(each)]
    return {name: _kind_of([one[name] for one in each if name in one]) for name in common}


@lru_cache(maxsize=8)
def _thresholds(texts: tuple[str, ...]) -> Mapping[str, float]:
    """Free-text field -> the token F1 that tells its values apart."""
    return {
        name: _threshold([str(one[name]) for text in texts if name in (one := fields_of(text))], numbers=True)
        for name, how in _common_fields(texts).items()
        if how == "text"
    }


def _kind_of(values: Sequence[Any]) -> FieldKind:
    known = [value for value in values if value is not None]
    if known and all(_amount(str(value))[1] and not isinstance(value, bool) for value in known):
        return "number"
    texts = [value for value in known if isinstance(value, str)]
    lengths = sorted(map(_length, texts))
    free = bool(texts) and lengths[len(texts) // 2] >= TEXT_WORDS and len(set(map(_key, texts))) > len(texts) / 2
    return "text" if free else "exact"


def _instead(references: Sequence[str]) -> str:
    return f"What would fit: {suggested(references).spec}."
