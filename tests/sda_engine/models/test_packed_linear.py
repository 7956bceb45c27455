import copy
import pickle
from types import SimpleNamespace

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sda_engine import Sampling, SteeringEngine
from sda_engine.models.packed_linear import PackedLinear, _has_packed_products, pack_linear_layers
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.floats import LOGPROB

pytestmark = pytest.mark.skipif(not _has_packed_products(), reason="this build of torch has no packed products")


def linear(inputs=24, outputs=40, bias=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(inputs + outputs)
        return nn.Linear(inputs, outputs, bias=bias)


def packed(layer):
    pack_linear_layers(nn.Sequential(layer))
    assert type(layer) is PackedLinear
    assert layer._packed is not None
    return layer


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def product(layer, inputs):
    return layer(inputs)


def in_float64(layer, inputs):
    bias = None if layer.bias is None else layer.bias.detach().double()
    return nn.functional.linear(inputs.double(), layer.weight.detach().double(), bias)


def assert_right(layer, inputs=None, tolerance=1e-5):
    """The layer multiplies with the weights that it has now."""
    inputs = numbers(5, layer.in_features) if inputs is None else inputs
    torch.testing.assert_close(product(layer, inputs).double(), in_float64(layer, inputs), atol=tolerance, rtol=1e-4)


# --- the product


@given(
    st.lists(st.integers(0, 9), max_size=3), st.integers(1, 70), st.integers(1, 70), st.booleans(), st.integers(0, 99)
)
def test_a_packed_layer_gives_what_a_linear_layer_gives(batch, inputs, outputs, bias, seed):
    layer = packed(linear(inputs, outputs, bias))
    given_inputs = torch.randn((*batch, inputs), generator=torch.Generator().manual_seed(seed))
    assert product(layer, given_inputs).shape == (*batch, outputs)
    assert_right(layer, given_inputs)


@pytest.mark.parametrize("tokens", [1, 2, 3, 8, 16, 17, 128])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_of_a_real_size_gives_what_a_linear_layer_gives(tokens, bias):
    assert_right(packed(linear(576, 1536, bias)), numbers(1, tokens, 576))


@pytest.mark.parametrize(
    "inputs",
    [numbers(24, 6).T, numbers(12, 24)[::2], numbers(6, 48)[:, ::2], numbers(1, 24).expand(6, 24)],
    ids=["transposed", "every second row", "every second column", "expanded"],
)
def test_inputs_in_any_layout_are_taken(inputs):
    assert_right(packed(linear()), inputs)


def test_the_packed_weights_are_what_it_multiplies_with():
    layer = packed(linear())
    layer._packed = torch.ops.mkldnn._reorder_linear_weight(torch.zeros(40, 24), None)
    assert torch.equal(product(layer, numbers(5, 24)), layer.bias.detach().expand(5, 40))


# --- changed weights


def double_in_place(layer):
    with torch.no_grad():
        layer.weight.mul_(2)


def load_others(layer):
    layer.load_state_dict(linear(24, 40).state_dict() | {"weight": numbers(40, 24)})


def assign_others(layer):
    layer.load_state_dict(linear(24, 40).state_dict() | {"weight": numbers(40, 24)}, assign=True)


def replace(layer):
    layer.weight = nn.Parameter(numbers(40, 24))


def replace_data(layer):
    layer.weight.data = numbers(40, 24)


def train_a_step(layer):
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer(numbers(5, 24)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("change", [double_in_place, load_others, assign_others, replace, replace_data, train_a_step])
def test_changed_weights_are_noticed(change):
    layer = packed(linear())
    before = product(layer, numbers(5, 24))
    change(layer)
    assert not torch.allclose(product(layer, numbers(5, 24)), before)
    assert_right(layer)


def test_a_changed_bias_counts_at_once():
    layer = packed(linear())
    with torch.no_grad():
        layer.bias.add_(1)
    assert_right(layer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_layer_in_another_dtype_multiplies_in_it(dtype):
    layer = packed(linear()).to(dtype)
    inputs = numbers(5, 24).to(dtype)
    assert product(layer, inputs).dtype == dtype
    assert_right(layer, inputs, tolerance=0.05)


@pytest.mark.parametrize("size", [8, 24, 64, 256])
def test_weights_that_were_rounded_and_came_back_are_noticed(size):
    for _ in range(20):  # the memory of the old ones may be used again
        layer = packed(linear(size, size))
        layer.to(torch.bfloat16).to(torch.float32)
        assert_right(layer)


def test_a_layer_can_be_packed_again():
    layer = packed(linear())
    layer.weight.data.mul_(2)  # torch does not count writes to `data`, so nobody notices
    layer.pack()
    assert_right(layer)
    assert layer._packed is not None


# --- everything else that people do with layers


def same(layer, other):
    assert torch.equal(product(layer, numbers(5, 24)), product(other, numbers(5, 24)))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])  # noqa: S301
def test_a_copy_is_a_linear_layer_of_its_own(copied):
    layer = packed(linear())
    other = copied(layer)
    assert isinstance(other, nn.Linear)
    assert_right(other)
    double_in_place(other)
    assert_right(other)
    assert_right(layer)
    assert layer._packed is not None


def test_a_pickle_holds_the_weights_once():
    plain, layer = linear(200, 200), packed(linear(200, 200))
    assert len(pickle.dumps(layer)) < 1.1 * len(pickle.dumps(plain))


def test_a_state_dict_is_that_of_a_linear_layer():
    plain, layer = linear(), packed(linear())
    assert layer.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(layer.state_dict())
    assert dict(layer.named_parameters()).keys() == dict(plain.named_parameters()).keys()
    assert not list(layer.buffers())


def test_gradients_are_those_of_a_linear_layer():
    plain, layer = linear(), packed(linear())
    inputs = [numbers(5, 24).requires_grad_() for _ in range(2)]
    for module, given_inputs in zip((plain, layer), inputs, strict=True):
        module(given_inputs).square().sum().backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad)
    assert torch.equal(layer.bias.grad, plain.bias.grad)
    assert torch.equal(inputs[0].grad, inputs[1].grad)


