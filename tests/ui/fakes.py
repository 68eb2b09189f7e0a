"""Services small enough to read at once: they answer what a test put in, and remember what they were asked."""

from array import array
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from playground.chat.compare import Reply, Side
from playground.chat.demo import DemoState
from playground.data.advice import Advice
from playground.data.editing import Table
from playground.data.example import BadRow, Checked, Example, Message
from playground.data.records import Records
from playground.data.split import split
from playground.data.token_counts import Token, TokenPreview, TokenReport
from playground.errors import AdapterError, InputError, NotFoundError
from playground.jobs import Jobs
from playground.library.adapters import AdapterCard
from playground.methods import all_methods
from playground.models.adapters import AdapterRow, Switch
from playground.models.bases import BaseState
from playground.models.catalogue import BaseChoice
from playground.models.endpoints import Endpoints
from playground.runs.progress import RunView
from playground.runs.service import Plan, Preset
from playground.settings import Settings
from playground.verdict.request import Size
from playground.verdict.service import VerdictRequest, VerdictView
from playground.workspace.examples import ShippedSet
from playground.workspace.visitors import Sessions

EVIL = '<img src=x onerror="alert(1)">'
"""What nobody may get to run by putting it in a name, a file or a reply."""


def card(adapter="hospital_reports", **changes):
    made = {"name": adapter, "method": "lora", "base": "smollm2-135m", "base_fingerprint": "3f9a7c21"}
    made |= {"rank": 8, "bytes": 9_800_000, "sha256": "a" * 64, "rows": 160, "created_s": 1.7e9, "shipped": False}
    made |= {"kind": "peft", "path": Path("adapters", adapter), "owner": "local", "trained_on": "rows.jsonl"}
    return AdapterCard(**{"id": adapter, **made, **changes})


def row(adapter="hospital_reports", *, usable=True, reason="", **changes):
    return AdapterRow(card(adapter, **changes), attached=usable, usable=usable, reason=reason)


def run_view(run="r1", state="RUNNING", **changes):
    made = {"name": "my run", "method": "lora", "step": 5, "steps": 20, "adapter": None, "error": None}
    made |= {"pid": 1, "created_s": 1.7e9, "loss": [(1, 2.5), (5, 1.0)], "seconds_left": 48.0, "tokens_per_s": 150.0}
    return RunView(run=run, state=state, **{**made, **changes})


def always(answer):
    """A method that answers the same whatever it is asked."""
    return lambda self, *asked, **more: answer


def noted(name, answer=None):
    """A method that notes what it was asked for in the list of this name."""

    def method(self, first, *rest):
        getattr(self, name).append(first)
        return answer

    return method


class FakeBases:
    def __init__(self):
        self.now = BaseState("ready", "smollm2-135m is ready", "smollm2-135m", fingerprint="3f9a7c21")
        self.offered = ()
        self.stopped, self.spec = 0, "smollm2-135m"
        self.beside = ()

    def state(self):
        return self.now

    def inspect(self, spec):
        if spec in [one.known.id for one in self.offered]:
            return BaseChoice(spec, spec.rpartition("/")[2], "apache-2.0", 5, fits=True)
        raise InputError(f"{spec} is no base.")

    def offers(self):
        return self.offered

    def others(self):
        return self.beside

    def stop(self):
        self.stopped += 1

    fetching = False


TURN = (Message("user", "in"), Message("assistant", "out"))
CHECKED = Checked(
    *("prompt-completion", "sft", 3, (Example(TURN, 1),) * 2),
    bad=(BadRow(3, "the answer is empty", "fill it"),),
    columns=("patient", "report"),
    mapping={"prompt": "patient", "completion": "report"},
)
TOKENS = (Token(f"user {EVIL}", "read"), Token("o", "learned"), Token("ut", "learned"))


