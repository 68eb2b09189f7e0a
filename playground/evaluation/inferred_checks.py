"""What the reference answers have in common: whether they are labels, and their form, as checks."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from playground.evaluation.checks import Check, parse_check

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
