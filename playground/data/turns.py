"""A chat as files write it, into its turns: roles by any name, texts in parts, calls of tools and their results,
rounds, transcripts; and what a base's template may refuse of them."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, time
from decimal import Decimal
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

from playground.data.example import (
    HALF_CHARACTER,
    TOOL,
    TOOLS,
    Message,
    answer_turn,
    joined,
    read_markup,
    uses_tools,
    without_end,
)
from playground.data.tools import (
    CALL_ROLES,
    OPEN,
    TOOL_ROLES,
    Call,
    call_of,
    fitted,
    results_in,
    tagged_calls,
    tools_of,
    whole_calls,
    with_calls,
)

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "customer"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai", "bing"), "assistant"),
    **dict.fromkeys(("bard", "claude", "agent", *CALL_ROLES), "assistant"),
    **dict.fromkeys(TOOL_ROLES, TOOL),
}
"""The role words of OpenAI's, ShareGPT's, Gemini's and Cohere's files -> ours."""
_WHO = ("role", "from", "author", "speaker", "sender")
_WHAT = ("content", "value", "text", "parts", "message", "utterance")
_THOUGHT = ("reasoning_content", "thinking", "reasoning")
STRUCTURE = frozenset({*_WHO, "type", "content_type", "id", "call_id", "tool_call_id", "tool_use_id", "index"})
"""Keys of a turn, or of a part of one, that say how it is read and are no text of their own."""
MASKS = frozenset({"weight", "loss", "loss_weight", "loss_mask", "train", "training"})
"""Keys of a turn that say whether it is learned: OpenAI's ``weight``, axolotl's ``train`` and ``training``."""
_IN_TURN = ["user", "assistant"]
_OFF = frozenset({"0", "0.0", "false", "no"})
_ROUNDS = (
    *(("user", "assistant"), ("human", "assistant"), ("input", "output"), ("prompt", "response")),
    *(("question", "answer"), ("instruction", "response"), ("human", "bot"), ("user", "bot")),
)

_TURN = 'Write each turn as {"role": "user", "content": "…"}.'
_ROLE_FIX = "Use system, user or assistant."
_CALL_FIX = 'Write a call as {"name": "…", "arguments": {…}} of a tool that there is, or leave the row out.'
_RESULT_FIX = "After its calls, give each one result with its id (tool_call_id), or leave the row out."
_LARGEST_LITERAL = 1_000_000  # characters of a cell read as a Python list
_TRANSCRIPT = re.compile(r"(?:\A|\n)[^\S\n]*(Human|User|Assistant|AI|System)\s*:[ \t]*", re.IGNORECASE)


class Unusable(Exception):
    """A record that cannot be read or trained on: what is wrong and what to do. It becomes a BadRow."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.reason, self.fix = reason, fix


def _speaker(item: Mapping[str, Any]) -> Any:
    """Who says a turn; LangChain calls it type."""
    name = _first(item, _WHO)
    return name if name or "type" not in item or str(item["type"]).casefold() not in ROLES else item["type"]


def is_turn(value: object) -> bool:
    """Whether a value looks like one turn: who speaks and what is said, or Gemini's parts."""
    if not isinstance(value, Mapping):
        return False
    if "type" in value and _speaker(value) and ("data" in value or "content" in value):
        return True
    if any(key in value for key in _WHO):
        return any(key in value for key in (*_WHAT, "tool_calls"))
    return value.keys() == {"parts"}


_WRITTEN_TURNS = re.compile(r"""\s*\[\s*\{\s*["'](role|from|content|value|author|speaker|parts|type)["']""")


def is_turns(value: object) -> bool:
    """Whether a value looks like a list of turns, itself or as JSON in a cell."""
    if isinstance(value, str):
        return value.lstrip()[:1] == "[" and _WRITTEN_TURNS.match(value) is not None
    first = value[0] if isinstance(value, list) and value else None
    if not isinstance(first, dict):
        return False
    return bool("role" in first or "from" in first or is_turn(first) or _round(first) or _said_by(first))


