"""Checks that a person writes without code, such as ``ends-with:Reviewed by Dr. Sharma``. One class a kind: a subclass
of ``Check`` with a ``kind`` is registered for ``--check``, verdicts, rewards and reports alike."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, final

import regex

from playground.errors import InputError

SCHEMA = "json-schema:"
WORST = "worst:"  # before the name of a check: it holds in every repeat
MOST = 20  # checks of one verdict, bench or run
SHORT_OF_PASSING = 0.9  # the highest grade of a reply that does not pass
_NO_FILES = "json-schema names a file of this machine, which a shared app does not open. "
_NO_FILES += 'Write the schema itself in its place, in one line: json-schema:{"type": "object", "required": ["name"]}.'
PATIENCE_S = 0.5
"""Seconds that one pattern may take on one text; what takes longer does not match. Usual ones take microseconds."""
LONGEST = 10_000
"""Characters of a pattern, and of its counted repeats written out, ``(ab{20}){30}`` is 630: some 300 bytes of each."""
_BRIEF = 60
_WORD = re.compile(r"\w+|[^\w\s]")
_PIECE = re.compile(r"\\.|\(\?#[^)]*\)|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d*),?(\d*)\}|[()]|[^()]", re.DOTALL)
_BRACE = re.compile(r"(\\N\{[^}]*\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\})|\{", re.DOTALL)
_BROKEN = object()
_KINDS: dict[str, type[Check]] = {}


@dataclass(frozen=True)
class Check(ABC):
    """A yes or no about a reply, and a grade. spec: ``KIND`` or ``KIND:VALUE`` as it was written, which is also its
    name; takes: what VALUE is, "" = there is none; says: what it asks for, {value} = VALUE. A class with a kind is
    registered when it is defined."""

    spec: str
    kind: ClassVar[str] = ""
    takes: ClassVar[str] = ""
    says: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            _KINDS[cls.kind] = cls

    @classmethod
    def parse(cls, spec: str, *, files: bool = True) -> Check:
        """The check that a spec says. files: whether it may name a file of this machine. Raises InputError."""
        return cls(spec)

    @property
    def value(self) -> str:
        """What stands behind the colon."""
        return self.spec.partition(":")[2]

    @property
    def label(self) -> str:
        """What it asks for, as a person reads it."""
        return self.says.format(value=self.value)

    @abstractmethod
    def passes(self, reply: str) -> bool:
        """Whether the stripped reply holds to it; case matters."""

    def share(self, reply: str) -> float:
        """How much of it a reply that does not pass has, 0 to 1."""
        return 0.0

    @final
    def grade(self, reply: str) -> float:
        """A reward from 0 to 1: 1 exactly where the reply passes."""
        return 1.0 if self.passes(reply) else min(SHORT_OF_PASSING, SHORT_OF_PASSING * self.share(reply))


def kinds() -> str:
    """How each kind is written, for a message: ``json, json-schema:FILE, ...``."""
    return ", ".join(f"{name}:{one.takes}" if one.takes else name for name, one in _KINDS.items())


def is_check(name: str) -> bool:
    """Whether a metric's name is a check, as it was written."""
    kind, colon, _ = name.partition(":")
    return kind in _KINDS and bool(_KINDS[kind].takes) == bool(colon)


def parse_checks(specs: Sequence[str], *, files: bool = True) -> list[Check]:
    """Read checks, each once. Raises InputError that names every fault."""
    specs = list(dict.fromkeys(specs))
    if len(specs) > MOST:
        raise InputError(f"There are {len(specs)} checks; at most {MOST} are taken. Keep those that decide.")
    read, faults = [], []
    for spec in specs:
        try:
            read.append(parse_check(spec, files=files))
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError(" ".join(faults))
    return read


