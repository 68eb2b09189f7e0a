"""Rows, figures and tables, and a verdict as the service writes it, of texts that want to be HTML."""

import tomllib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from playground.evaluation.checks import parse_check
from playground.evaluation.comparison import Facts, Questions, compare_sides
from playground.evaluation.cost import Prices
from playground.evaluation.criterion import suggested
from playground.evaluation.decision import Terms
from playground.evaluation.forgetting import Forgetting
from playground.evaluation.statistics import Measured
from playground.evaluation.verdict import Answered, SideFacts, conclude

EVIL = '<img src=x onerror="alert(1)">'
CHECK = "ends-with:Reviewed by Dr. Sharma"
FINDINGS = ("chest pain", "a cough", "a sprain", "a headache", "back pain", "a rash", "dizziness", "a sore throat")
FOUR = ("base", "prompt", "shots", "tuned")
NAMES = {"base": "Base", "prompt": "Base + prompt", "shots": "Base + 4 shots", "tuned": f"ward {EVIL}"}
TOKENS = {"base": 45, "prompt": 167, "shots": 512, "tuned": 49}


def cases(name):
    """A table of ``cases.toml``."""
    found = tomllib.loads(Path(__file__).with_name("cases.toml").read_text(encoding="utf-8"))[name]
    return found


def rows(replies, references, side="base", **more):
    """One row an example; ``more``: field -> its values."""
    return [
        Answered(at, side, "Why?", "Why?", reply, reference, 10, 5, 0.5, None, **{key: more[key][at] for key in more})
        for at, (reply, reference) in enumerate(zip(replies, references, strict=True))
    ]


def passes(yes, n=40):
    """``yes`` ones first, in n values."""
    return [float(at < yes) for at in range(n)]


def table(sides, mean=("seconds", "rouge_l", "loss")):
    """side -> metric -> its values; yes/no but for the names in ``mean``."""

    def measured(name, values):
        kind, higher = "mean" if name in mean else "yes-no", name not in ("seconds", "loss")
        return Measured(name, tuple(values), float(np.mean(values)), kind, higher, name)

    return compare_sides({side: {one: measured(one, found[one]) for one in found} for side, found in sides.items()})


def reference(number):
    """Number 6 begins as a formula would."""
    plan = "Plan: rest and fluids, seen again in a week.\nReviewed by Dr. Sharma"
    return f"{'=' * (number == 6)}Findings: {FINDINGS[number % 8]} for {number} days.\n{plan}"


def _reply(side, number):
    finding = FINDINGS[number % 8]
    if side == "tuned":
        return reference(number) if number % 13 else f"Findings: {finding} for {number} days. {EVIL}"
    if side == "shots" and number == 26:
        return reference(number)
    if side == "shots":
        return f"The patient has {finding}." if number % 3 else reference(number).replace("rest and fluids", "rest")
    return f"The patient, who has {finding}, should see a doctor soon. {EVIL * (number == 2)}".strip()


def answered(side, examples=40):
    tuned, tokens = side == "tuned", TOKENS[side]
    stamp = {
        "base": "3f9a7c21" * 8,
        "adapter": "ward" if tuned else None,
        "adapter_sha256": "ab" * 32 if tuned else None,
        "prompt": {"text": EVIL, "sha256": "5e0c"},
        "sampling": {"temperature": 0.0, "max_tokens": 96},
        **{"seed": 7, "dtype": "float32", "device": "cpu", "rows": 16},
    }
    return [
        Answered(
            number,
            NAMES[side],
            f"Male, {20 + number}, {FINDINGS[number % 8]} since Monday, BP 150/95, pulse 102, no fever {EVIL}",
            f"<|im_start|>user\n{EVIL}",
            _reply(side, number),
            reference(number),
            tokens + number % 5,
            24 + number % 7,
            1.5 + tokens / 300 if number <= 3 else None,
            stamp,
            repeats=(_reply(side, number), _reply(side, number + number % 2)),
            loss={"tuned": 0.4, "shots": 1.2}.get(side, 2.1) + 0.01 * (number % 9),
            finish="stop",
        )
        for number in range(1, examples + 1)
    ]


def verdict(
    examples=40,
    questions=Questions(),  # noqa: B008
    prices=Prices(),  # noqa: B008
    sides=FOUR,
):
    """The record and the rows."""
    kinds = {"base": "base", "prompt": "prompt", "shots": "few-shot", "tuned": "fine-tune"}
    answers = {NAMES[side]: answered(side, examples) for side in sides}
    facts = []
    for side in sides:
        tuned = side == "tuned"
        said = {"model": "ward" if tuned else "base", "adapter_sha256": "ab" * 32 if tuned else None}
        said |= {"shots": 4 * (side == "shots"), "prompt": f"Write a report. {EVIL}" * (side == "prompt")}
        facts.append(SideFacts(NAMES[side], kinds[side], 124.0 * tuned, said | {"documents": None}))
    checks = [parse_check(CHECK), parse_check("max-words:60")]
    criterion = suggested([reference(number) for number in range(1, 41)])
    terms = Terms(0.8, 0.1)
    judged = conclude(answers, facts, checks, questions, prices, Facts(160, 0.02), None, criterion, terms)
    forgot = Forgetting(3.02, 3.11, 900, 21, 20, 40, 0.08)
    about = {
        "id": "20261124-101500-v1a2b",
        "name": f"ward {EVIL}",
        "created_s": 1.79e9,
        "state": "DONE",
        "file": f"ward{EVIL}.csv",
        "data_sha256": "cd" * 32,
        "base": "smollm2-135m",
        "base_fingerprint": "3f9a7c21" * 8,
        **{"seed": 7, "repeats": 2, "max_tokens": 96, "temperature": 0.0},
        "checks": [CHECK, "max-words:60"],
        "tried": f"best of 4 prompts on 24 validation rows {EVIL}",
        "timings": {"answers_s": 118.2, "repeats_s": 74.0},
        "forgetting": {f"ward {EVIL}": asdict(forgot) | {"words": forgot.words}},
        "refusals": {"Base": {"asked": 20, "refused": 3, "low": 0.05, "high": 0.36, "words": "said"}},
        "seconds": 201.5,
        "device": {"device": "cpu", "dtype": "float32", "rows": 16},
    }
    values = {
        (name, number): {metric: found.by_example.get(number) for metric, found in judged.measured[name].items()}
        for name in answers
        for number in range(1, examples + 1)
    }
    written = [
        asdict(one)
        | {
            "metrics": {key: value for key, value in values[name, one.example].items() if value is not None},
            "passages": [f"A passage. {EVIL}"] if name == "Base" else [],
        }
        for name, said in answers.items()
        for one in said
    ]
    return judged.record | about, written
