"""Values for variables of a chat template: in every row, in token counts, and read off the prompt that they make."""

import pytest

from sda_engine import Alignment, Constraint, Output, Sampling, Steering
from sda_engine.adapting import describe_settings, override_settings
from sda_engine.errors import ConfigError, MessageError
from sda_engine.evaluators import SelfRatingEvaluator
from sda_engine.prompts import make_contexts
from sda_engine.request_settings import RequestSettings
from sda_engine.testing import ScriptedEngine, tiny_engine
from sda_engine.tokens import SafeTokenizer
from tests.conftest import user
from tests.families import TEMPLATES, family_tokenizer

QWEN = TEMPLATES["Qwen 3"][1]
NO_THOUGHT = {"enable_thinking": False}
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
JSON = Output(constraint=Constraint.json_schema({"type": "object", "properties": {}, "additionalProperties": False}))
SHORT = Sampling(max_new_tokens=3, temperature=0)


@pytest.fixture(scope="module")
def thinker():
    with tiny_engine(chat_template=QWEN) as engine:
        yield engine


def test_every_row_has_the_values():
    tokenizer = SafeTokenizer(family_tokenizer("Qwen 3"))
    kind = Alignment(instruction="be kind", avoid="cold words")
    for given, ending in (({}, "assistant\n"), (NO_THOUGHT, EMPTY_THOUGHT), ({"enable_thinking": True}, "assistant\n")):
        made = make_contexts(user("q"), kind, tokenizer.with_template_kwargs(given))
        for tail in made.tails.values():
            assert tokenizer.decode((*made.shared, *tail), skip_special_tokens=False).endswith(ending)


def test_token_counts_have_them_too(thinker):
    done = thinker.generate(user("q"), sampling=SHORT, template_kwargs=NO_THOUGHT)
    counted = thinker.count_prompt_tokens(user("q"), template_kwargs=NO_THOUGHT)
    assert done.usage.prompt_tokens == counted
    assert counted == thinker.count_prompt_tokens(user("q")) + len(thinker.encode(EMPTY_THOUGHT))


def test_another_request_is_as_before(thinker):
    before = thinker.generate(user("q"), sampling=SHORT)
    thinker.generate(user("q"), sampling=SHORT, template_kwargs=NO_THOUGHT)
    assert thinker.generate(user("q"), sampling=SHORT).usage.prompt_tokens == before.usage.prompt_tokens


def test_a_judge_on_the_same_model_does_not_see_them(thinker):
    seen = []
    original = SafeTokenizer.render

    def render(self, messages, tools=()):
        seen.append((messages[0]["role"], dict(self._template_kwargs)))
        return original(self, messages, tools)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SafeTokenizer, "render", render)
        steering = Steering(evaluator=SelfRatingEvaluator())
        thinker.generate(user("q"), "honesty", steering=steering, sampling=SHORT, template_kwargs=NO_THOUGHT)
    assert seen == [("user", NO_THOUGHT), ("user", NO_THOUGHT), ("system", {})]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"enable_thinkin": False}, "Did you mean 'enable_thinking'"),
        ({"messages": "x"}, "given by the engine itself.*one of: enable_thinking"),
        ({"tools": None}, "given by the engine itself"),
        ({"chat_template": "{{ 1 }}"}, "given by the engine itself"),
        ({"bos_token": "x"}, "given by the engine itself"),
        ({"enable_thinking": [False]}, "a text, a finite number"),
        ("{{ 1 }}", "must be a dict"),
    ],
)
def test_what_the_template_does_not_name_is_refused(given, said, thinker):
    with pytest.raises(ConfigError, match=said):
        thinker.generate(user("q"), template_kwargs=given)
    with pytest.raises(ConfigError, match=said):
        thinker.count_prompt_tokens(user("q"), template_kwargs=given)


def test_a_model_without_a_template_takes_none():
    with tiny_engine(chat_template=None) as engine, pytest.raises(ConfigError, match="takes none"):
        engine.generate(user("q"), template_kwargs={"begins_with_bos": True})


def test_a_value_that_the_template_cannot_use_is_told():
    template = "{{ messages[0].content }}{{ effort + 1 }}"
    with tiny_engine(chat_template=template) as engine, pytest.raises(MessageError, match=r"template_kwargs=.*'low'"):
        engine.generate(user("q"), template_kwargs={"effort": "low"})


def test_an_empty_thought_in_the_prompt_leaves_no_room_for_another_one():
    with ScriptedEngine("<think>\nhm\n</think>\n\n{}", chat_template=QWEN) as engine:
        assert engine.generate(user("q"), output=JSON).reasoning.strip() == "hm"
        with pytest.raises(Exception, match="does not fit the form"):
            engine.generate(user("q"), output=JSON, template_kwargs=NO_THOUGHT)
    with ScriptedEngine("{}", chat_template=QWEN) as engine:
        assert engine.generate(user("q"), output=JSON, template_kwargs=NO_THOUGHT).text == "{}"


def test_a_thought_that_the_prompt_opens_goes_on_in_the_answer_and_a_closed_one_does_not():
    template = QWEN.replace("{% endif %}{% endif %}", "{% else %}<think>\n{% endif %}{% endif %}")
    with ScriptedEngine("hm</think>yes", chat_template=template) as engine:
        done = engine.generate(user("q"))
        assert (done.reasoning, done.text) == ("hm", "yes")
    with ScriptedEngine("yes", chat_template=template) as engine:
        done = engine.generate(user("q"), template_kwargs=NO_THOUGHT)
        assert (done.reasoning, done.text) == ("", "yes")


def test_a_thought_in_spite_of_all_is_still_no_part_of_the_answer():
    with ScriptedEngine("<think>hm</think>yes", chat_template=QWEN) as engine:
        done = engine.generate(user("q"), template_kwargs=NO_THOUGHT)
        assert (done.reasoning, done.text) == ("hm", "yes")


def test_they_identify_a_request_and_a_call_changes_what_it_names():
    fields = override_settings(RequestSettings(), {"template_kwargs": {"a": 1, "b": "x"}})
    call = override_settings(fields, {"template_kwargs": {"a": True}})
    assert describe_settings(fields)["template_kwargs"] == {"a": 1, "b": "x"}
    assert describe_settings(call)["template_kwargs"] == {"a": True, "b": "x"}
    assert override_settings(fields, {"template_kwargs": None}) == fields
    assert "template_kwargs" not in describe_settings(RequestSettings())


def test_the_callers_dict_is_copied():
    given = {"enable_thinking": False}
    settings = RequestSettings(template_kwargs=given)
    given["other"] = 1
    assert settings.template_kwargs == NO_THOUGHT
