"""Documents in passages, the nearest to a question by BM25 (Robertson, Zaragoza 2009; ``bm25s``); and the text of PDF
(``pypdf``) and Word documents (OOXML, ECMA-376), decoded in a child process, since both may be a stranger's."""

from __future__ import annotations

import logging
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from playground.data.example import Checked, Example
from playground.data.limited import read_limited
from playground.data.records import Limits, Numbered, OnProgress, Records, stream
from playground.data.render import with_passages
from playground.data.text_formats import passages
from playground.data.turns import Unusable
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


PAGES = 5000
"""Of a PDF, at most."""
_DAMAGED = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)
"""What decoders raise for a damaged file; RecursionError is a RuntimeError."""
_LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st"}
_NO_PICTURE = "Run text recognition (OCR) over it first, and choose the result."


class Page(NamedTuple):
    """Text and where it stands: ``page 3``; "" of a Word document, whose headings stand in its text."""

    text: str
    place: str


def parse_document(path: Path, limits: Limits, on_progress: OnProgress | None = None) -> Records:
    """Raw text: a row a page of a PDF, a row a passage of a Word document. Raises InputError."""
    pages, rows = read_pages(path, limits, on_progress), list[Numbered]()
    if path.suffix.lower() == ".pdf":
        blank = Unusable("a page without text: it is blank, or a picture", _NO_PICTURE)
        rows += [(number, {"text": page.text} if page.text else blank) for number, page in enumerate(pages, 1)]
    else:
        blocks = passages(pages[0].text.split("\n"))
        rows += [(number, {"text": text}) for number, text in enumerate(blocks, 1)]
    return stream(lambda _: rows, limits, columns=("text",))


def read_pages(path: Path, limits: Limits, on_progress: OnProgress | None = None) -> tuple[Page, ...]:
    """Every page of a PDF, those without text too; a Word document is one. Raises InputError: it has no text at all, a
    password, damage, or too much."""
    stat = path.stat()
    return _read(path, stat.st_size, stat.st_mtime_ns, limits, _Told(on_progress))


class _Told:
    """Takes the progress; all are equal, so that they are no part of what is looked up."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self.at = on_progress or (lambda share: None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Told)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=4)
def _read(path: Path, size: int, changed_ns: int, limits: Limits, told: _Told) -> tuple[Page, ...]:
    found = list[Page]()
    is_pdf = path.suffix.lower() == ".pdf"
    for done, text in read_limited(pdf_pages if is_pdf else word_text, path, limits):
        found.append(Page(_clean(text), f"page {len(found) + 1}" if is_pdf else ""))
        told.at(done)
    if any(page.text for page in found):
        return tuple(found)
    has = f"{len(found)} pages without any text: they are blank, or pictures (a scan)" if is_pdf else "no text"
    raise InputError(f"{path.name} has {has}. {_NO_PICTURE if is_pdf else 'Choose another document.'}")


def _clean(text: str) -> str:
    """Without half characters, NULs, ligatures, and the ends of lines that only the page's width made."""
    text = text.encode("utf-8", errors="replace").decode().replace("\0", "").translate(_LIGATURES)
    lines = [line.rstrip() for line in text.splitlines()]
    wide = 0.75 * max(map(len, lines), default=0)
    joined = ""
    for before, line in zip(["", *lines], lines, strict=False):
        if re.search(r"\w-$", before) and line[:1].islower():
            joined = joined[:-1] + line
        elif line and before and len(before) >= max(wide, 20):
            joined += " " + line
        else:
            joined += "\n" * bool(joined) + line
    return joined.strip()


