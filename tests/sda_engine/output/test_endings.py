import pytest

from sda_engine import Constraint, Output, Sampling
from sda_engine.output.endings import example_of
from sda_engine.testing import tiny_engine
from tests.conftest import user
from tests.sizes import size

SEEDS = size(4, 1)


@pytest.fixture(scope="module")
def tiny():
    with tiny_engine() as engine:
        yield engine


@pytest.mark.parametrize(
    ("pattern", "examples"),
    [
        ("^.*-end$", {"-end"}),
        (r"^[a-z]{2,}\.(jpg|png)$", {"aa.jpg", "aa.png"}),
        (r"\p{L}+[^a]\d", {"a00"}),
        (r"(?i:a|b(?P<n>c)?)\/\b", {"a/", "b/"}),
        ("(", {""}),
        ("[", {""}),
    ],
)
def test_an_example_of_a_pattern_is_short_and_follows_each_alternative(pattern, examples):
    assert {example_of(pattern, way) for way in range(4)} == examples


@pytest.mark.parametrize("budget", [48, 96])
@pytest.mark.parametrize(
    "text",
    [
        {"format": "uri", "minLength": 1},
        {"format": "email"},
        {"pattern": "^.*-end$"},
        {"pattern": r"^[a-z]+\.(jpg|png)$"},
    ],
    ids=["uri", "email", "end", "alternatives"],
)
def test_a_text_that_wants_a_certain_end_gets_it_within_the_budget(text, budget, tiny):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", **text}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    }
    output = Output(constraint=Constraint.json_schema(schema), schema_in_prompt=False)
    reasons = [
        tiny.generate(
            user("x"), output=output, sampling=Sampling(temperature=1.0, top_p=None, max_new_tokens=budget, seed=seed)
        ).finish_reason
        for seed in range(SEEDS)
    ]
    assert reasons == ["stop"] * SEEDS


def test_an_expression_that_wants_a_certain_end_gets_it_too(tiny):
    output = Output(constraint=Constraint.regex(r"[a-z]*\.end|[0-9]+x"))
    sampling = Sampling(temperature=1.0, top_p=None, max_new_tokens=40, seed=1)
    assert tiny.generate(user("x"), output=output, sampling=sampling).text.endswith((".end", "x"))