class FakeData:
    def __init__(self, folder):
        self.folder = folder
        self.checked = CHECKED
        self.mappings = []

    def sets(self):
        prompt, rows = self.folder / "prompt.txt", self.folder / "rows.jsonl"
        prompt.write_text("End with Reviewed by Dr. Sharma.", encoding="utf-8")
        name, title = "hospital_reports", "Hospital reports"
        return [
            ShippedSet(name, title, "", rows, rows, prompt, "Male, 54.", "ends-with:Sharma", ("exact",), name, prompt)
        ]

    def check_as_before(self, path, owner=""):
        return self.check(path, None, owner)

    def check(self, path, mapping=None, owner="", tell=None):
        self.mappings.append(mapping)
        if isinstance(self.checked, Exception):
            raise self.checked
        return self.checked

    def handed_over(self, path, owner="local"):
        return path

    def keep_uploads(self, paths, owner):
        return paths[0]

    def split(self, path, rows, seed, validation, test, *more):
        return split(rows, seed, validation, test)

    test_share, columns, right_of = always(0.15), always(("colour", "size")), always(())
    records = always((Records(("colour", "size"), (), (), sheets=("May", "June"), sheet="May"),))
    keep_text, bad_rows_file = always(Path("pasted.txt")), always(Path("rows-bad-rows.csv"))
    fetch = always((Path("owner--name.jsonl"), f"Read: all 2 rows {EVIL}."))
    advice = always((Advice("few", f"Two rows are few {EVIL}.", (1, 2), "warn"),))
    preview = always((TokenPreview("", TOKENS),))

    def tokens(self, checked, max_tokens, tell=None):
        return TokenReport(array("L", [1, 2]), array("L", [70, 120]), array("L", [5, 11]), max_tokens, False)

    def table(self, path, rows, owner, reading):
        return Table(("patient", "report"), {row: [f"p{row}", ""] for row in rows})

    def edited(self, path, changes, owner, reading):
        self.changes = changes
        return Path("rows-edited.jsonl")


class FakeTraining:
    def __init__(self):
        self.listed = []
        self.blocked = ""
        self.started = []
        self.cancel, self.move = Mock(), Mock()

    start = noted("started", "r1")
    presets = always([Preset("quick", "Quick look", 20), Preset("good", "Good", 48)])
    methods = always([*all_methods().values()])

    def plan(self, request):
        sizes = (1_221_120, 134_515_008, 130, 1_900_000_000, 9_800_000)
        return Plan(*sizes, 2, request.steps or 20, 1e-3, 8, self.blocked)

    def runs(self, owner="local"):
        return self.listed


class FakeAdapters:
    def __init__(self):
        self.rows, self.switched = [row()], list[str]()
        self.learns = ()
        self.became_ = {}
        self.remove = Mock(side_effect=AdapterError("It ships with the app and stays."))

    def learning(self, owner="local"):
        return self.learns

    def became(self, adapter_id, owner="local"):
        return self.became_.get(adapter_id, adapter_id)

    def list(self, owner="local"):
        return self.rows

    def switch(self, adapter_id, owner):
        self.switched.append(adapter_id)
        return Switch(0.41, 0.0, "3f9a7c21", True)


@dataclass
class FakeCompare:
    texts: tuple[str, ...] = ("plain", "fine\nReviewed by Dr. Sharma")
    error: Exception | None = None
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    leaves: str = ""

    def leaving(self, sides, session):
        return self.leaves

    def agree(self, sides, session):
        self.leaves = ""

    can_think: bool = False

    def ask(self, *asked):
        sides, *_ = asked
        self.asked.append(asked)
        yield [Reply(waiting="2nd in line, about 8 s") for _ in sides]
        if self.error:
            raise self.error
        texts = [text for text, _ in zip(cycle(self.texts), sides, strict=False)]
        yield [Reply(text=text[:3], prompt_tokens=49) for text in texts]
        stamp = {"base": "3f9a7c21", "prompt": {"text": "<|im_start|>", "sha256": "5e0c"}, "seed": 7}
        figures = {"prompt_tokens": 49, "completion_tokens": 9, "seconds": 2.4, "stamp_id": "5e0c1f"}
        yield [Reply(text=text, done=True, stamp=stamp, **figures) for text in texts]

    def passes(self, check, text):
        return text.endswith(check.partition(":")[2])

    def prompt_tokens(self, text, model="base"):
        return len(text.split())


