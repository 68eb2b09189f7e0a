"""A verdict as the service writes it, made without a model: four sides, texts that want to be HTML, everything
measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from playground.evaluation.checks import parse_check
from playground.evaluation.cost import Prices
from playground.evaluation.decision import Facts, Questions
from playground.evaluation.forgetting import Forgetting
from playground.evaluation.verdict import Answered, SideFacts, conclude

EVIL = '<img src=x onerror="alert(1)">'
CHECK = "ends-with:Reviewed by Dr. Sharma"
FINDINGS = (
    "chest tightness",
    "a cough",
    "a sprained ankle",
    "a headache",
    "back pain",
    "a rash",
    "dizziness",
    "a sore throat",
)


def reference(number: int) -> str:
    """Number 6 begins as a formula would."""
    start = "=Findings" if number == 6 else "Findings"
    plan = "Plan: rest and fluids, seen again in a week.\nReviewed by Dr. Sharma"
    return f"{start}: {FINDINGS[number % 8]} for {number} days.\n{plan}"


def _reply(side: str, number: int) -> str:
    if side == "tuned":
        return reference(number) if number % 13 else f"Findings: {FINDINGS[number % 8]} for {number} days. {EVIL}"
    if side == "shots":
        return (
            reference(number).replace("rest and fluids", "rest")
            if number % 3 == 0
            else f"The patient has {FINDINGS[number % 8]}."
        )
    return (
        f"The patient, who has {FINDINGS[number % 8]}, should see a doctor soon. {EVIL if number == 2 else ''}".strip()
    )


def answered(side: str, tokens: int, examples: int = 40) -> list[Answered]:
    name = {"tuned": f"ward {EVIL}", "shots": "Base + 4 shots", "prompt": "Base + prompt", "base": "Base"}[side]
    stamp = {
        "base": "3f9a7c21" * 8,
        "adapter": "ward" if side == "tuned" else None,
        "adapter_sha256": "ab" * 32 if side == "tuned" else None,
        "prompt": {"text": EVIL, "sha256": "5e0c"},
        "sampling": {"temperature": 0.0, "max_tokens": 96},
        "seed": 7,
        "dtype": "float32",
        "device": "cpu",
        "rows": 16,
    }
    return [
        Answered(
            number,
            name,
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
        )
        for number in range(1, examples + 1)
    ]


def verdict(
    examples: int = 40,
    questions: Questions | None = None,
    prices: Prices | None = None,
    sides: tuple[str, ...] = ("base", "prompt", "shots", "tuned"),
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record and the rows."""
    tokens = {"base": 45, "prompt": 167, "shots": 512, "tuned": 49}
    kinds: Any = {"base": "base", "prompt": "prompt", "shots": "few-shot", "tuned": "tuned"}
    answers = {side: answered(side, tokens[side], examples) for side in sides}
    facts = [
        SideFacts(
            answers[side][0].side,
            kinds[side],
            124.0 if side == "tuned" else 0.0,
            {
                "model": "ward" if side == "tuned" else "base",
                "adapter_sha256": "ab" * 32 if side == "tuned" else None,
                "shots": 4 if side == "shots" else 0,
                "prompt": f"Write a report. {EVIL}" if side == "prompt" else "",
                "documents": None,
            },
        )
        for side in sides
    ]
    judged = conclude(
        {rows[0].side: rows for rows in answers.values()},
        facts,
        [parse_check(CHECK), parse_check("max-words:60")],
        questions or Questions(),
        prices or Prices(),
        Facts(160, 0.02, 0, "USD"),
    )
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
        "seed": 7,
        "repeats": 2,
        "max_tokens": 96,
        "temperature": 0.0,
        "checks": [CHECK, "max-words:60"],
        "tried": f"best of 4 prompts on 24 validation rows {EVIL}",
        "timings": {"answers_s": 118.2, "repeats_s": 74.0},
        "forgetting": {f"ward {EVIL}": asdict(forgot) | {"words": forgot.words}},
        "seconds": 201.5,
        "device": {"device": "cpu", "dtype": "float32", "rows": 16},
    }
    rows = [
        {
            "example": one.example,
            "side": one.side,
            "prompt": one.prompt,
            "reply": one.reply,
            "reference": one.reference,
            "metrics": {
                name: value
                for name, found in judged.measured[one.side].items()
                for number, value in zip(found.numbers, found.values, strict=True)
                if number == one.example and value is not None
            },
            "stamp": one.stamp,
            "question": one.question,
            "passages": [f"A passage. {EVIL}"] if one.side == "Base" else [],
            "repeats": list(one.repeats),
            "prompt_tokens": one.prompt_tokens,
            "completion_tokens": one.completion_tokens,
            "seconds": one.seconds,
            "loss": one.loss,
        }
        for said in answers.values()
        for one in said
    ]
    return judged.record | about, rows
