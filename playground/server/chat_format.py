"""OpenAI's chat completions: the request, every refusal naming its field, and the reply, whole or in chunks."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from playground.chat.batching import LONG_PACE_S, Written
from playground.chat.programs import Chat
from playground.data.example import TOOL, TOOLS, Message, answer_turn
from playground.data.tools import OPEN, call_of, parted_reply, tool_names, tools_of, with_calls
from playground.engine.request import SEED_MAX, Sampling, TokenLogprob, stamp_hash
from playground.errors import InputError
from playground.evaluation.checks import SCHEMA
from playground.evaluation.form import REGEX, compact, grammar

T = TypeVar("T", int, float, bool)
JsonObject = dict[str, Any]
MAX_TOKENS = 512  # the longest reply where the request names none; less where the base holds no more
FAR = 2**63
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": TOOL}

_UNSERVED: dict[str, dict[str, tuple[object, ...]]] = {
    "Use repetition_penalty.": {"frequency_penalty": (0,), "presence_penalty": (0,)},
    "Whether a tool is called is the model's to say.": {"tool_choice": ("none", "auto")},
    "Use tools.": {"functions": ([],), "function_call": ("none", "auto")},
    "Use response_format, guided_json, guided_regex or guided_choice.": {"guided_grammar": (), "structural_tag": ()},
    "Replies are text.": {"modalities": (["text"],), "audio": ()},
    "This server searches nothing.": {"web_search_options": ()},
    "Use top_p or top_k.": {"min_p": (0,)},
    "Use n.": {"best_of": (1,)},
    "Use stop.": {"stop_token_ids": ([],)},
    "The base's own template is used.": {"chat_template": ()},
    "Leave it out.": {
        **{"logit_bias": ({},), "use_beam_search": (False,), "length_penalty": (1,), "bad_words": ([],)},
        **{"echo": (False,), "add_generation_prompt": (True,), "continue_final_message": (False,)},
    },
}
"""What to do instead of a field that would change the reply and is not served, and the values of it that change
nothing. Unknown fields (user, metadata, store and the like) are ignored."""


class FieldError(InputError):
    """A field of the request is wrong. param: which."""

    def __init__(self, param: str, words: str) -> None:
        super().__init__(words)
        self.param = param


class ChatRequest(NamedTuple):
    """stream: answer piece by piece. usage: and tell the counts at the stream's end."""

    chat: Chat
    stream: bool
    usage: bool


def read_chat(body: Mapping[str, Any]) -> ChatRequest:
    """Raises FieldError, or InputError for a number out of its range. Without a seed one is drawn."""
    for instead, fields in _UNSERVED.items():
        for name, neutral in fields.items():
            if body.get(name) is not None and body[name] not in neutral:
                raise FieldError(name, f"{name} is not served here. {instead}")
    longest = _value(body, "max_completion_tokens", int)
    longest = _value(body, "max_tokens", int) if longest is None else longest
    shortest = _value(body, "min_tokens", int) or 0
    seed, top_k = _value(body, "seed", int), _value(body, "top_k", int) or 0
    names = ("temperature", "top_p", "repetition_penalty")
    numbers = {name: 1.0 if (value := _value(body, name, float)) is None else value for name in names}
    sampling = Sampling(
        **numbers,
        max_tokens=max(MAX_TOKENS, shortest) if longest is None else longest,
        seed=secrets.randbelow(SEED_MAX + 1) if seed is None or seed == -1 else seed,  # vLLM: -1 is none
        top_k=0 if top_k == -1 else top_k,  # vLLM: -1 is off
        stop=_stop(body.get("stop")),
        min_tokens=shortest,
        ignore_eos=bool(_value(body, "ignore_eos", bool)),
        format=_form(body),
        think=_think(body),
    )
    likeliest, asked = _value(body, "top_logprobs", int) or 0, _value(body, "logprobs", bool)
    if likeliest and not asked:
        raise FieldError("top_logprobs", "top_logprobs needs logprobs set to true.")
    model, messages, replies = body.get("model"), body.get("messages"), _value(body, "n", int)
    if not isinstance(model, str) or not model:
        raise FieldError("model", "model is missing. It takes base or an adapter's id; /v1/models lists them.")
    if not isinstance(messages, list) or not messages:
        raise FieldError("messages", "messages is a list of at least one message, each with a role and a content.")
    read = _messages(body, messages)
    stream, likely = bool(_value(body, "stream", bool)), likeliest if asked else None
    pace_s = 0.0 if stream else LONG_PACE_S
    chat = Chat(model, read, sampling, 1 if replies is None else replies, likely, longest is None, pace_s)
    options = body.get("stream_options") or {}
    if not isinstance(options, Mapping):
        raise FieldError("stream_options", 'stream_options is an object, such as {"include_usage": true}.')
    return ChatRequest(chat, stream, bool(_value(options, "include_usage", bool)))