def parse_check(spec: str, *, files: bool = True) -> Check:
    """Read one check. files: whether ``json-schema:FILE`` may open a file of this machine; the schema itself may always
    stand in its place. Raises InputError naming the kinds there are."""
    kind, colon, value = spec.partition(":")
    known = _KINDS.get(kind)
    if known is None or bool(colon) != bool(known.takes) or (colon and not value.strip()):
        raise InputError(f"{_brief(kind if value.strip() else spec)!r} is not a check. There are: {kinds()}.")
    return known.parse(spec, files=files)


class Json(Check):
    """The share is how far the reply can be read as JSON."""

    kind, says = "json", "Valid JSON"

    def passes(self, reply: str) -> bool:
        return _json(reply) is not _BROKEN

    def share(self, reply: str) -> float:
        return 0.5 * _readable(reply)


@dataclass(frozen=True)
class JsonSchema(Json):
    """The value is a file, or the schema itself. The share is a half where the reply is JSON that does not fit."""

    schema: Any = None
    kind, takes = "json-schema", "FILE"

    @classmethod
    def parse(cls, spec: str, *, files: bool = True) -> Check:
        value, file = spec.removeprefix(SCHEMA), schema_file(spec)
        if file is not None and not files:
            raise InputError(_NO_FILES)
        from playground.evaluation.schema import Schema, read_schema  # jsonschema takes a while to import

        return cls(spec, Schema(value, "The schema of the check") if file is None else read_schema(file))

    @property
    def label(self) -> str:
        file = schema_file(self.spec)
        return f"Fits {_brief(self.value.strip()) if file is None else file.name}"

    def passes(self, reply: str) -> bool:
        return (read := _json(reply)) is not _BROKEN and self.schema.fits(read)


class Regex(Check):
    """The whole reply matches. The share: of the pattern's parts, split at ``.*`` and ``.+``, found in their order."""

    kind, takes, says = "regex", "PATTERN", "Matches {value}"

    @classmethod
    def parse(cls, spec: str, *, files: bool = True) -> Check:
        try:
            compiled(spec.partition(":")[2], dotall=True)
        except ValueError as error:
            raise InputError(f"{_brief(spec)!r} is not a regular expression: {error}.") from error
        return cls(spec)

    def passes(self, reply: str) -> bool:
        return end_of(compiled(self.value, dotall=True), reply.strip(), whole=True) is not None

    @cached_property
    def _parts(self) -> list[Any]:
        """Patterns of their own; none where a part is not one, for example half a group."""
        try:
            return [compiled(part, dotall=True) for part in re.split(r"(?<!\\)\.[*+]\??", self.value) if part]
        except ValueError:
            return []

    def share(self, reply: str) -> float:
        at, found, text = 0, 0, reply.strip()
        for part in self._parts:
            if (end := end_of(part, text, at)) is not None:
                at, found = end, found + 1
        return found / max(1, len(self._parts))


class EndsWith(Check):
    """The share is the longest run of the text's words; half of it where that is not at the end."""

    kind, takes, says = "ends-with", "TEXT", "Ends with “{value}”"

    def passes(self, reply: str) -> bool:
        return reply.strip().endswith(self.value.strip())

    def share(self, reply: str) -> float:
        wanted = self.value.strip()
        return 0.5 * _overlap(wanted, reply) + 0.5 * _overlap(wanted, reply.strip()[-len(wanted) :])


class Contains(Check):
    """The share is the longest run of the text's words."""

    kind, takes, says = "contains", "TEXT", "Contains “{value}”"

    def passes(self, reply: str) -> bool:
        return self.value in reply.strip()

    def share(self, reply: str) -> float:
        return _overlap(self.value, reply)


class MaxWords(Check):
    """The share is how many words are allowed over how many there are."""

    kind, takes = "max-words", "N"

    @classmethod
    def parse(cls, spec: str, *, files: bool = True) -> Check:
        value = spec.partition(":")[2].strip()
        if not value.isdecimal() or len(value) > 9:
            raise InputError(f"{spec!r}: max-words takes a whole number, such as max-words:50.")
        return cls(spec)

    @property
    def label(self) -> str:
        return f"At most {int(self.value)} words"

    def passes(self, reply: str) -> bool:
        return len(reply.split()) <= int(self.value)

    def share(self, reply: str) -> float:
        return int(self.value) / max(1, len(reply.split()))


