"""Chat beside a run: the speed of each alone and of both together, over /v1 of the real app and a real run on the
default base.

    python benchmarks/beside.py [--seconds 120] [--alone 30] [--before FOLDER] [--only before|after] [--out
    benchmarks/results/beside.json]

One app at a time, in a process and a home of its own. One conversation after another is streamed, one reply at a
time; then a run is begun by the command line with ``--detach``, which the app trains; then replies are written beside
it for SECONDS. What is told is a share of what the same app did alone a moment before. --before: an older checkout,
measured in the same way first.
--only: measure this one alone, and put it into --out beside what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playground.library.bases import resolve
from playground.settings import DEFAULT_BASE, Settings

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "hospital_reports.jsonl"
TOKENS = 64
SETTLE_S = 8.0
"""Between the start of something and the first second that counts."""
Span = tuple[float, float, float]
"""From, to (seconds since 1970), and how much was done in between."""


class App:
    """One checkout's app, in a home of its own that holds the prepared base."""

    def __init__(self, checkout: Path, base: Path) -> None:
        self._checkout, self.home = checkout, Path(tempfile.mkdtemp(prefix="beside-"))
        (self.home / "bases").mkdir()
        (self.home / "bases" / base.name).symlink_to(base)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._env = os.environ | {"PLAYGROUND_HOME": str(self.home), "PLAYGROUND_BASE": DEFAULT_BASE}
        self._env |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
        self._process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=checkout, env=self._env, stderr=subprocess.DEVNULL
        )

    def wait(self) -> None:
        """Until the base is loaded. Raises TimeoutError."""
        until = time.time() + 120
        while time.time() < until:
            time.sleep(0.5)
            try:
                with urllib.request.urlopen(f"{self.url}/status", timeout=5) as answer:
                    if json.load(answer)["base"]["phase"] == "ready":
                        return
            except OSError:
                continue
        raise TimeoutError("The app is not ready after two minutes.")

    def reply(self, number: int) -> int:
        """Ask something that nobody asked before; returns how many tokens were written."""
        body = {
            "model": "base",
            "max_tokens": TOKENS,
            "min_tokens": TOKENS,
            "temperature": 0,
            "seed": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [
                {"role": "user", "content": f"Case {number}. Write a story about a lighthouse and the number {number}."}
            ],
        }
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as stream:
            for line in stream:
                if b'"completion_tokens"' in line:
                    return int(json.loads(line.partition(b"data: ")[2])["usage"]["completion_tokens"])
        raise RuntimeError("The reply told no usage.")

    def train(self) -> Path:
        """Begin a run that does not end by itself; returns its events."""
        command = [
            sys.executable,
            "-m",
            "playground",
            "train",
            str(EXAMPLES),
            "--steps",
            "2000",
            "--save-steps",
            "2000",
        ]
        said = subprocess.run(
            [*command, "--name", "beside", "--detach", "--json"],
            cwd=self._checkout,
            env=self._env,
            stdout=subprocess.PIPE,
            check=True,
        )
        return self.home / "runs" / str(json.loads(said.stdout)["run"]) / "events.jsonl"

    def cancel(self, events: Path) -> None:
        command = [sys.executable, "-m", "playground", "runs", "cancel", events.parent.name]
        subprocess.run(command, cwd=self._checkout, env=self._env, stdout=subprocess.DEVNULL, check=False)

    def others_s(self) -> float:
        """Processor seconds so far of all that is neither this app nor its workers, other machines on the same host
        among them."""
        ours = psutil.Process(self._process.pid)
        mine = sum(sum(one.cpu_times()[:2]) for one in [ours, *ours.children(recursive=True)])
        times = psutil.cpu_times()
        return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0) - mine

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        shutil.rmtree(self.home, ignore_errors=True)


