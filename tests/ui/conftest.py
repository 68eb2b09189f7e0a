from collections.abc import Callable
from typing import Any

import gradio as gr
import pytest

from playground.data.example import Checked, Example, Message
from playground.ui.judged import Kept
from playground.ui.page import WholePage
from playground.ui.rows import Source
from playground.ui.wiring import Visit
from tests.ui.fakes import FakeServices

Call = Callable[..., Any]
SET = "set:hospital_reports"
services = pytest.fixture(lambda tmp_path: FakeServices(tmp_path))
me = pytest.fixture(lambda services: Visit(services, session="tab-1"))
tab = pytest.fixture(lambda whole: whole.training, scope="session")


def stranger(services):
    return Visit(services, "somebody", "tab-2")


@pytest.fixture
def call(me):
    """Calls a handler as this visitor; of one that streams, all that it answers."""

    def called(handler, tab, /, **given):
        answers = handler(me, tab, **given)
        return answers if isinstance(answers, dict) or answers is None else list(answers)

    return called


def examples(count, ending="Reviewed by A. Person"):
    said = [(f"question {n}", f"answer {n}. {ending}") for n in range(1, count + 1)]
    rows = [Example((Message("user", one), Message("assistant", other)), n) for n, (one, other) in enumerate(said, 1)]
    return Checked("prompt-completion", "sft", count, tuple(rows))


def where(source=SET, **changes):
    """The rows that a verdict or the bench is asked to use."""
    given = {"kept": Kept(), "uploaded": None, "training": Source(), "seed": 7, "test": 15}
    return {"source": source, **given, **changes}


def says(shown, *parts):
    """Each part stands in what is shown (a text, or an update of one), and nobody else's tag does."""
    text = str(shown["value"] if isinstance(shown, dict) else shown)
    assert [part for part in parts if part not in text] == [], text
    assert "<img" not in text


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The page's tabs as they are built, for handlers that are called directly."""
    with gr.Blocks():
        return WholePage(FakeServices(tmp_path_factory.mktemp("tab")))
