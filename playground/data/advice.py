"""What a check says: its report as JSON and as text, and what a person should know before a run."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from playground.data.example import BadRow, Checked, Judged, Repair, Row, RowWarning, texts_of
from playground.data.split import near_duplicates
from playground.data.token_counts import TokenReport

_EMAIL = re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]+@((?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,})\b")
_INVENTED = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost|local)$", re.IGNORECASE)
"""Domains that belong to nobody (RFC 2606)."""
_DIGITS = re.compile(r"\d[\d ()./-]{5,}\d")
_PHONES = (
    re.compile(r"(?<![\w+])\+[1-9]\d{0,2}[ ()./-]{0,2}(?:\d[ ()./-]{0,2}){6,12}\d(?!\w)"),  # +49 30 1234567
    re.compile(r"(?<![\w.-])(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-. ])[2-9]\d{2}[-. ]\d{4}(?![\w-])"),  # (212) 555-2368
    re.compile(
        r"(?i)\b(?:tel|telephone|phone|mobile|cell|fax|whatsapp"
        r"|telefon|handy|mobil|móvil|teléfono|téléphone|portable)\b"
        r"[^\n\d+]{0,20}\(?\d(?:[ ()./-]{0,2}\d){6,13}(?!\w)"
    ),
)
_CARD = re.compile(r"(?<![\w.-])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{4}|3[47]\d{2}([ -]?)\d{6}\2\d{5})(?![\w-]|\.\d)")
_CARD_START = re.compile(r"4|5[1-5]|2[2-7]|3[47]|6(?:011|5)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")

KINDS = {
    "e-mail": "e-mail addresses",
    "phone": "telephone numbers",
    "card": "payment card numbers",
    "iban": "bank account numbers (IBAN)",
}
"""Kind -> how it is called."""


def personal(text: str) -> set[str]:
    """The KINDS that a text seems to hold. Addresses of domains kept for examples are not meant."""
    digits = _DIGITS.search(text) is not None
    held = {
        "e-mail": "@" in text and any(not _INVENTED.search(match[1]) for match in _EMAIL.finditer(text)),
        "iban": digits and any(_iban(match.group()) for match in _IBAN.finditer(text)),
        "card": digits and any(_card(match.group()) for match in _CARD.finditer(text)),
        "phone": digits and any(phone.search(text) for phone in _PHONES),
    }
    return {kind for kind, there in held.items() if there}


def _card(number: str) -> bool:
    """Luhn's check sum (ISO/IEC 7812-1), and a start that card issuers use."""
    digits = [int(char) for char in reversed(number) if char.isdigit()]
    total = sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return total % 10 == 0 and len(set(digits)) > 1 and _CARD_START.match(number) is not None


def _iban(number: str) -> bool:
    """The check digits of ISO 13616: the rearranged number is 1 modulo 97."""
    plain = number.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


_SCRIPTS = {name.upper(): name for name in ("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Thai")}
_SCRIPTS |= dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"), "Chinese or Japanese")
_SCRIPTS |= {"HANGUL": "Korean"}
"""How the Unicode name of a letter begins -> its script."""


def script(text: str) -> str:
    """The script's name, or ``""`` where there are few letters, or none of these makes up more than half."""
    counts: Counter[str] = Counter()
    for letter, times in Counter(filter(str.isalpha, text[:1000])).items():
        counts[_SCRIPTS.get(unicodedata.name(letter, "").partition(" ")[0], "")] += times
    most = max(counts, key=lambda name: counts[name], default="")
    return most if counts.total() >= 4 and counts[most] * 2 > counts.total() else ""


