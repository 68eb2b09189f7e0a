"""1,000 replies under 50 random schemas, at every temperature and limit: each fits its schema and none is cut off."""

import json
from random import Random

import jsonschema
import pytest

from playground.engine.engine import Engine
from playground.engine.request import Row, Sampling
from tests.engine.forms import schema

pytestmark = pytest.mark.soak
SCHEMAS, ROWS = 50, 20


@pytest.mark.parametrize("hf", [False, True], ids=["llama", "hf"])
def test_a_thousand_replies_fit_their_schemas(hf, tiny_base):
    engine, draw, wrong = Engine(tiny_base, hf=hf), Random(2026), []
    for _ in range(SCHEMAS):
        one = schema(draw)
        form = "json-schema:" + json.dumps(one)
        least = engine.grammars.least(form)
        rows = []
        for seed in range(ROWS):
            longest = max(1, least + draw.choice((0, 1, 3, 10, 30, 100)))
            drawn = {"temperature": draw.choice((0.0, 0.7, 1.0, 2.0)), "seed": seed, "max_tokens": longest}
            rows.append(Row(f"Question {seed}", None, Sampling(**drawn, format=form)))
        *_, states = engine.stream(rows)
        for row, state in zip(rows, states, strict=True):
            try:
                assert (state.finish, state.fault) == ("stop", "")
                assert state.completion_tokens <= row.sampling.max_tokens
                jsonschema.validate(json.loads(state.text), one)
            except (AssertionError, ValueError, jsonschema.ValidationError) as error:
                wrong.append((form, state.text, str(error)[:200]))
    engine.close()
    assert wrong == []
