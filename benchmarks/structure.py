"""How the code is cut, counted from the code: ``python benchmarks/structure.py [--trace]`` writes docs/structure.md.

Lines and files, hops of a row and of a message (``--trace``: the default base, about a minute), and what must be zero,
which tests/test_structure.py holds.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playground.services import Services

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PACKAGE, TESTS, PAGE = ROOT / "playground", ROOT / "tests", ROOT / "docs" / "structure.md"
COLUMNS, POSITIONS = 120, 4
SEAMS = ("services", "storage", "verdict", "chat", "runs", "models", "workspace", "ui", "server", "cli")
"""Packages whose public signatures other packages call."""


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def line_count(folder: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(folder))


def file_count() -> int:
    """Everything under playground/ that git knows: code, templates, styles, questions."""
    listed = subprocess.run(["git", "ls-files", "playground"], cwd=ROOT, capture_output=True, text=True, check=True)
    return len(listed.stdout.split())


def matches(pattern: str, *folders: Path) -> int:
    return sum(
        len(re.findall(pattern, path.read_text(encoding="utf-8"))) for one in folders for path in python_files(one)
    )


def long_lines() -> int:
    """Without the comments that silence a checker at a line's end, as ruff counts."""
    lines = [line for path in python_files(PACKAGE) for line in path.read_text("utf-8").splitlines()]
    return sum(len(re.sub(r"  # (type: ignore|noqa)\b.*", "", line)) > COLUMNS for line in lines)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def any_at_seams() -> list[str]:
    """Public functions of the slices and doors whose signature has a bare ``Any``, or a parameter ``services`` of no
    type."""
    found = []
    for path in python_files(PACKAGE):
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") not in SEAMS:
            continue
        for node in functions(path):
            if node.name.startswith("_"):
                continue
            spoken = [arg.annotation for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if any(isinstance(one, ast.Name) and one.id == "Any" for one in (*spoken, node.returns)):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    return found


def long_positions() -> list[str]:
    """Handlers of the page that return or yield a list of more than four things by position, and indices into
    ``values``-like lists."""
    found = []
    for path in python_files(PACKAGE / "ui"):
        for node in functions(path):
            for part in ast.walk(node):
                value = part.value if isinstance(part, ast.Return | ast.Yield) else None
                if isinstance(value, ast.List | ast.Tuple) and (
                    len(value.elts) > POSITIONS or any(isinstance(one, ast.Starred) for one in value.elts)
                ):
                    found.append(f"{path.relative_to(ROOT)}:{part.lineno} {node.name}")
    return found


class Hops:
    """Files under playground/ whose functions are called, in any thread that begins after ``watch``. Imports do not
    count, nor do the bodies of classes that an import runs."""

    def __init__(self) -> None:
        self._entered: set[str] = set()
        self.files: dict[str, list[str]] = {}

    def watch(self) -> None:
        threading.setprofile(self._look)
        sys.setprofile(self._look)

    def during(self, name: str, work: Callable[[], object]) -> int:
        self._entered.clear()
        work()
        self.files[name] = sorted(str(Path(file).relative_to(PACKAGE)) for file in self._entered)
        return len(self._entered)

    def _look(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        is_function = bool(code.co_flags & inspect.CO_OPTIMIZED)  # not a module's body, nor a class's
        if event == "call" and is_function and code.co_filename.startswith(str(PACKAGE)):
            self._entered.add(code.co_filename)


def hops(counter: Hops) -> dict[str, int]:
    """From an uploaded file to its first loss, and from a question to loaded sides to its last token, on the default
    base."""
    from playground.services import build_services
    from playground.settings import Settings

    rows = [{"prompt": f"Say {n}", "completion": f"Number {n}, gladly."} for n in range(12)]
    with tempfile.TemporaryDirectory() as folder:
        home = Settings.from_env().home
        Path(folder, "bases").symlink_to(home / "bases")
        file = Path(folder, "rows.jsonl")
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        services = build_services(Settings(home=Path(folder)))
        counter.watch()  # before the engine's thread begins
        engine = services.bases.engine()
        _ask(services)  # loads the sides
        message = counter.during("from Ask to token", lambda: _ask(services))
        engine.close()  # its thread ends after a while; what that enters belongs to no row
        row = counter.during("from upload to loss", lambda: _train(services, file))
        services.close()
    threading.setprofile(None)
    sys.setprofile(None)
    return {"message": message, "row": row}


def _ask(services: Services) -> None:
    from playground.chat.compare import Side
    from playground.engine.request import Sampling

    sides = [Side("base"), Side("hospital_reports")]
    for _ in services.compare.ask(sides, [[], []], "Male, 54, chest tightness.", Sampling(max_tokens=4)):
        pass


def _train(services: Services, file: Path) -> None:
    from playground.runs.request import TrainRequest
    from playground.training.worker import run

    started = services.training.start(TrainRequest(file, "traced", steps=1, batch_size=2))
    run(services.settings.runs_dir / started, stop=lambda: True)  # after its first step's loss


def table(traced: dict[str, int]) -> str:
    rows = [
        ("lines of Python under playground/", line_count(PACKAGE), "35,000"),
        ("files under playground/", file_count(), "200"),
        ("files entered from upload to loss", traced.get("row", "not traced"), "28"),
        ("files entered from Ask to token", traced.get("message", "not traced"), "16"),
        ("bare `Any` in public signatures at seams", len(any_at_seams()), "0"),
        (f"returns by position of more than {POSITIONS}, on the page", len(long_positions()), "0"),
        ("`# fmt: skip`", matches(r"# fmt: skip", PACKAGE, TESTS), "10"),
        (f"lines over {COLUMNS} columns", long_lines(), "0"),
        ("broad `except Exception`", matches(r"except Exception\b", PACKAGE), "25"),
        ("lines of tests", line_count(TESTS), "19,000"),
    ]
    lines = [
        f"| {name} | {figure:,} | {most} |" if isinstance(figure, int) else f"| {name} | {figure} | {most} |"
        for name, figure, most in rows
    ]
    return "\n".join(("| figure | now | at most |", "|---|---|---|", *lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", action="store_true", help="count the hops too; needs the default base")
    parser.add_argument("--list", action="store_true", help="say where what should be zero stands")
    options = parser.parse_args()
    counter = Hops()
    text = table(hops(counter) if options.trace else {})
    PAGE.write_text(
        f"# Structure\n\nPrinted by `python benchmarks/structure.py --trace`.\n\n{text}\n", encoding="utf-8"
    )
    print(text)
    if options.list:
        print("\n".join((*any_at_seams(), *long_positions())))
        for name, files in counter.files.items():
            print(f"{name}: {', '.join(files)}")


if __name__ == "__main__":
    main()
