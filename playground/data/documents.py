"""PDF (``pypdf``) and Word documents (OOXML, ECMA-376) -> their text, page by page or passage by passage; decoded in a
child process, since both may be a stranger's."""

from __future__ import annotations

import logging
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from playground.data.limited import read_limited
from playground.data.records import Limits, Numbered, OnProgress, Records, stream
from playground.data.text_formats import passages
from playground.data.turns import Unusable
from playground.errors import InputError

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
