"""HTML is written in templates and by ``tag``, which escape what they are given; no other code holds a tag."""

from __future__ import annotations

import ast
import re

from playground.models.adapters import Switch
from playground.report.charts import tag
from playground.settings import PROJECT_ROOT
from playground.ui import html

PLAYGROUND = PROJECT_ROOT / "playground"
TAG = re.compile(r"</[a-z]|<[a-z]\w*(\s|/?>)", re.IGNORECASE)
WITH_TAGS = {
    "report/safe_html.py": "writes anew the tags that it lets through",
    "evaluation/votes.py": "marks the parts of a prompt for a model",
    "ui/page.py": "a constant for the head of the page",
}

WITHOUT_ESCAPING = {
    "_TEMPLATES.select_template([f'{name}.html', 'section.html']).render(context, section=name)": (
        "what the templates made, which escape"
    ),
    "FRAME + STYLE": "the project's own style sheets",
    "safe_html(body_html(record, rows))": "only the tags that the app writes stay tags",
}
"""All that becomes ``Markup`` and is no constant, with the reason."""


def strings(tree: ast.AST) -> list[str]:
    """Every string of a file but its docstrings; an f-string is one, with ``x`` where it is filled."""
    apart = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
            found.append(node.value)
    return [text.replace("(?P<", "") for text in found]  # a pattern's group is no tag


def test_no_string_outside_templates_holds_a_tag() -> None:
    """So no f-string, ``%``, ``+`` or ``format`` builds HTML."""
    for text in ("f'<b>{one}</b>'", "'<b>' + one", "'<td class=%s>' % one", "f'<{one}><{one}/>'", "'</p>'.join(one)"):
        assert any(map(TAG.search, strings(ast.parse(text)))), text
    holding = {
        file.relative_to(PLAYGROUND).as_posix(): [
            one for one in strings(ast.parse(file.read_text())) if TAG.search(one)
        ]
        for file in sorted(PLAYGROUND.rglob("*.py"))
    }
    assert len(holding) > 100
    assert {file: found for file, found in holding.items() if found and file not in WITH_TAGS} == {}


PIECES = {
    "pieces": ("button", lambda text: (text, text, text, text)),
    "chat": ("switched", lambda text: (text, Switch(1.0, 0.0, text, True))),
    "train": ("race", lambda text: ((text,), [((text,), text, text, text)], text)),
    "verdict": ("versions", lambda text: ([(text, text, [text])],)),
    "device": ("waiting", lambda text: ([{"position": 1, "label": text}],)),
}
"""A piece of each of the page's templates, and what it is given of a text."""


def test_every_template_of_the_page_escapes() -> None:
    assert {file.stem for file in (PLAYGROUND / "ui" / "templates").iterdir()} == set(PIECES)
    for file, (name, given) in PIECES.items():
        shown = html.piece(file, name)(*given("""<img src=x onerror='a("&")'>"""))
        assert "<img" not in shown, file
        assert "&lt;img src=x onerror=&#39;a(&#34;&amp;&#34;)&#39;&gt;" in shown, file


def test_templates_escape_and_say_where_they_do_not() -> None:
    templates = sorted(PLAYGROUND.rglob("templates/*"))
    assert len(templates) >= 12
    for file in templates:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*(safe|tojson|xmlattr|urlize)\b|autoescape|Markup|<script|\son\w+=", text), file
        assert not re.search(r"\s[\w-]+=\s*\{\{|<\s*/?\s*\{\{", text), (
            f"{file}: a value outside quotes, or a tag's name"
        )
    calls, environments = [], {}
    for file in sorted(PLAYGROUND.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Markup", "markupsafe.Markup"):
                calls += [ast.unparse(one) for one in node.args if not isinstance(one, ast.Constant)]
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Environment"):
                said = {one.arg: ast.unparse(one.value) for one in node.keywords}
                environments[file.relative_to(PLAYGROUND).as_posix()] = said.get("autoescape")
    assert sorted(calls) == sorted(WITHOUT_ESCAPING)
    others = {"runs/recipe.py": None, "library/card.py": None}
    assert environments == {"report/report.py": "True", **others}, "the others make Python and Markdown, not HTML"


def test_a_picture_escapes_its_texts_and_attributes() -> None:
    assert tag("p", "<b>", tag("i", "&"), class_='"x', aria_label=None) == '<p class="&#34;x">&lt;b&gt;<i>&amp;</i></p>'
