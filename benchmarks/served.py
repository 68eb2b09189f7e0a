"""A checkout's app as a person starts it, asked over /v1: for benchmarks that measure what a person gets."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

READY_S = 180.0
Ask = tuple[str, list[dict[str, str]]]
"""A model's id, and the messages."""


class Served:
    """``python app.py`` in a home of its own, which holds the prepared base and the adapters. models: what they are
    called there. settings: ``PLAYGROUND_*`` variables."""

    def __init__(self, checkout: Path, base: Path, adapters: Sequence[Path], **settings: str) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="served-"))
        (self._home / "bases").mkdir()
        (self._home / "bases" / base.name).symlink_to(base)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        env = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "PLAYGROUND_"))}
        env |= {"PLAYGROUND_HOME": str(self._home), "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
        env |= settings
        self.models = []
        for folder in adapters:
            command = [sys.executable, "-m", "playground", "adapters", "import", str(folder), "--json"]
            said = subprocess.run(command, cwd=checkout, env=env, stdout=subprocess.PIPE, check=True)
            self.models.append(str(json.loads(said.stdout.splitlines()[-1])["adapters"][0]["id"]))
        self._process = subprocess.Popen([sys.executable, "app.py"], cwd=checkout, env=env, stderr=subprocess.DEVNULL)
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            time.sleep(0.5)
            try:
                with urllib.request.urlopen(f"{self._url}/status", timeout=5) as answer:
                    if json.load(answer)["base"]["phase"] == "ready":
                        return
            except OSError:
                continue
        raise TimeoutError(f"The app is not ready after {READY_S:.0f} s.")

    def ask(self, asks: Sequence[Ask], tokens: int) -> dict[str, Any]:
        """All at once, greedily, ``tokens`` each: the seconds until the last is answered, and the texts."""

        def one(ask: Ask) -> str:
            model, messages = ask
            body = {
                "model": model,
                "messages": messages,
                "max_tokens": tokens,
                "min_tokens": tokens,
                "ignore_eos": True,
                "temperature": 0,
                "seed": 1,
            }
            request = urllib.request.Request(
                f"{self._url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            while True:
                try:
                    with urllib.request.urlopen(request, timeout=600) as answer:
                        found = json.load(answer)
                    break
                except urllib.error.HTTPError as error:
                    if error.code != 429:  # so many of one person's may wait at a time
                        raise
                    time.sleep(0.02)
            assert found["usage"]["completion_tokens"] == tokens, found["usage"]
            return str(found["choices"][0]["message"]["content"])

        with ThreadPoolExecutor(len(asks)) as callers:
            started = time.perf_counter()
            texts = list(callers.map(one, asks))
            return {"seconds": time.perf_counter() - started, "texts": texts}

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)
        shutil.rmtree(self._home, ignore_errors=True)
