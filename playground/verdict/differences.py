"""What tells apart a server's replies from ours to the same rows, named row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from playground.chat.batching import Written
from playground.verdict.request import Item

OURS, THEIRS = "ours", "theirs"
Decode = Callable[[Sequence[int]], str]
UNFINISHED = "\ufffd"
"""Of a character whose bytes are not all there yet."""
NEAR = 0.1
"""Nats between two tokens of ours that another order of sums may turn round: half precision moves a logit by some
hundredths."""
LOOKED_AT = 8
"""Likeliest tokens that are known at each place of our replies."""
AGAIN = 3
"""Rows that differ and are asked for once more: a greedy server says the same."""
UNPENALISED = {"repeat_penalty": 1.0, "repetition_penalty": 1.0}
"""What turns a repeat penalty of the server's own off, as llama.cpp and vLLM call it."""
MOSTLY, ALIKE = 0.8, 0.5
"""Shares: of rows that decide, and of characters that make two replies alike."""
TEMPLATE, STOP, AS_BASE = "wrong template", "missing stop", "base served as adapter"
SAMPLING, NEAR_TIE, QUANTISED, OTHER = "other sampling", "near-tie", "quantisation", "unexplained"
ADVICE = {
    TEMPLATE: "Serve it with the base's own chat template (llama.cpp: --jinja; Ollama: the written Modelfile), and the "
    "base's default system prompt with it.",
    STOP: "Tell the server which tokens end a reply (Ollama: PARAMETER stop; the GGUF file's or generation config's "
    "end token), and do not ignore them.",
    AS_BASE: "The adapter is not in what answers: name its model after the address (URL#MODEL), load it (--lora, "
    "--lora-modules, ADAPTER), or serve the merged file.",
    SAMPLING: "Let requests set the temperature to 0 and the repeat penalty to 1 (llama-cpp-python and Ollama have 1.1 "
    "of their own; Ollama: PARAMETER repeat_penalty 1).",
    QUANTISED: "Look at the pass rates: serve 8 bits or half precision where too much is lost.",
    OTHER: "Look at the rows: other weights, another precision or a penalty on tokens would do this.",
}


@dataclass(frozen=True)
class Pair:
    """One row's replies. base: what our base says. again, unpenalised: what the server says when it is asked
    once more, and with its repeat penalty turned off; longer: our reply with one token past its end. None = not
    asked."""

    item: Item
    ours: Written
    theirs: Written
    base: str | None = None
    again: str | None = None
    unpenalised: str | None = None
    longer: Written | None = None

    @property
    def texts(self) -> tuple[str, str]:
        return self.ours.state.text.strip(), self.theirs.state.text.strip()

    @property
    def same(self) -> bool:
        return self.texts[0] == self.texts[1]


def sentence_of(equal: int, rows: int, found: dict[str, int], *, same: bool) -> str:
    if same:
        near = found.get(NEAR_TIE, 0)
        rest = f", and {near} part at a near-tie" if near else ""
        return f"Same: {equal} of {rows} replies are equal{rest}."
    (worst, count), *others = ((name, n) for name, n in found.items() if name != NEAR_TIE)
    also = "".join(f", {name} in {n}" for name, n in others)
    return f"Not the same: {worst} in {count} of {rows} rows{also}; {equal} are equal. {ADVICE[worst]}"


