"""Imports go down only, in the order of docs/architecture.md: a module may import its own layer and those below it."""

import ast

from playground.settings import PROJECT_ROOT
from tests.conftest import trees

LAYERS = [
    *("cli", "serve", "ui", "server", "services", "storage", "verdict", "chat", "runs", "models", "workspace"),
    *("jobs", "training", "engine", "gpu", "report", "evaluation", "db", "library", "methods", "data"),
]
"""From the top down. ``cli`` and ``serve`` are entry points; ``ui`` and ``server`` stand side by side."""
GROUND = {"errors", "plain", "settings", "__init__", "__main__"}
SIDE_BY_SIDE = {("ui", "server")}
SLICES = ("services", "storage", "verdict", "chat", "runs", "models", "workspace")
HEAVY = {
    **{key: {"gradio", "torch", "transformers", "peft"} for key in SLICES},
    "evaluation": {"gradio", "torch"},
    "report": {"gradio", "torch"},
    "data": {"gradio", "torch"},
    "library": {"gradio"},
    "gpu": {"gradio", "transformers"},
}
"""What a layer may not import at all (gpu and library may import torch inside a function)."""


def layer_of(path):
    return path.relative_to(PROJECT_ROOT / "playground").parts[0].removesuffix(".py")


def imports(path):
    found = set()
    for node in ast.walk(trees()[path]):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def goes_up(mine, other):
    if mine == "__main__":
        return False
    if mine in GROUND or other in GROUND:
        return other not in GROUND
    return LAYERS.index(mine) > LAYERS.index(other) or (mine, other) in SIDE_BY_SIDE


POSIX = {"resource", "fcntl", "grp", "posix", "pty", "pwd", "spwd", "syslog", "termios", "tty"}


def test_nothing_needs_posix_to_be_imported():
    nodes = [(path, node) for path, tree in trees().items() for node in tree.body]
    at_once = [(path, name.name) for path, node in nodes if isinstance(node, ast.Import) for name in node.names]
    at_once += [(path, node.module) for path, node in nodes if isinstance(node, ast.ImportFrom)]
    assert [one for one in at_once if one[1] in POSIX] == []


def test_imports_go_down_only():
    ours = [(path, name.split(".")) for path in trees() for name in sorted(imports(path))]
    pairs = [(path, parts[1]) for path, parts in ours if parts[0] == "playground" and len(parts) > 1]
    assert len(pairs) > 500
    assert [f"{path} imports {other}" for path, other in pairs if goes_up(layer_of(path), other)] == []


def test_light_layers_stay_light():
    named = {path: {name.split(".")[0] for name in imports(path)} for path in trees()}
    heavy = {path: names & HEAVY.get(layer_of(path), set()) for path, names in named.items()}
    assert {path: names for path, names in heavy.items() if names} == {}


def test_no_remote_code_and_no_pickle():
    loaders = {("torch", "load"), ("pickle", "load"), ("pickle", "loads")}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in loaders, path
