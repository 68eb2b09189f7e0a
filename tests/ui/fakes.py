"""Services small enough to read at once: they answer what a test put in, and remember what they were asked."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from playground.chat.compare import Reply, Side
from playground.chat.demo import DemoState
from playground.data.advice import Advice
from playground.data.editing import Table
from playground.data.example import BadRow, Checked, Example, Message
from playground.data.render import Token, TokenPreview
from playground.data.token_counts import TokenReport
from playground.errors import AdapterError, InputError, NotFoundError
from playground.library.card import AdapterCard
from playground.methods import all_methods
from playground.models.adapters import AdapterRow, Switch
from playground.models.bases import BaseState
from playground.runs.progress import RunView
from playground.runs.service import Plan, Preset
from playground.settings import Settings
from playground.verdict.service import VerdictRequest, VerdictView
from playground.workspace.examples import ShippedSet
from playground.workspace.visitors import Sessions

EVIL = '<img src=x onerror="alert(1)">'
"""What nobody may get to run by putting it in a name, a file or a reply."""


def card(adapter: str = "hospital_reports", **changes: Any) -> AdapterCard:
    made: dict[str, Any] = {"name": adapter, "method": "lora", "base": "smollm2-135m", "base_fingerprint": "3f9a7c21"}
    made |= {"rank": 8, "bytes": 9_800_000, "sha256": "a" * 64, "rows": 160, "created_s": 1.7e9, "shipped": False}
    made |= {"kind": "peft", "path": Path("adapters", adapter), "owner": "local", "trained_on": "rows.jsonl"}
    return AdapterCard(**{"id": adapter, **made, **changes})


def row(adapter: str = "hospital_reports", *, usable: bool = True, reason: str = "", **changes: Any) -> AdapterRow:
    return AdapterRow(card(adapter, **changes), attached=usable, usable=usable, reason=reason)


def run_view(run: str = "r1", state: str = "RUNNING", **changes: Any) -> RunView:
    made: dict[str, Any] = {"name": "my run", "method": "lora", "step": 5, "steps": 20, "adapter": None, "error": None}
    made |= {"pid": 1, "created_s": 1.7e9, "loss": [(1, 2.5), (5, 1.0)], "seconds_left": 48.0, "tokens_per_s": 150.0}
    return RunView(run=run, state=state, **{**made, **changes})


@dataclass
class FakeBases:
    now: BaseState = field(
        default_factory=lambda: BaseState("ready", "smollm2-135m is ready", "smollm2-135m", fingerprint="3f9a7c21")
    )

    def state(self) -> BaseState:
        return self.now

    def inspect(self, spec: str) -> Any:
        raise InputError(f"{spec} is no base.")


@dataclass
class FakeData:
    folder: Path
    checked: Checked | Exception = field(
        default_factory=lambda: Checked(
            "prompt-completion",
            "sft",
            3,
            (Example((Message("user", "in"), Message("assistant", "out")), 1),) * 2,
            bad=(BadRow(3, "the answer is empty", "fill it"),),
            columns=("patient", "report"),
            mapping={"prompt": "patient", "completion": "report"},
        )
    )

    def sets(self) -> list[ShippedSet]:
        prompt = self.folder / "prompt.txt"
        prompt.write_text("End with Reviewed by Dr. Sharma.", encoding="utf-8")
        rows = self.folder / "rows.jsonl"
        name, title = "hospital_reports", "Hospital reports"
        return [ShippedSet(name, title, "", rows, rows, prompt, "Male, 54.", "ends-with:Sharma", name, prompt)]

    def check(self, path: Path, mapping: dict[str, str] | None = None, owner: str = "", tell: Any = None) -> Checked:
        if isinstance(self.checked, Exception):
            raise self.checked
        return self.checked

    def handed_over(self, path: Path, owner: str = "local") -> Path:
        return path

    def test_share(self, path: Path) -> float:
        return 0.15

    def columns(self, path: Path, owner: str = "") -> tuple[str, ...]:
        return ("colour", "size")

    def keep_uploads(self, paths: list[Path], owner: str) -> Path:
        return paths[0]

    def keep_text(self, text: str, owner: str) -> Path:
        return Path("pasted.txt")

    def tokens(self, checked: Checked, max_tokens: int, tell: Any = None) -> TokenReport:
        return TokenReport(array("L", [1, 2]), array("L", [70, 120]), array("L", [5, 11]), max_tokens, False)

    def advice(self, checked: Checked, tokens: Any = None) -> tuple[Advice, ...]:
        return (Advice("few", f"Two rows are few {EVIL}.", (1, 2), "warn"),)

    def preview(self, checked: Checked, index: int, max_tokens: int, turns: str = "all") -> tuple[TokenPreview, ...]:
        return (TokenPreview("", (Token(f"user {EVIL}", "read"), Token("o", "learned"), Token("ut", "learned"))),)

    def table(self, path: Path, rows: list[int], owner: str) -> Table:
        return Table(("patient", "report"), {row: [f"p{row}", ""] for row in rows})

    def edited(self, path: Path, changes: dict[int, dict[str, Any]], owner: str) -> Path:
        self.changes = changes
        return Path("rows-edited.jsonl")

    def bad_rows_file(self, path: Path, checked: Checked, tokens: Any, owner: str) -> Path:
        return Path("rows-bad-rows.csv")


@dataclass
class FakeTraining:
    listed: list[RunView] = field(default_factory=list)
    blocked: str = ""
    started: list[Any] = field(default_factory=list)
    cancelled: list[tuple[str, bool]] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)

    def methods(self) -> list[Any]:
        return list(all_methods().values())

    def presets(self, rows: int) -> list[Preset]:
        return [Preset("quick", "Quick look", 20), Preset("good", "Good", 48)]

    def plan(self, request: Any) -> Plan:
        sizes = (1_221_120, 134_515_008, 130, 1_900_000_000, 20_400_000_000, 9_800_000)
        return Plan(*sizes, 2, request.steps or 20, 1e-3, 8, self.blocked)

    def start(self, request: Any) -> str:
        self.started.append(request)
        return "r1"

    def runs(self, owner: str = "local") -> list[RunView]:
        return self.listed

    def cancel(self, run: str, owner: str, keep: bool = False) -> None:
        self.cancelled.append((run, keep))

    def move(self, run: str, to: str, owner: str) -> None:
        self.moved.append((run, to))


@dataclass
class FakeAdapters:
    rows: list[AdapterRow] = field(default_factory=lambda: [row()])
    switched: list[str] = field(default_factory=list)
    learns: tuple[AdapterCard, ...] = ()
    became_: dict[str, str] = field(default_factory=dict)

    def learning(self, owner: str = "local") -> tuple[AdapterCard, ...]:
        return self.learns

    def became(self, adapter_id: str, owner: str = "local") -> str:
        return self.became_.get(adapter_id, adapter_id)

    def list(self, owner: str = "local") -> list[AdapterRow]:
        return self.rows

    def switch(self, adapter_id: str, owner: str) -> Switch:
        self.switched.append(adapter_id)
        return Switch(0.41, 0.0, "3f9a7c21", True)

    def remove(self, adapter_id: str, owner: str) -> None:
        raise AdapterError("It ships with the app and stays.")


@dataclass
class FakeCompare:
    texts: tuple[str, ...] = ("plain", "fine\nReviewed by Dr. Sharma")
    error: Exception | None = None
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def ask(
        self, sides: Any, histories: Any, question: str, sampling: Any, owner: str, session: str
    ) -> Iterator[list[Reply]]:
        self.asked.append((sides, histories, question, sampling, owner, session))
        yield [Reply(waiting="2nd in line, about 8 s") for _ in sides]
        if self.error:
            raise self.error
        texts = [self.texts[place % len(self.texts)] for place in range(len(sides))]
        yield [Reply(text=text[:3], prompt_tokens=49) for text in texts]
        stamp = {"base": "3f9a7c21", "prompt": {"text": "<|im_start|>", "sha256": "5e0c"}, "seed": 7}
        figures: Any = {"prompt_tokens": 49, "completion_tokens": 9, "seconds": 2.4, "stamp_id": "5e0c1f"}
        yield [Reply(text=text, done=True, stamp=stamp, **figures) for text in texts]

    def passes(self, check: str, text: str) -> bool:
        return text.endswith(check.partition(":")[2])

    def prompt_tokens(self, text: str) -> int:
        return len(text.split())


class FakeDemo:
    def state(self, owner: str) -> DemoState:
        return DemoState()


class FakeDevice:
    def line(self, owner: str = "local") -> str:
        return "Device: idle"

    def status(self) -> dict[str, Any]:
        base = {"id": "smollm2-135m", "phase": "ready", "message": "ready", "fingerprint": "3f9a7c21"}
        parts = [{"name": f"Base {EVIL}", "bytes": 40, "kind": "base"}]
        held = {"device": "CPU, 2 cores", "precision": "fp32", "budget_bytes": 100, "used_bytes": 40}
        return {**held, "leases": [], "queue": [], "parts": parts, "base": base}


@dataclass
class FakeVerdicts:
    """One verdict, as the tests of the report make it, and what was asked of it."""

    listed: list[VerdictView] = field(default_factory=list)
    record: dict[str, Any] | None = None
    held: list[dict[str, Any]] = field(default_factory=list)
    started: list[VerdictRequest] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    judged: list[tuple[Any, Any]] = field(default_factory=list)

    def start(self, request: VerdictRequest) -> str:
        self.started.append(request)
        return "v1"

    def views(self, owner: str = "local") -> list[VerdictView]:
        return self.listed if owner == "local" else []

    def show(self, id: str, owner: str = "local") -> VerdictView:
        found = next((view for view in self.views(owner) if view.id == id), None)
        if found is None:
            raise NotFoundError("There is no such verdict.")
        return replace(found, record=None if found.live else self.record)

    def stop(self, id: str, owner: str = "local") -> None:
        self.stopped.append(id)

    def remove(self, id: str, owner: str = "local") -> None:
        self.removed.append(id)
        self.listed = [view for view in self.listed if view.id != id]

    def rows(self, id: str, owner: str = "local") -> list[dict[str, Any]]:
        return self.held

    def export(self, id: str, how: str, owner: str = "local") -> Path:
        if self.record is None:
            raise InputError("There is nothing to export yet.")
        return Path("exports", f"verdict-{id}.{how}")

    def again(self, id: str, questions: Any, prices: Any, owner: str = "local") -> VerdictView:
        self.judged.append((questions, prices))
        return self.show(id, owner)

    def line_up(
        self, file: Path, adapter: str, prompt: str, docs: Path | None, owner: str = "local"
    ) -> tuple[Side, ...]:
        sides = [Side("base", name="Base")]
        sides += [Side("base", prompt, name="Base + prompt")] if prompt else []
        sides += [Side("base", prompt, 4, file, "Base + 4 shots")]
        sides += [Side("base", prompt, name="Base + documents", docs=docs)] if docs else []
        return (*sides, *([Side(adapter, name=adapter)] if adapter else []))


@dataclass
class FakeReplay:
    same: bool = True
    asked: list[Any] = field(default_factory=list)

    def again(self, saved: Any, tell: Any = None, owner: str = "local", session: str = "local") -> dict[str, Any]:
        self.asked.append((saved, owner, session))
        return {"same": self.same, "text": f"another {EVIL}", "first_difference": None if self.same else 3, "notes": []}


class FakeServices:
    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self.settings = Settings(home=folder, shared=shared)
        self.bases, self.data, self.training = FakeBases(), FakeData(folder), FakeTraining()
        self.adapters, self.compare, self.demo, self.device = FakeAdapters(), FakeCompare(), FakeDemo(), FakeDevice()
        self.verdicts, self.replay = FakeVerdicts(), FakeReplay()
        self.sessions = Sessions(folder / "playground.sqlite")

    def seen(self, owner: str) -> None:
        self.sessions.seen(owner)
