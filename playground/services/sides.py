"""A side of a comparison: what answers, and with what it is told. Read from a page, or from a command line's SPEC."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from playground.data.example import Example, Message
from playground.errors import InputError

SHOTS_MAX = 16


@dataclass(frozen=True)
class Side:
    """model: ``base`` or an adapter's id. system_prompt: "" = the base's own default. shots: answered examples put before the
    question, drawn from ``shots_from`` by the seed. name: for a person."""

    model: str = "base"
    system_prompt: str = ""
    shots: int = 0
    shots_from: Path | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.shots <= SHOTS_MAX:
            raise InputError(f"A side has {self.shots} shots; it goes from 0 to {SHOTS_MAX}.")
        if self.shots and self.shots_from is None:
            raise InputError("Shots are drawn from examples: name a file of them.")

    @property
    def label(self) -> str:
        extra = ["prompt"] if self.system_prompt else []
        extra += [f"{self.shots} shots"] if self.shots else []
        return self.name or " + ".join([self.model, *extra])


@dataclass(frozen=True)
class Turn:
    """An earlier question of this side's conversation and the reply it got."""

    question: str
    reply: str


def parse_side(spec: str, examples: Path | None = None) -> Side:
    """``model=base`` or ``model=ADAPTER``, then ``,prompt=FILE`` ``,shots=K`` ``,name=LABEL``. Raises InputError."""
    values: dict[str, str] = {}
    for part in spec.split(","):
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in ("model", "prompt", "shots", "docs", "name") or key.strip() in values:
            raise InputError(
                f"{spec!r} is not a side. Write model=base or model=ADAPTER, then, if wanted, prompt=FILE, shots=K, name=LABEL, with commas."
            )
        values[key.strip()] = value.strip()
    if "model" not in values:
        raise InputError(f"{spec!r} names no model. Begin with model=base or model=ADAPTER.")
    if "docs" in values:
        raise InputError("Sides with documents cannot be run yet. Leave out docs=.")
    prompt = ""
    if "prompt" in values:
        try:
            prompt = Path(values["prompt"]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The prompt file {values['prompt']} cannot be read: {error}.") from error
    shots = values.get("shots", "0")
    if not shots.isdigit():
        raise InputError(f"shots={shots} is not a whole number.")
    if int(shots) and examples is None:
        raise InputError("shots=K draws answered examples from a file; name it with --examples FILE.")
    return Side(values["model"], prompt, int(shots), examples if int(shots) else None, values.get("name", ""))


def conversation(side: Side, history: Sequence[Turn], question: str, pool: Sequence[Example], seed: int) -> list[Message]:
    """The messages a side is given: its system prompt, its shots, what was said before, the question."""
    messages = [Message("system", side.system_prompt)] if side.system_prompt.strip() else []
    asked = [example for example in pool if example.messages[-2].content != question]
    for example in random.Random(seed).sample(asked, min(side.shots, len(asked))):
        messages += [message for message in example.messages if message.role != "system"]
    for turn in history:
        messages += [Message("user", turn.question), Message("assistant", turn.reply)]
    return [*messages, Message("user", question)]
