"""What is written, as OpenAI's clients read it: a whole chat completion, or its chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from playground.engine.request import TokenLogprob, stamp_hash
from playground.services.batches import Written

LOGPROB_MIN = -9999.0
"""Stands for minus infinity, which JSON does not have."""


def whole(model: str, written: Sequence[Written], *, logprobs: bool) -> dict[str, Any]:
    """A ``chat.completion``. ``playground`` is the first reply's stamp; of several, each choice carries its own."""
    choices = [
        {
            "index": place,
            "message": {"role": "assistant", "content": one.state.text, "refusal": None},
            "logprobs": _logprobs(one.state.logprobs) if logprobs else None,
            "finish_reason": one.state.finish,
        }
        | ({"playground": one.stamp} if len(written) > 1 else {})
        for place, one in enumerate(written)
    ]
    return _head(model) | {
        "object": "chat.completion",
        "choices": choices,
        "usage": _usage(written),
        "system_fingerprint": stamp_hash(written[0].stamp or {}),
        "playground": written[0].stamp,
    }


class Chunks:
    """Turns snapshots into ``chat.completion.chunk`` objects: role, pieces of text, how it ended with the stamp, then the counts.

    usage: whether the counts were asked for.
    """

    def __init__(self, model: str, count: int, *, logprobs: bool, usage: bool) -> None:
        self._head = _head(model) | {"object": "chat.completion.chunk"} | ({"usage": None} if usage else {})
        self._with_logprobs, self._with_usage = logprobs, usage
        self._text = [0] * count  # characters told of each reply
        self._tokens = [0] * count  # logprobs told of each
        self._open = list(range(count))
        self._prints: list[str] = []

    def of(self, written: Sequence[Written]) -> Iterator[dict[str, Any]]:
        """The chunks that a snapshot adds to those before it."""
        if any(one.stamp is None for one in written):  # it waits for the device
            return
        if not self._prints:
            self._prints = [stamp_hash(one.stamp or {}) for one in written]
            for place in self._open:
                yield self._chunk(place, {"role": "assistant", "content": "", "refusal": None})
        for place in list(self._open):
            one = written[place]
            text = one.state.text[self._text[place] :]
            fresh = one.state.logprobs[self._tokens[place] :] if self._with_logprobs else ()
            if text or fresh:
                yield self._chunk(place, {"content": text}, _logprobs(fresh) if self._with_logprobs else None)
            self._text[place] += len(text)
            self._tokens[place] += len(fresh)
            if one.state.finish:
                self._open.remove(place)
                yield self._chunk(place, {}, finish=one.state.finish) | {"playground": one.stamp}
        if self._with_usage and not self._open:
            last = {"choices": [], "usage": _usage(written), "system_fingerprint": self._prints[0]}
            yield self._head | last | {"playground": written[0].stamp}

    def _chunk(self, place: int, delta: dict[str, Any], logprobs: Any = None, finish: str | None = None) -> dict[str, Any]:
        choice = {"index": place, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._head | {"choices": [choice], "system_fingerprint": self._prints[place]}


def _head(model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}


def _usage(written: Sequence[Written]) -> dict[str, int]:
    """The prompt counts once, however many replies were asked for."""
    read, wrote = written[0].state.prompt_tokens, sum(one.state.completion_tokens for one in written)
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    content = [
        _token(token.text, token.logprob) | {"top_logprobs": [_token(text, value) for text, value in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(LOGPROB_MIN, logprob), "bytes": list(text.encode(errors="replace"))}
