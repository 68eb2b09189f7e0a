"""The one renderer: training, comparing, judging and the API all turn messages into text and tokens here.

No system prompt given means the base's chat template as it is, its own default system prompt included. The template
comes from the base, never from an adapter. A base without a template gets the plain one below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from playground.data.example import Example, Message
from playground.errors import InputError

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
"""For bases that ship no chat template (plain language models)."""


@dataclass(frozen=True)
class Rendered:
    """One example as the model sees it. Token ids are lists of int; only ``completion_ids`` count for the loss.

    cut: tokens taken from the start of the prompt so that both fit the limit.
    """

    prompt_text: str
    completion_text: str
    prompt_ids: list[int]
    completion_ids: list[int]
    cut: int = 0


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The exact text the model is given before it answers ``messages`` (the last one is the user's)."""
    return _template(tokenizer, messages, add_generation_prompt=True)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of rendered text; the template already holds every special token."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def render_example(tokenizer: Any, example: Example, max_tokens: int) -> Rendered:
    """One example, cut to ``max_tokens``: the prompt's start goes, the answer stays.

    Raises InputError when the answer alone is too long, or the base's template refuses the turns.
    """
    prompt = render_prompt(tokenizer, example.prompt)
    whole = _template(tokenizer, example.messages, add_generation_prompt=False)
    eos = tokenizer.eos_token or ""
    # Templates that treat the last turn in their own way (thinking models) do not begin with the prompt.
    completion = whole[len(prompt) :] if whole.startswith(prompt) else example.completion + eos
    if eos and completion.rstrip("\n").endswith(eos):
        completion = completion.rstrip("\n")
    prompt_ids, completion_ids = encode(tokenizer, prompt), encode(tokenizer, completion)
    if len(completion_ids) >= max_tokens:
        raise InputError(
            f"Row {example.row}: the answer alone is {len(completion_ids)} tokens, the limit is {max_tokens}. "
            f"Raise the limit to at least {len(completion_ids) + 1}, or leave the row out."
        )
    cut = max(0, len(prompt_ids) + len(completion_ids) - max_tokens)
    return Rendered(prompt, completion, prompt_ids[cut:], completion_ids, cut)


def _template(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [message.as_dict() for message in messages],
            chat_template=None if tokenizer.chat_template else PLAIN_TEMPLATE,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except TemplateError as error:  # e.g. Gemma's template takes no system turn
        what = f"the base's chat template refuses these turns ({error})"
        raise InputError(f"{what}. Change the roles, or use another base.") from error
    return str(text)
