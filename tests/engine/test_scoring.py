"""Scores of texts with every kind of adapter, on both paths, against one forward pass of PEFT's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from playground.engine.engine import Engine
from playground.engine.request import ROOM, TOGETHER, Row, Sampling, ScoreRow, parts
from playground.errors import AdapterError, InputError
from tests.engine.models import WINDOW, World, byte_tokenizer, run

KINDS: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in ("lora", "dora", "ia3", "prefix", "deep", "prompt", "ptuning")},
    "bottleneck": {"activation": "relu"},
}
LONG = (
    "It rained for the whole of the second week, and nobody in the house minded. " * 4
)  # past one chunk of the llama path
TEXTS = [
    ("Say it: ", "One and two<eos>"),
    ("", "The report says that nothing happened."),
    ("Hello there, ", "my order!"),
    ("Q", LONG[:220]),
]


def shares(world: World, name: str, prompt: str, completion: str) -> tuple[torch.Tensor, torch.Tensor]:
    """PEFT's log-probabilities [scored places, vocabulary], and the tokens there."""
    before, after = (byte_tokenizer()(text, add_special_tokens=False)["input_ids"] for text in (prompt, completion))
    ids = torch.tensor([[*before, *after]])
    with torch.no_grad():
        logits = world.truth(name)(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] :]
    first = max(1, len(before))
    return logits[first - 1 : -1].float().log_softmax(-1), ids[0, first:]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("scored"), "llama", KINDS, max_position_embeddings=512)


@pytest.fixture(scope="module")
def engine(path: str, world: World) -> Engine:
    return world.engine(path)


def held_to_peft(engine: Engine, world: World, rows: list[ScoreRow]) -> None:
    for row, score in zip(rows, engine.score(rows), strict=True):
        here, tokens = shares(world, row.adapter or "", row.prompt, row.completion)
        base, _ = shares(world, "", row.prompt, row.completion)
        loss, base_loss = (-float(found.gather(1, tokens[:, None]).mean()) for found in (here, base))
        apart = float((here.exp() * (here - base)).sum(-1).mean())
        assert score.tokens == len(tokens)
        assert score.loss == pytest.approx(loss, abs=1e-3), row
        if row.divergence and row.adapter:
            assert score.divergence == pytest.approx(apart, abs=1e-3), row
            assert score.base_loss == pytest.approx(base_loss, abs=1e-3), row
            assert apart > 0.01, "an adapter that changes nothing proves nothing"
        else:
            assert score.divergence is None
            assert score.base_loss is None


def test_every_kind_with_every_text_in_one_call(engine: Engine, world: World) -> None:
    rows = [ScoreRow(*text, kind or None, divergence=True) for text in TEXTS for kind in ("", *KINDS)]
    held_to_peft(engine, world, rows)
    assert engine.check_fingerprint()[1]


def test_a_text_longer_than_a_chunk_and_than_what_is_held_at_once(engine: Engine, world: World) -> None:
    held_to_peft(
        engine,
        world,
        [ScoreRow("Now: ", LONG, "prefix", True), ScoreRow("", LONG), ScoreRow(LONG[:280], "so.", "dora", True)],
    )


def test_alone_or_beside_others_it_is_the_same(engine: Engine) -> None:
    rows = [ScoreRow(*TEXTS[place % 4], kind, divergence=True) for place, kind in enumerate(KINDS)]
    for row, score in zip(rows, engine.score(rows), strict=True):
        alone = engine.score([row])[0]
        assert (alone.loss, alone.divergence) == pytest.approx((score.loss, score.divergence), abs=1e-5)


def test_scoring_beside_replies_leaves_them_as_they_are(engine: Engine) -> None:
    row = Row("Hello there", "lora", Sampling(max_tokens=24, ignore_eos=True))
    alone = run(engine, [row])[0].tokens
    stream = engine.stream([row])
    next(stream)
    engine.score([ScoreRow(*TEXTS[0], "lora", True), ScoreRow(*TEXTS[2], "bottleneck", True)])
    states = list(stream)[-1]
    assert states[0].tokens == alone


def test_what_cannot_be_scored_is_told(engine: Engine) -> None:
    with pytest.raises(InputError, match="nothing to score"):
        engine.score([ScoreRow("", "a")])
    with pytest.raises(InputError, match="this base holds 512"):
        engine.score([ScoreRow("", "a" * 513)])
    with pytest.raises(AdapterError, match="not attached"):
        engine.score([ScoreRow("a", "b", "nobody")])
    assert engine.score([]) == []


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "mistral-window", "phi3-longrope", "gpt2", "lfm2", "phi"])
def test_families_of_the_hf_backend(family: str, tmp_path: Path) -> None:
    world = World(tmp_path, family, {"lora": {}})
    long = "x" * (3 * WINDOW)
    rows = [
        ScoreRow(prompt, text, kind, True) for prompt, text in (*TEXTS[:3], ("A" * 9, long)) for kind in (None, "lora")
    ]
    held_to_peft(world.engine("hf"), world, rows)


def test_rows_are_read_together_within_the_room() -> None:
    assert list(parts([10] * (TOGETHER + 1))) == [list(range(TOGETHER)), [TOGETHER]]
    assert list(parts([10, ROOM + 1, 10])) == [[0], [1], [2]]
    assert list(parts([ROOM // 2, 5, 5])) == [[0, 1], [2]]
    assert list(parts([])) == []
