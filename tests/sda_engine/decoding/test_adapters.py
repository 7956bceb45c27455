"""Adapters by request: each answer is what the model says with that adapter active, whatever runs beside it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import peft
import pytest
import torch

from sda_engine import Sampling, Steering, SteeringEngine
from sda_engine.alignment import resolve_alignment
from sda_engine.decoding.prefix_store import common_length
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.errors import ConfigError, ModelLoadError, SDAError
from sda_engine.evaluators import ContrastiveEvaluator, SelfRatingEvaluator
from sda_engine.models import Adapter, Adapters, adapter_at_work, adapters
from sda_engine.models.loading import ModelSettings, load_model
from sda_engine.models.model_watch import Change, ModelWatch
from sda_engine.models.packed_linear import PackedLinear
from sda_engine.prompts import BASE, INSTRUCTED, make_contexts
from sda_engine.testing import tiny_model, tiny_tokenizer
from sda_engine.tokens import SafeTokenizer
from tests.conftest import user
from tests.sda_engine.decoding import greedy

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks

TOKENS = 8
PAPER = Steering(policy="paper", amplification=0.5)
TALK = "the quick brown fox jumps over the lazy dog and the answer is in the library "
NAMES = ("polite", "rude")


def with_lora(names=NAMES):
    """A tiny model with adapters that change much."""
    adapted: peft.PeftModel | None = None
    for number, name in enumerate(names):
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            if adapted is None:
                adapted = peft.get_peft_model(tiny_model(), config, adapter_name=name)
            else:
                adapted.add_adapter(name, config)
            for part, weight in adapted.named_parameters():
                if f"lora_B.{name}" in part:
                    weight.data.normal_(0, 0.5)
    adapted.get_base_model().generation_config.eos_token_id = []
    return adapted.train(False)


@torch.inference_mode()
def loop(model, tokenizer, chat, alignment=None):
    """Greedy tokens of the paper's formula by two whole forward passes for each."""
    contexts = make_contexts(chat, resolve_alignment(alignment), SafeTokenizer(tokenizer))
    rows = {name: [*contexts.shared, *tail] for name, tail in contexts.tails.items()}
    tokens = []
    for _ in range(TOKENS):
        logprobs = {
            name: model(input_ids=torch.tensor([[*row, *tokens]]), use_cache=False).logits[0, -1].log_softmax(-1)
            for name, row in rows.items()
        }
        base = logprobs[BASE]
        steered = base
        if INSTRUCTED in logprobs:
            strength = PAPER.gain * 0.5
            steered = logprobs[INSTRUCTED] + strength * (logprobs[INSTRUCTED] - base)
        tokens.append(int(steered.argmax()))
    return tuple(tokens)


@pytest.fixture
def adapted():
    return with_lora()


@pytest.fixture
def engine(adapted):
    with SteeringEngine(adapted, tiny_tokenizer()) as engine:
        yield engine


def answer(engine, adapter, chat=None, **options):
    sampling = Sampling(temperature=0, max_new_tokens=TOKENS)
    return engine.generate(
        chat or user(TALK), "be polite", adapter=adapter, steering=PAPER, sampling=sampling, **options
    )


def expected(adapted, name, chat, alignment="be polite"):
    """By two forward passes with the adapter active."""
    adapted.set_adapter(name)
    return loop(adapted.get_base_model(), tiny_tokenizer(), chat, alignment)


def at_work(adapted):
    """The adapters that a layer computes with."""
    return adapted.get_base_model().model.layers[0].self_attn.q_proj.active_adapters


