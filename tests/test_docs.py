"""What the docs name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES = ("architecture", "command_line", "glossary", "security", "servers")
DOCS += [ROOT / "docs" / f"{name}.md" for name in PAGES]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_path_in_the_docs_is_there(page):
    text = page.read_text(encoding="utf-8")
    named = {*re.findall(r"`((?:[\w.]+/)+(?:[\w.]+\.\w+)?|\w+\.py)`", text), *re.findall(r"\]\(([\w./-]+)\)", text)}
    named |= set(re.findall(r"^(playground/[\w./]+)", text, re.MULTILINE))
    places = (ROOT, page.parent, *(ROOT / one for one in ("playground", "tests/api", "playground/engine/llama")))
    assert [one for one in sorted(named) if not any((place / one).exists() for place in places)] == []