def named(pairs: Sequence[Pair], ends: Sequence[str], template: str, decode: Decode) -> dict[int, tuple[str, str]]:
    """Row -> (fault, in words) of every row whose replies differ. ends: tokens that end a reply. template: how the
    server writes the first row, in words, "" = as here, or not known. decode: tokens -> text, special ones left out.

    1. A prompt of other text or length: the template. 2. It shows an end token, or goes on after our end in half of the
    rows that ended: the stop. 3. It says what our base says, or is nearer to that in most rows: the base. 4. It says
    something else when it is asked again, or without a repeat penalty: the sampling. 5. Our own token and theirs lie
    within ``NEAR``: a near-tie. 6. It takes one of our likeliest tokens: quantisation, or another precision. 7.
    Anything else."""
    apart = [one for one in pairs if not one.same]
    counted = [counts for one in pairs if (counts := _prompt_tokens(one)) is not None]
    other_length = bool(counted) and sum(a != b for a, b in counted) >= MOSTLY * len(counted)
    ended = sum(one.ours.state.finish == "stop" for one in pairs)
    no_stop = 2 * sum(map(goes_on, apart)) >= ended
    told = [one for one in apart if one.base not in (None, one.texts[0])]
    nearer = [
        one for one in told if _likeness(one.texts[1], one.base or "") > max(ALIKE, _likeness(*reversed(one.texts)))
    ]
    is_base = len(told) > 1 and len(nearer) >= MOSTLY * len(told)
    drawn = sum(one.again not in (None, one.texts[1]) for one in apart)
    penalty = is_penalised(pairs)
    found: dict[int, tuple[str, str]] = {}
    for one in apart:
        (ours, theirs), counts = one.texts, _prompt_tokens(one)
        gap, parting = _parting(one, decode, ends)
        if template or other_length:
            what = f"its prompt has {counts[1]} tokens, ours {counts[0]}" if counts else ""
            reason = TEMPLATE, "; ".join(filter(None, (what, template)))
        elif shown := next((end for end in ends if end in theirs and end not in ours), ""):
            reason = STOP, f"{shown} stands in its reply"
        elif no_stop and goes_on(one):
            reason = STOP, f"it goes on after our end: {theirs[len(ours) :][:80]!r}"
        elif one.base == theirs or (is_base and one in nearer):
            reason = AS_BASE, f"it says what the base says{'' if one.base == theirs else ', or nearly'}"
        elif drawn:
            reason = SAMPLING, f"asked again, it says something else in {drawn} of {min(AGAIN, len(apart))} rows"
        elif penalty and not (gap is not None and gap <= NEAR):
            reason = SAMPLING, f"a repeat penalty of its own, which a request can turn off; {parting}"
        elif gap is not None:
            reason = NEAR_TIE if gap <= NEAR else QUANTISED, parting
        else:
            reason = OTHER, parting
        found[one.item.example.row] = reason
    return found


def is_penalised(pairs: Sequence[Pair]) -> bool:
    """Whether the server says something else once its repeat penalty is turned off, though it is greedy."""
    greedy = all(one.again in (None, one.texts[1]) for one in pairs)
    return greedy and any(one.unpenalised not in (None, one.texts[1]) for one in pairs)


def _prompt_tokens(one: Pair) -> tuple[int, int] | None:
    """(ours, theirs), None where the server does not count them."""
    counted = one.theirs.stamp is not None and one.theirs.stamp["usage"]["reported"]
    return (one.ours.state.prompt_tokens, one.theirs.state.prompt_tokens) if counted else None


def _likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b, autojunk=False).ratio()


def goes_on(one: Pair) -> bool:
    """Whether the server has all of our reply, and more, where ours had ended by itself."""
    ours, theirs = one.texts
    return one.ours.state.finish == "stop" and bool(ours) and theirs.startswith(ours) and theirs != ours


def _parting(one: Pair, decode: Decode, ends: Sequence[str]) -> tuple[float | None, str]:
    """(nats between our token and theirs in our own distribution where their reply leaves ours, None where theirs is
    none of the likeliest; in words)."""
    state = (one.longer or one.ours).state
    raw, theirs = one.ours.state.text, one.theirs.state.text
    theirs = raw[: len(raw) - len(raw.lstrip())] + theirs.lstrip()
    so_far = ""
    for place, token in enumerate(state.logprobs, 1):
        text = decode(state.tokens[:place])
        if text.endswith(UNFINISHED) or (text != so_far and theirs.startswith(text)):
            so_far = so_far if text.endswith(UNFINISHED) else text
            continue
        rest = theirs[len(so_far) :]
        taken = [
            (len(text), text, token.logprob - logprob)
            for text, logprob in token.top
            if text != token.text and ((not rest.strip()) if text in ends else text and rest.startswith(text))
        ]
        if not taken:
            return None, f"at token {place} it leaves {token.text!r} for none of our {LOOKED_AT} likeliest"
        _, text, gap = max(taken)
        return gap, f"at token {place} it takes {text!r}, {gap:.3f} nats below our {token.text!r}"
    return None, "it goes on where our reply was cut off"