def schema_file(spec: str) -> Path | None:
    """The file that a check reads; None where it reads none."""
    value = spec.removeprefix(SCHEMA)
    return None if value == spec or value.lstrip().startswith("{") else Path(value)


def _brief(text: str) -> str:
    return text if len(text) <= _BRIEF else f"{text[:_BRIEF]}…"


def _json(reply: str) -> Any:
    try:
        return json.loads(reply.strip(), parse_constant=int)  # which takes neither NaN nor Infinity
    except (ValueError, RecursionError):  # broken, or nested too deeply
        return _BROKEN


def _readable(reply: str) -> float:
    """How much of a reply the JSON reader takes before its first error; 1 = all of it."""
    text = reply.strip()
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos / max(1, len(text)) if text[:1] in ("{", "[") else 0.0
    except RecursionError:
        return 0.0
    return 1.0


def _overlap(wanted: str, reply: str) -> float:
    """The longest run of ``wanted``'s words and signs that is in ``reply``, as a share of them."""
    if wanted in reply:
        return 1.0
    words = _WORD.findall(wanted)
    matcher = SequenceMatcher(None, words, _WORD.findall(reply), autojunk=False)
    return matcher.find_longest_match().size / max(1, len(words))


@lru_cache(maxsize=64)
def compiled(pattern: str, dotall: bool = False) -> Any:
    """A pattern as Python's ``re`` means it, for the regex package, which releases the GIL and takes a timeout; a ``{``
    that counts nothing stays a brace, where regex alone would read ``{e}`` as "with errors". dotall: a dot is also the
    end of a line. Raises ValueError that says what is wrong with it."""
    if len(pattern) > LONGEST:
        raise ValueError(f"it has {len(pattern):,} characters, and {LONGEST:,} are the most")
    if re.search(r"\(\?[a-zA-Z]*x", pattern):  # comments could hide repeats from the count
        raise ValueError("it is written with (?x); write it without spaces and comments")
    if (length := _written_out(pattern)) > LONGEST:
        many = f"its repeats stand for {length:,} characters, and {LONGEST:,} are the most"
        raise ValueError(f"{many}; use * or + for any number")
    try:
        re.compile(pattern)
        braces = _BRACE.sub(lambda found: found[1] or r"\{", pattern)
        return regex.compile(braces, regex.DOTALL if dotall else 0, cache_pattern=False)  # its own cache holds 500
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (re.error, regex.error, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _written_out(pattern: str) -> int:
    """Characters of a pattern with its counted repeats written out, as the compiler does; at least 1 for each."""
    open_groups: list[int] = []
    length = last = 0  # of the group so far; of what a repeat after it would repeat
    for piece in _PIECE.finditer(pattern):
        if piece[0] == "(":
            open_groups.append(length)
            length = last = 0
        elif piece[0] == ")" and open_groups:
            last, length = max(1, length), open_groups.pop() + length
        elif piece[1] or piece[2]:
            times = max(int(number or 0) for number in piece.groups())
            length, last = length + last * max(0, times - 1), last * times
        else:
            length, last = length + 1, 1
    return length + sum(open_groups)


def end_of(
    pattern: Any, text: str, start: int = 0, *, whole: bool = False, patience_s: float = PATIENCE_S
) -> int | None:
    """Where the first match (whole: of all the text) ends; None where there is none, or none in time."""
    try:
        found = (pattern.fullmatch if whole else pattern.search)(text, start, timeout=patience_s, concurrent=True)
    except (TimeoutError, MemoryError):
        return None
    return None if found is None else int(found.end())
