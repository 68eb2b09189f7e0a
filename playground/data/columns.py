"""Which column is what: a person's own mapping first, then the columns' names, else what they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from playground.data.column_profile import NAMES, Column, listed, named, option_columns, profile, rank, spelling
from playground.data.records import Records
from playground.data.turns import ROLES as TURN_ROLES
from playground.errors import InputError


class Guess(NamedTuple):
    mapping: dict[str, str]  # role -> column
    confidence: float = 0.0  # from 0 to 1
    why: str = ""  # the evidence for it


def guess_roles(columns: list[Column], given: Mapping[str, str]) -> Guess:
    """1. preference; 2. two answers and which is better; 3. chat; 4. prompt and answer by name or content; 5. text."""
    if "completion" not in given and (guess := _preference(columns, given) or _two_answers(columns)):  # 1, 2
        return guess
    sft = not {"prompt", "input", "completion"}.isdisjoint(given)
    past = None if "messages" in given else given.get("history") or _past(columns)
    if _asked_and_answered(_without(columns, past)) if past else _is_prodigy(columns):
        sft = True
    chat = given.get("messages") or (None if sft else _chat(columns))
    if chat:  # 3
        label = _label(_without(columns, chat))
        kind = next((column.kind for column in columns if column.name == chat), "turns")
        confidence = (0.98 if rank(chat, "chats") is not None else 0.8) if kind == "turns" else 0.6
        why = f"inferred from the list of turns in {chat}" + (f" and the yes or no in {label}" if label else "")
        system = _system(columns) or named(_without(columns, chat), "chat_systems", "text")
        tools = named(columns, "offered", "tools")
        return Guess(_roles(messages=chat, label=label, system=system, tools=tools), confidence, why)
    columns = _without(columns, past)
    pair = _prodigy(columns) if _is_prodigy(columns) and not given else _pair(columns, given)
    if pair is None:
        return _text(columns)  # 5
    prompt, completion, confidence, why = pair  # 4
    rest = _without(columns, prompt, completion)
    options = _options(columns, prompt, completion)
    extra = _input(rest, prompt)
    if extra is None and rank(prompt, "texts") is None:
        extra = named(_without(rest, options), "sources", "text", "texts", "other")
    label = _label(rest) or (_verdict(rest) if _is_prodigy(columns) else None)
    if label:
        confidence, why = min(confidence, 0.85), f"{why}, and from the yes or no in {label}"
    beside = {"thought": named(rest, "thoughts", "text"), "label": label, "system": _system(columns)}
    beside["tools"] = named(columns, "offered", "tools")
    roles = _roles(prompt=prompt, completion=completion, input=extra, **beside)
    return Guess(roles | _roles(history=past, options=options), confidence, why)


def _label(columns: list[Column]) -> str | None:
    """The column that says whether an answer is good; one that never changes says nothing."""
    return named([column for column in columns if not column.constant], "labels", "flag")


def _input(columns: list[Column], prompt: str) -> str | None:
    """What an instruction is about."""
    return named(columns, "inputs") if rank(prompt, "asks_for_input") is not None else None


def _past(columns: list[Column]) -> str | None:
    """The earlier turns beside a prompt and its answer: a list of turns, of pairs or of texts."""
    return named((column for column in columns if column.filled), "past", "turns", "texts", "other")


def _asked_and_answered(columns: list[Column]) -> bool:
    able = [column for column in columns if column.kind in ("text", "number", "flag")]
    return bool(named(able, "prompts") and named(able, "completions"))


def _is_prodigy(columns: list[Column]) -> bool:
    return {"_input_hash", "answer", "text"} <= {column.name for column in columns}


def _prodigy(columns: list[Column]) -> tuple[str, str, float, str] | None:
    """The choice that was made, what was typed, or the label or spans that the annotator found right or wrong."""
    filled = [column.name for column in columns if column.filled > 0.5]
    found = next((name for name in ("accept", "user_input", "spans", "label") if name in filled), None)
    return ("text", found, 0.9, f"read as Prodigy writes its tasks: {found} is the answer") if found else None


def _verdict(columns: list[Column]) -> str | None:
    return next((column.name for column in columns if column.name == "answer" and not column.constant), None)


def _options(columns: list[Column], *taken: str) -> str | None:
    """The options of a question: a list, or the first of the columns that hold one each."""
    each = option_columns(column.name for column in columns)
    own = each and each[0] not in taken and each[1] not in taken
    return each[0] if own else named(columns, "lists_of_options", "texts")


def _preference(columns: list[Column], given: Mapping[str, str]) -> Guess | None:
    chosen = given.get("chosen") or named(columns, "chosen")
    rejected = given.get("rejected") or named(columns, "rejected")
    if chosen and rejected:
        rest = _without(columns, chosen, rejected)
        return _better(chosen, rejected, rest, 0.97, f"inferred from the names {chosen} and {rejected}")
    filled = {column.name: column.filled for column in columns}
    for better, worse, confidence, how in (
        (".1", ".2", 0.7, "two answers in one list, the better first"),
        (".best", ".worst", 0.8, "answers with scores"),
    ):
        stem = next((name.removesuffix(better) for name in sorted(filled) if name.endswith(better)), None)
        if stem and stem + worse in filled and filled[stem + better] > 0.5:
            rest = [column for column in columns if not column.name.startswith(stem)]
            return _better(stem + better, stem + worse, rest, confidence, f"inferred from {stem}: {how}")
    return None


def _two_answers(columns: list[Column]) -> Guess | None:
    if len(option_columns(column.name for column in columns)) > 2:
        return None
    first, second, _ = two_answers([column.name for column in columns]) or ("", "", 0)
    rest = _without(columns, first, second)
    label = named(rest, "winners", "text", "number", "flag")
    if not first or label is None:
        return None
    why = f"inferred from {first} and {second}, and from {label} that says which is better"
    return _better(first, second, _without(rest, label), 0.85, why, label)


def _better(
    chosen: str, rejected: str, rest: list[Column], confidence: float, why: str, label: str | None = None
) -> Guess:
    prompt = _asked(rest)
    beside = {"system": _system(rest), "tools": named(rest, "offered", "tools")}
    if prompt:
        beside |= {"history": _past(_without(rest, prompt)), "input": _input(_without(rest, prompt), prompt)}
    return Guess(_roles(chosen=chosen, rejected=rejected, label=label, prompt=prompt, **beside), confidence, why)


def _asked(columns: list[Column]) -> str | None:
    """The prompt of two answers: a text, or the turns before them."""
    rest = [column for column in columns if rank(column.name, "systems") is None and not column.is_meta]
    prompt = named(rest, "prompts", "text", "turns", "number")
    return prompt or named(rest, "chats", "turns") or named(rest, "inputs", "text", "turns")


def _chat(columns: list[Column]) -> str | None:
    """The column of chats: lists of turns, lists of texts, or texts that name who speaks."""
    if by_name := named(columns, "chats", "turns"):
        return by_name
    answer = named(columns, "completions")
    turns = [column.name for column in columns if column.kind == "turns"]
    if len(turns) == 1 and answer is None:
        return turns[0]
    texts = named(columns, "chats", "texts")
    if texts and named(columns, "completions", "text") is None:
        return texts
    written = named([column for column in columns if column.transcript], "chats")
    if written and answer is None:
        return written
    if answer is None and (marked := [column for column in columns if column.markup and column.transcript]):
        return named(marked, "texts") or marked[0].name
    return None if answer and named(columns, "prompts") else named(columns, "certain_chats")


def _pair(columns: list[Column], given: Mapping[str, str]) -> tuple[str, str, float, str] | None:
    """(prompt, completion, how sure, why): both by name, one of them by name, or by what two columns hold."""
    able = [column for column in columns if _may_be_trained_on(column)]
    prompt = given.get("prompt") or named([column for column in able if column.kind != "texts"], "prompts")
    if "prompt" not in given and prompt and rank(prompt, "inputs") is not None:
        prompt = named(able, "asks_for_input") or prompt  # an instruction goes before its input
    rest = _without(able, prompt)
    answers = [one for one in rest if one.kind != "flag" or rank(one.name, "labels") is None]  # flags last
    completion = given.get("completion") or named(answers, "completions") or named(rest, "completions")
    if prompt and completion:
        ranks = (rank(prompt, "prompts") or 0) + (rank(completion, "completions") or 0)
        is_label = rank(completion, "labels") is not None and any(one.name == completion for one in able)
        why = f"inferred from the names {prompt} and {completion}" + ("; the label is the answer" if is_label else "")
        return prompt, completion, 0.98 if ranks <= 10 else 0.9 if ranks <= 60 else 0.85, why
    if not prompt and not completion and (asked := _questions(able)):
        return *asked, 0.5, "inferred from the words of the names; the first line is taken for the names"
    telling = [column for column in _without(able, prompt, completion) if column.is_content]
    if prompt or completion:
        other = _only(telling)
        corpus = "prompt" not in given and prompt is not None and rank(prompt, "texts") is not None
        if other is None or (corpus and other.kind != "text"):  # a corpus with a score beside each text
            return None
        why = f"inferred from the name {prompt or completion} and from what {other.name} holds"
        return prompt or other.name, other.name if prompt else completion or "", 0.6, why
    two = telling if len(telling) == 2 else [column for column in telling if column.is_prose]
    if len(two) != 2 or any(is_headless(column.name) for column in columns):
        return None
    first, second = two
    if not first.is_prose and first.distinct <= 0.5 and second.is_prose:  # a category before its text
        first, second = second, first
    return first.name, second.name, 0.4, "inferred from what the columns hold, not from their names"


def _questions(columns: list[Column]) -> tuple[str, str] | None:
    """A form's columns, named by its questions: the one of what was asked, and the one of what is answered."""
    asked, answered = [], []
    for column in columns:
        words = {*re.findall(r"\w+", column.name.casefold())}
        if len(words) < 3 or column.name.endswith("."):
            continue
        if not words.isdisjoint(NAMES["answering"]):
            answered.append(column.name)
        elif not words.isdisjoint(NAMES["asking"]):
            asked.append(column.name)
    return (asked[0], answered[0]) if len(asked) == len(answered) == 1 else None


