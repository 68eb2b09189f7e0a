"""Replies that are held to a form, on both backends."""

import json
from random import Random

import jsonschema
import pytest

from playground.engine.engine import Engine
from playground.engine.request import Row, Sampling
from playground.evaluation.form import shared_form
from tests.engine.models import save_base
from tests.refused import refused

ORDER = {"type": "object", "properties": {"id": {"type": "integer"}, "state": {"enum": ["open", "closed"]}}}
FORM = "json-schema:" + json.dumps(ORDER | {"required": ["id", "state"], "additionalProperties": False})

WORDS = ("name", "size", "due", "note", "a b", "ünit", "x")
NUMBERS = ({}, {"minimum": 100}, {"minimum": -5, "maximum": 5}, {"exclusiveMaximum": 0})
LEAVES = {
    "string": ({}, {"minLength": 3}, {"maxLength": 8}, {"minLength": 20, "maxLength": 40}),
    **{"integer": NUMBERS, "number": NUMBERS, "boolean": ({},)},
}
PATTERNS = ("^[A-Z]{2,4}-[0-9]{3}$", "^.*end$", "^(yes|no)$", "^[a-f]{12}$")


@pytest.fixture(scope="module")
def engine(path, tiny_base):
    made = Engine(tiny_base, hf=path == "hf")
    yield made
    made.close()


def last(engine, rows):
    *_, states = engine.stream(rows)
    return states


def held(form, seed=7, **sampling):
    return Row(f"Say {seed}", None, Sampling(**{"temperature": 1.0, "seed": seed, "format": form} | sampling))


def schema(draw, depth=2):
    """One of at most ``depth`` levels; some have documents of one token, others of hundreds."""
    nested = ["object", "object", "array", "either"]
    kind = draw.choice(nested if depth == 2 else [*LEAVES, "enum", "pattern", *nested * bool(depth)])
    if kind == "object":
        keys = draw.sample(WORDS, draw.randint(0, 4))
        made = {"type": "object", "properties": {key: schema(draw, depth - 1) for key in keys}}
        made |= {"required": draw.sample(keys, draw.randint(0, len(keys)))}
        return made | draw.choice([{}, {"additionalProperties": False}, {"additionalProperties": {"type": "integer"}}])
    if kind == "array":
        least = draw.randint(0, 2)
        sizes = {"minItems": least, "maxItems": least + draw.randint(0, 3)}
        return {"type": "array", "items": schema(draw, depth - 1), **sizes}
    if kind == "either":
        return {"anyOf": [schema(draw, depth - 1), schema(draw, depth - 1)]}
    if kind == "enum":
        return {"enum": draw.sample(["open", "in progress", 3, None, True, "é", "a\nb"], draw.randint(1, 4))}
    if kind == "pattern":
        return {"type": "string", "pattern": draw.choice(PATTERNS)}
    return {"type": kind} | draw.choice(LEAVES[kind])


@pytest.mark.parametrize(("schemas", "replies"), [(5, 4), pytest.param(50, 20, marks=pytest.mark.soak)])
def test_every_reply_fits_its_schema_whatever_the_limit(engine, schemas, replies):
    draw, rows, of = Random(3), [], []
    for one in [schema(draw) for _ in range(schemas)]:
        form = "json-schema:" + json.dumps(one)
        for seed in range(replies):
            longest = max(1, engine.grammars.least(form) + draw.choice((0, 0, 1, 3, 10, 40)))
            rows.append(held(form, seed, max_tokens=longest, temperature=draw.choice((0.0, 0.7, 1.0, 2.0))))
            of.append(one)
    for row, one, state in zip(rows, of, last(engine, rows), strict=True):
        assert (state.finish, state.fault) == ("stop", "")
        assert state.completion_tokens <= row.sampling.max_tokens
        jsonschema.validate(json.loads(state.text), one)


def test_free_rows_beside_it_stay_as_they_are_and_a_form_that_allows_their_text_does_not_change_it(engine):
    free = [Row(f"Say {n}", None, Sampling(max_tokens=12)) for n in range(3)]
    alone = last(engine, free)
    beside = last(engine, [*free, *(held(form, max_tokens=40) for form in ("json", FORM, "regex:[a-f]{8}"))])
    assert [one.tokens for one in beside[:3]] == [one.tokens for one in alone]
    assert (json.loads(beside[4].text).keys(), len(beside[5].text)) == ({"id", "state"}, 8)
    allowed = [one for one in alone if "�" not in one.text and one.text]
    assert allowed
    for row, one in zip(free, alone, strict=True):
        if one in allowed:
            (same,) = last(engine, [Row(row.prompt, None, Sampling(max_tokens=12, format="regex:.*"))])
            assert same.text == one.text


def test_tokens_that_only_pad_the_vocabulary_are_never_drawn(path, tmp_path):
    engine = Engine(save_base("llama", tmp_path, vocab_size=400), hf=path == "hf")
    states = last(engine, [held(form, seed, max_tokens=60) for seed in range(3) for form in ("json", FORM, "regex:.+")])
    assert all(max(one.tokens) < 259 and one.finish == "stop" for one in states)
    engine.close()


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("xml", "There are: json, json-schema:FILE, regex:PATTERN"),
        ("regex:(?=a)b", "look-around"),
        ('json-schema:{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ('json-schema:{"type": "object", "minProperties": 2}', "minProperties"),
        ('json-schema:{"multipleOf": 0.1}', "multipleOf"),
        ('json-schema:{"type": 3}', "not a JSON Schema"),
    ],
)
def test_what_cannot_be_held_to_exactly_is_refused_when_it_is_asked(form, says):
    refused(says, Sampling, format=form)
    refused("stop string", Sampling, format="json", stop=("a",))


MAILS = [{"id": n, "state": "open" if n % 3 else "closed", "note": None if n % 2 else "x"} for n in range(12)]
REPORTS = [f"Temp: {n} C\nPulse: {60 + n} a minute\nReviewed by Dr. Sharma" for n in range(12)]


def test_references_share_a_schema_labels_or_a_pattern_and_a_limit_below_the_shortest_document_is_refused(engine):
    least = engine.grammars.least(FORM)
    refused(rf"has {least} tokens.*have {least - 1}\.", last, engine, [held(FORM, max_tokens=least - 1)])
    (state,) = last(engine, [held(FORM, max_tokens=least, min_tokens=least, ignore_eos=True)])
    jsonschema.validate(json.loads(state.text), ORDER)
    form = shared_form([json.dumps(one) for one in MAILS])
    found = json.loads(form.removeprefix("json-schema:"))
    assert found["required"] == ["id", "state", "note"]
    assert found["properties"]["state"] == {"enum": ["closed", "open"]}
    assert found["properties"]["id"] == {"type": "integer"}
    for one in MAILS:
        jsonschema.validate(one, found)
    labels = shared_form(["yes", "no", "not yet"] * 4)
    report = shared_form(REPORTS)
    states = last(engine, [held(one, max_tokens=60) for one in (form, labels, report)])
    jsonschema.validate(json.loads(states[0].text), found)
    assert states[1].text in ("yes", "no", "not yet")
    assert states[2].text.startswith("Temp:")
    assert states[2].text.endswith("Reviewed by Dr. Sharma")
    assert shared_form(["One.", "Another thing?", "No", "Why so", "It rains today, again."]) == ""
