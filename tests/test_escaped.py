"""HTML is written in templates and by ``tag``, which escape what they are given; no other code holds a tag."""

import ast
import re

from playground.report.charts import tag
from playground.settings import PROJECT_ROOT
from tests.conftest import trees

PLAYGROUND = PROJECT_ROOT / "playground"
TAG = re.compile(r"</[a-z]|<[a-z]\w*(\s|/?>)", re.IGNORECASE)
WITH_TAGS = {
    "report/safe_html.py": "writes anew the tags that it lets through",
    "evaluation/votes.py": "marks the parts of a prompt for a model",
    "ui/page.py": "a constant for the head of the page",
    "data/render.py": "finds a model's empty thoughts",
    "data/tools.py": "the tags that models put around calls of tools",
    "data/turns.py": "where a system prompt describes tools",
    "data/example.py": "the marks of other chat templates, and the tags that models put around what they think",
}

SECTION = "_TEMPLATES.get_template('section.html').render(context, section=name)"
WITHOUT_ESCAPING = {
    SECTION: "what the templates made, which escape",
    "STYLE": "the project's own style sheet",
    "safe_html(body_html(record, rows))": "only the tags that the app writes stay tags",
}
"""All that becomes ``Markup`` and is no constant, with the reason."""


def parsed():
    return {file.relative_to(PLAYGROUND).as_posix(): tree for file, tree in trees().items()}


def strings(tree):
    """Every string of a file but its docstrings; an f-string is one, with ``x`` where it is filled."""
    apart = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
            found.append(node.value)
    return [text.replace("(?P<", "") for text in found]  # a pattern's group is no tag


def test_no_string_outside_templates_holds_a_tag():
    """So no f-string, ``%``, ``+`` or ``format`` builds HTML."""
    for text in ("f'<b>{one}</b>'", "'<b>' + one", "'<td class=%s>' % one", "f'<{one}><{one}/>'", "'</p>'.join(one)"):
        assert any(map(TAG.search, strings(ast.parse(text)))), text
    holding = {file: [one for one in strings(tree) if TAG.search(one)] for file, tree in parsed().items()}
    assert len(holding) > 100
    assert {file: found for file, found in holding.items() if found and file not in WITH_TAGS} == {}


def test_templates_escape_and_say_where_they_do_not():
    templates = sorted(PLAYGROUND.rglob("templates/*"))
    assert len(templates) >= 6
    for file in templates:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*(safe|tojson|xmlattr|urlize)\b|autoescape|Markup|<script|\son\w+=", text), file
        unquoted = re.search(r"\s[\w-]+=\s*\{\{|<\s*/?\s*\{\{", text)
        assert not unquoted, f"{file}: a value outside quotes, or a tag's name"
    calls, environments = [], {}
    nodes = [(file, node) for file, tree in parsed().items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for file, node in nodes:
        name = ast.unparse(node.func)
        if name in ("Markup", "markupsafe.Markup"):
            calls += [ast.unparse(one) for one in node.args if not isinstance(one, ast.Constant)]
        if name.endswith("Environment"):
            environments[file] = {one.arg: ast.unparse(one.value) for one in node.keywords}.get("autoescape")
    assert sorted(calls) == sorted(WITHOUT_ESCAPING)
    others = dict.fromkeys(("runs/recipe.py", "library/card.py", "library/exporting.py"))
    assert environments == {"report/report.py": "True", **others}, "the others make Python and Markdown, not HTML"
    picture = '<p class="&#34;x">&lt;b&gt;<i>&amp;</i></p>'
    assert tag("p", "<b>", tag("i", "&"), class_='"x', aria_label=None) == picture, "and so do pictures"