def _may_be_trained_on(column: Column) -> bool:
    labels = column.kind == "texts" and rank(column.name, "kinds") is not None
    useless = labels or column.kind in ("other", "turn") or column.is_identifier
    return not useless and rank(column.name, "systems") is None


def _only(columns: list[Column]) -> Column | None:
    prose = [column for column in columns if column.is_prose]
    return columns[0] if len(columns) == 1 else prose[0] if len(prose) == 1 else None


def _text(columns: list[Column]) -> Guess:
    if by_name := named(columns, "texts", "text"):
        sure, why = 0.95 if len(columns) == 1 else 0.8, ": no column holds an answer"
        if named(columns, "speakers", "text"):
            sure, why = 0.4, "; each row seems to be one turn, and turns are not joined into chats"
        return Guess({"text": by_name}, sure, f"inferred from the name {by_name}{why}")
    only = _only([column for column in columns if column.is_content and column.kind == "text"])
    half = only and any(rank(only.name, role) is not None for role in ("prompts", "completions"))  # of a pair
    if only is None or half or is_headless(only.name):
        return Guess({})
    return Guess({"text": only.name}, 0.5, f"inferred from what {only.name} holds: the only column of text")


def _system(columns: list[Column]) -> str | None:
    return named((column for column in columns if column.filled), "systems", "text", "turn", "texts", "other")


