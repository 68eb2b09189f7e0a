"""Imports go down only. The order is that of docs/architecture.md; a module may import its own layer and those below
it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = [
    *("cli", "serve", "ui", "server", "services", "verdict", "chat", "runs", "models", "workspace"),
    *("jobs", "training", "engine", "gpu", "report", "evaluation", "db", "library", "methods", "data"),
]
"""From the top down. ``cli`` and ``serve`` are entry points; ``ui`` and ``server`` stand side by side."""
GROUND = {"errors", "plain", "settings", "__init__", "__main__"}
SIDE_BY_SIDE = {("ui", "server")}
SLICES = ("services", "verdict", "chat", "runs", "models", "workspace")
HEAVY = {
    **{key: {"gradio", "torch", "transformers", "peft"} for key in SLICES},
    "evaluation": {"gradio", "torch"},
    "report": {"gradio", "torch"},
    "data": {"gradio", "torch"},
    "library": {"gradio"},
    "gpu": {"gradio", "transformers"},
}
"""What a layer may not import at all (gpu and library may import torch inside a function)."""


def modules() -> list[Path]:
    return sorted((ROOT / "playground").rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT / "playground").parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    mine = layer_of(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "playground" or len(parts) == 1 or mine == "__main__":
            continue
        other = parts[1]
        if mine in GROUND or other in GROUND:
            assert other in GROUND, f"{path.name} stands on the ground and imports {name}"
            continue
        assert LAYERS.index(mine) <= LAYERS.index(other), (
            f"{path.relative_to(ROOT)} imports {name}, which lies above it"
        )
        assert (mine, other) not in SIDE_BY_SIDE, f"{path.relative_to(ROOT)} imports {name}, which stands beside it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_light_layers_stay_light(path: Path) -> None:
    refused = HEAVY.get(layer_of(path), set())
    assert not {name.split(".")[0] for name in imports(path)} & refused


def test_no_remote_code_and_no_pickle() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("pickle", "load"), ("pickle", "loads")}, (
                    path
                )
