"""Requirements 23 and 24: chat templates have bounds and come from the model alone; caches stay under their caps."""

import asyncio
import functools
import gc
import inspect
import time
from collections import OrderedDict

import psutil
import pytest

from sda_engine import Constraint, EngineSettings, Output, Sampling, SteeringEngine
from sda_engine.errors import ConfigError, ModelLoadError
from sda_engine.models import template_check
from sda_engine.models.template_check import check_templates
from sda_engine.output import constraints
from sda_engine.output.constraints import ConstraintCompiler
from sda_engine.request_settings import RequestOptions
from sda_engine.testing import tiny_engine, tiny_model, tiny_tokenizer
from sda_engine.tokens.tokenizer import SafeTokenizer
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM
from tests.conftest import user
from tests.families import TEMPLATES, family_tokenizer
from tests.sda_engine.decoding.company import stored_tokens
from tests.sizes import size

LOOP = "{% for i in range(99999) %}"
HUNGRY = {
    "a text a thousand million times": "{{ 'x' * 10**9 }}",
    "the same at run time": "{% set n = messages | length * 10**9 %}{{ ('x' * n) | length }}",
    "a list a thousand million times": "{{ ([1] * 10**9) | length }}",
    "a text that doubles": "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}{{ ns.x | length }}",
    "a filter that pads": "{{ 'x' | center(10**9) }}",
    "a format that pads": "{{ '%1000000000d' % 1 }}",
    "more than anybody reads": LOOP + "0123456789{% endfor %}",
    "with tools alone": "{% if tools %}{{ 'x' * 10**9 }}{% endif %}",
    "in a long chat alone": "{% if messages | length > 30 %}{{ 'x' * 10**9 }}{% endif %}",
}
ENDLESS = {
    "a range in a range": f"{LOOP}{LOOP}{{% endfor %}}{{% endfor %}}",
    "a number with too many digits": "{{ 9 ** (9 ** 9) > 1 }}",
    "lists of lists": "{% set l = [1] %}" + "{% set l = [l, l] %}" * 40 + "{{ l }}",
}
BROKEN = {"no such tag": "{% run %}", "no such filter": "{{ 1 | nothing }}", "no end": "{% for m in messages %}"}


@pytest.fixture
def short_patience(monkeypatch):
    monkeypatch.setattr(template_check, "_SECONDS", 2)


# --- 23


@pytest.mark.parametrize("template", HUNGRY.values(), ids=HUNGRY.keys())
def test_a_template_that_grows_without_bounds_is_refused_and_takes_no_memory_here(template):
    before = psutil.Process().memory_info().rss
    with pytest.raises(ModelLoadError, match=r"chat template .* is refused: it (takes|makes) more than"):
        check_templates(tiny_tokenizer(chat_template=template))
    assert psutil.Process().memory_info().rss - before < 50_000_000


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS.keys())
def test_a_template_that_never_ends_is_refused_in_time(template, short_patience):
    start = time.monotonic()
    with pytest.raises(ModelLoadError, match=r"is refused: it"):
        check_templates(tiny_tokenizer(chat_template=template))
    assert time.monotonic() - start < 30  # two seconds, on a machine that has time


@pytest.mark.parametrize("template", BROKEN.values(), ids=BROKEN.keys())
def test_a_template_that_cannot_be_compiled_is_refused(template):
    with pytest.raises(ModelLoadError, match="cannot be compiled"):
        check_templates(tiny_tokenizer(chat_template=template))


@pytest.mark.parametrize("name", ["default", "tool_use"])
def test_every_one_of_several_templates_is_checked(name):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "x", "tool_use": "x", name: "{{ 'x' * 10**9 }}"}
    with pytest.raises(ModelLoadError, match="is refused"):
        check_templates(tokenizer)


@pytest.mark.parametrize(
    "template",
    [
        *(template for _, template in TEMPLATES.values()),
        "{{ raise_exception('no such chat') }}",  # a template may refuse a chat
        "{{ messages[99].content }}{{ 1 / 0 }}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}",
        "{{ strftime_now('%Y') }}{{ dict(a=1) | tojson(indent=2) }}{{ bos_token }}{% set n = namespace(a=1) %}",
        "{% for i in range(messages | length) %}{{ messages[i].content * 2 }}{% endfor %}",
    ],
)
def test_templates_as_models_have_them_pass(template):
    check_templates(tiny_tokenizer(chat_template=template))


def test_a_template_that_the_real_renderer_takes_passes_and_renders_there():
    """What the probe gives a template is what transformers gives it: it refuses none of these either."""
    for family in TEMPLATES:
        tokenizer = family_tokenizer(family)
        check_templates(tokenizer)
        assert SafeTokenizer(tokenizer).render(user("q"))


def test_a_process_that_cannot_be_started_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(template_check, "get_executable", lambda: "/no/such/python")
    with pytest.raises(ModelLoadError, match="could not be tried out"):
        check_templates(tiny_tokenizer(chat_template="nobody else's"))


def test_a_template_that_passed_is_not_tried_out_again(monkeypatch):
    check_templates(tiny_tokenizer(chat_template="passes"))
    monkeypatch.setattr(template_check, "get_executable", lambda: "/no/such/python")
    check_templates(tiny_tokenizer(chat_template="passes"))
    with pytest.raises(ModelLoadError, match="could not be tried out"):
        check_templates(tiny_tokenizer(chat_template="passes not"))