def is_headless(name: str) -> bool:
    """A column name that is a sentence or a number: the table has no line of names."""
    words = len(name.split())
    sentence = words >= 7 or (words >= 3 and name.endswith((".", "?", "!")))
    return len(name) > 60 or sentence or re.fullmatch(r"[\d.,\s-]+", name) is not None


def _without(columns: list[Column], *names: str | None) -> list[Column]:
    return [column for column in columns if column.name not in names]


def _roles(**roles: str | None) -> dict[str, str]:
    return {role: column for role, column in roles.items() if column is not None}


class Format(NamedTuple):
    """name, objective, the roles it needs and may have; of two answers a label says which is better, chosen first."""

    name: str
    objective: str
    needed: set[str]
    extra: set[str]


_EXTRA = {"input", "system", "history", "options", "tools"}
_BESIDE = {*_EXTRA, "thought"}
FORMATS = (
    Format("preference", "preference", {"chosen", "rejected"}, {"prompt", "label", *_EXTRA}),
    Format("unpaired-preference", "unpaired_preference", {"messages", "label"}, {"system", "tools"}),
    Format("unpaired-preference", "unpaired_preference", {"prompt", "completion", "label"}, _BESIDE),
    Format("chat", "sft", {"messages"}, {"system", "tools"}),
    Format("instruction", "sft", {"prompt", "input", "completion"}, _BESIDE),
    Format("prompt-completion", "sft", {"prompt", "completion"}, _BESIDE),
    Format("text", "text", {"text"}, set()),
)
_OF_A_PAIR = ("prompt", "input", "completion", "thought", "options", "history", "system", "tools")
ROLES = (*_OF_A_PAIR, "messages", "chosen", "rejected", "label", "text")
ALIASES = {"instruction": "prompt", "question": "prompt"}
ALIASES |= dict.fromkeys(("answer", "response", "output"), "completion")
_MAP = "prompt=COLUMN completion=COLUMN"
SAY = f"Say which column is which: {_MAP} (on the command line: --map {_MAP})."