def plain_text(value: object, what: str) -> str:
    """A cell's text; numbers, dates and true/false are written out, nothing is ``""``. Raises Unusable for others."""
    if isinstance(value, str):
        if not value.isascii() and HALF_CHARACTER.search(value):
            raise Unusable(f"{what} holds half a character (a lone surrogate)", "Type that character again.")
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal | date | time):
        return "" if isinstance(value, float) and not math.isfinite(value) else str(value)
    kind = "an object" if isinstance(value, dict) else "a list"
    raise Unusable(f"{what} is {kind}, not text", "Write it as one text.")


def read_turns(value: object, what: str) -> tuple[Message, ...]:
    """Turns in any order, each with a known role and some text; an empty system turn is left out. Raises Unusable.

    1. a list of turns; 2. a list of rounds, each with what the user and the assistant said; 3. a list of texts, the
    user's first, then in turn; 4. a text that names who speaks (``Human: … Assistant: …``).
    """
    if value is None or value == "":
        raise Unusable(f"{what} is empty", _TURN)
    if isinstance(value, str):
        if spoken := read_transcript(value):  # 4
            for place, turn in enumerate(spoken, 1):
                if not plain_text(turn.content, f"turn {place} of {what}"):
                    raise Unusable(f"turn {place} of {what} is empty", "Fill in its text, or remove the row.")
            return spoken
        value = _literal(value)
    if isinstance(value, dict) and is_turns(value.get("messages")):
        value = value["messages"]
    if not isinstance(value, list):
        kind = "one object" if isinstance(value, dict) else "text"
        raise Unusable(f"{what} is {kind}, not a list of turns", f"Write a list. {_TURN}")
    if not value:
        raise Unusable(f"{what} is an empty list", _TURN)
    if len(value) >= 2 and all(isinstance(item, str) for item in value):  # 3
        value = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(value)]
    elif _is_round(value[0]):  # 2
        value = [turn for item in value for turn in _both(item)]
    read: list[Any] = [_plain(item) or _turn(item, place, what) for place, item in enumerate(value, 1)]
    turns: list[Message] = _answered(read) if list in map(type, read) else read
    return tuple(turn for turn in turns if turn.role != "system" or turn.content.strip())


def _plain(item: object) -> Message | None:
    """A turn of a role and a text without marks, as most are; None for others, which take several times as long."""
    if not isinstance(item, dict) or len(item) != 2:
        return None
    word, text = item.get("role") or item.get("from"), item.get("content") or item.get("value")
    role = ROLES.get(word) if isinstance(word, str) and word not in CALL_ROLES else None
    if role is None or role == TOOL or not isinstance(text, str) or "<" in text or not text.strip():
        return None
    return None if not text.isascii() and HALF_CHARACTER.search(text) else Message(role, text)


class _Called(NamedTuple):
    """A turn with calls or a result. ids: of these, "" where a file gives none. word: its role, as the file says it."""

    turn: Message
    ids: tuple[str, ...]
    word: str


def _answered(read: Sequence[Message | list[_Called]]) -> list[Message]:
    """The turns; in a chat with calls, results in the order of the calls. Raises Unusable where these do not match."""
    rest = [one for each in read for one in (each if isinstance(each, list) else [_Called(each, (), "")])]
    results = {one.word for one in rest if one.turn.role == TOOL}
    if results == {"observation"} and not any(OPEN in one.turn.content for one in rest):
        return [replace(one.turn, role="user" if one.turn.role == TOOL else one.turn.role) for one in rest]
    turns = [Message(TOOLS, "[]")]
    while rest:
        (turn, ids, _), *rest = rest
        answers = [*takewhile(lambda other: other.turn.role == TOOL, rest)]
        rest, place = rest[len(answers) :], len(turns)
        count = len(_calls(turn, f"turn {place}")) if turn.role == "assistant" else 0
        if turn.role == TOOL or (answers and not count):
            at = place + (turn.role != TOOL)
            raise Unusable(f"turn {at} is a tool's result, and nothing was called before", _RESULT_FIX)
        if (answers or (count and rest)) and len(answers) != count:
            raise Unusable(f"turn {place} makes {count} calls, and {len(answers)} results follow", _RESULT_FIX)
        given = [id for answer in answers for id in answer.ids]
        if given and ids and all(ids) and all(given):
            if sorted(ids) != sorted(given):
                other = next(id for id in given if id not in ids or given.count(id) > ids.count(id))
                raise Unusable(f"no call of turn {place} has the id {other[:40]!r} of a result", _RESULT_FIX)
            answers.sort(key=lambda answer: ids.index(answer.ids[0]))
        turns += [turn, *(answer.turn for answer in answers)]
    return turns


