"""The last thing that HTML passes on its way out: only tags that this app writes stay tags."""

from __future__ import annotations

import re
from html import escape
from html.parser import HTMLParser

TAGS = set(
    re.findall(
        r"\w+",
        "a b br button caption circle dd del details div dl dt figcaption figure g h1 h2 h3 h4 i ins li line mark ol p "
        "path polygon polyline pre rect section small span summary svg table tbody td text th thead title tr ul",
    )
)
ATTRIBUTES = set(
    re.findall(
        r"[\w-]+",
        "aria-hidden aria-label aria-pressed aria-current aria-valuemin aria-valuemax aria-valuenow class cx cy d "
        "data-id fill fill-opacity height href id open points r role rx scope stroke stroke-linecap stroke-linejoin "
        "stroke-width style tabindex text-anchor type viewbox width x x1 x2 y y1 y2",
    )
)
_VALUES = {
    "href": re.compile(r"(#|\?verdict=)[\w%|.-]*"),
    "style": re.compile(r"width: ?[\d.]+%"),
    "type": re.compile("button"),
}
"""What these attributes may say; the others may say anything."""
_TAG = re.compile(r"(</?[a-zA-Z][^<>]*>)")
"""A tag with every ``<`` and ``>`` in its attributes escaped. Each is read by itself, since the parser goes on through
quotes and unclosed tags to the end of what it is given."""
_STRAY = re.compile(r"&(?!(?:#\d+|#[xX][\da-fA-F]+|[a-zA-Z][a-zA-Z\d]*);)")
"""An ``&`` that begins no character reference."""


def safe_html(html: str) -> str:
    """The same HTML, with every tag as text that is not in ``TAGS``, or has an attribute that is not in ``ATTRIBUTES``
    or may not say what it says, though a caller forgot to escape it. Tags are written anew from what was read, so that
    a browser cannot read them in another way. Linear in the length."""
    parser = _Parser()
    for place, piece in enumerate(_TAG.split(html)):
        if place % 2:
            parser.feed(piece)
            parser.close()
        else:
            parser.out.append(_STRAY.sub("&amp;", piece).replace("<", "&lt;").replace(">", "&gt;"))
    return "".join(parser.out)


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.out: list[str] = []

    def set_cdata_mode(self, elem: str, **_: bool) -> None:
        """Never: a script is text like any other, and so is what it holds."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag(tag, attrs, ">")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag(tag, attrs, "/>")

    def _tag(self, tag: str, attrs: list[tuple[str, str | None]], end: str) -> None:
        if tag not in TAGS or not all(_may(name, value or "") for name, value in attrs):
            self.handle_data(self.get_starttag_text() or "")
            return
        said = "".join(f" {name}" if value is None else f' {name}="{escape(value)}"' for name, value in attrs)
        self.out.append(f"<{tag}{said}{end}")

    def handle_endtag(self, tag: str) -> None:
        self.out.append(f"</{tag}>" if tag in TAGS else escape(f"</{tag}>"))

    def handle_data(self, data: str) -> None:
        self.out.append(escape(data, quote=False))

    def handle_entityref(self, name: str) -> None:
        self.out.append(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.out.append(f"&#{name};")


def _may(name: str, value: str) -> bool:
    return name in ATTRIBUTES and (name not in _VALUES or bool(_VALUES[name].fullmatch(value)))
