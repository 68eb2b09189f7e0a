"""What a thinking model writes before its answer, and the answer: one way to part them, for replies and for data."""

from __future__ import annotations

from typing import NamedTuple


class Tags(NamedTuple):
    """What a thought stands between."""

    begin: str
    end: str


TAGS = Tags("<think>", "</think>")
"""Nearly every family's."""
FAMILIES = (
    *(TAGS, Tags("<|channel>thought", "<channel|>")),
    *(Tags("[THINK]", "[/THINK]"), Tags("<|START_THINKING|>", "<|END_THINKING|>")),
)
"""Those of Gemma 4, Magistral and Command A, by their tokens, where the template does not show them."""


class Parted(NamedTuple):
    """is_open: the thought goes on, and there is no answer yet."""

    thought: str
    answer: str
    is_open: bool = False


def parted(text: str, tags: Tags = TAGS, *, opened: bool | None = False, done: bool = True) -> Parted:
    """A reply, or what there is of it.

    opened: the prompt ended inside the thought; None = not known (another server's template): then a closing tag alone
    ends one. done: no more of it comes; before, the first characters of a tag are held back. A thought that does not
    end leaves an empty answer."""
    inside = text.lstrip()
    if inside.startswith(tags.begin):
        inside = inside[len(tags.begin) :]
    elif not done and tags.begin.startswith(inside):
        return Parted("", "", bool(opened))
    elif not (opened or (opened is None and tags.end in text)):
        return Parted("", text)
    thought, end, answer = inside.partition(tags.end)
    if end:
        return Parted(thought.strip(), answer.lstrip())
    held = max((n for n in range(1, len(tags.end)) if thought.endswith(tags.end[:n])), default=0)
    return Parted(thought[: len(thought) - held].strip(), "", True)


def joined(thought: str, answer: str, tags: Tags = TAGS) -> str:
    """The other way round, as most families write it; the answer alone without a thought."""
    return f"{tags.begin}\n{thought}\n{tags.end}\n\n{answer}" if thought else answer
