"""Which token has which number: an adapter that comes with a tokenizer must mean the same words by the same numbers as the base."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from playground.errors import AdapterError
from playground.library.files import is_plain_file, plain_text

TOKENIZER, ADDED = "tokenizer.json", "added_tokens.json"
LIMIT_BYTES = 64 * 1024 * 1024


def vocabulary_of(folder: Path) -> dict[str, int] | None:
    """Token -> number, as the folder's ``tokenizer.json`` says; None when it has none. Raises AdapterError when it is damaged."""
    path = folder / TOKENIZER
    if not path.exists():
        return None
    content = _read(path.resolve())
    model = content.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(words, list):  # Unigram: pairs of token and score
        found = {str(pair[0]): number for number, pair in enumerate(words) if isinstance(pair, list) and pair}
    else:
        found = _numbers(words)
    for entry in content.get("added_tokens") or []:
        if isinstance(entry, dict):
            found |= _numbers({entry.get("content"): entry.get("id")})
    return found


def check_vocabulary(folder: Path, base: Callable[[], Mapping[str, int] | None]) -> None:
    """Raise AdapterError when an adapter's folder holds a tokenizer that is not the base's. base: asked only where there is one."""
    if not any(is_plain_file(folder / name) for name in (TOKENIZER, ADDED)):
        return
    known = base()
    if known is None:
        return
    whole = vocabulary_of(folder) if is_plain_file(folder / TOKENIZER) else None
    added = _numbers(_read(folder / ADDED)) if is_plain_file(folder / ADDED) else {}
    here = (whole if whole is not None else dict(known)) | added
    other = next((token for token, number in here.items() if known.get(token) != number), None)
    if len(here) == len(known) and other is None:
        return
    example = f" ({plain_text(other, 40)!r} is number {here[other]} there)" if other is not None else ""
    raise AdapterError(
        f"This adapter comes with another tokenizer: it knows {len(here)} tokens, this base knows {len(known)}{example}. "
        "Choose the base that it was trained on, or train it again on this one."
    )


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LIMIT_BYTES:
        raise AdapterError(f"{path.name} has more than {LIMIT_BYTES} bytes. Delete it if the adapter uses its base's tokenizer.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path.name} is not readable JSON. Save the adapter's tokenizer again, or delete it.") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path.name} must hold a JSON object. Save the adapter's tokenizer again, or delete it.")
    return content


def _numbers(words: Any) -> dict[str, int]:
    pairs = words.items() if isinstance(words, dict) else ()
    return {word: number for word, number in pairs if isinstance(word, str) and isinstance(number, int)}
