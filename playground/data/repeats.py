"""Rows that repeat or contradict an earlier one. Keeps 16 bytes a key, not the texts."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator

from playground.data.example import Example, Judged, Passage, Preference, RowWarning

Row = Example | Preference | Judged | Passage
_CONFLICTS: dict[type, tuple[str, str]] = {
    Example: ("prompt", "another answer"),
    Judged: ("prompt and answer", "the opposite label"),
    Preference: ("prompt and answers", "the opposite choice"),
}


class Repeats:
    """Compares rows character for character, by two digests of 16 bytes each: of the whole row, and of what it answers."""

    def __init__(self) -> None:
        self._keys, self._prompts = bytearray(), bytearray()
        self._rows = array("q")
        self._kind: type = Passage

    def add(self, row: Row) -> None:
        """The rows of one file, or of several that train the same, in their order."""
        key, prompt = _keys(row)
        self._keys += key
        self._prompts += prompt
        self._rows.append(row.row)
        self._kind = type(row)

    def warnings(self) -> Iterator[RowWarning]:
        """``duplicate``: a row the same as an earlier one; ``conflict``: the same prompt as an earlier one's, answered otherwise."""
        same, other = _CONFLICTS.get(self._kind, ("", ""))
        earlier = _later_ones(self._keys)
        for place, first in earlier.items():
            yield RowWarning(self._rows[place], f"the same as row {self._rows[first]}", "duplicate")
        for place, first in _later_ones(self._prompts).items() if same else ():
            if place not in earlier:
                yield RowWarning(self._rows[place], f"same {same} as row {self._rows[first]}, {other}", "conflict")


def _later_ones(digests: bytearray) -> dict[int, int]:
    """The place of each digest that stood before, and the place where it stood first."""
    import numpy

    pairs = numpy.frombuffer(digests, dtype=numpy.uint64).reshape(-1, 2)
    if not len(pairs):
        return {}
    order = numpy.lexsort((pairs[:, 1], pairs[:, 0]))  # stable: of equal ones the earliest comes first
    again = numpy.zeros(len(pairs), dtype=bool)
    for half in (0, 1):
        ordered = pairs[order, half]
        same = ordered[1:] == ordered[:-1]
        again[1:] = same if half == 0 else again[1:] & same
    group = numpy.cumsum(~again) - 1
    starts = order[numpy.flatnonzero(~again)]
    later = order[again]
    return dict(zip(later.tolist(), starts[group[again]].tolist(), strict=True))


def _keys(row: Row) -> tuple[bytes, bytes]:
    """(what makes a row the same as another, what makes it contradict another)."""
    if isinstance(row, Passage):
        return _digest(row.text), b""
    prompt = [part for turn in row.prompt for part in (turn.role, turn.content)]
    if isinstance(row, Example):
        return _digest(*prompt, row.completion), _digest(*prompt)
    if isinstance(row, Judged):
        return _digest(*prompt, row.completion, str(row.good)), _digest(*prompt, row.completion)
    pair = (row.chosen, row.rejected)
    return _digest(*prompt, *pair), _digest(*prompt, *sorted(pair))


def _digest(*parts: str) -> bytes:
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
