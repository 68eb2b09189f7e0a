"""The form of answers: what the references have in common, whether they are labels, and their form as checks; and the
form that a reply is held to while it is written: JSON, a JSON Schema or a pattern, as a grammar for llguidance.

Written as the checks are: ``json`` (an object or an array), ``json-schema:SCHEMA`` and ``regex:PATTERN`` (a dot is also
the end of a line). What the grammar cannot hold exactly is refused, so that no reply can break its form."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llguidance import LLMatcher

from playground.errors import InputError
from playground.evaluation.checks import SCHEMA, Check, parse_check, schema_file

LIKE_REFERENCES = "like-references"
FEWEST = 5  # references; with fewer, what they share may be chance
NEARLY_ALL = 0.95
MOST_SHARED_WORDS = 40
LEAST_LETTERS = 4  # a shared beginning or ending with fewer letters and digits says nothing
SPREAD = 4  # lengths say something where the longest answer has at most so many times the words of the middle one
FEWEST_ROWS, MOST_LABELS, MOST_WORDS, MOST_CHARACTERS = 6, 200, 8, 60
ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts that are written without spaces: each sign counts as a word."""
_BETWEEN = re.compile(r"[_\s]+|(?<=\w)-+|-+(?!\d)")
_OUTER = " \t\n\"'`*.,:;!?()[]{}<>“”‘’„«»"
Part = tuple[str, Callable[[str], bool]]
_HEADING = re.compile(r"^[ \t]*(#{1,6}[ \t]+\S[^\n]{0,60}|[*_]{0,2}[^\W\d_][^\n:{}\[\]\"]{0,40}:)", re.MULTILINE)


def collapsed(text: str) -> str:
    """Stripped, with every run of white space as one space. Case stays."""
    return " ".join(text.split())


def folded(text: str) -> str:
    """Without case, in every alphabet (Turkish dotted and dotless i are one), and one code for what looks the same."""
    one = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return one.replace("\u0307", "").replace("ı", "i").replace("\u2212", "-")


def key_of(text: str) -> str:
    """What two spellings of one label share: no case, no outer punctuation, a space for ``_``, ``-`` and any other. A
    minus sign stays."""
    return collapsed(_BETWEEN.sub(" ", folded(text)).strip(_OUTER))


