"""What the docs name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
DOCS += [ROOT / "docs" / name for name in ("architecture.md", "glossary.md", "security.md")]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_path_in_the_docs_is_there(page):
    text = page.read_text(encoding="utf-8")
    named = {*re.findall(r"`((?:[\w.]+/)+(?:[\w.]+\.\w+)?|\w+\.py)`", text), *re.findall(r"\]\(([\w./-]+)\)", text)}
    named |= set(re.findall(r"^(playground/[\w./]+)", text, re.MULTILINE))
    places = (ROOT, page.parent, *(ROOT / one for one in ("playground", "tests/api", "playground/engine/llama")))
    assert [one for one in sorted(named) if not any((place / one).exists() for place in places)] == []