def test_hooks_are_called():
    layer, calls = packed(linear()), []
    layer.register_forward_hook(lambda *_: calls.append(1))
    product(layer, numbers(5, 24))
    assert calls == [1]


def test_autocast_decides_the_dtype_as_it_does_for_a_linear_layer():
    plain, layer = linear(), packed(linear())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(layer, numbers(5, 24)).dtype == product(plain, numbers(5, 24)).dtype


# --- which layers


def test_only_plain_linear_layers_in_float32_are_packed():
    class OwnLinear(nn.Linear):
        """Whoever makes a class of their own means something by it."""

    model = nn.ModuleList([linear(), OwnLinear(8, 8), linear().bfloat16(), linear().double(), nn.Embedding(8, 8)])
    before = [type(layer) for layer in model]
    pack_linear_layers(model)
    assert [type(layer) for layer in model] == [PackedLinear, *before[1:]]
    assert pack_linear_layers(model) is None  # once more changes nothing
    assert_right(model[0])


@pytest.mark.parametrize(("available", "kind"), [(3, nn.Linear), (5, PackedLinear)])
def test_layers_are_packed_where_they_take_a_quarter_of_the_free_memory_at_most(monkeypatch, available, kind):
    layer = linear(100, 100)
    free = SimpleNamespace(available=available * 100 * 100 * 4)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    pack_linear_layers(nn.Sequential(layer))
    assert type(layer) is kind


def test_layers_are_left_alone_where_torch_cannot_pack_them(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layer = linear()
    pack_linear_layers(nn.Sequential(layer))
    assert type(layer) is nn.Linear


# --- models


def packed_layers(model):
    return [layer for layer in model.modules() if isinstance(layer, PackedLinear)]


@pytest.fixture
def folder(tmp_path):
    """A local model as transformers saves it."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_a_float32_model_that_is_loaded_is_packed_and_says_the_same(folder):
    greedy = Sampling(temperature=0, max_new_tokens=12)
    with (
        SteeringEngine(tiny_model(), tiny_tokenizer()) as plain,
        SteeringEngine.load(folder, dtype="float32", device="cpu") as loaded,
    ):
        layers = [layer for layer in loaded.model.modules() if isinstance(layer, nn.Linear)]
        assert len(packed_layers(loaded.model)) == len(layers) == 2 * 7 + 1
        answers = [engine.generate(user("hi"), "be kind", sampling=greedy) for engine in (plain, loaded)]
    assert answers[0].token_ids == answers[1].token_ids


def test_a_bfloat16_model_is_not_packed(folder):
    with SteeringEngine.load(folder, dtype="bfloat16", device="cpu") as engine:
        assert packed_layers(engine.model) == []


def test_a_model_that_its_owner_passes_in_is_never_changed():
    model = tiny_model()
    before = [type(module) for module in model.modules()]
    with SteeringEngine(model, tiny_tokenizer()) as engine:
        engine.generate(user("hi"), sampling=Sampling(max_new_tokens=2))
        assert engine.model is model
    assert [type(module) for module in model.modules()] == before


def test_too_little_memory_leaves_a_loaded_model_as_it_is(folder, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100_000))
    with SteeringEngine.load(folder, dtype="float32", device="cpu") as engine:
        assert packed_layers(engine.model) == []
        assert engine.generate(user("hi"), sampling=Sampling(max_new_tokens=2)).token_ids


def test_a_packed_model_can_be_copied_and_saved(folder, tmp_path):
    with SteeringEngine.load(folder, dtype="float32", device="cpu") as engine:
        model = engine.model
        ids = torch.tensor([[5, 6, 7]])
        with torch.inference_mode():
            expected = model(input_ids=ids).logits
            torch.testing.assert_close(copy.deepcopy(model)(input_ids=ids).logits, expected, atol=LOGPROB, rtol=LOGPROB)
        model.save_pretrained(tmp_path / "saved")
        with torch.inference_mode():
            saved = type(model).from_pretrained(tmp_path / "saved")(input_ids=ids).logits
        torch.testing.assert_close(saved, expected, atol=LOGPROB, rtol=LOGPROB)


def test_a_model_can_be_loaded_in_inference_mode(folder):
    with torch.inference_mode(), SteeringEngine.load(folder, dtype="float32", device="cpu") as engine:
        assert engine.generate(user("hi"), sampling=Sampling(max_new_tokens=2)).token_ids
