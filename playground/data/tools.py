"""Calls of tools: the forms in which files, programs and models write them -> one, and a chat with them as templates
take it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from playground.data.example import TOOL, TOOLS, Turn

TOOL_ROLES = frozenset({"tool", "function", "ipython", "tool_response", "observation"})
CALL_ROLES = frozenset({"function_call", "tool_call"})
OPEN, CLOSE = "<tool_call>", "</tool_call>"
_TAGGED = re.compile(rf"{OPEN}(.*?)(?:{CLOSE}|\Z)", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>(.*?)(?:</tool_response>|\Z)", re.DOTALL)
_SIGNS = re.compile(r"\[TOOL_CALLS\]|<\|python_tag\|>|<\|?/?tool_calls?(?:_start|_end)?\|?>|^```\w*\s*|```$")
"""What families put around calls that are JSON: Mistral, Llama 3, LFM2 and others."""
_NAMED = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*(?=\{)")
_XML = re.compile(r"<function=([\w.-]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([\w.-]+)>(.*?)(?:</parameter>|\Z)", re.DOTALL)
_BETWEEN = re.compile(r"[ \n\t;,]*")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_SCHEMA = ("parameters", "input_schema", "inputSchema", "args_schema")
DESCRIBED = frozenset({*_SCHEMA, "description"})
WHO_CAN = "Qwen2.5, Qwen3, SmolLM3, Llama 3.2 and Mistral"
"""Bases of the catalogue whose template writes tools."""


class Call(NamedTuple):
    """One call of a tool."""

    name: str
    arguments: dict[str, Any]


def with_calls(said: str, calls: Sequence[Call]) -> str:
    """A turn's text: what is said, then each call between its tags. The one form in which rows, references and replies
    hold calls; a base's template writes its own."""
    each = (json.dumps(call._asdict(), ensure_ascii=False, default=str) for call in calls)
    return "\n".join([*filter(str.strip, [said]), *(f"{OPEN}\n{call}\n{CLOSE}" for call in each)])


def tagged_calls(text: str) -> tuple[str, tuple[Call, ...]]:
    """(what is said, the calls between tags). Raises ValueError with what is wrong with one."""
    if OPEN not in text:
        return text, ()
    calls = [call for found in _TAGGED.finditer(text) for call in _several(_read(found[1]))]
    return _TAGGED.sub("", text).strip(), tuple(calls)


def whole_calls(text: str, names: Collection[str] = ()) -> tuple[Call, ...]:
    """The calls that a text is and nothing else: JSON, one or a list; () for any other. names: of the tools there are,
    empty where that is not known."""
    if not text.lstrip().startswith(("{", "[")):
        return ()
    with suppress(ValueError, RecursionError):
        calls = tuple(_several(json.loads(text)))
        return calls if not names or {call.name for call in calls} <= {*names} else ()
    return ()


def parted_reply(text: str) -> tuple[str, tuple[Call, ...]]:
    """A reply in any common form: (what is said, calls). Of a call that cannot be read the text is said.

    1. between ``<tool_call>`` tags, JSON or Qwen3.5's ``<function=…>``; 2. after Mistral's ``[TOOL_CALLS]``, JSON or
    ``NAME[ARGS]{…}``; 3. JSON, alone, in a fence or after some words; 4. Python's ``[NAME(KEY=VALUE)]`` of Llama 4.
    """
    text = text.strip()
    with suppress(ValueError):
        said, calls = tagged_calls(text)  # 1
        if calls:
            return said, calls
    if xml := [Call(name, dict(map(_parameter, _PARAMETER.finditer(inside)))) for name, inside in _XML.findall(text)]:
        return _SIGNS.sub("", _XML.sub("", text)).strip(), tuple(xml)
    said, *parts = text.split("[TOOL_CALLS]")
    found = [(match[1], part[match.end() :]) for part in parts if (match := _NAMED.match(part))]
    with suppress(ValueError, RecursionError):
        if found and len(found) == len(parts):
            return said.strip(), tuple(Call(name, _object(json.loads(inside), name)) for name, inside in found)  # 2
    bare = _SIGNS.sub("", text).strip()
    for start in [0, *(found.start() for found in re.finditer(r"[{\[]", bare))][:20]:  # 2, 3, 4
        if calls := tuple(_sequence(bare[start:])) or _python(bare[start:]):
            return bare[:start].strip(), calls
    return text, ()