class Talk(threading.Thread):
    """One reply after another until ``stop``."""

    _asked = 0

    def __init__(self, app: App) -> None:
        super().__init__(daemon=True)
        self._app, self._stop_it = app, threading.Event()
        self.spans: list[Span] = []
        self.start()

    def run(self) -> None:
        while not self._stop_it.is_set():
            Talk._asked += 1
            began = time.time()
            tokens = self._app.reply(Talk._asked)
            self.spans.append((began, time.time(), tokens))

    def stop(self) -> list[Span]:
        self._stop_it.set()
        self.join()
        return self.spans


def steps_of(events: Path) -> list[Span]:
    """A span for every step after the first."""
    lines = events.read_text().splitlines() if events.exists() else []
    at = [found["time_s"] for line in lines if (found := json.loads(line))["event"] == "step"]
    return [(begin, end, 1.0) for begin, end in pairwise(at)]


def rate(spans: Sequence[Span], begin: float, end: float) -> float:
    """How much was done a second between two moments; of a span that reaches beyond, its part."""
    return sum(done * max(0.0, min(to, end) - max(since, begin)) / (to - since) for since, to, done in spans) / (
        end - begin
    )


def wait_for_steps(events: Path, after: float, limit_s: float = 90.0) -> None:
    """Until a step has ended after a moment: before that nobody knows how far it was then."""
    until = time.time() + limit_s
    while time.time() < until and not any(to > after for _, to, _ in steps_of(events)):
        time.sleep(0.2)


def measured(checkout: Path, base: Path, alone_s: float, beside_s: float) -> dict[str, Any]:
    """Tokens and steps a second: chat alone, the run alone, both together."""
    app = App(checkout, base)
    try:
        app.wait()
        app.reply(0)
        chat_alone, _, noise = phase(app, alone_s, None, talks=True)
        events = app.train()
        wait_for_steps(events, time.time())
        _, run_alone, more = phase(app, alone_s, events, talks=False)
        chat, run, most = phase(app, beside_s, events, talks=True)
        app.cancel(events)
    finally:
        app.close()
    return {
        "chat_tokens_per_s": {
            "alone": round(chat_alone, 2),
            "beside": round(chat, 2),
            "share": round(chat / chat_alone, 3),
        },
        "run_steps_per_s": {"alone": round(run_alone, 4), "beside": round(run, 4), "share": round(run / run_alone, 3)},
        "cores_others_used": [round(noise, 2), round(more, 2), round(most, 2)],
    }


def phase(app: App, seconds: float, events: Path | None, *, talks: bool) -> tuple[float, float, float]:
    """(tokens a second, steps a second, cores that others used) over ``seconds``."""
    talk = Talk(app) if talks else None
    time.sleep(SETTLE_S)
    begin, noise = time.time(), app.others_s()
    time.sleep(seconds)
    end, noise = time.time(), app.others_s() - noise
    if events is not None:
        wait_for_steps(events, end)
    tokens = rate(talk.stop(), begin, end) if talk is not None else 0.0
    return tokens, rate(steps_of(events), begin, end) if events is not None else 0.0, noise / (end - begin)


def machine() -> str:
    import torch

    return f"CPU, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--alone", type=float, default=30.0, help="seconds of each side alone")
    parser.add_argument("--before", type=Path, help="an older checkout")
    parser.add_argument("--only", choices=("before", "after"))
    parser.add_argument("--note", default="", help="what else there is to know of the machine")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.only == "before" and options.before is None:
        parser.error("--only before needs --before FOLDER")
    base = resolve(DEFAULT_BASE, Settings.from_env()).path
    said = [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:]]
    about = {
        "command": shlex.join(["python", "benchmarks/beside.py", *said]),
        "device": machine(),
        "note": options.note,
    }
    about |= {"seconds": options.seconds, "seconds_alone": options.alone}
    found = json.loads(options.out.read_text()) if options.only and options.out and options.out.exists() else {}
    for name, checkout in (("before", options.before), ("after", ROOT)):
        if checkout is not None and options.only in (None, name):
            found[name] = about | measured(checkout.resolve(), base, options.alone, options.seconds)
            print(name, json.dumps(found[name]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