MOST_ROWS = 50
MIN_ROWS, FEW = 10, 50
FEW_TOKENS = 10_000
_LABEL = 60  # characters of an answer that may be one of a set of labels
_LABELS_FROM = 20  # rows from which on answers that repeat are a set of labels
_GAPS = "n/a na n.a. nan null undefined todo tbd fixme xxx - -- --- – — . .. ... … ? ?? ??? #n/a #ref! #value!"
_EMPTY = {*_GAPS.split(), "[deleted]", "[removed]"}  # answers that stand for a missing one, in lower case


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to know."""

    kind: str  # which finder said it
    text: str
    rows: tuple[int, ...] = ()  # at most 50 of them; the text has the whole count
    level: str = "note"  # or "warn", where the run is likely to go wrong


def _advice(kind: str, text: str, rows: Sequence[int] = (), *, warn: bool = False) -> Advice:
    return Advice(kind, text, tuple(rows[:MOST_ROWS]), "warn" if warn else "note")


@dataclass(frozen=True)
class _Facts:
    """What the finders read. answers: one a row (of a preference the chosen one); none for raw text."""

    checked: Checked
    tokens: TokenReport | None
    rows: tuple[Row, ...]
    answers: tuple[str, ...]
    labels: Counter[str]

    def named(self, rows: Sequence[int]) -> str:
        return self.checked.named(rows)

    def rows_where(self, test: Callable[[Row, str], bool]) -> list[int]:
        return [row.row for row, answer in zip(self.rows, self.answers, strict=False) if test(row, answer)]


def advise(checked: Checked, tokens: TokenReport | None = None) -> tuple[Advice, ...]:
    """All advice, warnings first. Without a token report there is none on lengths."""
    rows = checked.usable
    answers = tuple(row.answers[0] for row in rows if row.answers)
    labels: Counter[str] = Counter()
    if len(answers) >= _LABELS_FROM and all(len(answer) <= _LABEL for answer in answers):
        labels.update(map(_plain, answers))
    if len(labels) > len(answers) * 0.2:
        labels.clear()
    facts = _Facts(checked, tokens, rows, answers, labels)
    found = [advice for finder in _FINDERS for advice in finder(facts)]
    return tuple(sorted(found, key=lambda advice: advice.level != "warn"))


def _few(facts: _Facts) -> Iterator[Advice]:
    count = sum(row.row not in facts.checked.held for row in facts.rows)
    if facts.checked.objective == "text":
        if facts.tokens and (total := sum(facts.tokens.lengths)) < FEW_TOKENS:
            text = f"The text is {total:,} tokens in all. So little is learned by heart, not as a style or a subject."
            yield _advice("few", text)
    elif count < MIN_ROWS:
        what = f"There {'is 1 row' if count == 1 else f'are {count} rows'} to learn from"
        advice = "write more, or give them to the base as examples in a prompt"
        yield _advice("few", f"{what}. Fewer than {MIN_ROWS} teach next to nothing: {advice}.", warn=True)
    elif count < FEW:
        text = f"There are {count} rows to learn from. A format or a tone takes about {FEW}, a task a few hundred."
        yield _advice("few", text)


def _long(facts: _Facts) -> Iterator[Advice]:
    tokens = facts.tokens
    if tokens is None or not tokens.cut:
        return
    rows = [cut.row for cut in tokens.cut]
    what = f"{_count(len(rows), 'row is', 'rows are')} longer than {tokens.limit} tokens ({facts.named(rows)})"
    cut = f"the start of the prompt is cut there, {max(cut.tokens for cut in tokens.cut):,} tokens at most"
    advice = f"Raise the limit (the longest row has {tokens.max:,}), or shorten them."
    yield _advice("long", f"{what}: {cut}. {advice}", rows, warn=len(rows) >= 0.05 * len(tokens.rows))


def _same(facts: _Facts) -> Iterator[Advice]:
    if len(facts.answers) >= 5 and len({answer.strip() for answer in facts.answers}) == 1:
        what = f"All {len(facts.answers):,} answers are the same. The base will say it whatever it is asked"
        yield _advice("same-answer", f"{what}: add rows with other answers.", warn=True)


def _dominant(facts: _Facts) -> Iterator[Advice]:
    total = len(facts.rows)
    if facts.rows and isinstance(facts.rows[0], Judged) and total >= MIN_ROWS:
        good = sum(isinstance(row, Judged) and row.good for row in facts.rows)
        most, word = max((good, "good"), (total - good, "bad"))
        if most >= 0.9 * total:
            what = f"{most:,} of {total:,} answers are labelled {word} ({most / total:.0%})"
            advice = "Training needs both liked and disliked answers: add rows of the other kind."
            yield _advice("dominant", f"{what}. {advice}", warn=True)
    if len(facts.labels) < 2:
        return
    label, count = facts.labels.most_common(1)[0]
    share = count / len(facts.answers)
    if share >= max(0.5, 1.5 / len(facts.labels)):
        rows = facts.rows_where(lambda _, answer: _plain(answer) == label)
        what = f"{label[:40]!r} is the answer in {count:,} of {len(facts.answers):,} rows ({share:.0%})"
        others = f"add rows of the other {_count(len(facts.labels) - 1, 'answer', 'answers')}"
        advice = f"Always saying it would look good: {others}, or take some of these out."
        yield _advice("dominant", f"{what}. {advice}", rows, warn=True)


def _near(facts: _Facts) -> Iterator[Advice]:
    pairs = near_duplicates(["\n".join(texts_of(row, system=False)) for row in facts.rows])
    if not pairs:
        return
    rows = [facts.rows[place].row for place in sorted({place for pair in pairs for place in pair})]
    first, second = (facts.checked.place(facts.rows[place].row) for place in pairs[0])
    others = f"{'is' if len(pairs) == 2 else 'are'} {_count(len(pairs) - 1, 'other row', 'other rows')}"
    more = f", and so {others} with an earlier one" if len(pairs) > 1 else ""
    text = f"Rows {first} and {second} are nearly the same{more}. They teach little more than one does."
    yield _advice("near-duplicate", text, rows, warn=len(pairs) > 0.2 * len(facts.rows))


def _conflicts(facts: _Facts) -> Iterator[Advice]:
    rows = [warning.row for warning in facts.checked.warnings if warning.kind == "conflict"]
    if not rows:
        return
    same, other = {
        "preference": ("prompt and the same answers", "the opposite choice"),
        "unpaired_preference": ("prompt and answer", "the opposite label"),
    }.get(facts.checked.objective, ("prompt", "another answer"))
    may_be_meant = other == "another answer" and not facts.labels
    what = f"{_count(len(rows), 'row has', 'rows have')} the same {same} as an earlier row, and {other}"
    advice = "Right where several answers will do; otherwise keep one." if may_be_meant else "Keep the right one."
    yield _advice("conflict", f"{what}: {facts.named(rows)}. {advice}", rows, warn=not may_be_meant)


def _personal(facts: _Facts) -> Iterator[Advice]:
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for row in facts.rows:
        for kind in personal("\n".join(texts_of(row))):
            found[kind].append(row.row)
    for kind, rows in found.items():
        if rows:
            what = f"{_count(len(rows), 'row seems', 'rows seem')} to hold {KINDS[kind]}: {facts.named(rows)}"
            advice = "take them out, or put invented ones in their place"
            yield _advice(
                "personal", f"{what}. An adapter may repeat them to anyone who uses it: {advice}.", rows, warn=True
            )


def _leaks(facts: _Facts) -> Iterator[Advice]:
    def holds(row: Row, answer: str) -> bool:
        plain = _plain(answer)
        prompts = (turn.content for turn in row.prompt if len(turn.content) >= len(plain))
        return plain.count(" ") >= 3 and any(plain in _plain(prompt) for prompt in prompts)

    if rows := facts.rows_where(holds):
        what = f"In {_count(len(rows), 'row', 'rows')} the prompt already holds the whole answer ({facts.named(rows)})"
        advice = "That is right where the task is to find a passage; otherwise only copying is learned there."
        yield _advice("leak", f"{what}. {advice}", rows)


def _empty(facts: _Facts) -> Iterator[Advice]:
    if rows := facts.rows_where(lambda _, answer: len(answer) < 20 and answer.strip().casefold() in _EMPTY):
        what = f"{_count(len(rows), 'answer looks', 'answers look')} like a gap, such as N/A, TODO or a dash"
        advice = "Fill in a real answer, or remove the row."
        yield _advice("empty-looking", f"{what}: {facts.named(rows)}. {advice}", rows, warn=True)


def _scripts(facts: _Facts) -> Iterator[Advice]:
    each = [script(answer) for answer in facts.answers]
    counts = Counter(name for name in each if name)
    if len(counts) < 2:
        return
    main, most = counts.most_common(1)[0]
    if counts.total() >= _LABELS_FROM and most >= 0.95 * counts.total():
        rows = [row.row for row, name in zip(facts.rows, each, strict=True) if name and name != main]
        others = " and ".join(sorted({name for name in counts if name != main}))
        what = f"{_count(len(rows), 'answer is', 'answers are')} in {others} script, the others in {main}"
        yield _advice("script", f"{what}: {facts.named(rows)}. Is that meant?", rows)


def _systems(facts: _Facts) -> Iterator[Advice]:
    systems = [next((turn.content for turn in row.prompt[:2] if turn.role == "system"), "") for row in facts.rows]
    counts = Counter(systems)
    if len(counts) < 2:
        return
    (main, most), total = counts.most_common(1)[0], len(facts.rows)
    if counts[""]:
        most_have = counts[""] * 2 <= total
        rows = [row.row for row, system in zip(facts.rows, systems, strict=True) if bool(system) != most_have]
        one, several, rest = ("lacks", "lack", "have one") if most_have else ("has", "have", "have none")
        what = f"{_count(len(rows), f'row {one}', f'rows {several}')} a system prompt, the others {rest}"
        advice = "Ask with one or without later, as most rows do."
        yield _advice("system-prompt", f"{what}: {facts.named(rows)}. {advice}", rows)
    elif most >= 0.8 * total:
        rows = [row.row for row, system in zip(facts.rows, systems, strict=True) if system != main]
        what = f"{_count(len(rows), 'row has', 'rows have')} another system prompt than the other {most:,}"
        yield _advice("system-prompt", f"{what}: {facts.named(rows)}. Is that meant?", rows)


_FINDERS = (_few, _long, _same, _dominant, _conflicts, _empty, _personal, _near, _leaks, _systems, _scripts)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _count(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def splits_words(checked: Checked) -> str:
    """A file's own splits, how many rows each has, and what becomes of them."""
    each = (f"{name} ({'not read' if rows is None else f'{rows:,}'})" for name, rows in checked.splits.items())
    parts = [part for part in ("test", "validation") if part in checked.held.values()]
    kept = f" What is for {' and '.join(parts)} is never trained on." if parts else ""
    return f"{', '.join(each)}.{kept}"