def _form(body: Mapping[str, Any]) -> str:
    """What the reply is held to, by OpenAI's ``response_format`` or vLLM's fields; one may be named. "" = free."""
    found: dict[str, str] = {}
    asked = body.get("response_format") or {"type": "text"}
    kind = asked.get("type") if isinstance(asked, Mapping) else None
    if kind == "json_object":
        found["response_format"] = _schema("response_format", {"type": "object"})
    elif kind == "json_schema":
        named = asked.get("json_schema")
        where = "response_format.json_schema.schema"
        found["response_format"] = _schema(where, named.get("schema") if isinstance(named, Mapping) else None)
    elif kind != "text":
        said = f"response_format is {asked!r:.60}. It takes an object of the type text, json_object or json_schema."
        raise FieldError("response_format", said)
    held = body.get("structured_outputs") or {}
    if not isinstance(held, Mapping):
        raise FieldError("structured_outputs", 'structured_outputs is an object, such as {"regex": "yes|no"}.')
    fields = {f"guided_{name}": body.get(f"guided_{name}") for name in ("json", "regex", "choice")}
    fields |= {f"structured_outputs.{name}": value for name, value in held.items()}
    for field, value in fields.items():
        name = field.removeprefix("guided_").removeprefix("structured_outputs.")
        if value is None or value is False:
            continue
        if name == "json":
            found[field] = _schema(field, value)
        elif name == "json_object":
            found[field] = _schema(field, {"type": "object"})
        elif name == "regex" and isinstance(value, str) and value.strip():
            found[field] = REGEX + value
        elif name == "choice" and isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            found[field] = REGEX + "|".join(map(re.escape, value))
        else:
            said = "json takes a schema, regex a pattern, choice a list of strings; nothing else is held to here."
            raise FieldError(field, f"{field} is {value!r:.40}: {said}")
    if len(set(found.values())) > 1:
        raise FieldError(list(found)[1], f"{' and '.join(found)} ask for a form each. A reply has one: leave one out.")
    for field, form in found.items():
        try:
            grammar(form)
        except InputError as error:
            raise FieldError(field, str(error)) from error
    return next(iter(found.values()), "")


def _think(body: Mapping[str, Any]) -> bool | None:
    """As vLLM takes it: ``{"enable_thinking": false}``, or ``thinking`` in its place."""
    asked = body.get("chat_template_kwargs") or {}
    found = (
        [asked[name] for name in asked if name in ("enable_thinking", "thinking")] if isinstance(asked, Mapping) else []
    )
    if not isinstance(asked, Mapping) or len(found) < len(asked) or not all(isinstance(one, bool) for one in found):
        said = "It takes enable_thinking, true or false, and nothing else: the base's own template is used."
        raise FieldError("chat_template_kwargs", f"chat_template_kwargs is {asked!r:.60}. {said}")
    return found[0] if found else None


def _schema(field: str, schema: object) -> str:
    """A JSON Schema as a form; vLLM takes its text as well."""
    if isinstance(schema, str) and schema.lstrip().startswith("{"):
        return SCHEMA + schema
    if not isinstance(schema, Mapping):
        raise FieldError(field, f"{field} is {schema!r:.40}. It takes a JSON Schema, which is an object.")
    return SCHEMA + compact(schema)


