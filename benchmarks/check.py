"""How long 100,000 rows take to check, tokens counted and advice given, and how much memory: as ``check`` does it.

    python benchmarks/check.py [--rows 100000] [--rounds 3] [--note TEXT] [--out benchmarks/results/check.json]

The rows are made here, with a fixed seed: questions and answers of 20 to 2,500 words in prose of common and invented
words, some of them repeated or broken. Each round is a process of its own; medians are told. Seconds are those of the
clock, from the start of the process: loading the tokenizer is in them. Memory is the process's largest resident set.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BORN = time.perf_counter()
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

MAX_TOKENS = 2048
BASE = "smollm2-135m"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--note", default="", help="what else there is to know of the machine")
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(once(options.once)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_rows(file, options.rows)
        rounds = []
        for _ in range(options.rounds):
            load = os.getloadavg()[0]
            done = subprocess.run(
                [sys.executable, __file__, "--once", str(file)], capture_output=True, text=True, check=True
            )
            rounds.append({**json.loads(done.stdout.splitlines()[-1]), "load_before": round(load, 2)})
            print(rounds[-1], flush=True)
        size = file.stat().st_size
    keys = ("seconds", "cpu_seconds", "read_s", "tokenizer_s", "tokens_s", "advice_s", "report_s", "peak_memory_bytes")
    result = {
        "command": shlex.join(["python", "benchmarks/check.py", *sys.argv[1:]]),
        "device": f"CPU, {len(os.sched_getaffinity(0))} cores",
        "note": (
            " ".join(
                ["load_before: the machine's load average; a round that shares its cores takes longer.", options.note]
            ).strip()
        ),
        "base": BASE,
        "max_tokens": MAX_TOKENS,
        "rows": options.rows,
        "file_bytes": size,
        "median": {key: statistics.median(one[key] for one in rounds) for key in keys},
        "rounds": rounds,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["median"]))


def once(file: Path) -> dict[str, Any]:
    """One check in this process, step by step."""
    from playground.data.advice import advise, as_json
    from playground.data.check import check_file
    from playground.data.render import load_tokenizer
    from playground.data.token_counts import token_report
    from playground.library.bases import resolve
    from playground.settings import Settings

    marks = [time.perf_counter()]

    def mark() -> float:
        marks.append(time.perf_counter())
        return round(marks[-1] - marks[-2], 2)

    checked = check_file(file)
    read = mark()
    tokenizer = load_tokenizer(resolve(BASE, Settings.from_env()).path)
    loaded = mark()
    tokens = token_report(checked, tokenizer, MAX_TOKENS)
    counted = mark()
    advice = advise(checked, tokens)
    advised = mark()
    said = as_json(checked, tokens, advice)
    reported = mark()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": round(time.perf_counter() - BORN, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "read_s": read,
        "tokenizer_s": loaded,
        "tokens_s": counted,
        "advice_s": advised,
        "report_s": reported,
        "peak_memory_bytes": used.ru_maxrss * 1024,
        "torch_loaded": "torch" in sys.modules,
        "good": said["good"],
        "bad": len(said["bad"]),
        "truncated": said["truncated"],
        "tokens": sum(tokens.lengths),
        "advice": sorted({item.kind for item in advice}),
    }


def write_rows(file: Path, rows: int) -> None:
    """A customer's question and an answer each; 1 % repeat an earlier row, 0.1 % are broken."""
    chance = random.Random(11)
    vocabulary = _vocabulary(chance, 20_000)
    weights = [1 / (place + 3) for place in range(len(vocabulary))]  # words are as unevenly frequent as in a language
    stock = chance.choices(vocabulary, weights, k=1_000_000)
    earlier: list[str] = []
    with file.open("w", encoding="utf-8") as out:
        for number in range(rows):
            if number % 1000 == 7:
                line = '{"prompt": "cut off in the mid'
            elif earlier and chance.random() < 0.01:
                line = chance.choice(earlier)
            else:
                words = min(2500, 20 + int(chance.lognormvariate(4.2, 0.9)))
                at = chance.randrange(len(stock) - words)
                said = _sentences(chance, stock[at : at + words])
                asked = len(said) * chance.randint(30, 70) // 100
                prompt = f"Order {chance.randint(10_000, 99_999)}. {' '.join(said[:asked])}"
                line = json.dumps({"prompt": prompt, "completion": " ".join(said[asked:])}, ensure_ascii=False)
                earlier = [*earlier[-500:], line]
            out.write(line + "\n")


COMMON = """
the of and to a in is it you that he was for on are with as his they be at one have this from or had by hot but some
what there we can out other were all your when up use word how said an each she which do their time if will way about
many then them would write like so these her long make thing see him two has look more day could go come did my sound
no most number who over know water than call first people may down side been now find any new work part take get place
made live where after back little only round man year came show every good me give our under name very through just
form much great think say help low line before turn cause same mean differ move right boy old too does tell sentence
set three want air well also play small end put home read hand port large spell add even land here must big high such
follow act why ask men change went light kind off need house picture try us again animal point mother world near build
self earth father order delivery invoice account return refund parcel address customer service please thank change
cancel size colour price discount payment card number received damaged replacement warranty
shipping tracking email store week today tomorrow
"""


def _vocabulary(chance: random.Random, size: int) -> list[str]:
    """Common words first, then invented ones."""
    starts = ["b", "br", "c", "d", "f", "gr", "h", "l", "m", "n", "p", "pl", "r", "s", "st", "t", "tr", "v", "w", "sch"]
    ends = ["a", "e", "i", "o", "u", "an", "er", "in", "on", "ent", "ing", "al", "é", "ö"]
    words = dict.fromkeys(COMMON.split())
    while len(words) < size:
        words["".join(chance.choice(starts) + chance.choice(ends) for _ in range(chance.choice((1, 2, 2, 3))))] = None
    return list(words)


def _sentences(chance: random.Random, words: list[str]) -> list[str]:
    said = list(words)
    at = 0
    while at < len(said):
        said[at] = said[at].capitalize()
        at += chance.randint(6, 18)
        end = min(at, len(said)) - 1
        said[end] += chance.choice((".", ".", ".", "?", ".\n", ": " + str(chance.randint(1, 500)) + "."))
    return said


if __name__ == "__main__":
    main()
