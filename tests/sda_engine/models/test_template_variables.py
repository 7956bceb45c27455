"""A template names the variables that a caller may set; what it is given anyway is not among them."""

import pytest

from sda_engine.errors import ConfigError
from sda_engine.models import check_template_names, check_template_values, template_variables
from sda_engine.testing import tiny_tokenizer


def variables_of(template):
    return template_variables(tiny_tokenizer(chat_template=template))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages }}{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ bos_token }}{{ eos_token }}", set()),
        ("{% if enable_thinking is defined and not enable_thinking %}x{% endif %}", {"enable_thinking"}),
        ("{% if not date is defined %}{% set date = strftime_now('%d') %}{% endif %}{{ date }}", {"date"}),
        ("{% set effort = effort | default('low') %}{{ effort }}", {"effort"}),
        ("{% set inner = 1 %}{{ inner }}{% for m in messages %}{{ loop.index }}{{ m }}{% endfor %}", set()),
        ("{% macro f(x) %}{{ x }}{{ outer }}{% endmacro %}{{ f(1) }}", {"outer"}),
        ("{% generation %}{{ z }}{% endgeneration %}{% for i in range(2) %}{% break %}{% endfor %}", {"z"}),
        ("{% set ns = namespace(a=1) %}{{ raise_exception('no') }}{{ chat_template }}{{ padding }}", set()),
        (None, set()),
    ],
)
def test_the_template_itself_names_what_may_be_set(template, expected):
    assert variables_of(template) == expected


def test_of_several_templates_each_counts():
    tokenizer = tiny_tokenizer(chat_template="{{ a }}")
    tokenizer.chat_template = {"default": "{{ a }}", "tool_use": "{{ b }}{{ tools }}"}
    assert template_variables(tokenizer) == {"a", "b"}


@pytest.mark.parametrize("value", ["low", "", 3, -1, 0.5, True, False, None])
def test_plain_values_are_taken(value):
    assert check_template_values({"a": value}) == {"a": value}


@pytest.mark.parametrize("value", [[], {}, ["a"], {"a": 1}, b"a", object(), float("nan"), float("inf"), 10**400])
def test_other_values_are_refused_with_what_is_legal(value):
    with pytest.raises(ConfigError, match=r"template_kwargs\['a'\] cannot be .*text, a finite number"):
        check_template_values({"a": value})


@pytest.mark.parametrize("given", [None, "{{ 1 }}", [("a", 1)], {1: "a"}])
def test_only_a_mapping_of_names_is_taken(given):
    with pytest.raises(ConfigError, match=r"template_kwargs cannot be.*enable_thinking"):
        check_template_values(given)


@pytest.mark.parametrize(
    ("name", "variables", "said"),
    [
        ("enable_thinkin", {"enable_thinking"}, "Did you mean 'enable_thinking'.*one of: enable_thinking"),
        ("messages", {"b", "a"}, "'messages'.*given by the engine itself.*one of: a, b"),
        ("bos_token", {"a"}, "given by the engine itself"),
        ("other", set(), "no variable that it leaves open.*takes none"),
    ],
)
def test_a_refused_name_says_why_and_what_is_legal(name, variables, said):
    with pytest.raises(ConfigError, match=said):
        check_template_names([name], variables)
