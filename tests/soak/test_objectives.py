"""Every objective on the real default base for a few steps, from the plan to the adapter in the library. By hand, about
ten minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from playground.data.check import check_file
from playground.runs.service import TrainRequest
from playground.services import Services
from playground.settings import PROJECT_ROOT
from playground.training.processes import EventReader
from tests.services.conftest import make_lora, services
from tests.soak.results import record
from tests.soak.test_default_base import ROWS, settings

__all__ = ["make_lora", "services", "settings"]
pytestmark = [pytest.mark.soak, pytest.mark.real]
STEPS, COUNT = 3, 48
RESULTS = PROJECT_ROOT / "benchmarks" / "results" / "objectives.json"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Rows of hospital_reports; for pairs the worse answer lacks the last line, for marked answers every other one
    does."""
    made: dict[str, list[dict[str, Any]]] = {"pairs": [], "judged": [], "answers": [], "texts": []}
    for place, example in enumerate(check_file(ROWS).examples[:COUNT]):
        prompt, answer = example.messages[-2].content, example.completion
        short = answer.rpartition("\n\n")[0]
        made["pairs"].append({"prompt": prompt, "chosen": answer, "rejected": short})
        made["judged"].append({"prompt": prompt, "completion": short if place % 2 else answer, "label": not place % 2})
        made["answers"].append({"prompt": prompt, "completion": answer})
        made["texts"].append({"text": f"{prompt}\n{answer}"})
    found = {}
    for name, contents in made.items():
        found[name] = tmp_path / f"{name}.jsonl"
        found[name].write_text("\n".join(map(json.dumps, contents)))
    return found


@pytest.mark.parametrize(
    ("objective", "file", "method"),
    [
        ("sft", "answers", "lora"),
        ("pretrain", "texts", "lora"),
        ("dpo", "pairs", "lora"),
        ("orpo", "pairs", "lora"),
        ("kto", "judged", "lora"),
        ("reward", "pairs", "lora"),
        ("grpo", "answers", "lora"),
        ("dpo", "pairs", "full"),
    ],
)
def test_a_few_steps(services: Services, files: dict[str, Path], objective: str, file: str, method: str) -> None:
    rewards = ("contains:Diagnosis:", "ends-with:Reviewed by Dr. Sharma") if objective == "grpo" else ()
    request = TrainRequest(
        files[file],
        f"{objective} {method}",
        method=method,
        objective=objective,
        steps=STEPS,
        save_steps=STEPS,
        rewards=rewards,
    )
    plan = services.training.plan(request)
    run = services.training.start(request)
    services.training.start_supervisor()
    view = services.training.show(run)
    for view in services.training.follow(run, poll_s=0.5):
        pass
    assert view.state == "DONE", view.error
    events = EventReader(services.settings.runs_dir / run).read()
    evals = [event["loss"] for event in events if event["event"] == "eval"]
    summary = view.summary
    assert len(view.loss) == STEPS
    assert len(view.replies) == 3
    assert objective == "grpo" or evals[-1] < evals[0], evals
    record(
        f"{objective}_{method}",
        RESULTS,
        steps=STEPS,
        seconds=summary["seconds"],
        tokens_per_s=summary["tokens_per_s"],
        eval_loss=[round(loss, 4) for loss in evals],
        figures=summary.get("figures"),
        memory_ratio=summary["memory_ratio"],
        peak_memory_bytes=summary["peak_memory_bytes"],
        estimated_seconds=round(plan.seconds, 1),
    )
    assert 0.85 <= summary["memory_ratio"] <= 1.6, summary["memory_ratio"]