def labels_of(references: Sequence[str]) -> list[str] | None:
    """The labels, sorted, where the references are labels; else None. 1. There are 6 references or more. 2. Each is one
    line of at most 8 words and 60 characters, and holds a letter or digit. 3. There are 2 to 200 different ones, and at
    most half as many as references, compared by ``key_of``; the commonest spelling stands for all."""
    texts = [text.strip() for text in references]
    if len(texts) < FEWEST_ROWS:  # 1
        return None
    for text in texts:  # 2
        if "\n" in text or len(text) > MOST_CHARACTERS or len(key_of(text).split()) > MOST_WORDS or not key_of(text):
            return None
    spelled: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        spelled[key_of(text)][collapsed(text)] += 1
    if not 2 <= len(spelled) <= min(MOST_LABELS, len(texts) // 2):  # 3
        return None
    return sorted(spellings.most_common(1)[0][0] for spellings in spelled.values())


def label_in(reply: str, labels: Sequence[str]) -> str | None:
    """The label that a reply gives, compared by ``key_of``; None for several or none. 1. It, its first line, or that
    without a heading such as ``Category:``, is a label. 2. One label, or one around all others, stands in it."""
    known, one_of = _known(tuple(labels))
    first = next(iter(reply.strip().splitlines()), "")
    for text in (reply, first, first.partition(":")[2]):  # 1
        if key_of(text) in known:
            return known[key_of(text)]
    found = {known[key] for key in one_of.findall(key_of(reply))}  # 2
    return found.pop() if len(found) == 1 else None


@lru_cache(maxsize=8)
def _known(labels: tuple[str, ...]) -> tuple[dict[str, str], re.Pattern[str]]:
    """(key -> label, what finds one in a text: the longest first, and as whole words where the script has spaces)."""
    known = {key_of(label): label for label in reversed(labels)}
    keys = "|".join(map(re.escape, sorted(known, key=len, reverse=True))) or r"(?!)"
    return known, re.compile(rf"(?<![^\W{ALONE}])(?:{keys})(?![^\W{ALONE}])")


def inferred(references: Sequence[str]) -> list[str]:
    """Checks as a person would write them, each of which at least 95 % of the references pass; none for fewer than 5.
    Give it references that are not judged by it. 1. ``json``, and a pattern of its keys, in their order where it is
    always the same. 2. ``ends-with:`` the words that they end with. 3. One ``regex:`` of what they begin with and the
    headings (they end with a colon or begin with #) that follow. 4. ``max-words:``, where the lengths are alike."""
    form = _Form.of(references)
    if form is None:
        return []
    specs: list[str] = []
    if form.keys is not None:  # 1
        specs += ["json"] + ([f"regex:{_keys_pattern(form)}"] if form.keys else [])
    if form.ending:  # 2
        specs.append(f"ends-with:{form.ending}")
    if form.start or form.headings:  # 3
        parts = [form.start] * bool(form.start) + [*form.headings]
        begins = "" if form.start or form.headings_first else ".*"
        specs.append("regex:" + begins + ".*".join(re.escape(part).replace(r"\ ", " ") for part in parts) + ".*")
    if form.most_words:  # 4
        specs.append(f"max-words:{form.most_words}")
    texts = [text.strip() for text in references]
    return [spec for spec in specs if _hold(parse_check(spec).passes, texts)]


@dataclass(frozen=True)
class LooksLike(Check):
    """Every part of what the references share; an empty reply never passes. parts: (words, test)."""

    parts: tuple[Part, ...] = ()

    @property
    def label(self) -> str:
        return "Looks like the references: " + "; ".join(words for words, _ in self.parts)

    def passes(self, reply: str) -> bool:
        return bool(reply.strip()) and all(holds(reply) for _, holds in self.parts)


def looks_like(references: Sequence[str]) -> Check | None:
    """One check of everything that the references have in common, ``like-references``; None for fewer than 5, or
    nothing in common. At least 95 % of the references pass each part: what ``inferred`` finds, the same JSON keys
    (read, not searched for), one of the labels, one line, no fewer than half as many words as the shortest."""
    form = _Form.of(references)
    if form is None:
        return None
    texts = [text.strip() for text in references]
    parts: list[Part] = []
    if form.labels:
        known = {key_of(label) for label in form.labels}
        parts.append((f"one of {len(known)} answers", lambda reply: key_of(reply) in known))
    if (keys := form.keys) is not None:
        words = f"JSON with {', '.join(keys)}" if keys else "JSON"
        parts.append((words, lambda reply: _keys(reply) == frozenset(keys)))
    for spec in inferred(references):
        check = parse_check(spec)
        if check.kind != "json" and not (check.kind == "regex" and keys is not None):
            words = form.words if check.kind == "regex" else check.label[:1].lower() + check.label[1:]
            parts.append((words, check.passes))
    if all("\n" not in text for text in texts):
        parts.append(("one line", lambda reply: "\n" not in reply.strip()))
    if form.most_words and (least := form.least_words) > 1:
        parts.append((f"at least {least} words", lambda reply: len(reply.split()) >= least))
    kept = tuple((words, holds) for words, holds in parts if _hold(holds, texts))
    return LooksLike(LIKE_REFERENCES, kept) if kept else None


@dataclass(frozen=True)
class _Form:
    """What the references share. keys: of their JSON objects, () where these differ, None where they are not JSON.
    most_words: a fifth more than the longest, at least three, up to the next five; 0 where lengths are not alike."""

    keys: tuple[str, ...] | None
    ordered: bool
    ending: str
    start: str
    headings: tuple[str, ...]
    headings_first: bool
    most_words: int
    least_words: int
    labels: tuple[str, ...]

    @property
    def words(self) -> str:
        """What a text begins with, and its headings."""
        said = [f"begins with “{self.start}”"] if self.start else []
        return ", ".join([*said, f"has {', '.join(self.headings)} in this order"] if self.headings else said)

    @staticmethod
    def of(references: Sequence[str]) -> _Form | None:
        texts = [text.strip() for text in references if text.strip()]
        if len(texts) < FEWEST or len(texts) < NEARLY_ALL * len(references):
            return None
        keys, ordered = _shared_keys(texts)
        headings = _shared_headings(texts) if keys is None else ()
        labels = tuple(labels_of(texts) or ()) if keys is None else ()
        prose = keys is None and not labels
        start, ending = (_shared(texts, first=first) if prose else "" for first in (True, False))
        below = tuple(heading for heading in headings if heading not in start)
        headings_first = bool(headings) and _hold(lambda text: text.startswith(headings[0]), texts)
        lengths = sorted(len(text.split()) for text in texts)
        alike = lengths[-1] <= SPREAD * max(lengths[len(lengths) // 2], 1)
        most_words = 5 * math.ceil(max(1.2 * lengths[-1], lengths[-1] + 3) / 5) if alike else 0
        return _Form(keys, ordered, ending, start, below, headings_first, most_words, lengths[0] // 2, labels)


def _hold(holds: Callable[[str], bool], texts: Sequence[str]) -> bool:
    return sum(holds(text) for text in texts) >= NEARLY_ALL * len(texts)


def _keys(text: str) -> frozenset[str] | None:
    """The keys of a JSON object; None for anything else."""
    try:
        read = json.loads(text.strip())
    except ValueError:
        return None
    return frozenset(read) if isinstance(read, dict) else None


def _shared_keys(texts: Sequence[str]) -> tuple[tuple[str, ...] | None, bool]:
    """The keys that nearly all have, in the commonest order, and whether nearly all have that; None for no JSON."""
    found = [tuple(json.loads(text)) for text in texts if _keys(text) is not None]
    if len(found) < NEARLY_ALL * len(texts):
        return None, False
    (commonest, times), *_ = Counter(found).most_common(1)
    if sum(set(keys) == set(commonest) for keys in found) < NEARLY_ALL * len(texts):
        return (), False
    return commonest, times >= NEARLY_ALL * len(texts)


def _keys_pattern(form: _Form) -> str:
    names = [re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:" for key in form.keys or ()]
    if form.ordered:
        return r"\{\s*" + ".*".join(names) + r".*\}"
    return "".join(f"(?=.*{name})" for name in names) + r"\{.*\}"


def _shared(texts: Sequence[str], *, first: bool) -> str:
    """The longest run of whole words that nearly all begin (or end) with, as written; "" where it says nothing."""
    found, spans = "", [[match.span() for match in re.finditer(r"\S+", text)] for text in texts]
    for count in range(1, MOST_SHARED_WORDS + 1):
        long = [(text, words) for text, words in zip(texts, spans, strict=True) if len(words) >= count]
        parts = Counter(text[: words[count - 1][1]] if first else text[words[-count][0] :] for text, words in long)
        if not parts or parts.most_common(1)[0][1] < NEARLY_ALL * len(texts):
            break
        found = parts.most_common(1)[0][0]
    return found if sum(letter.isalnum() for letter in found) >= LEAST_LETTERS else ""


def _shared_headings(texts: Sequence[str]) -> tuple[str, ...]:
    """The headings that nearly all have, in the order of the answer that has most of them; () for fewer than two."""
    each = [[match.group(1).strip() for match in _HEADING.finditer(text)] for text in texts]
    counts = Counter(heading for headings in each for heading in set(headings))
    common = {heading for heading, times in counts.items() if times >= NEARLY_ALL * len(texts)}
    orders = Counter(tuple(dict.fromkeys(heading for heading in headings if heading in common)) for headings in each)
    order = orders.most_common(1)[0][0]
    return order if len(order) >= 2 else ()


REGEX = "regex:"
REFERENCES = "references"
"""In place of a form: the one that the reference answers share."""
KINDS = "json, json-schema:FILE, regex:PATTERN, references"
LONGEST = 50_000
"""Characters of a form: it stands in the stamp of every reply."""
ANY_JSON: dict[str, Any] = {"type": ["object", "array"]}
MOST_READ = 2000
"""Answers that a form is read from."""
FEW_VALUES, TIMES_EACH = 20, 4
"""A text is one of a few where the answers have at most so many different ones, each so many times on average."""
_OPTIONS: Any = {
    "whitespace_pattern": r"[ \t\r\n]{1,20}",  # a small model may go on with spaces for ever
    "json_allowed_escapes": 'nrtbf"\\',  # \u0061 would spell a declared key anew, past its type
}
_WITHOUT = "Take it out of the schema, and check it instead."


@lru_cache(maxsize=64)
def grammar(form: str) -> str:
    """As llguidance reads it. Raises InputError for what is no form, or cannot be held exactly."""
    kind = form.partition(":")[0]
    if kind not in ("json", "json-schema", "regex"):
        raise InputError(f"{form!r:.60} is no form of a reply. There are: {KINDS}.")
    if len(form) > LONGEST:
        raise InputError(f"The form has {len(form):,} characters; at most {LONGEST:,} are taken. Write a shorter one.")
    check = parse_check(form, files=False)
    if kind == "regex":
        made = LLMatcher.grammar_from_regex(f"(?s:{check.value})")
    else:
        made = LLMatcher.grammar_from_json_schema(_exact(schema_of(form)), overrides=_OPTIONS)
    if fault := LLMatcher.validate_grammar(made):
        said = " ".join(fault.split())
        raise InputError(f"Replies cannot be held to {form!r:.60}: {said:.200}. Write it without that.")
    return made


def schema_of(form: str) -> Any:
    """The JSON Schema of a form that is JSON."""
    return ANY_JSON if form == "json" else json.loads(form.removeprefix(SCHEMA))


def read_form(spec: str) -> str:
    """A form, with the schema in it where it names a file of one. Raises InputError."""
    if spec == REFERENCES:
        return spec
    if (file := schema_file(spec)) is not None:
        parse_check(spec)  # says what is wrong with the file
        spec = SCHEMA + compact(json.loads(Path(file).read_text(encoding="utf-8-sig")))
    grammar(spec)
    return spec


def shared_form(references: Sequence[str]) -> str:
    """The form that reference answers share, "" where there is none or they are fewer than 5: a schema of their JSON,
    their labels, or a pattern of their beginning, headings and ending. All that are read fit it."""
    return _shared_form(tuple(references[:MOST_READ]))


@lru_cache(maxsize=8)
def _shared_form(references: tuple[str, ...]) -> str:
    texts = [text.strip() for text in references if text.strip()]
    if len(texts) < FEWEST:
        return ""
    try:
        values = [json.loads(text) for text in texts]
    except ValueError:
        values = []
    if values and all(isinstance(value, dict | list) for value in values):
        return SCHEMA + compact(_schema(values))
    if labels := labels_of(texts):
        return REGEX + "|".join(map(re.escape, labels))
    specs = dict(spec.partition(":")[::2] for spec in inferred(texts))
    begins, ending = specs.get("regex", ".*" if "ends-with" in specs else ""), specs.get("ends-with", "")
    form = f"{REGEX}{begins}{re.escape(ending)}" if begins else ""
    return form if form and all(parse_check(form).passes(text) for text in texts) else ""


def _schema(values: Sequence[Any]) -> dict[str, Any]:
    """Of values that stand at one place."""
    kinds: dict[str, list[Any]] = {}
    for value in values:
        kinds.setdefault(_KIND[type(value)], []).append(value)
    if {"integer", "number"} <= kinds.keys():
        kinds["number"] += kinds.pop("integer")
    found = [_of_kind(kind, there) for kind, there in kinds.items()]
    return found[0] if len(found) == 1 else {"anyOf": found}


_KIND = {
    **{dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"},
    type(None): "null",
}


def _of_kind(kind: str, values: Sequence[Any]) -> dict[str, Any]:
    if kind == "object":
        order, _ = Counter(tuple(value) for value in values).most_common(1)[0]
        keys = list(dict.fromkeys([*order, *(key for value in values for key in value)]))
        parts = {key: _schema([value[key] for value in values if key in value]) for key in keys}
        always = [key for key in keys if all(key in value for value in values)]
        return {"type": kind, "properties": parts, "required": always, "additionalProperties": False}
    if kind == "array":
        items = [item for value in values for item in value]
        return {"type": kind} | ({"items": _schema(items)} if items else {})
    different = len(set(values))
    if kind == "string" and different <= FEW_VALUES and different * TIMES_EACH <= len(values):
        return {"enum": sorted(set(values))}
    return {"type": kind}


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _exact(schema: Any) -> Any:
    """Raises InputError for keywords that llguidance holds only nearly: a key may come twice, which counts once."""
    for node in _objects(schema):
        least, step = node.get("minProperties"), node.get("multipleOf")
        if isinstance(least, int) and least > len(node.get("required") or ()):
            raise InputError(f"minProperties above the required keys cannot be held to. {_WITHOUT}")
        if isinstance(step, float) and not step.is_integer():
            raise InputError(f"multipleOf {step} cannot be held to: it is no whole number. {_WITHOUT}")
    return schema


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object in a schema, itself first."""
    left = [schema]
    while left:
        node = left.pop()
        left += node if isinstance(node, list) else node.values() if isinstance(node, dict) else ()
        if isinstance(node, dict):
            yield node


def hints(form: str) -> list[str]:
    """Texts that a short document of this form is likely to hold: required keys, the shortest of fixed values."""
    found = list[str]()
    for node in () if form.startswith(REGEX) else _objects(schema_of(form)):
        required, fixed = node.get("required"), node.get("enum")
        found += [f"{compact(key)}:" for key in required] if isinstance(required, list) else []
        found += [min(map(compact, fixed), key=len)] if isinstance(fixed, list) and fixed else []
    return list(dict.fromkeys(found))


def patterns(form: str) -> list[str]:
    """Every pattern in it, without anchors at its ends."""
    if form.startswith(REGEX):
        return [form.removeprefix(REGEX)]
    found = [node["pattern"] for node in _objects(schema_of(form)) if isinstance(node.get("pattern"), str)]
    return [re.sub(r"^\^|(?<!\\)\$$", "", pattern) for pattern in dict.fromkeys(found)]