def _calls(turn: Message, where: str) -> tuple[Call, ...]:
    try:
        return tagged_calls(turn.content)[1]
    except ValueError as error:
        raise Unusable(f"{where} {error}", _CALL_FIX) from None


def with_tools(turns: tuple[Message, ...], value: object, what: str) -> tuple[Message, ...]:
    """A chat with what may be called, and with its calls in one form. A system prompt that lists the tools already
    stays as it is. Raises Unusable for calls that do not fit them."""
    try:
        tools = tools_of(value)
    except ValueError as error:
        raise Unusable(f"the tools ({what}) {error}", "Describe them as OpenAI does, or leave the row out.") from None
    if not (tools or uses_tools(turns)):
        return turns
    names, made = {tool["function"]["name"] for tool in tools}, []
    for place, turn in enumerate((turn for turn in turns if turn.role != TOOLS), 1):
        if turn.role == "assistant":
            try:
                said, calls = tagged_calls(turn.content)
                said, calls = ("", whole) if names and (whole := whole_calls(said, names)) else (said, calls)
                turn = replace(turn, content=with_calls(said, fitted(calls, tools))) if calls else turn
            except ValueError as error:
                raise Unusable(f"turn {place} {error}", _CALL_FIX) from None
        made.append(turn)
    listed = any(turn.role == "system" and "<tools>" in turn.content for turn in made)
    return (Message(TOOLS, "[]" if listed else json.dumps(tools, ensure_ascii=False)), *made)


def read_transcript(text: str) -> tuple[Message, ...]:
    """A chat written as one text, ``Human: … Assistant: …`` or with a template's marks; () for any other text."""
    if marked := read_markup(text):
        return tuple(Message(role, said) for role, said in marked)
    before, *parts = _TRANSCRIPT.split(text)
    if len(parts) < 4 or before.strip():
        return ()
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return tuple(Message(ROLES[who.casefold()], said.strip()) for who, said in pairs)