def _messages(body: Mapping[str, Any], messages: Sequence[object]) -> tuple[Message, ...]:
    """The chat, with what may be called before it where tools are offered or were called."""
    try:
        tools = [] if body.get("tool_choice") == "none" else tools_of(body.get("tools"))
    except ValueError as error:
        raise FieldError("tools", f"tools {error}. Each is an object of the type function, with a name.") from None
    read = tuple(_message(place, item) for place, item in enumerate(messages))
    for place, turn in enumerate(read):
        before = read[place - 1] if place else turn
        if turn.role == TOOL and not (place and (before.role == TOOL or OPEN in before.content)):
            said = f"messages[{place}] has the role 'tool', and no call stands before it."
            raise FieldError(f"messages[{place}].role", said)
    called = any(isinstance(item, Mapping) and (item["role"] == TOOL or item.get("tool_calls")) for item in messages)
    return (Message(TOOLS, json.dumps(tools, ensure_ascii=False)), *read) if tools or called else read


def _message(place: int, item: object) -> Message:
    where = f"messages[{place}]"
    if not isinstance(item, Mapping):
        raise FieldError(where, f"{where} is not an object with a role and a content.")
    role = ROLES.get(item["role"]) if isinstance(item.get("role"), str) else None
    if role is None:
        said = f"{where} has the role {item.get('role')!r:.40}; it takes {', '.join(ROLES)}."
        raise FieldError(f"{where}.role", said)
    calls, content = item.get("tool_calls") or [], item.get("content")
    if calls and (role != "assistant" or not isinstance(calls, list)):
        raise FieldError(f"{where}.tool_calls", f"{where}.tool_calls is a list of calls that the assistant made.")
    text = "\n".join(_part(where, part) for part in content) if isinstance(content, list) and content else content
    if not isinstance(text, str) and not (calls and text is None):
        said = f"{where} has no text. Its content is a string, or a list of parts of the type text."
        raise FieldError(f"{where}.content", said)
    try:
        whole = with_calls(text or "", [*map(call_of, calls)])
    except ValueError as error:
        raise FieldError(f"{where}.tool_calls", f"{where} {error}.") from None
    return answer_turn(whole) if role == "assistant" else Message(role, whole)


def _part(where: str, part: object) -> str:
    kind, text = (part.get("type"), part.get("text")) if isinstance(part, Mapping) else (None, None)
    if kind != "text" or not isinstance(text, str):
        said = f"{where} has a part of the type {kind!r:.40}. Only text is read: send parts of the type text."
        raise FieldError(f"{where}.content", said)
    return text


def _stop(value: object) -> tuple[str, ...]:
    found = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise FieldError("stop", "stop is a string or a list of strings.")
    return tuple(found)


_KINDS: dict[type, str] = {float: "a number", int: "a whole number", bool: "true or false"}


