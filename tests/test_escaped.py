"""HTML escapes what it is given: templates and ``Markup`` by what they may not say, f-strings by following each part
back to where it comes
from: constants, numbers, and what has been escaped."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

from playground.report.charts import tag
from playground.settings import PROJECT_ROOT

ESCAPES = {"esc", "_escape", "escape", "safe_html", "body_html"}
TRUSTED = {"charts"}
"""A module whose pictures are made by ``charts.tag``, which escapes; the tests of templates below hold that."""
NUMBERS = {"len", "round", "int", "float", "bool", "divmod", "range", "sum", "ord", "abs"}
KEEPS = {
    "max",
    "min",
    "join",
    "replace",
    "strip",
    "lstrip",
    "rstrip",
    "removesuffix",
    "removeprefix",
    "get",
    "upper",
    "split",
}
"""Methods that give of what they are called on (and with) and nothing else."""
PLAIN = ("int", "float", "bool", "Literal[")
"""Annotations (checked by mypy) of what cannot hold a tag."""
TAG = re.compile(r"</?[a-z]", re.IGNORECASE)
CLOSED = re.compile(r"</[a-z]+\d?>", re.IGNORECASE)
FIGURE = re.compile(r"[,+]?(\.\d+)?[fge%d,]?")
"""A format that a text cannot be given: it raises."""


@dataclass
class Module:
    """One file. values: name -> what it is bound to, at the top. functions: properties are among them, by their bare
    names."""

    name: str
    values: dict[str, list[ast.expr]] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)


class Proof:
    """A function is proved when everything that it may return is; a name, when everything that it is bound to is."""

    def __init__(self, files: list[Path]) -> None:
        self.modules, self.trees = {}, {}
        for file in files:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            name = file.stem if file.stem not in self.modules else f"{file.parent.stem}.{file.stem}"
            functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            self.modules[name], self.trees[name] = Module(name, bindings(tree.body), functions), tree
        self.properties = {
            name: (module.name, node)
            for module in self.modules.values()
            for name, node in module.functions.items()
            if any(ast.unparse(one) == "property" for one in node.decorator_list)
        }
        self.returns: dict[ast.FunctionDef, bool] = {}

    def faults(self) -> list[str]:
        found = []
        for name, tree in self.trees.items():
            for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]:
                for node in own(scope):
                    if isinstance(node, ast.JoinedStr) and TAG.search(constants(node)):
                        parts = [
                            part.value
                            for part in node.values
                            if isinstance(part, ast.FormattedValue) and not self.part(part, name, scope, 0)
                        ]
                        found += [f"{name}.py:{part.lineno} {{{ast.unparse(part)}}}" for part in parts]
        return sorted(set(found))

    def part(self, part: ast.FormattedValue, module: str, scope: ast.AST, depth: int) -> bool:
        spec = constants(part.format_spec) if isinstance(part.format_spec, ast.JoinedStr) else ""
        return bool(spec and FIGURE.fullmatch(spec)) or self.safe(part.value, module, scope, depth)

    def safe(self, node: ast.expr, module: str, scope: ast.AST, depth: int) -> bool:
        if depth > 40:
            return False

        def safe(*nodes: ast.expr) -> bool:
            return all(self.safe(one, module, scope, depth + 1) for one in nodes)

        match node:
            case ast.Constant() | ast.Compare():
                return True
            case ast.JoinedStr():
                return all(
                    self.part(one, module, scope, depth + 1)
                    for one in node.values
                    if isinstance(one, ast.FormattedValue)
                )
            case ast.IfExp():
                return safe(node.body, node.orelse)
            case ast.BoolOp():
                return safe(*node.values)
            case ast.BinOp():
                return isinstance(node.op, (ast.Sub, ast.Div, ast.FloorDiv, ast.Pow)) or safe(node.left, node.right)
            case ast.UnaryOp() | ast.NamedExpr() | ast.Subscript() | ast.Starred():
                return safe(node.operand if isinstance(node, ast.UnaryOp) else node.value)
            case ast.List() | ast.Tuple():
                return safe(*node.elts)
            case ast.Dict():
                return safe(*node.values)
            case ast.ListComp() | ast.GeneratorExp():
                return safe(node.elt)
            case ast.DictComp():
                return safe(node.value)
            case ast.Attribute():
                if isinstance(node.value, ast.Name) and node.attr in getattr(
                    self.modules.get(node.value.id), "values", {}
                ):  # words.NAME
                    return self.bound(node.attr, node.value.id, self.trees[node.value.id], depth)
                return node.attr in self.properties and self.returned(*self.properties[node.attr], depth)
            case ast.Name():
                return self.bound(node.id, module, scope, depth)
            case ast.Call():
                called = (
                    node.func.attr
                    if isinstance(node.func, ast.Attribute)
                    else node.func.id
                    if isinstance(node.func, ast.Name)
                    else ""
                )
                giver = node.func.value if isinstance(node.func, ast.Attribute) else ast.Constant(0)
                if called in ESCAPES | NUMBERS or (isinstance(giver, ast.Name) and giver.id in TRUSTED):
                    return True
                if (target := self.called(node.func, module, scope)) is not None:
                    return self.returned(*target, depth)
                if called == "read_text":
                    return ast.unparse(node.func).startswith("(Path(__file__).parent / '")
                return called in KEEPS and safe(giver, *node.args[called == "get" :])
        return False

    def called(self, function: ast.expr, module: str, scope: ast.AST) -> tuple[str, ast.FunctionDef] | None:
        """The function of these modules that is called, and where it stands; None where it is another, or was handed
        over."""
        if isinstance(function, ast.Attribute):
            there = function.value.id if isinstance(function.value, ast.Name) else ""
            found = self.modules[there].functions.get(function.attr) if there in self.modules else None
            return (there, found) if found is not None else None
        if not isinstance(function, ast.Name) or function.id in arguments(scope):
            return None
        inside = [node for node in own(scope) if isinstance(node, ast.FunctionDef) and node.name == function.id]
        if inside:
            return module, inside[0]
        holders = [module] if function.id in self.modules[module].functions else sorted(self.modules)
        return next(
            (
                (one, self.modules[one].functions[function.id])
                for one in holders
                if function.id in self.modules[one].functions
            ),
            None,
        )

    def returned(self, module: str, function: ast.FunctionDef, depth: int) -> bool:
        """Whether all that a function of these modules may return is safe, whatever it is called with."""
        if function not in self.returns:
            self.returns[function] = True  # one that calls itself
            values = [node.value for node in own(function) if isinstance(node, ast.Return) and node.value is not None]
            self.returns[function] = bool(values) and all(
                self.safe(value, module, function, depth + 1) for value in values
            )
        return self.returns[function]

    def bound(self, name: str, module: str, scope: ast.AST, depth: int) -> bool:
        if (argument := arguments(scope).get(name)) is not None:
            return argument.annotation is not None and ast.unparse(argument.annotation).startswith(PLAIN)
        values = bindings(list(own(scope))).get(name) or self.modules[module].values.get(name)
        return bool(values) and all(self.safe(value, module, scope, depth + 1) for value in values)


def arguments(scope: ast.AST) -> dict[str, ast.arg]:
    if not isinstance(scope, ast.FunctionDef):
        return {}
    return {one.arg: one for one in (*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs)}


def own(scope: ast.AST) -> list[ast.AST]:
    """Every node of a scope that is not in a function inside it."""
    found, waiting = [], list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        found.append(node)
        if not isinstance(node, ast.FunctionDef):
            waiting += ast.iter_child_nodes(node)
    return found


def bindings(nodes: list[ast.stmt] | list[ast.AST]) -> dict[str, list[ast.expr]]:
    """Name -> all that is assigned, added or appended to it; where it is unpacked or looped over, what that is taken
    from."""
    found: dict[str, list[ast.expr]] = {}

    def bind(target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            match value:
                case ast.Tuple():
                    values = value.elts
                case ast.Call(func=ast.Name(id="enumerate")):
                    values = [ast.Constant(0), value.args[0]]
                case ast.Call(func=ast.Name(id="zip")):
                    values = value.args
                case _:
                    values = [value] * len(target.elts)
            for one, its in zip(target.elts, values, strict=False):
                bind(one, its)
        elif isinstance(target, ast.Starred):
            bind(target.value, value)
        elif isinstance(target, ast.Name):
            found.setdefault(target.id, []).append(value)

    for node in nodes:
        match node:
            case ast.Assign():
                for target in node.targets:
                    bind(target, node.value)
            case ast.AnnAssign() | ast.AugAssign() | ast.NamedExpr() if node.value is not None:
                bind(node.target, node.value)
            case ast.For() | ast.comprehension():
                bind(node.target, node.iter)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="append" | "extend")):
                found.setdefault(name, []).extend(node.args)
    return found


def constants(node: ast.JoinedStr) -> str:
    return "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))


PLAYGROUND = PROJECT_ROOT / "playground"
WITHOUT_ESCAPING = {
    "_TEMPLATES.select_template([f'{name}.html', 'section.html']).render(context, section=name)": (
        "what the templates made, which escape"
    ),
    "FRAME + STYLE": "the project's own style sheets",
    "safe_html(body_html(record, rows))": "only the tags that the app writes stay tags",
}
"""All that becomes ``Markup`` and is no constant, with the reason."""


def test_every_text_in_html_is_escaped_or_cannot_hold_a_tag() -> None:
    assert Proof([file for file in sorted((PLAYGROUND / "ui").glob("*.py")) if file.stem != "__init__"]).faults() == []


def test_outside_the_page_no_f_string_builds_html() -> None:
    for file in sorted(PLAYGROUND.rglob("*.py")):
        if "ui" not in file.parts and file.name != "safe_html.py":
            built = [
                node
                for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
                if isinstance(node, ast.JoinedStr)
            ]
            assert not [ast.unparse(node) for node in built if CLOSED.search(constants(node))], file


def test_templates_escape_and_say_where_they_do_not() -> None:
    templates = sorted(PLAYGROUND.rglob("templates/*"))
    assert len(templates) >= 7
    for file in templates:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*(safe|tojson|xmlattr|urlize)\b|autoescape|Markup|<script|\son\w+=", text), file
        assert not re.search(r"=\s*\{\{|<\s*/?\s*\{\{", text), f"{file}: a value outside quotes, or a tag's name"
    calls, environments = [], {}
    for file in sorted(PLAYGROUND.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Markup", "markupsafe.Markup"):
                calls += [ast.unparse(one) for one in node.args if not isinstance(one, ast.Constant)]
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Environment"):
                said = {one.arg: ast.unparse(one.value) for one in node.keywords}
                environments[file.relative_to(PLAYGROUND).as_posix()] = said.get("autoescape")
    assert sorted(calls) == sorted(WITHOUT_ESCAPING)
    assert environments == {"report/report.py": "True", "runs/recipe.py": None}, "the recipe's is Python, not HTML"


def test_a_picture_escapes_its_texts_and_attributes() -> None:
    assert tag("p", "<b>", tag("i", "&"), class_='"x', aria_label=None) == '<p class="&#34;x">&lt;b&gt;<i>&amp;</i></p>'


def test_what_is_not_escaped_is_found(tmp_path: Path) -> None:
    file = tmp_path / "page.py"
    file.write_text(
        "def name(one):\n    return one.name\n"
        "def show(one, count: int):\n    said = f'{count} rows' if count else (one.data or 'unknown')\n"
        "    parts = [esc(one.base)]\n    parts.append(name(one))\n"
        "    return f'<b>{said}</b><i>{esc(one.name)}</i>{one.share:.1f}<p>{\"\".join(parts)}</p>'\n"
    )
    assert [fault.partition(" ")[2] for fault in Proof([file]).faults()] == ["{''.join(parts)}", "{said}"]
