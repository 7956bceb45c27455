"""A model that changes under an engine that goes on: what the engine says is what a new one would say."""

import copy

import pytest
import torch
from torch import nn

from sda_engine import Sampling, SteeringEngine
from sda_engine.models.model_watch import Change, ModelWatch
from sda_engine.models.packed_linear import PackedLinear
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.conftest import user

CHAT = user("the quick brown fox jumps over the lazy dog and the answer is in the library")


def answer(engine):
    return engine.generate(CHAT, "be polite", sampling=Sampling(temperature=0, max_new_tokens=8, logprobs=3))


def told(completion):
    return completion.token_ids, completion.trace.divergence


class Adapter(nn.Module):
    """A layer around a linear one, with a small change to what it gives, as LoRA puts it there."""

    def __init__(self, base, scale=2.0):
        super().__init__()
        self.base, self.scales, self.enabled = base, {"default": scale}, True
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.down, self.up = nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)

    def forward(self, values):
        given = self.base(values)
        return given + self.scales["default"] * self.up(self.down(values)) if self.enabled else given


def attention(model):
    return model.model.layers[0].self_attn


def adapted(model, **settings):
    attention(model).k_proj = Adapter(attention(model).k_proj, **settings)
    return model


def load_other_weights(model):
    model.load_state_dict(tiny_model(seed=1).state_dict())


def assign_other_weights(model):
    model.load_state_dict(tiny_model(seed=1).state_dict(), assign=True)


def train_a_step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(input_ids=torch.tensor([[3, 4, 5, 6]]), labels=torch.tensor([[3, 4, 5, 6]])).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def write_in_place(model):
    with torch.no_grad():
        attention(model).v_proj.weight.mul_(-1.0)


def write_through_data(model):
    attention(model).v_proj.weight.data.mul_(-1.0)


def write_as_an_adapter_is_merged(model):
    attention(model).k_proj.weight.data += 0.5


def replace_the_data(model):
    attention(model).v_proj.weight.data = -attention(model).v_proj.weight.data


def replace_a_parameter(model):
    attention(model).v_proj.weight = nn.Parameter(-attention(model).v_proj.weight.detach())


def replace_a_layer(model):
    other = nn.Linear(32, 16, bias=False)
    other.weight = nn.Parameter(-attention(model).v_proj.weight.detach())
    attention(model).v_proj = other


def in_another_dtype(model):
    model.to(torch.bfloat16)


def there_and_back(model):
    model.to(torch.bfloat16).to(torch.float32)


def put_an_adapter_on(model):
    adapted(model)


def hook_an_adapter_on(model):
    attention(model).v_proj.register_forward_hook(lambda module, args, output: output * -1.0)


def hook_on_what_goes_in(model):
    model.model.layers[0].register_forward_pre_hook(lambda module, args: (args[0] * 2.0, *args[1:]))


def replace_a_method(model):
    layer = attention(model).v_proj
    usual = layer.forward
    layer.forward = lambda values: -usual(values)