def check_turns(turns: Sequence[Message]) -> None:
    """Raises Unusable for what a base's template may refuse: system only first, then user and assistant in turn."""
    turns = turns[1:] if turns and turns[0].role == TOOLS else turns
    rest = turns[1:] if turns and turns[0].role == "system" else turns
    if rest and [turn.role for turn in rest] == _IN_TURN * (len(rest) // 2):
        return
    if any(turn.role == "system" for turn in rest):
        raise Unusable("a system turn that is not the first", "Move the system turn to the start, and keep only one.")
    if not any(turn.role == "assistant" for turn in rest):
        raise Unusable("no assistant turn: there is no answer to learn", "Add the assistant's answer.")
    if rest[0].role == "assistant" and rest[0].learned:
        raise Unusable("the first turn is the assistant's", "Start with a user turn.")
    for place, (before, after) in enumerate(pairwise(rest), 1 + len(turns) - len(rest)):
        if before.role == after.role != TOOL:
            reason = f"two {after.role} turns in a row (turns {place} and {place + 1})"
            raise Unusable(reason, "Join them, or add the turn between them.")
    if rest[-1].role != "assistant":
        raise Unusable("the last turn is not the assistant's", "Add the assistant's answer, or remove the last turn.")


def _literal(cell: str) -> object:
    """A list written into a cell of a table: JSON, or Python's own spelling of it."""
    with suppress(ValueError, RecursionError):
        return json.loads(cell)
    with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return ast.literal_eval(cell.strip()) if len(cell) <= _LARGEST_LITERAL else cell
    return cell


def _first(item: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """The first of these that is there; a table of objects writes nulls for what another row has."""
    for key in keys:
        if (value := item.get(key)) is not None:
            return value
    return None


def _round(item: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((keys for keys in _ROUNDS if keys[0] in item and keys[1] in item), None)


def _is_round(item: Any) -> bool:
    if isinstance(item, list):  # LLaMA-Factory's history
        return len(item) == 2
    return isinstance(item, dict) and not is_turn(item) and _round(item) is not None


def _both(item: Any) -> list[Any]:
    """The two turns of a round; anything else is one."""
    if isinstance(item, list) and len(item) == 2:
        return [{"role": role, "content": said} for role, said in zip(("user", "assistant"), item, strict=True) if said]
    keys = (_round(item) if isinstance(item, dict) else None) or ()
    return [{"role": role, "content": item[key]} for role, key in zip(_IN_TURN, keys, strict=False)] or [item]


def _said_by(item: Mapping[str, Any]) -> str | None:
    """``{"user": "…"}``: the role is the key."""
    key = next(iter(item)) if len(item) == 1 else None
    return key if isinstance(key, str) and key.casefold() in ROLES else None


def _turn(item: object, place: int, what: str) -> Message | list[_Called]:
    """One item. A list where it calls or is a result: Anthropic writes results and what the user says then as one."""
    if not isinstance(item, dict):
        raise Unusable(f"turn {place} of {what} is not an object", _TURN)
    if "data" in item and isinstance(item["data"], dict) and "content" in item["data"]:  # LangChain's, as it saves them
        item = {**item["data"], **item, "content": item["data"]["content"]}
    name, content = item.get("role") or _speaker(item), _first(item, _WHAT)
    if not name and (by := _said_by(item)):
        name, content = by, item[by]
    if not name:
        raise Unusable(f"turn {place} of {what} has no role", _TURN)
    said = str(name).strip().casefold()
    role = ROLES.get(said)
    if role is None:
        raise Unusable(f"unknown role {str(name)[:40]!r} in turn {place}", _ROLE_FIX)
    if role == TOOL:
        given = results_in(result_text(content))
        id = _first(item, ("tool_call_id", "id")) if len(given) == 1 else None
        return [_Called(Message(TOOL, text), (str(id or ""),), said) for text in given]
    calls: list[Any] = []
    results: list[_Called] = []
    if isinstance(content, list):
        results = [*_results(content, said)]
        calls = [one for one in content if isinstance(one, dict) and one.get("type") == "tool_use"]
        left = [one for one in content if not isinstance(one, dict) or one.get("type") not in _BLOCKS]
        if results and not left:
            return results
        content = left
    turn = Message(role, without_end(turn_text(content, place)))
    if role == "assistant":
        turn = answer_turn(turn.content, thought if isinstance(thought := _first(item, _THOUGHT), str) else "")
        if not _BESIDE.isdisjoint(item):
            turn = replace(turn, learned=not any(str(item.get(key)).strip().casefold() in _OFF for key in MASKS))
            held = item.get("tool_calls") or []
            calls += [one for one in (held if isinstance(held, list) else [held]) if one is not None]
            calls += [item["function_call"]] if item.get("function_call") else []
        if calls or (said in CALL_ROLES and turn.content.lstrip().startswith(("{", "["))):
            turn, calls = _calling(turn, calls, place)
    if not turn.content.strip() and role != "system":
        empty = "holds a thought and no answer" if turn.thought else "is empty"
        raise Unusable(f"turn {place} ({role}) {empty}", "Fill in its text, or remove the turn.")
    if not (calls or results):
        return turn
    return [*results, _Called(turn, tuple(str(call.get("id") or "") for call in calls), said)]


_BESIDE = MASKS | {"tool_calls", "function_call"}
_BLOCKS = ("tool_use", "tool_result")
"""Anthropic's parts of a turn that are no text."""


def _calling(turn: Message, calls: list[Any], place: int) -> tuple[Message, list[Any]]:
    """(the turn with its calls, these). Without any its text is them. Raises Unusable."""
    try:
        if not calls:
            calls = read if isinstance(read := json.loads(turn.content), list) else [read]
            turn = replace(turn, content="")
        return replace(turn, content=with_calls(turn.content, [*map(call_of, calls)])), calls
    except (ValueError, RecursionError) as error:
        reason = "makes a call that is no JSON" if isinstance(error, json.JSONDecodeError | RecursionError) else error
        raise Unusable(f"turn {place} {reason}", _CALL_FIX) from None


def _results(content: list[Any], said: str) -> Iterator[_Called]:
    for block in content:
        if isinstance(block, dict) and block.get("type") == "tool_result":
            text = result_text(block.get("content"))
            yield _Called(Message(TOOL, text), (str(block.get("tool_use_id") or ""),), said)


def result_text(content: object) -> str:
    """What a call gave back: text, Anthropic's or OpenAI's list of text parts, or JSON."""
    if isinstance(content, list) and all(isinstance(one, dict) and isinstance(one.get("text"), str) for one in content):
        return "\n".join(one["text"] for one in content)
    is_json = isinstance(content, dict | list)
    return json.dumps(content, ensure_ascii=False) if is_json else plain_text(content, "a result")


def turn_text(content: object, place: int) -> str:
    """What is said in a turn: a text, OpenAI's or Gemini's list of parts. Raises Unusable for other than text."""
    if isinstance(content, str):
        return content if content.isascii() else plain_text(content, f"turn {place}")
    if isinstance(content, dict) and "parts" in content:
        content = content["parts"]
    if isinstance(content, dict) and content.get("content_type", "text") == "text" and "text" in content:
        content = content["text"]
    if not isinstance(content, list):
        return plain_text(content, f"turn {place}")
    said, thoughts = [], []
    for part in content:
        text = part if isinstance(part, str) else _first(part, ("text", "value")) if isinstance(part, dict) else None
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind in ("thinking", "redacted_thinking") and isinstance(part, dict):  # Anthropic's
            thoughts += [part["thinking"]] if isinstance(part.get("thinking"), str) else []
            continue
        if not isinstance(text, str) or kind not in ("text", "input_text", "output_text"):
            fix = "Keep the text parts only, or remove the row."
            raise Unusable(f"turn {place} holds something other than text", fix)
        said.append(plain_text(text, f"turn {place}"))
    return joined("\n".join(thoughts), "\n".join(said))


Turns = tuple[Message, ...]


def mended(turns: Turns) -> tuple[Turns, list[str]]:
    """(the turns as they can be trained on, the kinds of repair that this took).

    1. ``markup``: a template's marks inside a turn; the first turn may mark a system prompt, too. 2. ``join``:
    neighbours of one role, unless one of two answers is masked or something is said after calls. 3. ``greeting``: the
    assistant's words before the first question are read, not learned. 4. ``end``: what stands after the last answer.
    """
    kinds: dict[str, None] = {}
    apart: list[Message] = []
    for place, turn in enumerate(turns):
        marked = read_markup(turn.content)
        if marked and marked[-1][0] == turn.role and (len(marked) == 1 or place == 0):  # 1
            kinds["markup"] = None
            apart += [Message(role, said) for role, said in marked[:-1]]
            turn = replace(turn, content=marked[-1][1])
        last = apart[-1] if apart else None
        same = last is not None and last.role == turn.role != TOOL and last.learned == turn.learned
        if last is not None and same and (OPEN not in last.content or OPEN in turn.content):  # 2
            kinds["join"] = None
            said, thought = (
                "\n\n".join(filter(None, two)) for two in ((last.content, turn.content), (last.thought, turn.thought))
            )
            apart[-1] = replace(last, content=said, thought=thought)
        else:
            apart.append(turn)
    asked = next((place for place, turn in enumerate(apart) if turn.role == "user"), len(apart))
    for place, turn in enumerate(apart[:asked]):
        if turn.role == "assistant" and turn.learned:  # 3
            kinds["greeting"] = None
            apart[place] = replace(turn, learned=False)
    answered = max((place for place, turn in enumerate(apart) if turn.role == "assistant"), default=0)
    if asked < answered < len(apart) - 1:  # 4
        kinds["end"] = None
        del apart[answered + 1 :]
    return tuple(apart), [*kinds]