def _value(body: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    """A field of this kind, None where it is left out; a whole number is a number too. Raises FieldError."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, kind)):
        raise FieldError(name, f"{name} is {_KINDS[kind]}; this is {value!r:.40}.")
    if kind is int and abs(value) > FAR:
        raise FieldError(name, f"{name} is out of its range.")
    return kind(max(-FAR, min(FAR, value)))


LOGPROB_MIN = -9999.0  # stands for minus infinity, which JSON does not have


def _told(text: str, offered: Collection[str]) -> JsonObject:
    """A reply's text as a message has it: calls of the tools that were offered, in any common form, stand apart."""
    said, calls = parted_reply(text) if offered else (text, ())
    if not calls or not {call.name for call in calls} <= {*offered}:
        return {"content": text}
    made = [
        {"id": f"call_{secrets.token_hex(12)}", "type": "function"}
        | {"function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}}
        for call in calls
    ]
    return {"content": said or None, "tool_calls": made}


def _finish(finish: str, told: Mapping[str, Any]) -> str:
    return "tool_calls" if finish == "stop" and "tool_calls" in told else finish


def whole(chat: Chat, written: Sequence[Written]) -> JsonObject:
    """A ``chat.completion``. ``playground`` is the first reply's stamp; of several, each choice carries its own."""
    offered = tool_names(chat.messages)
    each = [_told(one.state.text, offered) for one in written]
    choices = [
        {
            "index": place,
            "message": {"role": "assistant", "refusal": None}
            | told
            | ({"reasoning_content": one.state.thought} if one.state.thought else {}),
            "logprobs": None if chat.logprobs is None else _chat_reply_logprobs(one.state.logprobs),
            "finish_reason": _finish(one.state.finish, told),
        }
        | ({"playground": one.stamp} if len(written) > 1 else {})
        for place, (one, told) in enumerate(zip(written, each, strict=True))
    ]
    return _head(chat.model) | {
        "object": "chat.completion",
        "choices": choices,
        "usage": _usage(written),
        "system_fingerprint": stamp_hash(written[0].stamp or {}),
        "playground": written[0].stamp,
    }


class Chunks:
    """Snapshots as ``chat.completion.chunk`` objects: role, text, the end with the stamp, counts with ``usage``. Where
    tools are offered the text comes at its end, when it is known whether it calls some."""

    def __init__(self, chat: Chat, *, usage: bool) -> None:
        self._head = _head(chat.model) | {"object": "chat.completion.chunk"} | ({"usage": None} if usage else {})
        self._with_logprobs, self._with_usage, count = chat.logprobs is not None, usage, chat.replies
        self._offered = tool_names(chat.messages)
        self._text = [0] * count  # characters told of each reply
        self._thought = [0] * count  # and of each thought before it
        self._tokens = [0] * count  # logprobs told of each
        self._open = list(range(count))
        self._prints: list[str] = []

    def of(self, written: Sequence[Written]) -> Iterator[JsonObject]:
        """The chunks that a snapshot adds to those before it."""
        if any(one.stamp is None for one in written):  # it waits for the device
            return
        if not self._prints:
            self._prints = [stamp_hash(one.stamp or {}) for one in written]
            for place in self._open:
                yield self._chunk(place, {"role": "assistant", "content": "", "refusal": None})
        for place in list(self._open):
            one = written[place]
            thought, text = one.state.thought[self._thought[place] :], one.state.text[self._text[place] :]
            told: JsonObject = {"content": text}
            if self._offered:
                told, text = (_told(text, self._offered), text) if one.state.finish else ({"content": ""}, "")
            if thought:
                yield self._chunk(place, {"reasoning_content": thought})
                self._thought[place] += len(thought)
            fresh = one.state.logprobs[self._tokens[place] :] if self._with_logprobs else ()
            if text or fresh:
                logprobs = _chat_reply_logprobs(fresh) if self._with_logprobs else None
                calls = [{"index": at} | call for at, call in enumerate(told.get("tool_calls", ()))]
                yield self._chunk(place, told | ({"tool_calls": calls} if calls else {}), logprobs)
            self._text[place] += len(text)
            self._tokens[place] += len(fresh)
            if one.state.finish:
                self._open.remove(place)
                yield self._chunk(place, {}, finish=_finish(one.state.finish, told)) | {"playground": one.stamp}
        if self._with_usage and not self._open:
            last = {"choices": [], "usage": _usage(written), "system_fingerprint": self._prints[0]}
            yield self._head | last | {"playground": written[0].stamp}

    def _chunk(self, place: int, delta: JsonObject, logprobs: JsonObject | None = None, finish: str = "") -> JsonObject:
        choice = {"index": place, "delta": delta, "logprobs": logprobs, "finish_reason": finish or None}
        return self._head | {"choices": [choice], "system_fingerprint": self._prints[place]}


def _head(model: str) -> JsonObject:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}


def _usage(written: Sequence[Written]) -> JsonObject:
    """The prompt counts once, however many replies were asked for."""
    read, wrote = written[0].state.prompt_tokens, sum(one.state.completion_tokens for one in written)
    usage: JsonObject = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
    thoughts = sum(one.state.thought_tokens for one in written)
    return usage | ({"completion_tokens_details": {"reasoning_tokens": thoughts}} if thoughts else {})


def _chat_reply_logprobs(tokens: Sequence[TokenLogprob]) -> JsonObject:
    def told(text: str, logprob: float) -> JsonObject:
        return {"token": text, "logprob": max(LOGPROB_MIN, logprob), "bytes": list(text.encode(errors="replace"))}

    content = [told(one.text, one.logprob) | {"top_logprobs": [told(*other) for other in one.top]} for one in tokens]
    return {"content": content, "refusal": None}