CHANGES = (
    load_other_weights,
    assign_other_weights,
    train_a_step,
    write_in_place,
    write_through_data,
    write_as_an_adapter_is_merged,
    replace_the_data,
    replace_a_parameter,
    replace_a_layer,
    in_another_dtype,
    there_and_back,
    put_an_adapter_on,
    hook_an_adapter_on,
    hook_on_what_goes_in,
    replace_a_method,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_model_answers_as_if_it_had_been_like_this_from_the_start(change):
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        before = told(answer(engine))
        change(engine.model)
        after = answer(engine)
        fresh_model = copy.deepcopy(engine.model)
    with SteeringEngine(fresh_model, tiny_tokenizer()) as fresh:
        assert told(after) == told(answer(fresh))
    assert told(after) != before
    assert after.usage.cached_prompt_tokens == 0


SETTINGS = {
    "scaled": lambda layer: layer.scales.update(default=-3.0),
    "turned off": lambda layer: setattr(layer, "enabled", False),
    "trained": lambda layer: nn.init.constant_(layer.up.weight, 0.3),
}


@pytest.mark.parametrize("change", SETTINGS.values(), ids=SETTINGS)
def test_what_is_done_to_an_adapter_later_counts_too(change):
    with SteeringEngine(adapted(tiny_model()), tiny_tokenizer()) as engine:
        before = told(answer(engine))
        change(attention(engine.model).k_proj)
        after = told(answer(engine))
        fresh_model = copy.deepcopy(engine.model)
    with SteeringEngine(fresh_model, tiny_tokenizer()) as fresh:
        assert after == told(answer(fresh)) != before


def test_an_adapter_that_is_taken_off_again_leaves_nothing_behind():
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        before, base = told(answer(engine)), attention(engine.model).k_proj
        adapted(engine.model)
        assert told(answer(engine)) != before
        attention(engine.model).k_proj = base
        assert told(answer(engine)) == before


def test_a_model_that_stays_as_it_is_keeps_what_is_stored():
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        answer(engine)
        tiny_model(seed=1)
        assert answer(engine).usage.cached_prompt_tokens > 0


def test_a_request_during_which_the_model_changes_leaves_nothing_for_later_ones():
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        engine.model.generation_config.eos_token_id = []
        stream = engine.stream(CHAT, "be polite", sampling=Sampling(temperature=2.0, seed=1, max_new_tokens=400))
        next(stream)
        write_in_place(engine.model)
        first = answer(engine).token_ids  # in its company
        stream.close()
        assert answer(engine).token_ids == first
        fresh_model = copy.deepcopy(engine.model)
    with SteeringEngine(fresh_model, tiny_tokenizer()) as fresh:
        assert answer(fresh).token_ids == first


def test_packed_weights_that_were_written_through_data_are_packed_anew(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with SteeringEngine.load(str(tmp_path), dtype="float32", device="cpu") as engine:
        before = answer(engine).token_ids
        for layer in engine.model.modules():
            if isinstance(layer, PackedLinear):
                layer.weight.data.mul_(1.5)
        after = answer(engine).token_ids
        assert all(layer.is_packed for layer in engine.model.modules() if isinstance(layer, PackedLinear))
        with SteeringEngine(copy.deepcopy(engine.model), tiny_tokenizer()) as fresh:
            assert answer(fresh).token_ids == after != before


# --- the watch itself


def test_a_watch_tells_weights_from_layers_and_each_change_once():
    model = tiny_model()
    watch = ModelWatch(model)
    assert watch.look() is Change.NOTHING
    write_in_place(model)
    assert [watch.look(), watch.look()] == [Change.WEIGHTS, Change.NOTHING]
    handle = attention(model).register_forward_hook(lambda *_: None)
    assert [watch.look(), watch.look()] == [Change.LAYERS, Change.NOTHING]
    handle.remove()
    assert watch.look() is Change.LAYERS
    model.train()
    assert watch.look() is Change.LAYERS


def test_a_watch_reads_models_of_inference_mode_and_of_the_meta_device():
    with torch.inference_mode():
        model = tiny_model()
    watch = ModelWatch(model)
    assert watch.look() is Change.NOTHING
    with torch.inference_mode():
        write_in_place(model)
    assert watch.look() is Change.WEIGHTS
    with torch.device("meta"):
        watch = ModelWatch(nn.Linear(3, 3))
    assert watch.look() is Change.NOTHING


def test_a_model_that_cannot_be_read_just_now_counts_as_changed():
    class Moving(nn.Linear):
        moves = False

        def __getattribute__(self, name):
            if name == "__dict__" and Moving.moves:
                raise RuntimeError("dictionary changed size during iteration")
            return super().__getattribute__(name)

    watch = ModelWatch(nn.Sequential(Moving(2, 2)))
    assert watch.look() is Change.NOTHING
    Moving.moves = True
    assert [watch.look(), watch.look()] == [Change.WEIGHTS] * 2
    Moving.moves = False
    assert [watch.look(), watch.look()] == [Change.WEIGHTS, Change.NOTHING]