def test_an_engine_on_a_model_in_memory_does_not_take_such_a_template_either():
    with pytest.raises(ModelLoadError, match="is refused"):
        SteeringEngine(tiny_model(), tiny_tokenizer(chat_template="{{ 'y' * 10**9 }}"))


def test_a_model_with_such_a_template_is_not_loaded(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer(chat_template="{{ 'x' * 10**9 }}").save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=f"{tmp_path.name}.*is refused"):
        SteeringEngine.load(str(tmp_path))
    tiny_tokenizer().save_pretrained(tmp_path)
    with SteeringEngine.load(str(tmp_path)) as engine:
        assert engine.generate(user("q"), sampling=Sampling(max_new_tokens=1)).token_ids


def test_no_public_call_takes_a_template_or_arguments_for_one_but_those_that_it_names(engine):
    public = [member for name, member in inspect.getmembers(SteeringEngine) if not name.startswith("_")]
    names = {name for member in filter(callable, public) for name in inspect.signature(member).parameters}
    names |= set(RequestOptions.__annotations__)
    for settings in (EngineSettings, Sampling, Output):
        names |= set(settings.model_fields)
    assert {name for name in names if "template" in name} == {"template_kwargs"}
    for name in ("messages", "chat_template", "documents", "anything"):
        with pytest.raises(ConfigError, match=f"cannot set '{name}'"):
            engine.generate(user("q"), template_kwargs={name: "{{ 1 }}"})
    for name in ("chat_template", "chat_template_kwargs", "template_kwargs", "documents"):
        for adapter in (ChatSDA, SDALLM):
            with pytest.raises(Exception, match=name):
                adapter(engine=engine, **{name: "{{ 1 }}"})
        with pytest.raises(Exception, match=name):
            ChatSDA(engine=engine).invoke("q", **{name: "{{ 1 }}"})
        with pytest.raises(Exception, match=name):
            SDALLM(engine=engine).complete("q", **{name: "{{ 1 }}"})


def test_a_template_sees_the_chat_the_special_tokens_and_nothing_else():
    spy = (
        "{{ self._TemplateReference__context is defined }}|{{ [messages is defined, tools is defined, "
        "add_generation_prompt is defined, begins_with_bos is defined, bos_token is defined] }}|"
        "{{ [documents, settings, sampling, alignment, steering, chat_template, tokenizer, enable_thinking, "
        "os, open, config] | select('defined') | reject('none') | list }}|{{ messages[0].keys() | list }}"
    )
    tokenizer = SafeTokenizer(tiny_tokenizer(chat_template=spy))
    text = tokenizer.decode(tokenizer.render([{"role": "user", "content": "q"}]), skip_special_tokens=False)
    assert text == "False|[True, True, True, True, True]|[]|['role', 'content']"


# --- 24


def test_ten_thousand_grammars_leave_no_more_than_the_compiler_may_keep(tokenizer):
    compiler = ConstraintCompiler(tokenizer, 320, frozenset({2}))
    most = 0
    for number in range(size(10_000, 400)):
        output = Output(constraint=Constraint.json_schema({"const": number}))
        compiler.compile(output.grammar(tokenizer.answer_format))
        most = max(most, len(compiler._compiled))
    assert most == constraints._CACHED_GRAMMARS == 128
    assert len(compiler._doubtful) == len(compiler._trials) == 0


@pytest.mark.parametrize("most", [constraints._CACHED_DOUBTFUL, constraints._REMEMBERED_TRIALS])
def test_what_is_remembered_of_grammars_on_trial_is_bounded(most):
    kept: OrderedDict[int, int] = OrderedDict()
    for number in range(10_000):
        constraints._remember(kept, number, number, most)
        assert len(kept) <= most
    assert list(kept) == list(range(10_000 - most, 10_000))


def test_no_function_remembers_its_results_without_a_limit():
    with tiny_engine() as engine:
        done = engine.generate(user("q"), "be kind", sampling=Sampling(max_new_tokens=3))
    assert done.trace.to_html()
    gc.unfreeze()  # or what was there when the tests were collected is hidden
    gc.collect()
    remembering = [thing for thing in gc.get_objects() if type(thing) is functools._lru_cache_wrapper]
    gc.freeze()  # the tests that come need not look at it again
    ours = [thing for thing in remembering if str(thing.__module__).startswith("sda_")]
    assert ours
    for thing in ours:
        assert thing.cache_parameters()["maxsize"] is not None or not inspect.signature(thing).parameters


@pytest.mark.slow
async def test_ten_thousand_requests_leave_every_cache_under_its_cap():
    settings = EngineSettings(cache_tokens=20_000)
    sampling = Sampling(temperature=0, max_new_tokens=1)
    with SteeringEngine(tiny_model(), tiny_tokenizer(), settings=settings) as engine:
        for start in range(0, size(10_000, 500), 50):
            asks = []
            for number in range(start, start + 50):
                output = Output(constraint=Constraint.regex(f"a{number}")) if number % 5 == 0 else Output()
                asks.append(engine.agenerate(user(f"{number}"), f"be {number}", sampling=sampling, output=output))
            await asyncio.gather(*asks)
            assert stored_tokens(engine) <= 10_000
            for kept, most in (("_compiled", 128), ("_doubtful", 8), ("_trials", 1024)):
                assert len(getattr(engine._constraints, kept)) <= most
        assert stored_tokens(engine) > 5_000