_PROMPTS_ONLY = "grpo (learning from rewards) answers them itself; to learn answers or to judge by them, add these"


@dataclass(frozen=True)
class Shape:
    """What a file is, and which column is what."""

    format: str
    objective: str
    mapping: dict[str, str]  # role -> column
    confidence: float = 1.0  # from 0 to 1; 1 where the person said it
    why: str = ""  # the evidence for it
    pictures: tuple[str, ...] = ()  # columns of images and sounds, which are not text
    lowest: int = 0  # the number that stands for the first of two answers, where a label says which is the better


def detect(records: Records, mapping: Mapping[str, str] | None = None) -> Shape:
    """The file's format and which column is what. Raises InputError where a role is unknown or nothing can be guessed.

    1. a complete mapping by the person stands as it is; 2. an incomplete one is completed by the guess; 3. the guess.
    """
    given = _given(records, mapping or {})
    if shape := _shape(Guess(given, 1.0, "as you said"), records):  # 1
        return shape
    sample = records.sample
    every = [profile(name, [record.get(name) for record in sample]) for name in records.columns]
    columns = _without(every, *given.values())
    if not given and "input_ids" in records.columns and not any(column.kind == "text" for column in columns):
        what = "The file holds numbers of tokens (input_ids), which fit one tokenizer alone"
        raise InputError(f"{what}. Give the text that they were made from.")
    guess = guess_roles(columns, given)
    if given:
        guess = Guess({**guess.mapping, **given}, guess.confidence, f"partly as you said, the rest {guess.why}")
    used = (column for column in every if column.name in guess.mapping.values())
    if marked := [f"{column.name} ({column.markup})" for column in used if column.markup]:
        guess = guess._replace(why=f"{guess.why}; a template's marks are read as turns: {listed(marked)}")
    if shape := _prompts_only(every, given, guess, records):
        return shape
    if shape := _shape(_doubted(guess, every), records):  # 2, 3
        return shape
    found = f"The file has the columns {listed(records.columns)}" if records.columns else "The file has no columns"
    if given:
        said = " ".join(f"{role}={column}" for role, column in given.items())
        needs = "; ".join(" + ".join(role for role in ROLES if role in each.needed) for each in FORMATS)
        what = f"{said} is not enough to train on, or does not go together"
        raise InputError(f"{what}. {found}. What goes together: {needs}.")
    if first := next((column.name for column in columns if is_headless(column.name)), None):
        found = f"The first line looks like data, not like column names: {first[:60]!r}"
        raise InputError(f"{found}. Add a line such as prompt,completion above it.")
    raise InputError(f"{found}; which is the prompt and which the answer cannot be told from that. {SAY}")


def _prompts_only(columns: list[Column], given: dict[str, str], guess: Guess, records: Records) -> Shape | None:
    """Prompts that no column answers; None for any other file."""
    if not given.keys() <= {"prompt", *_EXTRA} or not guess.mapping.keys() <= {"messages", "prompt", *_EXTRA}:
        return None
    chats = guess.mapping.get("messages", "")
    able = [one for one in columns if one.kind in ("text", "turns") and chats in ("", one.name)]
    prompt = given.get("prompt") or named(able, "prompts")
    if not prompt or rank(prompt, "prompts") is None or named(_without(columns, prompt), "completions"):
        return None
    if chats and not all(_is_asked(record.get(chats)) for record in records.sample):
        return None
    rest = _without(columns, prompt)
    beside = _roles(system=_system(rest), history=_past(rest), options=_options(rest))
    why = f"{prompt} asks and no column answers: {_PROMPTS_ONLY}"
    return Shape("prompts", "prompts", {"prompt": prompt, **beside, **given}, 0.6, why)


