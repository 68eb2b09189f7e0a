"""Documents a side may read, in passages; the nearest to a question by BM25 (Robertson, Zaragoza 2009; ``bm25s``)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from playground.data.documents import read_pages
from playground.data.example import Checked, Example
from playground.data.records import Limits
from playground.data.render import with_passages
from playground.errors import InputError

WORDS = 90  # words of a passage, about; a paragraph that is longer is cut between sentences
MOST = 3  # passages that a question is given
LIMIT_BYTES = 20_000_000
TOKEN = r"(?u)\b\w+\b"  # a digit alone is a word too: people ask for ward 7
KINDS = (".txt", ".md", ".markdown", ".rst", ".text", ".pdf", ".docx")


@dataclass(frozen=True, eq=False)
class Documents:
    """passages: in the order of the text."""

    passages: Sequence[str]

    @cached_property
    def _index(self) -> Any:
        import bm25s

        index = bm25s.BM25()
        index.index(bm25s.tokenize(list(self.passages), token_pattern=TOKEN, show_progress=False), show_progress=False)
        return index

    def _scores(self, question: str) -> list[float]:
        """How near each passage is to a question; 0 where they share no word."""
        import bm25s

        words = bm25s.tokenize([question], token_pattern=TOKEN, return_ids=False, show_progress=False)[0]
        return self._index.get_scores(words).tolist() if words and self.passages else [0.0] * len(self.passages)

    def places(self, question: str) -> list[int]:
        """All places, the nearest first; ties, and those that share no word with it at the end, in their order."""
        scores = self._scores(question)
        return sorted(range(len(scores)), key=lambda place: (-max(0.0, scores[place]), place))

    def nearest(self, question: str, most: int = MOST) -> tuple[str, ...]:
        """The passages nearest to a question, the nearest first; fewer where no more share a word with it."""
        scores = self._scores(question)
        return tuple(self.passages[place] for place in self.places(question)[:most] if scores[place] > 0)


def read_documents(path: Path) -> Documents:
    """A text, PDF or Word document, or every one in a folder; a passage of a PDF begins with its page. Raises
    InputError naming what cannot be read."""
    path = Path(path)
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in KINDS) if path.is_dir() else [path]
    if not files:
        raise InputError(f"There is no text in {path.name}. Documents are {', '.join(KINDS)} files.")
    if files[0].suffix.lower() not in KINDS:
        what = f"Documents are {', '.join(KINDS)} files; save it as one of these"
        raise InputError(f"{files[0].name} is not a document. {what}.")
    found: list[str] = []
    for file in files:
        try:
            if (size := file.stat().st_size) > LIMIT_BYTES:
                what = f"{file.name} is {size / 1e6:.0f} MB"
                raise InputError(f"{what}; documents may have {LIMIT_BYTES // 1_000_000} MB.")
            if file.suffix.lower() in (".pdf", ".docx"):
                for page in read_pages(file, Limits(file.name, LIMIT_BYTES)):
                    said = f"({file.name}, {page.place}) " if page.place else ""
                    found += [said + passage for passage in passages_of(page.text)]
            else:
                found += passages_of(file.read_text(encoding="utf-8-sig"))
        except FileNotFoundError as error:
            raise InputError(f"There is no file {file}. Documents are text files.") from error
        except (OSError, UnicodeDecodeError) as error:
            what = f"{file.name} cannot be read as UTF-8 text: {error}"
            raise InputError(f"{what}. Save it as UTF-8 and try again.") from error
    if not found:
        raise InputError(f"There is nothing in {path.name}. Documents need some text.")
    return Documents(found)


def passages_of(text: str, words: int = WORDS) -> list[str]:
    """Paragraphs put together, or cut between sentences, to about ``words`` words each."""
    pieces = []
    for paragraph in (" ".join(part.split()) for part in re.split(r"\n\s*\n", text)):
        if len(paragraph.split()) <= words:
            pieces.append(paragraph)
            continue
        sentences = (sentence.split() for sentence in re.split(r"(?<=[.!?])\s+", paragraph))
        cut = [" ".join(many[start : start + words]) for many in sentences for start in range(0, len(many), words)]
        pieces += _joined(cut, words, " ")
    return _joined(filter(None, pieces), words, "\n")


def _joined(pieces: Iterable[str], words: int, separator: str) -> list[str]:
    """As many pieces together as ``words`` words take."""
    found: list[list[str]] = []
    size = 0
    for piece in pieces:
        count = len(piece.split())
        if not found or size + count > words:
            found.append([])
            size = 0
        found[-1].append(piece)
        size += count
    return [separator.join(each) for each in found]


def with_documents(checked: Checked, documents: Documents) -> Checked:
    """The same rows, each question with the passages nearest to it: what a run with documents learns from."""
    return replace(checked, examples=tuple(add_passages(example, documents) for example in checked.examples))


def add_passages(example: Example, documents: Documents) -> Example:
    """One row with passages in its last question."""
    turns = [*example.messages]
    place = max(place for place, turn in enumerate(turns) if turn.role == "user")
    asked = turns[place].content
    turns[place] = replace(turns[place], content=with_passages(asked, documents.nearest(asked)))
    return replace(example, messages=tuple(turns))
