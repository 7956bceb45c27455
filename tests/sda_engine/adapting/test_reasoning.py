"""reasoning_effort sets what a model's chat template leaves open, or is refused."""

import pytest

from sda_engine.adapting import reasoning_variables
from sda_engine.errors import ConfigError


def variables_of(effort, variables, thinks):
    return reasoning_variables(effort, variables, thinks=thinks, owner="the effort", others="template_kwargs")


@pytest.mark.parametrize(
    ("effort", "variables", "thinks", "wanted"),
    [
        (None, ("reasoning_effort",), True, {}),
        ("none", (), False, {}),
        ("none", ("enable_thinking",), True, {"enable_thinking": False}),
        ("none", ("reasoning_effort", "enable_thinking"), True, {"reasoning_effort": "none"}),
        ("low", ("reasoning_effort",), False, {"reasoning_effort": "low"}),
    ],
)
def test_an_effort_sets_the_variable_that_says_it(effort, variables, thinks, wanted):
    assert variables_of(effort, variables, thinks) == wanted


@pytest.mark.parametrize(
    ("effort", "variables", "thinks", "legal"),
    [
        ("low", ("enable_thinking",), True, "'none' or left out"),
        ("low", (), False, "'none' or left out"),
        ("low", (), True, "left out"),
        ("none", (), True, "left out"),
    ],
)
def test_an_effort_that_nothing_can_say_is_refused_with_what_is_legal(effort, variables, thinks, legal):
    with pytest.raises(ConfigError, match=f"the effort cannot be '{effort}'.*It must be {legal};") as raised:
        variables_of(effort, variables, thinks)
    assert raised.value.field == "reasoning_effort"