BASE = {"id": "smollm2-135m", "phase": "ready", "message": "ready", "fingerprint": "3f9a7c21"}
STATUS = {"device": "CPU, 2 cores", "precision": "fp32", "budget_bytes": 100, "used_bytes": 40, "base": BASE}
STATUS |= {
    "precision_measured": f"measured {EVIL}",
    "leases": [],
    "queue": [],
    "parts": [{"name": f"Base {EVIL}", "bytes": 40, "kind": "base"}],
    "cards": [],
}


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
    servers: tuple[Side, ...] = ()
    leaving, recorded = always("6 rows leave for elsewhere."), always(["today: Replies to 6 of 6 rows."])

    start, stop = noted("started", "v1"), noted("stopped")

    seen = 0

    def size(self, request):
        rows = len(request.rows or (1, 2)) - self.seen
        asked = sum(side.replies is None for side in request.sides)
        return Size(rows, self.seen, rows * asked * request.replies_each)

    def extension(self, id, rows=None, owner="local"):
        return f"the next {rows} rows of {id}"

    def views(self, owner="local"):
        return self.listed if owner == "local" else []

    def show(self, id, owner="local"):
        found = next((view for view in self.views(owner) if view.id == id), None)
        if found is None:
            raise NotFoundError("There is no such verdict.")
        return replace(found, record=None if found.live else self.record)

    def remove(self, id, owner="local"):
        self.removed.append(id)
        self.listed = [view for view in self.listed if view.id != id]

    def rows(self, id, owner="local"):
        return self.held

    def export(self, id, how, owner="local"):
        if self.record is None:
            raise InputError("There is nothing to export yet.")
        return Path("exports", f"verdict-{id}.{how}")

    def again(self, id, questions, prices, owner="local"):
        self.judged.append((questions, prices))
        return self.show(id, owner)

    def line_up(self, file, adapter, prompt, docs, owner="local", form=False):
        sides = [Side("base", name="Base")]
        sides += [Side("base", prompt, name="Base + prompt")] if prompt else []
        sides += [Side("base", prompt, shots_from=file, name="Base + form", format="references")] if form else []
        sides += [Side("base", prompt, 4, file, "Base + 4 shots")]
        sides += [Side("base", prompt, name="Base + documents", docs=docs)] if docs else []
        return (*sides, *([Side(adapter, name=adapter)] if adapter else []), *self.servers)


@dataclass
class FakeReplay:
    same: bool = True
    asked: list[Any] = field(default_factory=list)

    def again(self, saved, tell=None, owner="local", session="local"):
        self.asked.append((saved, owner, session))
        return {"same": self.same, "text": f"another {EVIL}", "first_difference": None if self.same else 3, "notes": []}


class FakeServices:
    def __init__(self, folder, *, shared=False):
        self.settings, self.jobs = Settings(home=folder, shared=shared), Jobs()
        self.bases, self.data, self.training = FakeBases(), FakeData(folder), FakeTraining()
        self.adapters, self.compare = FakeAdapters(), FakeCompare()
        self.handover = SimpleNamespace(returned=lambda card, owner: None)
        self.demo = SimpleNamespace(state=lambda owner: DemoState())
        self.device = SimpleNamespace(
            line=lambda owner: "Device: idle", status=lambda: STATUS, free_bytes=20_400_000_000
        )
        self.verdicts, self.replay, self.endpoints = FakeVerdicts(), FakeReplay(), Endpoints()
        self.sessions = Sessions(folder / "playground.sqlite")

    def seen(self, owner):
        self.sessions.seen(owner)
