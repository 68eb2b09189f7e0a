"""On the real default base: every objective for a few steps, from the plan to the adapter in the library, and what a
person waits for while a run trains. By hand, about fifteen minutes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from playground.chat.compare import Side
from playground.data.check import check_file
from playground.engine.request import Sampling
from playground.library.bases import Base
from playground.runs.service import TrainRequest
from playground.services import Services
from playground.settings import PROJECT_ROOT, Settings
from playground.training.processes import EventReader
from tests.services.conftest import services
from tests.soak import torture
from tests.soak.results import record, spread

__all__ = ["services"]
pytestmark = [pytest.mark.soak, pytest.mark.real]
STEPS, COUNT, QUESTIONS = 3, 48, 20
RESULTS = PROJECT_ROOT / "benchmarks" / "results" / "objectives.json"
ROWS = PROJECT_ROOT / "examples" / "hospital_reports.jsonl"


@pytest.fixture
def settings(real_base: Base, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", base=str(real_base.path))


def rows_of(kind: str) -> str:
    """Rows of hospital_reports; for pairs the worse answer lacks the last line, for judged answers every other one
    does."""
    made = []
    for place, example in enumerate(check_file(ROWS).examples[:COUNT]):
        prompt, answer = example.messages[-2].content, example.completion
        short = answer.rpartition("\n\n")[0]
        row: dict[str, object] = {
            "pairs": {"prompt": prompt, "chosen": answer, "rejected": short},
            "judged": {"prompt": prompt, "completion": short if place % 2 else answer, "label": not place % 2},
            "answers": {"prompt": prompt, "completion": answer},
            "texts": {"text": f"{prompt}\n{answer}"},
        }[kind]
        made.append(json.dumps(row))
    return "\n".join(made)


@pytest.mark.parametrize(
    ("objective", "kind", "method"),
    [
        *(("sft", "answers", "lora"), ("pretrain", "texts", "lora"), ("grpo", "answers", "lora")),
        *(("dpo", "pairs", "lora"), ("orpo", "pairs", "lora"), ("reward", "pairs", "lora"), ("kto", "judged", "lora")),
        ("dpo", "pairs", "full"),
    ],
)
def test_a_few_steps(services: Services, tmp_path: Path, objective: str, kind: str, method: str) -> None:
    file, name = tmp_path / f"{kind}.jsonl", f"{objective} {method}"
    file.write_text(rows_of(kind))
    rewards = ("contains:Diagnosis:", "ends-with:Reviewed by Dr. Sharma") if objective == "grpo" else ()
    request = TrainRequest(file, name, method, objective, steps=STEPS, save_steps=STEPS, rewards=rewards)
    plan = services.training.plan(request)
    run = services.training.start(request)
    *_, view = services.training.follow(run, poll_s=0.5)
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
        **{key: summary[key] for key in ("seconds", "tokens_per_s", "memory_ratio", "peak_memory_bytes")},
        steps=STEPS,
        eval_loss=[round(loss, 4) for loss in evals],
        figures=summary.get("figures"),
        estimated_seconds=round(plan.seconds, 1),
    )
    assert 0.85 <= summary["memory_ratio"] <= 1.6, summary["memory_ratio"]


def first_tokens(services: Services, running: Callable[[], bool]) -> Iterator[float]:
    """Seconds from asking until the first token is there, question after question."""
    for number in range(QUESTIONS):
        if not running():
            return
        asked = time.monotonic()
        took_s = None
        for replies in services.compare.ask(
            [Side("base")], [[]], f"What does ward {number} need?", Sampling(max_tokens=24)
        ):
            if took_s is None and replies[0].completion_tokens:
                took_s = time.monotonic() - asked
        assert took_s is not None, replies[0].error
        yield took_s


def test_chat_while_a_run_trains(services: Services) -> None:
    alone = list(first_tokens(services, lambda: True))
    run = services.training.start(torture.request(ROWS, steps=4000, save_steps=100))
    torture.wait_for(lambda: services.training.show(run).step >= 2, "training")
    steps, began = services.training.show(run).step, time.monotonic()
    beside = list(first_tokens(services, lambda: services.training.show(run).state == "RUNNING"))
    chatted_s, after = time.monotonic() - began, services.training.show(run).step
    quiet_at, quiet_from = time.monotonic(), after
    torture.wait_for(lambda: services.training.show(run).step >= quiet_from + 10, "training alone")
    alone_s = (time.monotonic() - quiet_at) / (services.training.show(run).step - quiet_from)
    services.training.cancel(run)
    torture.wait_state(services, run, "CANCELLED")
    assert len(beside) == QUESTIONS
    assert after > steps, "the run goes on meanwhile"
    record(
        "chat_while_a_run_trains",
        base="smollm2-135m",
        questions=QUESTIONS,
        first_token_alone_s=spread(alone),
        first_token_beside_a_run_s=spread(beside),
        step_beside_chat_s=round(chatted_s / (after - steps), 2),
        step_alone_s=round(alone_s, 2),
    )