def _is_asked(turns: object) -> bool:
    """Whether a list of turns ends with the user's."""
    last = turns[-1] if isinstance(turns, list) and turns else None
    return isinstance(last, dict) and TURN_ROLES.get(str(last.get("role", last.get("from"))).casefold()) == "user"


def _given(records: Records, mapping: Mapping[str, str]) -> dict[str, str]:
    by_spelling = {spelling(column): column for column in reversed(records.columns)}
    given: dict[str, str] = {}
    has = f"The file has the columns {listed(records.columns)}"
    for role, column in mapping.items():
        plain = ALIASES.get(role.strip().lower(), role.strip().lower())
        if plain not in ROLES:
            raise InputError(f"There is no role {role!r}. Roles are {', '.join(ROLES)}.")
        name = column if column in records.columns else by_spelling.get(spelling(column))
        if name is None:
            raise InputError(f"There is no column {column!r}. {has}. Give one of these for {plain}.")
        if plain in given or name in given.values():
            raise InputError(f"{plain}={name}: a role takes one column, and a column one role. {has}.")
        given[plain] = name
    return given


def _shape(guess: Guess, records: Records) -> Shape | None:
    mapping, confidence, why = guess
    found = next((one for one in FORMATS if one.needed <= mapping.keys() <= one.needed | one.extra), None)
    if found is None:
        return None
    alpaca = found.name == "prompt-completion" and spelling(mapping["prompt"]) in ("instruction", "instructions")
    ordered = {role: mapping[role] for role in ROLES if role in mapping}
    name = "instruction" if alpaca else found.name
    tops = dict.fromkeys(column.partition(".")[0] for column in records.columns if column not in mapping.values())
    pictures = tuple(column for column in tops if spelling(column) in NAMES["pictures"])
    why = "; ".join(filter(None, (why, records.note)))
    return Shape(name, found.objective, ordered, round(confidence, 2), why, pictures, _lowest(records, mapping))


def _lowest(records: Records, given: Mapping[str, str]) -> int:
    """What numbers stand for the first answer: by what the label column holds, else by the names of the two columns."""
    if not {"chosen", "rejected", "label"} <= given.keys():
        return 0
    two = two_answers((given["chosen"], given["rejected"]))
    values = {str(record.get(given["label"])).strip().removesuffix(".0") for record in records.sample}
    if any(re.fullmatch(r"-\d+", value) for value in values):
        return -1
    return 1 if "2" in values or (two and two[2] and "0" not in values) else 0


def _doubted(guess: Guess, columns: list[Column]) -> Guess:
    """Less sure where a needed role's column is mostly empty."""
    sparse = {column.name for column in columns if column.filled < 0.5}
    optional = {guess.mapping.get(role) for role in ("system", "input", "thought", "history", "options", "tools")}
    if empty := [name for name in guess.mapping.values() if name in sparse - optional]:
        return Guess(guess.mapping, guess.confidence * 0.7, f"{guess.why}; most rows have no {listed(empty)}")
    return guess


_TWO = re.compile(r"(?P<stem>\D*?)(?P<which>[ab]|[012])")


def two_answers(columns: Sequence[str]) -> tuple[str, str, int] | None:
    """(first, second, the number that the first goes by) of columns such as ``response_a`` and ``response_b``.

    The Stanford Human Preferences say 1 where ``human_ref_A`` is the better: there B comes first, with 0.
    """
    found: dict[tuple[str, str], str] = {}
    for column in columns:
        match = _TWO.fullmatch(spelling(column))
        if match and match["stem"] in NAMES["stems"]:
            found.setdefault((match["stem"], match["which"]), column)
    for (stem, which), column in found.items():
        for first, second, lowest in (("a", "b", 0), ("0", "1", 0), ("1", "2", 1)):
            if which == first and (stem, second) in found:
                other = found[stem, second]
                return (other, column, 0) if stem == "humanref" else (column, other, lowest)
    return None
