"""What a person should know before a run, from the facts of a check: plain sentences with the rows that they speak of.

Each finder below looks for one thing and says nothing where there is nothing to say. None of them refuses a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from playground.data.example import Checked, Example, Judged, Passage, Preference
from playground.data.lengths import Cancelled, TokenReport
from playground.data.near import near_pairs
from playground.data.personal import KINDS, personal
from playground.data.script import script

MOST_ROWS = 50
_NAMED = 5  # rows that a sentence names
FEWEST, FEW = 10, 50
FEW_TOKENS = 10_000
_LABEL = 60  # characters of an answer that may be one of a set of labels
_LABELS_FROM = 20  # rows from which on answers that repeat are a set of labels
_EMPTY = frozenset({
    "n/a", "na", "n.a.", "nan", "null", "undefined", "todo", "tbd", "fixme", "xxx", "-", "--", "---", "–", "—", ".", "..", "...", "…",
    "?", "??", "???", "#n/a", "#ref!", "#value!", "[deleted]", "[removed]",
})  # fmt: skip
"""Answers that stand for a missing one, in lower case."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to know. kind: which finder said it. rows: at most 50 of them; the text has the whole count.

    level: ``warn`` where the run is likely to go wrong, else ``note``.
    """

    kind: str
    text: str
    rows: tuple[int, ...] = ()
    level: str = "note"


@dataclass(frozen=True)
class _Facts:
    """What the finders look at. answers: one a row (of a preference the chosen one); none for raw text."""

    checked: Checked
    tokens: TokenReport | None
    rows: tuple[Example | Preference | Judged | Passage, ...]
    answers: tuple[str, ...]
    labels: Counter[str]
    cancelled: Cancelled | None

    def named(self, rows: Sequence[int]) -> str:
        """``row 3``, ``rows 3 and 9``, ``rows 3, 9, 12, 15, 18 and 37 more``."""
        shown = [self.checked.place(row) for row in rows[:_NAMED]]
        rest = len(rows) - len(shown)
        last = f"{rest:,} more" if rest else shown.pop()
        return f"row {last}" if len(rows) == 1 else f"rows {', '.join(shown)} and {last}"

    def advice(self, kind: str, text: str, rows: Sequence[int], level: str = "note") -> Advice:
        return Advice(kind, text, tuple(rows[:MOST_ROWS]), level)


def advise(checked: Checked, tokens: TokenReport | None = None, cancelled: Cancelled | None = None) -> tuple[Advice, ...]:
    """Everything there is to say, warnings first. Without a token report nothing is said of lengths.

    cancelled: asked now and then; what was found until then is given."""
    rows = checked.usable
    answers = () if checked.objective == "text" else tuple(_answer(row) for row in rows)
    labels: Counter[str] = Counter()
    if len(answers) >= _LABELS_FROM and all(len(answer) <= _LABEL for answer in answers):
        labels = Counter(" ".join(answer.split()).casefold() for answer in answers)
        if len(labels) > len(answers) * 0.2:
            labels = Counter()
    facts = _Facts(checked, tokens, rows, answers, labels, cancelled)
    found: list[Advice] = []
    for finder in FINDERS:
        if cancelled is not None and cancelled():
            break
        found += finder(facts)
    return tuple(sorted(found, key=lambda advice: advice.level != "warn"))


def _few(facts: _Facts) -> Iterator[Advice]:
    count = len(facts.rows)
    if facts.checked.objective == "text":
        total = sum(facts.tokens.lengths) if facts.tokens else FEW_TOKENS
        if total < FEW_TOKENS:
            yield Advice(
                "few", f"The text is {total:,} tokens in all. So little is learned by heart, not as a style or a subject."
            )
    elif count < FEWEST:
        rows = "1 row" if count == 1 else f"{count} rows"
        text = f"There {'is' if count == 1 else 'are'} {rows} to learn from. Fewer than {FEWEST} teach next to nothing: write more, or give them to the base as examples in a prompt."
        yield Advice("few", text, level="warn")
    elif count < FEW:
        yield Advice("few", f"There are {count} rows to learn from. A format or a tone takes about {FEW}, a task a few hundred.")


def _long(facts: _Facts) -> Iterator[Advice]:
    cuts = facts.tokens.cut if facts.tokens else []
    if not cuts or facts.tokens is None:
        return
    much = len(cuts) >= 0.05 * len(facts.tokens.rows)
    rows = [cut.row for cut in cuts]
    most = max(cut.tokens for cut in cuts)
    text = (
        f"{_count(len(cuts), 'row is', 'rows are')} longer than {facts.tokens.limit} tokens ({facts.named(rows)}): the start of the "
        f"prompt is cut there, {most:,} tokens at most. Raise the limit (the longest row has {facts.tokens.max:,}), or shorten them."
    )
    yield facts.advice("long", text, rows, "warn" if much else "note")


def _same(facts: _Facts) -> Iterator[Advice]:
    if len(facts.answers) >= 5 and len({answer.strip() for answer in facts.answers}) == 1:
        text = f"All {len(facts.answers):,} answers are the same. The base will say it whatever it is asked: add rows with other answers."
        yield Advice("same-answer", text, level="warn")


def _dominant(facts: _Facts) -> Iterator[Advice]:
    if isinstance(facts.rows[0] if facts.rows else None, Judged):
        yield from _one_sided(facts)
    if len(facts.labels) < 2:
        return
    label, count = facts.labels.most_common(1)[0]
    share = count / len(facts.answers)
    if share >= max(0.5, 1.5 / len(facts.labels)):
        rows = _where(facts, lambda _, answer: " ".join(answer.split()).casefold() == label)
        text = (
            f"{label[:40]!r} is the answer in {count:,} of {len(facts.answers):,} rows ({share:.0%}). Always saying it would look good: "
            f"add rows of the other {_count(len(facts.labels) - 1, 'answer', 'answers')}, or take some of these out."
        )
        yield facts.advice("dominant", text, rows, "warn")


def _one_sided(facts: _Facts) -> Iterator[Advice]:
    good = sum(isinstance(row, Judged) and row.good for row in facts.rows)
    most, word = max((good, "good"), (len(facts.rows) - good, "bad"))
    if len(facts.rows) >= FEWEST and most >= 0.9 * len(facts.rows):
        text = f"{most:,} of {len(facts.rows):,} answers are labelled {word} ({most / len(facts.rows):.0%}). What is liked is told from what is not: add rows of the other kind."
        yield Advice("dominant", text, level="warn")


def _near(facts: _Facts) -> Iterator[Advice]:
    pairs = near_pairs([_whole(row) for row in facts.rows], facts.cancelled)
    if not pairs:
        return
    first, second = (facts.checked.place(facts.rows[place].row) for place in pairs[0])
    rows = [facts.rows[place].row for place in sorted({place for pair in pairs for place in pair})]
    much = len(pairs) > 0.2 * len(facts.rows)
    text = f"Rows {first} and {second} are nearly the same"
    if len(pairs) > 1:
        text += f", and so {'is' if len(pairs) == 2 else 'are'} {_count(len(pairs) - 1, 'other row', 'other rows')} with an earlier one"
    yield facts.advice("near-duplicate", f"{text}. They teach little more than one does.", rows, "warn" if much else "note")


def _conflicts(facts: _Facts) -> Iterator[Advice]:
    rows = [warning.row for warning in facts.checked.warnings if warning.kind == "conflict"]
    if not rows:
        return
    same, other = {
        "preference": ("prompt and the same answers", "the opposite choice"),
        "unpaired_preference": ("prompt and answer", "the opposite label"),
    }.get(facts.checked.objective, ("prompt", "another answer"))
    advice = (
        "Keep the right one."
        if other != "another answer" or facts.labels
        else "Right where several answers will do; otherwise keep one."
    )
    text = f"{_count(len(rows), 'row has', 'rows have')} the same {same} as an earlier row, and {other}: {facts.named(rows)}. {advice}"
    level = "note" if other == "another answer" and not facts.labels else "warn"
    yield facts.advice("conflict", text, rows, level)


def _personal(facts: _Facts) -> Iterator[Advice]:
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for row in facts.rows:
        for kind in personal(_whole(row, system=True)):
            found[kind].append(row.row)
    for kind, rows in found.items():
        if rows:
            text = (
                f"{_count(len(rows), 'row seems', 'rows seem')} to hold {KINDS[kind]}: {facts.named(rows)}. An adapter may repeat them "
                "to anyone who uses it: take them out, or put invented ones in their place."
            )
            yield facts.advice("personal", text, rows, "warn")


def _leaks(facts: _Facts) -> Iterator[Advice]:
    def holds(row: Example | Preference | Judged | Passage, answer: str) -> bool:
        words = answer.split()
        if isinstance(row, Passage) or len(words) < 4:
            return False
        plain = " ".join(words).casefold()
        return any(plain in " ".join(turn.content.split()).casefold() for turn in row.prompt if len(turn.content) >= len(plain))

    rows = _where(facts, holds)
    if rows:
        text = (
            f"In {_count(len(rows), 'row', 'rows')} the prompt already holds the whole answer ({facts.named(rows)}). That is right where "
            "the task is to find a passage; otherwise only copying is learned there."
        )
        yield facts.advice("leak", text, rows)


def _empty(facts: _Facts) -> Iterator[Advice]:
    rows = _where(facts, lambda _, answer: len(answer) < 20 and answer.strip().casefold() in _EMPTY)
    if rows:
        text = f"{_count(len(rows), 'answer looks', 'answers look')} like a gap, such as N/A, TODO or a dash: {facts.named(rows)}. Fill in a real answer, or remove the row."
        yield facts.advice("empty-looking", text, rows, "warn")


def _scripts(facts: _Facts) -> Iterator[Advice]:
    each = [script(answer) for answer in facts.answers]
    counts = Counter(name for name in each if name)
    if len(counts) < 2:
        return
    main, most = counts.most_common(1)[0]
    total = counts.total()
    if total >= _LABELS_FROM and most >= 0.95 * total:
        rows = [row.row for row, name in zip(facts.rows, each, strict=True) if name and name != main]
        others = " and ".join(sorted({name for name in counts if name != main}))
        text = f"{_count(len(rows), 'answer is', 'answers are')} in {others} script, the others in {main}: {facts.named(rows)}. Is that meant?"
        yield facts.advice("script", text, rows)


def _systems(facts: _Facts) -> Iterator[Advice]:
    each = [
        row.prompt[0].content if row.prompt and row.prompt[0].role == "system" else ""
        for row in facts.rows
        if not isinstance(row, Passage)
    ]
    counts = Counter(each)
    if len(counts) < 2:
        return
    (main, most), total = counts.most_common(1)[0], len(each)
    with_it = total - counts[""]
    if counts[""] and with_it:
        rows = [row.row for row, text in zip(facts.rows, each, strict=True) if bool(text) != (with_it * 2 >= total)]
        has, rest = ("have", "have none") if with_it * 2 < total else ("lack", "have one")
        have = has if len(rows) > 1 else {"have": "has", "lack": "lacks"}[has]
        text = f"{_count(len(rows), 'row', 'rows')} {have} a system prompt, the others {rest}: {facts.named(rows)}. Ask with one or without later, as most rows do."
        yield facts.advice("system-prompt", text, rows)
    elif most >= 0.8 * total:
        rows = [row.row for row, text in zip(facts.rows, each, strict=True) if text != main]
        text = f"{_count(len(rows), 'row has', 'rows have')} another system prompt than the other {most:,}: {facts.named(rows)}. Is that meant?"
        yield facts.advice("system-prompt", text, rows)


FINDERS: tuple[Callable[[_Facts], Iterator[Advice]], ...] = (
    _few, _long, _same, _dominant, _conflicts, _empty, _personal, _near, _leaks, _systems, _scripts,
)  # fmt: skip


def _answer(row: Example | Preference | Judged | Passage) -> str:
    if isinstance(row, Passage):
        return ""
    return row.chosen if isinstance(row, Preference) else row.completion


def _whole(row: Example | Preference | Judged | Passage, *, system: bool = False) -> str:
    """All text of a row; its system prompt only where asked for, as rows share it."""
    if isinstance(row, Passage):
        return row.text
    texts = [turn.content for turn in row.prompt if system or turn.role != "system"]
    texts += [row.chosen, row.rejected] if isinstance(row, Preference) else [row.completion]
    return "\n".join(texts)


def _where(facts: _Facts, test: Callable[[Example | Preference | Judged | Passage, str], bool]) -> list[int]:
    return [row.row for row, answer in zip(facts.rows, facts.answers, strict=False) if test(row, answer)]


def _count(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"