def pdf_pages(file: Path, limits: Limits, bound: Callable[[], None]) -> Iterator[tuple[float, str]]:
    """As ``limited.Reader``: (the share that is done, a page's text)."""
    import pypdf

    logging.disable()
    refuse = partial(_refuse, limits, "PDF document")
    bound()
    if b"%PDF-" not in file.open("rb").read(1024):
        refuse("it does not begin as one")
    size = 0
    try:
        reader = pypdf.PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError(f"{limits.name} has a password. Save a copy without one.")
        if (count := len(reader.pages)) > PAGES:
            raise InputError(f"{limits.name} has {count:,} pages; at most {PAGES:,} are read. Split it.")
        for number, page in enumerate(reader.pages, 1):
            text = page.extract_text()
            limits.check_unpacked(size := size + len(text))
            yield number / count, text
    except pypdf.errors.DependencyError:
        raise InputError(f"{limits.name} is encrypted. Save a copy that is not.") from None
    except (pypdf.errors.PyPdfError, zlib.error, *_DAMAGED) as error:
        if isinstance(error, pypdf.errors.LimitReachedError):
            raise InputError(
                f"{limits.name} unpacks to too much: {str(error).rstrip('.')}. Save it again from a PDF viewer."
            ) from None
        refuse(str(error) or type(error).__name__)


def _refuse(limits: Limits, kind: str, why: str) -> None:
    what = f"{limits.name} is no {kind}, or damaged: {' '.join(why.split())[:200].rstrip('.')}"
    raise InputError(f"{what}. Save it again, or as text.")


def word_text(file: Path, limits: Limits, bound: Callable[[], None]) -> Iterator[tuple[float, str]]:
    """As ``limited.Reader``: (1, the text: blocks with a blank line between, headings as in Markdown)."""
    from lxml import etree

    bound()
    with file.open("rb") as held:
        if held.read(4) == b"\xd0\xcf\x11\xe0":
            raise InputError(f"{limits.name} has a password, or is an old .doc. Save it as .docx without one.")
    try:
        with zipfile.ZipFile(file) as archive:
            parts = {name: _part(archive, f"word/{name}.xml", limits) for name in ("document", "styles")}
    except (zipfile.BadZipFile, zlib.error, etree.LxmlError, *_DAMAGED) as error:
        if "unknown error" in str(error):  # what libxml2 says when it is refused memory
            raise MemoryError from None
        _refuse(limits, "Word document (.docx)", str(error))
    names = {_value(style, "styleId"): _inner(style, "name") for style in parts["styles"].iter("{*}style")}
    yield 1.0, "\n\n".join(_blocks(parts["document"], names))


def _part(archive: zipfile.ZipFile, name: str, limits: Limits) -> Any:
    """A file of the archive as a tree, without what is written twice or was deleted."""
    from lxml import etree

    if name not in archive.namelist() and name == "word/styles.xml":
        return etree.Element("none")
    limits.check_unpacked(archive.getinfo(name).file_size)
    with archive.open(name) as part:
        parser = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, remove_comments=True)
        tree = etree.parse(part, parser)
    if tree.docinfo.doctype:
        raise ValueError("it declares entities")
    root = tree.getroot()
    etree.strip_elements(root, "{*}Fallback", "{*}moveFrom", "{*}del", "{*}pict", with_tail=False)
    return root


def _blocks(parent: Any, names: dict[str, str]) -> Iterator[str]:
    """Paragraphs in their order, and the rows of tables, a cell between bars."""
    for part in parent:
        kind = str(part.tag).rpartition("}")[2]
        if kind == "p" and (text := _text(part).strip()):
            level = re.fullmatch(r"heading ([1-9])|title", names.get(_inner(part, "pStyle"), "").lower())
            yield f"{'#' * int(level[1] or 1)} {' '.join(text.split())}" if level else text
        elif kind == "tbl":
            rows = ([" ".join(_text(cell).split()) for cell in row.iter("{*}tc")] for row in part.iter("{*}tr"))
            yield "\n".join(" | ".join(cells) for cells in rows if any(cells))
        elif kind in ("body", "sdt", "sdtContent", "ins", "smartTag", "customXml"):
            yield from _blocks(part, names)


_SIGNS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def _text(part: Any) -> str:
    found = list[str]()
    for inner in part.iter("{*}t", "{*}p", *("{*}" + sign for sign in _SIGNS)):
        kind = inner.tag.rpartition("}")[2]
        found.append(inner.text or "" if kind == "t" else _SIGNS.get(kind, "\n"))
    return "".join(found)


def _inner(part: Any, name: str) -> str:
    """The value of the first element of this name inside."""
    return next((_value(one, "val") for one in part.iter("{*}" + name)), "")


def _value(part: Any, name: str) -> str:
    return next((str(value) for key, value in part.attrib.items() if key.rpartition("}")[2] == name), "")
