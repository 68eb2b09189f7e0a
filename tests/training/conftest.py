import json
import random
from dataclasses import replace

import pytest
import torch

from playground.data.render import Rendered
from playground.training import worker
from playground.training.run_files import EventReader
from playground.training.spec import RunSpec

PLAIN = RunSpec(
    **{"run": "r1", "name": "Tiny run", "base": "tiny", "base_path": "p", "base_fingerprint": "f", "shipped_dir": "s"},
    **{"file": "f", "data": "d", "adapters_dir": "a", "method": "lora", "steps": 4, "lr": 1e-2, "rank": 4},
)
spec = pytest.fixture(lambda tmp_path, spec_in: spec_in(tmp_path))


def rows(shared, rest):
    """Four rows that begin with the same tokens; the second has a later turn that is not learned."""
    dice = random.Random(1)

    def some(low, high):
        return [dice.randrange(5, 400) for _ in range(dice.randint(low, high))]

    same = some(shared, shared)
    return [
        Rendered("", "", same + some(*rest), some(4, 9), read=((1, 3),) if place == 1 else ()) for place in range(4)
    ]


def moved(model):
    """Away from its start, where an adapter does nothing and half of the gradients are zero."""
    torch.manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and p.dtype.is_floating_point:
                p.add_(0.05 * torch.randn_like(p))
    return model


@pytest.fixture(scope="session")
def spec_in(tiny_base):
    """(folder, rows) -> a run of 4 steps on the tiny base; without rows: 24 questions with answers."""

    def made(folder, rows=(), **changes):
        asked = [{"prompt": f"Say number {n}", "completion": f"Number {n}, gladly."} for n in range(24)]
        file = folder / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, list(rows) or asked)))
        places = {"base_path": str(tiny_base), "file": str(file), "data": file.name}
        folders = {"adapters_dir": str(folder / "adapters"), "shipped_dir": str(folder / "shipped")}
        return replace(PLAIN, **(places | folders | {"batch_size": 4, "save_steps": 2, "seed": 3} | changes))

    return made


@pytest.fixture(scope="session")
def run_worker():
    """(spec, folder, stop) -> the events of the run, in this process."""

    def run(spec, folder, stop=lambda: False):
        folder.mkdir(exist_ok=True)
        spec.write(folder)
        worker.run(folder, stop=stop)
        return EventReader(folder).read()

    return run
