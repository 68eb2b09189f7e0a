"""The package without the web page: train on a file, then ask the base with a prompt and the trained model the same
thing.

python examples/without_the_page.py examples/hospital_reports.jsonl examples/hospital_prompt.txt "Male, 54, chest
tightness, BP 150/95."
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playground.chat.compare import Side
from playground.chat.programs import all_replies
from playground.engine.request import Sampling
from playground.runs.service import TrainRequest
from playground.services import build_services
from playground.settings import Settings
from playground.workspace.visitors import Home


def main(file: str, prompt: str, question: str) -> None:
    settings = Settings.from_env()
    home = Home.take(settings)  # one process uses the device at a time
    services = build_services(settings)
    services.training.start_supervisor()
    run = services.training.start(TrainRequest(Path(file), steps=20))
    for view in services.training.follow(run, poll_s=2):
        print(view.state, view.message, f"step {view.step} of {view.steps}", file=sys.stderr)
    if view.adapter is None:
        sys.exit(view.error)
    sides = [
        Side("base", Path(prompt).read_text(encoding="utf-8").strip(), name="told"),
        Side(view.adapter, name="trained"),
    ]
    for reply in all_replies(services.compare, sides, [question], Sampling()):
        print(f"--- {reply['side']}: {reply['prompt_tokens']} tokens in, {reply['seconds']:.1f} s\n{reply['text']}\n")
    home.release()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
