"""On the real default base: every objective for a few steps, from the plan to the adapter in the library; and four
times as many clients as the app will serve, over HTTP. By hand, about fifteen minutes."""

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from playground.data.check import check_file
from playground.runs.service import TrainRequest
from playground.settings import PROJECT_ROOT, Settings
from playground.training.processes import EventReader
from tests.e2e.conftest import start_app
from tests.services.conftest import services
from tests.soak.torture import record, spread, wait_for

__all__ = ["services"]
pytestmark = [pytest.mark.soak, pytest.mark.real]
STEPS, COUNT = 3, 48
TAKEN, WAVES = 4 + 8, 5  # requests of one address that /v1 runs or lets wait; how often so many come four times
RESULTS = PROJECT_ROOT / "benchmarks" / "results" / "objectives.json"
ROWS = PROJECT_ROOT / "examples" / "hospital_reports.jsonl"


@pytest.fixture
def settings(real_base, tmp_path):
    return Settings(home=tmp_path / "home", base=str(real_base.path))


def row_of(kind: str, prompt: str, answer: str, place: int) -> dict[str, object]:
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
    assert len(view.loss) == STEPS
    assert len(view.replies) == 3
    assert objective == "grpo" or evals[-1] < evals[0], evals
    measured = {key: summary[key] for key in ("seconds", "tokens_per_s", "memory_ratio", "peak_memory_bytes")}
    measured |= {"figures": summary.get("figures"), "estimated_seconds": round(plan.seconds, 1)}
    record(f"{objective}_{method}", RESULTS, **measured, steps=STEPS, eval_loss=[round(loss, 4) for loss in evals])
    assert 0.85 <= summary["memory_ratio"] <= 1.6, summary["memory_ratio"]


@pytest.fixture
def app(real_base, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "bases").symlink_to(real_base.path.parent)
    running = start_app(home, tmp_path / "app.log")
    yield running
    running.stop()
    assert "Traceback" not in running.log.read_text()


def ask(url: str, number: int) -> str:
    messages = [{"role": "user", "content": f"Tell me about ward {number}."}]
    body = {"model": "base", "messages": messages, "max_tokens": 24}
    reply = httpx.post(url + "/v1/chat/completions", json=body, timeout=300)
    if reply.status_code == 429:
        assert int(reply.headers["retry-after"]) > 0
        return "refused"
    assert reply.status_code == 200, reply.text
    return "answered" if reply.json()["choices"][0]["message"]["content"] else "empty"


def test_four_times_too_many(app):
    health_s: list[float] = []
    over = threading.Event()

    def watch() -> None:
        with httpx.Client(timeout=60) as client:
            while not over.wait(0.05):
                asked = time.monotonic()
                assert client.get(app.url + "/healthz").status_code == 200
                health_s.append(time.monotonic() - asked)

    wait_for(lambda: httpx.get(app.url + "/status", timeout=60).json()["base"]["phase"] == "ready", "loaded")
    assert ask(app.url, 0) == "answered"
    outcomes: Counter[str] = Counter()
    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(WAVES):
        with ThreadPoolExecutor(4 * TAKEN) as pool:
            outcomes.update(pool.map(lambda number: ask(app.url, number), range(4 * TAKEN)))
    over.set()
    watcher.join()
    sent = WAVES * 4 * TAKEN
    record("overload", sent=sent, **outcomes, healthz_s=spread(health_s), healthz_asked=len(health_s))
    assert outcomes["answered"] + outcomes["refused"] == sent
    assert outcomes["answered"] >= WAVES * TAKEN
    assert spread(health_s)["p95"] < 0.5
