"""Seconds from ``python app.py`` to the page and to a first token over /v1, fresh processes: ``start.py [TIMES]``.

The home holds the prepared default base (``python -m playground doctor``) and nothing else. Asked: page in 4 s, first
token in 8 s on two cores. Writes results/start.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from playground.gpu.device import processor  # noqa: E402
from playground.settings import Settings  # noqa: E402

URL = "http://127.0.0.1:7997"
ASKED = {"model": "base", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}


def until(path: str, body: bytes | None = None) -> float:
    """The moment at which a request is answered."""
    request = urllib.request.Request(URL + path, body, {"Content-Type": "application/json"})
    while True:
        try:
            urllib.request.urlopen(request, timeout=60).read()
            return time.perf_counter()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)  # asking costs the app time, too


def started(home: str) -> tuple[float, float]:
    env = {**os.environ, "PLAYGROUND_HOME": home, "GRADIO_SERVER_PORT": "7997"}
    began = time.perf_counter()
    app = subprocess.Popen([sys.executable, "app.py"], cwd=HERE.parent, env=env, stderr=subprocess.DEVNULL)
    try:
        page = until("/")
        return page - began, until("/v1/chat/completions", json.dumps(ASKED).encode()) - began
    finally:
        app.terminate()
        app.wait()


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as home:
        Path(home, "bases").symlink_to(Settings.from_env().home / "bases")
        started(home)  # the caches of the disk, and the measurement of the processor that a home remembers
        pairs = [started(home) for _ in range(times)]
    page, token = ([round(pair[place], 2) for pair in pairs] for place in (0, 1))
    found = {
        "command": f"python benchmarks/start.py {times}",
        "device": f"{len(os.sched_getaffinity(0))} cores, {processor()}",
        "median_s": {"page": statistics.median(page), "first_token": statistics.median(token)},
        "page_s": page,
        "first_token_s": token,
    }
    (HERE / "results" / "start.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
