"""Encodings of text from before Unicode: by name, or by which language's letters a text then holds."""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

from playground.errors import InputError

_TEXT_CODEC = re.compile(r"(ascii|utf_?-?(8|16|32)|cp\d|iso8859|koi8|mac[-_]|gb|big5|euc|shift|johab|hz|kz|ptcp|tis)")


def codec_of(encoding: str) -> str:
    """The codec of a name such as windows-1250, 1250, latin-1. Raises InputError."""
    try:
        codec = codecs.lookup(encoding.strip().replace(" ", "-")).name
    except (LookupError, ValueError):
        codec = ""
    if not _TEXT_CODEC.match(codec):
        what = f"There is no encoding {encoding[:40]!r}"
        raise InputError(f"{what}. Name one such as utf-8, windows-1250 (or any Windows code page), latin-1 or koi8-r.")
    return codec


_MIN_BYTES = 8  # beyond ASCII; fewer are taken for Latin letters
_WESTERN = "äöüß éèêëàâçùûüîïôœæ áéíóúñüªº ãõáâàéêíóôúç àèéìíòóùú åäöæøéü ëïéèöü àçèéíïòóúü"
_CENTRAL = "ąćęłńóśźż áčďéěíňóřšťúůýž áäčďéíĺľňóôŕšťúýž áéíóöőúüű čćđšž ăâîşţ äöüß"
_LATIN = frozenset(map(chr, range(0xC0, 0x180)))
_PUNCTUATION = frozenset("“”„‘’‚–—…«»‹›¡¿€£§°´·\xa0、。「」『』・，．：；？！（）［］【】《》")
_MISPLACED = re.compile("[ךםןףץ](?=[א-ת])|ς(?=[ά-ώ])")
"""A letter that Hebrew or Greek writes at a word's end only, inside a word: the text is neither."""


def legacy_encoding(sample: bytes) -> str:
    """The codec, of those that charset-normalizer proposes for these lines, that gives most letters of one language."""
    import charset_normalizer

    western = "cp1252" if _decoded(sample, "cp1252") is not None else "latin-1"
    few = sum(byte >= 0x80 for byte in sample) < _MIN_BYTES
    known = sorted({codec for codec, *_ in _languages()})
    proposed = {match.encoding for match in charset_normalizer.from_bytes(sample, cp_isolation=known)} | {"cp1252"}
    best, found = 0.0, western
    for codec, letters, needed in _languages():
        able = codec in proposed and not (few and letters.isdisjoint(_LATIN))
        text = _decoded(sample, codec) if able else None
        beyond = [char for char in _MISPLACED.sub("\ufffd", text or "") if char > "\x7f" and char not in _PUNCTUATION]
        share = float(text is not None)
        if beyond:
            share = min(1.0, sum(map(letters.__contains__, beyond)) / len(beyond) / needed)
        if share > best:
            best, found = share, codec
    return found if best >= 0.5 else western


def _decoded(sample: bytes, codec: str) -> str | None:
    try:
        return sample.decode(codec)
    except UnicodeDecodeError:
        return None


@lru_cache(maxsize=1)
def _languages() -> tuple[tuple[str, frozenset[str], float], ...]:
    """(codec, a language's letters, their share among its characters beyond ASCII); the first of equals is taken."""

    def span(first: int, last: int) -> frozenset[str]:
        return frozenset(map(chr, range(first, last + 1)))

    def common(codec: str, leads: range) -> frozenset[str]:
        """The characters that a Chinese standard puts first, by how common they are."""
        trails = (*range(0x40, 0x7F), *range(0xA1, 0xFF))
        return frozenset("".join(bytes((a, b)).decode(codec, "ignore") for a in leads for b in trails)) - span(0, 0x7F)

    def latin(codec: str, languages: str, needed: float = 1.0) -> list[tuple[str, frozenset[str], float]]:
        return [(codec, frozenset(each + each.upper()), needed) for each in languages.split()]

    kana, cyrillic = span(0x3041, 0x30FF), span(0x430, 0x45F) | frozenset("ґ")
    return (
        *((codec, kana, 0.3) for codec in ("cp932", "euc_jp")),
        ("cp949", span(0xAC00, 0xD7A3), 0.97),
        ("gb18030", common("gb2312", range(0xB0, 0xD8)), 0.8),
        ("big5", common("big5", range(0xA4, 0xC7)), 0.8),
        *latin("cp1252", _WESTERN),
        *latin("cp1254", "çğıöşüâîûİ\u0307"),
        *latin("cp1250", _CENTRAL),
        *latin("cp1257", "ąčęėįšųūž āčēģīķļņšūž äöüõšž"),
        *latin("cp1252", "áéíóúýþæöð"),
        *latin("cp1252", _WESTERN.replace(" ", ""), 1.05),
        ("cp1255", span(0x5D0, 0x5EA), 0.95),
        ("cp1253", span(0x386, 0x3CE), 1.0),
        *((codec, cyrillic, 0.8) for codec in ("cp1251", "koi8_r", "cp866")),
        ("cp1256", span(0x621, 0x652), 0.9),
        ("cp874", span(0xE01, 0xE5B), 1.0),
        *latin("mac_roman", _WESTERN, 1.05),
        *latin("cp850", _WESTERN, 1.05),
    )
