"""Whose prompt was read before is nobody else's to know: the prefix cache of a shared app."""

from __future__ import annotations

from playground.chat.batching import Asked
from playground.data.example import Message
from playground.data.render import encode, render_prompt
from playground.engine.request import Sampling
from playground.services import Services

LONG = "A prompt that is long enough to be kept for the next question, since it has more than sixteen tokens."


def reused(services: Services, prompt: str, session: str) -> int:
    """Prompt tokens that are copied from the prefix cache instead of being read."""
    engine = services.bases.engine()
    before = engine.backend.scheduler.cached_tokens
    for written in services.batches.run([Asked(None, prompt, Sampling(max_tokens=2))], session):
        pass
    assert written[0].failure is None
    engine.worker.run(lambda: None)
    return engine.backend.scheduler.cached_tokens - before


def test_visitors_do_not_share_a_prefix_cache_so_a_prompt_cannot_be_guessed_by_timing(services: Services) -> None:
    assert reused(services, LONG, "ann") == 0
    assert reused(services, LONG, "bob") == 0, "as if nobody had asked it"
    assert reused(services, LONG, "ann") > 0


def test_a_system_prompt_that_ships_is_read_once_for_all_visitors_and_the_question_behind_it_is_not(
    services: Services,
) -> None:
    system = services.data.sets()[0].system_prompt
    asked = [
        render_prompt(services.bases.tokenizer(), [Message("system", system), Message("user", f"{text} " * 40)])
        for text in ("secret", "another")
    ]
    length = len(encode(services.bases.tokenizer(), system))
    reused(services, asked[0], "ann")
    assert length - 2 <= reused(services, asked[0], "bob") < length + 20, "the system prompt, not the question"
    assert length - 2 <= reused(services, asked[1], "cid") < length + 20