def _python(text: str) -> tuple[Call, ...]:
    if not re.match(r"\[\s*[\w.]+\(", text):
        return ()
    with suppress(SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        read = ast.parse(text, mode="eval").body
        each = [one for one in getattr(read, "elts", ()) if isinstance(one, ast.Call) and not one.args]
        made = (Call(ast.unparse(one.func), {k.arg or "": _literal(k.value) for k in one.keywords}) for one in each)
        return tuple(made) if len(each) == len(getattr(read, "elts", ())) else ()
    return ()


def _literal(value: Any) -> Any:
    """Python's literal as JSON has it. Raises what ``ast.literal_eval`` does, TypeError for what JSON does not have."""
    return json.loads(json.dumps(ast.literal_eval(value)))


@lru_cache(maxsize=4096)
def calls_in(reply: str) -> tuple[Call, ...]:
    return parted_reply(reply)[1]


def _sequence(text: str) -> Iterator[Call]:
    """Calls as JSON, one after another (Llama's are parted by ``;``), to the end of the text; none where it is other
    text."""
    decoder, found, at = json.JSONDecoder(), list[Call](), 0
    with suppress(ValueError, RecursionError):
        while at < len(text):
            read, at = decoder.raw_decode(text, at)
            found += _several(read)
            at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it takes nothing, too
        yield from found


def _parameter(found: re.Match[str]) -> tuple[str, Any]:
    said = found[2].strip()
    with suppress(ValueError, RecursionError):
        return found[1], json.loads(said)
    return found[1], said


def _read(text: str) -> Any:
    """JSON, or a Python dict as older files write it. Raises ValueError."""
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    with suppress(SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return _literal(text.strip())
    if xml := _XML.search(text):
        return {"name": xml[1], "arguments": dict(map(_parameter, _PARAMETER.finditer(xml[2])))}
    raise ValueError(f"makes a call that is no JSON: {text.strip()[:60]!r}")


def _several(value: object) -> list[Call]:
    return [call_of(one) for one in (value if isinstance(value, list) else [value])]


def call_of(value: object) -> Call:
    """One call as OpenAI, Anthropic, LangChain, Gemini, Llama and others write it. Raises ValueError, with why."""
    inner = value
    while isinstance(inner, Mapping) and (own := next((inner[k] for k in _WRAPS if inner.get(k)), None)) is not None:
        if not isinstance(own, Mapping):
            break
        inner = own
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(name, str) or not name.strip():
        raise ValueError("makes a call without a name")
    key = next((key for key in _ARGUMENTS if inner.get(key) is not None), None)
    if key is None and not any(key in inner for key in _ARGUMENTS):
        raise ValueError(f"calls {name[:40]} without arguments")
    given = inner[key] if key else None
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else {}
        except (ValueError, RecursionError):
            raise ValueError(f"calls {name[:40]} with arguments that are no JSON: {given[:60]!r}") from None
    return Call(name.strip(), _object(given, name))


_WRAPS = ("function", "function_call", "functionCall", "tool_use", "toolUse")


def _object(value: object, name: str = "a tool") -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"calls {name[:40]} with arguments that are no JSON object: {str(value)[:60]!r}")
    return dict(value or {})


def results_in(text: str) -> list[str]:
    """What several calls gave back, where one turn holds it all between Hermes' tags; else the text itself."""
    bare = text.strip()
    found = [*map(str.strip, _RESPONSE.findall(bare))] if bare.startswith("<tool_response>") else []
    return found if found and not _RESPONSE.sub("", bare).strip() else [text]


def tools_of(value: object) -> list[dict[str, Any]]:
    """What may be called, as OpenAI describes it: from a list of OpenAI's, Anthropic's or bare descriptions, or its
    JSON. Raises ValueError with the reason."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            raise ValueError("are no JSON") from None
    made = []
    for one in _list(value):
        one = _read(one) if isinstance(one, str) else one
        inner = one.get("function", one) if isinstance(one, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise ValueError("hold a tool without a name")
        rest = {key: item for key, item in inner.items() if key not in (*_SCHEMA, "type")}
        schema = next((inner[key] for key in _SCHEMA if isinstance(inner.get(key), Mapping)), None)
        schema = {"type": "object", "properties": {}} if schema is None else schema
        made.append({"type": "function", "function": _without_nulls({**rest, "parameters": schema})})
    return made


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def pieces(text: str) -> list[object]:
    """What a text of calls, results or JSON is taken apart into: what is said and each value; itself for any other."""
    bare = text.strip()
    with suppress(ValueError, RecursionError):
        if OPEN in text:
            said, calls = tagged_calls(text)
            return [said, *(leaf for call in calls for leaf in (call.name, *_leaves(call.arguments)))]
        if bare.startswith("<tool_response>"):
            return [*results_in(text)]
        if bare.startswith(("{", "[")):
            return [*_leaves(json.loads(bare))]
    return [text]


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, str):
        yield from pieces(value) if value.lstrip().startswith(("{", "[")) else [value]
    elif isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(one)
    else:
        yield value


def _without_nulls(value: Any) -> Any:
    """A table of objects writes nulls for what another row has."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [*map(_without_nulls, value)] if isinstance(value, list) else value


def fitted(calls: Sequence[Call], tools: Sequence[Mapping[str, Any]]) -> list[Call]:
    """The calls of tools that there are, without nulls for what they do not take. Raises ValueError for a call that
    names no tool or lacks an argument it must have. tools: empty where they are not described."""
    known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    made = []
    for call in calls:
        schema = known.get(call.name)
        if known and schema is None:
            raise ValueError(f"calls {call.name[:40]}, which is none of its tools ({', '.join(known)[:120]})")
        properties, required = ((schema or {}).get(key) for key in ("properties", "required"))
        takes = properties if isinstance(properties, Mapping) and properties else call.arguments
        given = {name: value for name, value in call.arguments.items() if value is not None or name in takes}
        needed = required if isinstance(required, list) else ()
        if missing := [one for one in needed if isinstance(one, str) and one not in given]:
            raise ValueError(f"calls {call.name[:40]} without {', '.join(missing)[:80]}, which it must have")
        made.append(Call(call.name, given))
    return made


def tool_names(messages: Sequence[Turn]) -> frozenset[str]:
    """What may be called in a chat."""
    offered = json.loads(messages[0].content) if messages and messages[0].role == TOOLS else []
    return frozenset(tool["function"]["name"] for tool in offered)


class LaidOut(NamedTuple):
    """turns: as chat templates take them. tools: what may be called, None = nothing is described."""

    turns: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


OBJECT, TEXT, INLINE = "object", "text", "inline"
"""Forms in which templates take calls: arguments as an object, as JSON text, or the whole as what is said."""


def laid_out(messages: Sequence[Turn], form: str = OBJECT) -> LaidOut:
    """A chat with calls and results apart from what is said, and ids after their place, nine characters as Mistral's
    template wants them."""
    turns, tools, count = list[dict[str, Any]](), None, 0
    calls: tuple[Call, ...]
    waiting: list[dict[str, Any]] = []
    for turn in messages:
        if turn.role == TOOLS:
            tools = json.loads(turn.content) or None
            continue
        made: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.role == TOOL and waiting:
            asked = waiting.pop(0)
            made |= {"tool_call_id": asked["id"], "name": asked["function"]["name"]}
        elif turn.role == "assistant":
            calls, waiting = (), []
            with suppress(ValueError):  # a reply that calls otherwise is text
                said, calls = tagged_calls(turn.content)
                made["content"] = turn.content if form == INLINE else said
            for call in calls:
                count += 1
                given = json.dumps(call.arguments, ensure_ascii=False) if form == TEXT else call.arguments
                function = {"name": call.name, "arguments": given}
                waiting.append({"id": f"call{count:05d}", "type": "function", "function": function})
            made |= {"tool_calls": [*waiting]} if waiting and form != INLINE else {}
        turns.append(made)
    return LaidOut(turns, tools)


@dataclass(frozen=True, slots=True)
class ToolSupport:
    """Of a chat template, as its renderings show.

    variable: takes what may be called, "" = none does. form: of the calls, "" = it writes none. several: it writes more
    than one call of a turn. beside: and what is said beside a call. answered: it writes results."""

    variable: str = ""
    form: str = ""
    several: bool = False
    beside: bool = False
    answered: bool = False

    def lacks(self, messages: Sequence[Turn]) -> str:
        """What of a chat it leaves out, in words; "" = nothing that a chat can do without."""
        offers = any(turn.role == TOOLS and turn.content != "[]" for turn in messages)
        most = max((turn.content.count(OPEN) for turn in messages if turn.role == "assistant"), default=0)
        results = any(turn.role == TOOL for turn in messages)
        found = {
            "tools": offers and not self.variable,
            "calls": most and not self.form,
            "more than one call at once": self.form and most > 1 > self.several,
            "their results": results and not self.answered,
        }
        missing = [what for what, lacks in found.items() if lacks]
        return " and ".join(filter(None, (", ".join(missing[:-1]), *missing[-1:])))

    def silences(self, messages: Sequence[Turn]) -> bool:
        """Whether it leaves out what is said beside a call of a chat."""
        said = (turn.content for turn in messages if turn.role == "assistant")
        return bool(self.form and not self.beside) and any(OPEN in text and not text.startswith(OPEN) for text in said)


class _Said(NamedTuple):
    role: str
    content: str


_WORD = {"word": {"type": "string", "description": "A word."}}
_PROBE = {"name": "probe_tool", "description": "It probes.", "parameters": {"type": "object", "properties": _WORD}}


def tool_support(rendered: Callable[..., str]) -> ToolSupport:
    """rendered: (turns, whether a reply is to follow, VARIABLE=tools) -> text, "" for what the template refuses."""
    tools, asked = tools_of([_PROBE]), {"role": "user", "content": "?"}

    def called(form: str, *words: str, said: str = "") -> dict[str, Any]:
        calls = [Call("probe_tool", {"word": word}) for word in words]
        return laid_out([_Said("assistant", with_calls(said, calls))], form).turns[0]

    prompts = {name: rendered([asked], True, **{name: tools}) for name in ("tools", "xml_tools")}
    variable = next((name for name, text in prompts.items() if "It probes." in text), "")
    given = {variable or "tools": tools}
    before = prompts[variable or "tools"]

    def written(turn: dict[str, Any], *words: str) -> bool:
        text = rendered([asked, turn], False, **given)
        return all(word in text for word in words) and text.count("probe_tool") > before.count("probe_tool")

    forms = [OBJECT, TEXT, *([INLINE] if OPEN in before else [])]
    form = next((form for form in forms if written(called(form, "Probed."), "Probed.")), "")
    several = written(called(form, "Probed.", "Again."), "Probed.", "Again.")
    beside = written(called(form, "Probed.", said="I probe."), "Probed.", "I probe.")
    result = {"role": TOOL, "content": "It gave.", "tool_call_id": "call00001", "name": "probe_tool"}
    answered = "It gave." in rendered([asked, called(form or OBJECT, "Probed."), result], True, **given)
    return ToolSupport(variable, form, several, beside, answered)
