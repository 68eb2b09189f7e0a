"""On the real default base: every objective for a few steps, from plan to adapter. By hand, some ten minutes."""

import json

import pytest

from playground.data.check import check_file
from playground.runs.service import TrainRequest
from playground.settings import PROJECT_ROOT, Settings
from playground.training.run_files import EventReader
from tests.services.conftest import services
from tests.soak.torture import record

__all__ = ["services"]
pytestmark = [pytest.mark.soak, pytest.mark.real]
STEPS, COUNT = 3, 48
RESULTS = PROJECT_ROOT / "benchmarks" / "results" / "objectives.json"
ROWS = PROJECT_ROOT / "examples" / "hospital_reports.jsonl"
settings = pytest.fixture(lambda real_base, tmp_path: Settings(home=tmp_path / "home", base=str(real_base.path)))


def row_of(kind, prompt, answer, place):
    """For pairs the worse answer lacks the last line, for judged answers every other one does."""
    short = answer.rpartition("\n\n")[0]
    return {
        "pairs": {"prompt": prompt, "chosen": answer, "rejected": short},
        "judged": {"prompt": prompt, "completion": short if place % 2 else answer, "label": not place % 2},
        "answers": {"prompt": prompt, "completion": answer},
        "texts": {"text": f"{prompt}\n{answer}"},
    }[kind]


@pytest.mark.parametrize(
    ("objective", "kind", "method"),
    [
        *(("sft", "answers", "lora"), ("pretrain", "texts", "lora"), ("grpo", "answers", "lora")),
        *(("dpo", "pairs", "lora"), ("orpo", "pairs", "lora"), ("reward", "pairs", "lora"), ("kto", "judged", "lora")),
        ("dpo", "pairs", "full"),
    ],
)
def test_a_few_steps(services, tmp_path, objective, kind, method):
    file, name = tmp_path / f"{kind}.jsonl", f"{objective} {method}"
    examples = [(one.messages[-2].content, one.completion) for one in check_file(ROWS).examples[:COUNT]]
    rows = [row_of(kind, *example, place) for place, example in enumerate(examples)]
    file.write_text("\n".join(map(json.dumps, rows)))
    rewards = ("contains:Diagnosis:", "ends-with:Reviewed by Dr. Sharma") if objective == "grpo" else ()
    request = TrainRequest(file, name, method, objective, steps=STEPS, save_steps=STEPS, rewards=rewards)
    plan = services.training.plan(request)
    run = services.training.start(request)
    *_, view = services.training.follow(run, poll_s=0.5)
    assert view.state == "DONE", view.error
    events = EventReader(services.settings.runs_dir / run).read()
    evals, summary = [event["loss"] for event in events if event["event"] == "eval"], view.summary
    assert (len(view.loss), len(view.replies)) == (STEPS, 3)
    assert objective == "grpo" or evals[-1] < evals[0], evals
    measured = {key: summary[key] for key in ("seconds", "tokens_per_s", "memory_ratio", "peak_memory_bytes")}
    measured |= {"figures": summary.get("figures"), "estimated_seconds": round(plan.seconds, 1)}
    record(f"{objective}_{method}", RESULTS, **measured, steps=STEPS, eval_loss=[round(loss, 4) for loss in evals])
    assert 0.85 <= summary["memory_ratio"] <= 1.6, summary["memory_ratio"]
