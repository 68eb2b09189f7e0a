"""What the reference answers have in common: whether they are labels, and their form, as checks."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from playground.evaluation.checks import Check, parse_check

LIKE_REFERENCES = "like-references"
FEWEST = 5
"""References; with fewer, what they share may be chance."""
NEARLY_ALL = 0.95
MOST_SHARED_WORDS = 40
LEAST_LETTERS = 4
"""A shared beginning or ending with fewer letters and digits says nothing."""
SPREAD = 4
"""Lengths say something where the longest answer has at most so many times the words of the middle one."""
FEWEST_ROWS, MOST_LABELS, MOST_WORDS, MOST_CHARACTERS = 6, 200, 8, 60
_OUTER = " \t\n\"'`*.,:;!?()[]{}<>“”‘’„«»"
Part = tuple[str, Callable[[str], bool]]
_HEADING = re.compile(r"^[ \t]*(#{1,6}[ \t]+\S[^\n]{0,60}|[*_]{0,2}[^\W\d_][^\n:{}\[\]\"]{0,40}:)", re.MULTILINE)


def collapsed(text: str) -> str:
    """Stripped, with every run of white space as one space. Case stays."""
    return " ".join(text.split())


def key_of(text: str) -> str:
    """What two spellings of one label share: no case, no outer punctuation, one space for ``_``, ``-`` and white
    space."""
    return collapsed(re.sub(r"[_\-\s]+", " ", text).strip(_OUTER)).casefold()


def labels_of(references: Sequence[str]) -> list[str] | None:
    """The labels, sorted, where the references are labels; else None.

    1. There are at least 6 references. 2. Each is one line of at most 8 words and 60 characters, and holds a letter or
    digit. 3. There are 2 to 200 different ones, and at most half as many as references. Case, outer punctuation, and
    whether words are joined by a space, ``_`` or ``-`` make no difference; the commonest spelling stands for all."""
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
    """The label that a reply gives, or None.

    Case, outer punctuation and ``_`` or ``-`` for a space make no difference. 1. The reply is a label. 2. Its first
    line is one, or becomes one without a heading such as ``Category:``. 3. One label stands in the reply as whole words
    and no other does; a label that only occurs inside a longer one does not count. Several, or none: None."""
    known = {key_of(label): label for label in reversed(labels)}
    if (whole := key_of(reply)) in known:  # 1
        return known[whole]
    first = next(iter(reply.strip().splitlines()), "")
    for line in (first, first.partition(":")[2]):  # 2
        if key_of(line) in known:
            return known[key_of(line)]
    found: list[str] = []  # 3
    rest = whole
    for key in sorted(known, key=len, reverse=True):
        rest, times = re.subn(rf"(?<!\w){re.escape(key)}(?!\w)", " | ", rest)
        found += [known[key]] * bool(times)
    return found[0] if len(found) == 1 else None


def inferred(references: Sequence[str]) -> list[str]:
    """Checks as a person would write them, each of which at least 95 % of the references pass; none for fewer than 5
    references.

    1. ``json``, and its keys as a pattern: in their order where that is always the same, else in any. 2. ``ends-with:``
    the words that they end with. 3. One ``regex:`` of what they begin with and the headings that follow in order (a
    heading ends with a colon or begins with #). 4. ``max-words:``, the longest and a fifth more, where the lengths are
    alike. Give it references that are not judged by it."""
    form = _Form.of(references)
    if form is None:
        return []
    specs: list[str] = []
    if form.keys is not None:  # 1
        specs += ["json"] + ([f"regex:{_keys_pattern(form)}"] if form.keys else [])
    if form.ending:  # 2
        specs.append(f"ends-with:{form.ending}")
    if form.start or form.headings:  # 3
        parts = [form.start, *form.headings] if form.start else list(form.headings)
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
    nothing in common.

    Beside what ``inferred`` finds: the same JSON keys (read, not searched for), one of the labels where the answers are
    labels, one line where they are one line, and no fewer than half as many words as the shortest. Its label says which
    of these it looks at. At least 95 % of the references pass each part."""
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
    """What the references share. keys: of their JSON objects, () where these differ, None where they are not JSON."""

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
        plain = keys is None
        headings = _shared_headings(texts) if plain else ()
        labels = tuple(labels_of(texts) or ()) if plain else ()
        start = _shared(texts, first=True) if plain and not labels else ""
        lengths = sorted(len(text.split()) for text in texts)
        middle, longest = lengths[len(lengths) // 2], lengths[-1]
        alike = longest <= SPREAD * max(middle, 1)
        return _Form(
            keys=keys,
            ordered=ordered,
            ending=_shared(texts, first=False) if plain and not labels else "",
            start=start,
            headings=tuple(heading for heading in headings if heading not in start),
            headings_first=bool(headings) and _hold(lambda text: text.startswith(headings[0]), texts),
            most_words=_rounded(longest) if alike else 0,
            least_words=lengths[0] // 2,
            labels=labels,
        )


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
    """The keys that nearly all have, in the commonest order, and whether the order is nearly always that; None where it
    is not JSON."""
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
    """The longest run of whole words that nearly all begin (or end) with, as it is written; "" where it says
    nothing."""
    found = ""
    for count in range(1, MOST_SHARED_WORDS + 1):
        parts: Counter[str] = Counter()
        for text in texts:
            spans = [match.span() for match in re.finditer(r"\S+", text)]
            if len(spans) >= count:
                parts[text[: spans[count - 1][1]] if first else text[spans[-count][0] :]] += 1
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


def _rounded(longest: int) -> int:
    """A fifth more, up to the next five; at least three words more."""
    return 5 * math.ceil(max(1.2 * longest, longest + 3) / 5)
