"""A side of a comparison: what answers, and with which prompt, shots and documents. Read from a page, or from a
command line's SPEC."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playground.data.example import Example, Message
from playground.data.retrieval import Documents, Nearest, with_passages
from playground.errors import InputError

SHOTS_MAX = 16


@dataclass(frozen=True)
class Side:
    """model: ``base`` or an adapter's id. system_prompt: "" = the base's own default. shots: answered examples put
    before the question, drawn from ``shots_from`` by the seed, or the nearest to the question. docs: a text whose
    nearest passages are put into the question. name: for a person."""

    model: str = "base"
    system_prompt: str = ""
    shots: int = 0
    shots_from: Path | None = None
    name: str = ""
    docs: Path | None = None
    nearest: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.shots <= SHOTS_MAX:
            raise InputError(f"A side has {self.shots} shots; it goes from 0 to {SHOTS_MAX}.")
        if self.shots and self.shots_from is None:
            raise InputError("Shots are drawn from examples: name a file of them.")

    @property
    def label(self) -> str:
        extra = ["prompt"] if self.system_prompt else []
        extra += [f"{self.shots} {'nearest ' if self.nearest else ''}shots"] if self.shots else []
        extra += ["documents"] if self.docs else []
        return self.name or " + ".join([self.model, *extra])


@dataclass(frozen=True)
class Turn:
    """An earlier question of this side's conversation and the reply it got."""

    question: str
    reply: str


def parse_side(spec: str, examples: Path | None = None) -> Side:
    """``model=base`` or ``model=ADAPTER``, then ``,prompt=FILE`` ``,shots=K`` ``,pick=seed|nearest`` ``,docs=FILE``
    ``,name=LABEL``. examples: where shots come from. Raises InputError."""
    names = ("model", "prompt", "shots", "pick", "docs", "name")
    values: dict[str, str] = {}
    for part in spec.split(","):
        key, equals, value = (each.strip() for each in part.partition("="))
        if not equals or key not in names or key in values:
            raise InputError(
                f"{spec!r} is not a side. Write model=base or model=ADAPTER, then, if wanted, prompt=FILE, shots=K, "
                "pick=nearest, "
                "docs=FILE, name=LABEL, with commas."
            )
        values[key] = value
    if "model" not in values:
        raise InputError(f"{spec!r} names no model. Begin with model=base or model=ADAPTER.")
    if (pick := values.get("pick", "seed")) not in ("seed", "nearest"):
        raise InputError(f"pick={pick} is not a way to pick shots. There are seed and nearest.")
    docs = Path(values["docs"]) if values.get("docs") else None
    if docs is not None and not docs.exists():
        raise InputError(f"There is no file {docs}. docs= takes a text file, or a folder of them.")
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
    shots_from, name = examples if int(shots) else None, values.get("name", "")
    return Side(values["model"], prompt, int(shots), shots_from, name, docs, nearest=pick == "nearest")


def side_as_json(side: Side) -> dict[str, Any]:
    """A side as it is sent to another process; paths are absolute."""
    paths = {name: str(path.resolve()) if (path := getattr(side, name)) else None for name in ("shots_from", "docs")}
    return asdict(side) | paths


def side_from(said: Mapping[str, Any]) -> Side:
    """From ``side_as_json``. Raises InputError."""
    paths = {name: Path(said[name]) if said.get(name) else None for name in ("shots_from", "docs")}
    try:
        return Side(**{**said, **paths})
    except TypeError as error:
        raise InputError(f"A side cannot be understood: {error}.") from error


def conversation(
    side: Side, history: Sequence[Turn], question: str, pool: Sequence[Example], seed: int, passages: Sequence[str] = ()
) -> list[Message]:
    """The messages a side is given: its system prompt, its shots, what was said before, the question with its
    passages."""
    messages = [Message("system", side.system_prompt)] if side.system_prompt.strip() else []
    for example in shots_for(side, question, pool, seed):
        messages += [message for message in example.messages if message.role != "system"]
    for turn in history:
        messages += [Message("user", turn.question), Message("assistant", turn.reply)]
    return [*messages, Message("user", with_passages(question, passages))]


def shots_for(side: Side, question: str, pool: Sequence[Example], seed: int) -> list[Example]:
    """The answered examples a side is shown: drawn by the seed, the same for every question, or the nearest, the
    nearest last. The question itself is never among them."""
    if not side.shots:
        return []
    asked = [example for example in pool if example.messages[-2].content != question]
    many = min(side.shots, len(asked))
    if side.nearest:
        places = Nearest([example.messages[-2].content for example in asked]).places(question)[:many]
        return [asked[place] for place in reversed(places)]
    return random.Random(seed).sample(asked, many)


def passages_for(side: Side, question: str, documents: Documents | None) -> tuple[str, ...]:
    """What a side reads before it answers; nothing where it has no documents."""
    return documents.nearest(question) if side.docs is not None and documents is not None else ()
