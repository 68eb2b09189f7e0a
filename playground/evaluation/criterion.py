"""What counts as a right answer: the content a reply must have, read from the references and correctable by the person.

A reply passes a row where it has the form (every check) AND the content (the criterion). One class a kind, as for
checks; ``suggested`` reads from the references which one fits. An empty, ``null`` or refused reply is never right.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

from playground.data.tools import Call, calls_in
from playground.errors import InputError
from playground.evaluation.forgetting import is_refusal
from playground.evaluation.form import key_of, label_in, labels_of
from playground.evaluation.values import (
    LEAST_F1,
    MISSING,
    FieldKind,
    common_fields,
    fields_of,
    flat,
    is_blank,
    json_of,
    kind_of,
    length,
    same_value,
    same_words,
    threshold_of,
    thresholds,
    token_f1,
)

SHORT_WORDS = 8
"""References of at most so many words are short answers, which are matched whole."""
FEWEST = 5
MOST_ARGUMENTS = 12
"""So many arguments, the commonest, are told one by one."""
FIELD = "field:"
"""Before the name of a field: the metric of its accuracy."""
Marks = Mapping[tuple[str, str, str, str], bool]
"""(judge, question, reply, reference) -> whether the judge calls the reply right; reply and reference stripped."""
_KINDS: dict[str, type[Criterion]] = {}


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
def _rouge_l(reply: str, reference: str) -> float:
    from playground.evaluation.metrics import ROUGE  # evaluate imports torch, which takes seconds

    return float(ROUGE.score(reference, reply)["rougeL"].fmeasure)


SIMILARITIES: dict[str, Callable[[str, str], float]] = {"token_f1": token_f1, "rouge_l": _rouge_l}


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
    known = common_fields(texts)
    if known and all(json_of(text) is not None for text in texts):  # 2
        return Fields.of("fields", texts)
    if labels_of(texts):  # 3
        return Label.of("label", texts)
    if known and len(texts) >= FEWEST:  # 4
        return Fields.of("fields", texts)
    middle = sorted(length(text) for text in texts)[len(texts) // 2] if texts else 0
    if middle <= SHORT_WORDS:  # 5
        return Exact.of("exact", texts)
    return Similarity.of(f"similarity:token_f1>={threshold_of(texts):g}", texts)  # 6


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
        known = common_fields(texts)
        wanted = [name for part in spec.partition(":")[2].split(",") if (name := part.strip())]
        if not known:
            none = "The answers have no common fields (JSON keys, or lines such as 'Name: value')."
            raise InputError(f"{none} {_instead(references)}")
        if missing := [name for name in wanted if name not in known]:
            raise InputError(f"No answer has the field {', '.join(missing)}. There are: {', '.join(known)}.")
        return cls(spec, known, tuple(wanted or known), thresholds(texts))

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
            name: same_value(said.get(name, said.get(key_of(name), MISSING)), wanted[name], how, self.least.get(name))
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
        kinds = {name: kind_of(values) for name, values in held.items()}
        texts = (name for name, how in kinds.items() if how == "text")
        return cls(spec, kinds, {name: threshold_of([*map(str, held[name])], numbers=True) for name in texts})

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
            same[name] = same_value(given.get(name, MISSING), value, how, least)
        return same


def _arguments(call: Call) -> dict[str, Any]:
    return flat(call.arguments, f"{call.name}.")


@dataclass(frozen=True)
class Exact(Criterion):
    """The same number, or the same words as the reference, without case, punctuation and articles (about SQuAD's
    normalisation)."""

    kind = "exact"

    @property
    def label(self) -> str:
        return "The same answer, but for case and punctuation"

    def _mark(self, reply: str, reference: str, question: str) -> Mark:
        return Mark(same_words(reply, reference))


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


def _instead(references: Sequence[str]) -> str:
    return f"What would fit: {suggested(references).spec}."