def test_eight_requests_at_once_answer_each_under_its_own_adapter(adapted):
    asked = [(NAMES[place % 2], user(TALK * (1 + place // 2) + f"and {place}")) for place in range(7)]
    wanted = [expected(adapted, name, chat) for name, chat in asked]
    with adapted.disable_adapter():
        asked.append((None, user(TALK)))
        wanted.append(loop(adapted.get_base_model(), tiny_tokenizer(), user(TALK), "be polite"))
        with SteeringEngine(adapted, tiny_tokenizer()) as engine, ThreadPoolExecutor(8) as threads:
            for _ in range(2):  # the second time with stored prefixes
                done = threads.map(lambda one: answer(engine, one[0], one[1]), asked)
                assert [each.token_ids for each in done] == wanted
    assert len(set(wanted)) == len(wanted)


def test_none_means_the_adapters_that_are_active_on_the_model(adapted, engine):
    for name in NAMES:
        wanted = expected(adapted, name, user(TALK))
        assert answer(engine, None).token_ids == answer(engine, name).token_ids == wanted


def test_stored_prefixes_are_not_shared_between_adapters(engine):
    assert answer(engine, "polite").usage.cached_prompt_tokens == 0
    assert answer(engine, "rude").usage.cached_prompt_tokens == 0
    assert answer(engine, None).usage.cached_prompt_tokens == 0
    assert answer(engine, "polite").usage.cached_prompt_tokens > 0


def test_the_same_tokens_are_other_ones_under_another_adapter():
    contexts = greedy.make_contexts()
    keys = [
        PromptState(contexts, 1, adapter=adapter).stored_as([5, 6, 7])
        for adapter in (None, Adapter("polite", 1), Adapter("rude", 2))
    ]
    assert keys[0].tolist() == [5, 6, 7]
    assert all(common_length(one, other) == 0 for one in keys for other in keys if one is not other)


def test_the_model_is_left_as_it_was_given_also_by_a_pass_that_fails(adapted, engine):
    adapted.set_adapter("rude")
    watch = ModelWatch(adapted)
    trained = {name: weight.requires_grad for name, weight in adapted.named_parameters()}
    answer(engine, "polite")
    assert watch.look() is Change.NOTHING
    handle = adapted.get_base_model().lm_head.register_forward_hook(lambda *_: 1 / 0)
    watch.look()
    with pytest.raises(SDAError, match="ZeroDivisionError"):
        answer(engine, "polite")
    assert watch.look() is Change.NOTHING
    handle.remove()
    assert at_work(adapted) == ["rude"]
    assert trained == {name: weight.requires_grad for name, weight in adapted.named_parameters()}


def test_a_look_in_the_middle_of_a_pass_sees_the_model_as_it_was_given(adapted):
    watch = ModelWatch(adapted)
    with adapter_at_work(adapted, Adapter("rude", 1)):
        assert at_work(adapted) == ["rude"]
        assert watch.look() is Change.NOTHING
    assert at_work(adapted) == ["polite"]
    adapted.set_adapter("rude")
    assert watch.look() is Change.LAYERS


def test_what_the_owner_makes_active_during_a_pass_stays(adapted):
    with adapter_at_work(adapted, Adapter("rude", 1)):
        adapted.set_adapter("polite")
    assert at_work(adapted) == ["polite"]
    with adapter_at_work(adapted, Adapter("polite", 1)):
        adapted.set_adapter("rude")
    assert at_work(adapted) == ["rude"]


def test_the_weights_keep_their_name_while_requests_run_under_adapters(engine):
    before = engine.describe()["weights_id"]
    stream = engine.stream(user(TALK), adapter="rude", sampling=Sampling(max_new_tokens=40, seed=1))
    next(stream)
    names = {engine.describe()["weights_id"] for _ in range(50)}
    stream.close()
    assert names == {before}


def test_an_adapter_that_is_replaced_is_noticed_and_one_that_is_gone_refused(adapted, engine):
    before = answer(engine, "rude").token_ids
    adapted.delete_adapter("rude")
    with pytest.raises(ConfigError, match=r"adapter cannot be 'rude'.*It must be one of: polite\."):
        answer(engine, "rude")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        adapted.add_adapter("rude", config)
    adapted.train(False)
    after = answer(engine, "rude")
    assert after.usage.cached_prompt_tokens == 0
    assert after.token_ids == expected(adapted, "rude", user(TALK)) != before


@pytest.mark.filterwarnings("ignore:Adapter rude was active:UserWarning")  # PEFT's, where it goes during a pass
def test_an_adapter_that_goes_during_a_request_ends_that_request_alone(adapted, engine):
    stream = engine.stream(user(TALK), adapter="rude", sampling=Sampling(temperature=0, max_new_tokens=400))
    next(stream)
    adapted.delete_adapter("rude")
    with pytest.raises(ConfigError, match="has been taken off the model"):
        list(stream)
    assert answer(engine, "polite").token_ids == expected(adapted, "polite", user(TALK))


@pytest.mark.parametrize("evaluator", [ContrastiveEvaluator(), SelfRatingEvaluator()])
def test_a_base_response_and_its_score_come_from_the_adapter_of_the_request(adapted, evaluator):
    sampling = Sampling(temperature=0, max_new_tokens=4)
    steering = Steering(policy="paper", evaluator=evaluator)
    wanted = {}
    for name in NAMES:
        adapted.set_adapter(name)
        with SteeringEngine(adapted, tiny_tokenizer()) as alone:
            wanted[name] = alone.generate(user(TALK), "be polite", steering=steering, sampling=sampling)
    adapted.set_adapter("polite")
    with SteeringEngine(adapted, tiny_tokenizer()) as engine:
        for name in NAMES:
            done = engine.generate(user(TALK), "be polite", adapter=name, steering=steering, sampling=sampling)
            assert (done.base_response, done.text) == (wanted[name].base_response, wanted[name].text)
            assert done.score.value == pytest.approx(wanted[name].score.value, abs=1e-3)
    assert wanted["polite"].score.value != pytest.approx(wanted["rude"].score.value, abs=1e-2)


def test_given_texts_are_scored_under_the_adapter(adapted, engine):
    for name in NAMES:
        adapted.set_adapter(name)
        wanted = engine.continuation_logprobs(user(TALK), ["yes", "no"])
        adapted.set_adapter(next(other for other in NAMES if other != name))
        scored = engine.continuation_logprobs(user(TALK), ["yes", "no"], adapter=name)
        torch.testing.assert_close(scored, wanted, rtol=1e-5, atol=1e-4)
        assert not torch.allclose(engine.continuation_logprobs(user(TALK), ["yes", "no"]), wanted, atol=1e-2)


def test_the_keys_of_kept_scores_tell_the_adapter(engine):
    assert engine._text_scorer(None, adapter="rude").describe()["adapter"] == "rude"
    assert "adapter" not in engine._text_scorer(None).describe()


def test_two_engines_on_one_model_do_not_meet(adapted):
    with SteeringEngine(adapted, tiny_tokenizer()) as one, SteeringEngine(adapted, tiny_tokenizer()) as other:
        answers = {}
        threads = [
            threading.Thread(target=lambda engine=engine, name=name: answers.update({name: answer(engine, name)}))
            for engine, name in ((one, "polite"), (other, "rude"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {name: done.token_ids for name, done in answers.items()} == {
        name: expected(adapted, name, user(TALK)) for name in NAMES
    }


# --- what there is


@pytest.mark.parametrize("adapter", ["kind", ""])
def test_an_unknown_adapter_is_refused_with_the_known_ones(engine, adapter):
    with pytest.raises(ConfigError, match=f"adapter cannot be '{adapter}'.*one of: polite, rude"):
        answer(engine, adapter)
    with pytest.raises(ConfigError, match="adapter cannot be 3"):
        answer(engine, 3)


def test_a_model_without_adapters_says_how_to_load_some():
    with pytest.raises(ConfigError, match=r"It has none: load some with SteeringEngine\.load"):
        Adapters(tiny_model()).get("polite")


def test_merged_adapters_cannot_be_told_apart(adapted, engine):
    adapted.merge_adapter(["polite"])
    with pytest.raises(ConfigError, match="merged into the model's weights"):
        answer(engine, "rude")
    adapted.unmerge_adapter()
    assert answer(engine, "rude").token_ids == expected(adapted, "rude", user(TALK))


def test_adapters_that_are_tokens_are_refused():
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(ModelLoadError, match=r"'default' is of type PROMPT_TUNING.*such as LoRA"):
        SteeringEngine(peft.get_peft_model(tiny_model(), prompt), tiny_tokenizer())


@pytest.fixture
def folders(tmp_path):
    """A model, and its adapters in folders of their own."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    with_lora().save_pretrained(tmp_path)
    return tmp_path


def test_adapters_are_loaded_by_name_around_packed_layers_and_none_is_at_work_unasked(folders, adapted):
    adapters = {name: str(folders / name) for name in NAMES}
    with SteeringEngine.load(str(folders / "model"), dtype="float32", device="cpu", adapters=adapters) as engine:
        assert any(isinstance(layer, PackedLinear) for layer in engine.model.modules())
        for name in (*NAMES, None):
            scored = engine.continuation_logprobs(user(TALK), ["yes", "no"], adapter=name)
            with SteeringEngine(adapted if name else tiny_model(), tiny_tokenizer()) as other:
                wanted = other.continuation_logprobs(user(TALK), ["yes", "no"], adapter=name)
            torch.testing.assert_close(scored, wanted, rtol=1e-4, atol=1e-3)
        assert engine.describe()["adapters"] == adapters
        assert SteeringEngine.load(str(folders / "model"), dtype="float32", device="cpu") is not engine


def test_pickled_and_foreign_adapters_are_refused_by_name(folders):
    weights = folders / "rude" / "adapter_model.safetensors"
    torch.save({}, folders / "rude" / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(ModelLoadError, match=r"adapter 'rude' could not be loaded from .*adapter_model\.safetensors"):
        load(folders, rude=folders / "rude")
    config = folders / "polite" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "target_modules": ["nothing"]}))
    with pytest.raises(ModelLoadError, match="The adapter 'polite' could not be loaded"):
        load(folders, polite=folders / "polite")


def load(folders, **adapters):
    paths = {name: str(path) for name, path in adapters.items()}
    return load_model(ModelSettings(model=str(folders / "model"), dtype="float32", adapters=paths))


def test_without_peft_the_error_names_it(folders, monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match=r"pip install 'sda-integrations\[adapters\]'"):
        load(folders, polite=folders / "polite")
