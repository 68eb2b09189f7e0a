from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest

from playground.ui.train import TrainTab
from playground.ui.wiring import Visitor
from tests.ui.fakes import FakeServices


@pytest.fixture
def services(tmp_path: Path) -> FakeServices:
    return FakeServices(tmp_path)


@pytest.fixture
def me() -> Visitor:
    return Visitor("local", "tab-1")


@pytest.fixture(scope="session")
def tab(tmp_path_factory: pytest.TempPathFactory) -> TrainTab:
    """The Train tab as it is built, for handlers that are called directly."""
    with gr.Blocks():
        return TrainTab(FakeServices(tmp_path_factory.mktemp("tab")))
