"""Text that looks as if it names a person's e-mail address, telephone, payment card or bank account. Numbers alone do not count."""

from __future__ import annotations

import re

_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@((?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,})\b")
_INVENTED = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost|local)$", re.IGNORECASE)
"""Domains that belong to nobody (RFC 2606)."""
_DIGITS = re.compile(r"\d[\d ()./-]{5,}\d")
_PHONES = (
    re.compile(r"(?<![\w+])\+[1-9]\d{0,2}[ ()./-]{0,2}(?:\d[ ()./-]{0,2}){6,12}\d(?!\w)"),  # +49 30 1234567
    re.compile(r"(?<![\w.-])(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-. ])[2-9]\d{2}[-. ]\d{4}(?![\w-])"),  # (212) 555-2368
    re.compile(
        r"\b(?:tel|telephone|phone|mobile|cell|fax|whatsapp|telefon|handy|mobil|móvil|teléfono|téléphone|portable)\b[^\n\d+]{0,20}"
        r"\(?\d(?:[ ()./-]{0,2}\d){6,13}(?!\w)",
        re.IGNORECASE,
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
"""What is looked for -> how it is called."""


def personal(text: str) -> set[str]:
    """The KINDS that a text seems to hold. Addresses of domains kept for examples are not meant."""
    found = set()
    if "@" in text and any(not _INVENTED.search(match[1]) for match in _EMAIL.finditer(text)):
        found.add("e-mail")
    if _DIGITS.search(text) is None:
        return found
    if any(_iban(match.group()) for match in _IBAN.finditer(text)):
        found.add("iban")
    if any(_card(match.group()) for match in _CARD.finditer(text)):
        found.add("card")
    if any(phone.search(text) for phone in _PHONES):
        found.add("phone")
    return found


def _card(number: str) -> bool:
    """Luhn's check sum (ISO/IEC 7812-1), and a start that card issuers use."""
    digits = [int(char) for char in number if char.isdigit()]
    doubled = sum(digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits)))
    return doubled % 10 == 0 and len(set(digits)) > 1 and _CARD_START.match(number) is not None


def _iban(number: str) -> bool:
    """The check digits of ISO 13616: the rearranged number is 1 modulo 97."""
    plain = number.replace(" ", "")
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1