_MAX_SHOWN = 10  # items of a section


def as_json(
    checked: Checked,
    tokens: TokenReport | None = None,
    advice: Sequence[Advice] = (),
    split: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON of ``check``; without a token report ``tokens`` is null. split: the parts as run.json records them."""
    bad, warnings = bad_rows(checked, tokens), kept_warnings(checked, tokens)
    found: dict[str, Any] = {
        "format": checked.format,
        "objective": checked.objective,
        "rows": checked.rows,
        "good": checked.rows - len(bad),
        "bad": [asdict(row) for row in bad],
        "warnings": [asdict(row) for row in warnings],
        "duplicates": checked.duplicates,
        "tokens": {key: getattr(tokens, key) for key in ("min", "median", "p95", "max")} if tokens else None,
        "truncated": tokens.truncated if tokens else 0,
        "encoding": checked.encoding,
        "splits": dict(checked.splits),
        "repairs": [_repair(one) for one in checked.repairs],
        "repairable": [_repair(one) for one in checked.repairable],
        "unused_columns": [asdict(one) for one in checked.unused],
        "mapping": dict(checked.mapping),
        "confidence": round(checked.confidence, 3),
        "why": checked.why,
        "advice": [asdict(item) | {"rows": list(item.rows)} for item in advice],
    }
    if tokens:
        found["histogram"] = [{"from": low, "to": high, "rows": rows} for low, high, rows in tokens.histogram()]
        found["padding"] = {key: round(value, 4) for key, value in asdict(tokens.padding()).items()}
    if checked.sheets:
        found |= {"sheet": checked.sheet, "sheets": list(checked.sheets)}
    if checked.files:
        found["files"] = [asdict(part) for part in checked.files]
    if split is not None:
        found["split"] = dict(split)
    return found


def _repair(one: Repair) -> dict[str, Any]:
    return {"kind": one.kind, "what": one.what, "count": len(one.rows), "rows": list(one.rows)}


def repair_words(checked: Checked) -> list[str]:
    """What was mended, else what could be, a line for each kind."""
    each = checked.repairs or checked.repairable
    return [f"{_count(len(one.rows), 'row', 'rows')}: {one.what} ({checked.named(one.rows)})" for one in each]


def as_text(checked: Checked, tokens: TokenReport | None = None, advice: Sequence[Advice] = ()) -> str:
    """The same in a few lines for a terminal; long lists are shortened and say so."""
    bad, warnings = bad_rows(checked, tokens), kept_warnings(checked, tokens)
    mapping = ", ".join(f"{role} = {column}" for role, column in checked.mapping.items())
    guessed = checked.confidence < 1 and checked.why
    sure = f" This is a guess, {checked.confidence:.0%} sure: {checked.why}." if guessed else ""
    lines = [
        f"Format: {checked.format} ({mapping}); trains {checked.objective}.{sure}",
        *([f"Encoding: {checked.encoding}."] if checked.encoding not in ("", "utf-8") else []),
        *([f"Splits of its own: {splits_words(checked)}"] if checked.splits else []),
        f"Rows: {checked.rows}, of them {checked.rows - len(bad)} good and {len(bad)} bad; "
        f"{len(warnings)} warnings, {checked.duplicates} duplicates.",
    ]
    if tokens:
        padding = tokens.padding()
        each = f"{tokens.min} at least, {tokens.median} median, {tokens.p95} for 95 %, {tokens.max} at most"
        lines.append(f"Tokens per row: {each}; {tokens.truncated} rows cut.")
        if not tokens.packed:
            random = f"{padding.random:.0%} of a batch of {padding.batch_size} in random order"
            lines.append(f"Padding: {random}, {padding.by_length:.0%} with rows of like length together.")
    sections = {
        "Repaired:" if checked.repairs else "Repair (--repair) would mend:": repair_words(checked),
        "Not in the examples:": [
            f"{one.column}. {one.warning}{f' --map {one.role}={one.column} takes it in.' * bool(one.role)}".rstrip()
            for one in checked.unused
        ],
        "Bad rows (not trained on):": [f"row {checked.place(row.row)}: {row.reason}. {row.fix}" for row in bad],
        "Warnings (kept):": [f"row {checked.place(row.row)}: {row.reason}" for row in warnings],
        "Advice:": [item.text for item in advice],
    }
    for title, items in sections.items():
        more = [f"  … and {len(items) - _MAX_SHOWN} more"] if len(items) > _MAX_SHOWN else []
        lines += [title, *(f"  {item}" for item in items[:_MAX_SHOWN]), *more] if items else []
    return "\n".join(lines)


def bad_rows(checked: Checked, tokens: TokenReport | None = None) -> list[BadRow]:
    """Every bad row in the file's order: those of the file, and those that the token report found."""
    return sorted((*checked.bad, *(tokens.bad if tokens else ())), key=lambda item: item.row)


def kept_warnings(checked: Checked, tokens: TokenReport | None = None) -> list[RowWarning]:
    """Every warning in the file's order. A row that turned out bad is not warned of as well."""
    bad = {row.row for row in tokens.bad} if tokens else set()
    both = (*checked.warnings, *(tokens.warnings if tokens else ()))
    return sorted((item for item in both if item.row not in bad), key=lambda item: item.row)
