from functools import partial

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from sda_engine import SteeringEngine
from sda_engine.decoding import self_test
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.rows import Row, RowMemory
from sda_engine.decoding.segments import Segment
from sda_engine.errors import ModelLoadError
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.sda_engine.decoding.architectures import GEMMA_3N, SHARED, WINDOWED, chameleon, tiny


def mask_of(tokens, sees):
    """(1, 1, tokens, tokens) of 0 where a query sees a key, else -inf."""
    places = torch.arange(tokens)
    seen = sees(places.unsqueeze(-1), places)
    return torch.zeros(tokens, tokens).masked_fill(~seen, float("-inf"))[None, None]


def window(tokens):
    return mask_of(tokens, lambda query, key: (key <= query) & (key > query - 3))


def bias(tokens):
    places = torch.arange(tokens)
    return mask_of(tokens, lambda query, key: key <= query) + (places - places.unsqueeze(-1)) * 0.5


def bidirectional(tokens):
    return mask_of(tokens, lambda query, key: key >= 0 * query)


def first_token_hidden(tokens):
    return mask_of(tokens, lambda query, key: (key <= query) & ((key > 0) | (query == 0)))


def hide_in_the_mask(model, make_mask):
    """Let the model's layers get a mask that its attention function is told nothing else of."""
    for layer in model.get_decoder().layers:
        forward = layer.self_attn.forward

        def masked(hidden_states, *args, forward=forward, attention_mask=None, **kwargs):
            if kwargs.get("forward_pass") is None:
                attention_mask = make_mask(hidden_states.shape[1])
            return forward(hidden_states, *args, attention_mask=attention_mask, **kwargs)

        layer.self_attn.forward = masked
    return model


def assert_refused(model, reason):
    with pytest.raises(ModelLoadError, match=f"'{model.config.model_type}'.*{reason}.*Load a model of another type"):
        ModelRunner(model)


@pytest.mark.parametrize("make_mask", [window, bias, bidirectional, first_token_hidden])
def test_a_model_that_hides_something_in_its_mask_is_refused(make_mask):
    assert_refused(hide_in_the_mask(tiny_model(), make_mask), "more than its attention function")


def test_a_model_that_masks_logits_is_refused_all_the_same():
    """It masks with the lowest of all numbers, which says nothing of how large its logits are."""
    ModelRunner(chameleon())
    assert_refused(hide_in_the_mask(chameleon(), window), "more than its attention function")


@pytest.mark.parametrize("name", ["attention_chunk_size", "floor_scale", "original_max_position_embeddings"])
def test_a_text_is_longer_than_each_number_of_tokens_that_the_config_names(name):
    def longer_window(tokens):
        return mask_of(tokens, lambda query, key: (key <= query) & (key > query - 40))

    model = hide_in_the_mask(tiny_model(), longer_window)
    ModelRunner(model)  # nothing shows in a short text
    setattr(model.config, name, 40)
    assert_refused(model, "more than its attention function")


@pytest.mark.parametrize("most", [{"_MOST_TOKENS": 41}, {"_MOST_WORK": 1e6}])
def test_a_text_longer_than_is_cheap_is_not_tried(monkeypatch, most):
    for name, value in most.items():
        monkeypatch.setattr(self_test, name, value)
    model, longest = tiny_model(context_window=256), []
    model.config.floor_scale = 40
    model.model.register_forward_hook(lambda module, given, output: longest.append(output[0].shape[1]))
    ModelRunner(model)
    assert max(longest) < 20


@pytest.mark.parametrize("make_mask", [window, bias, bidirectional])
def test_it_is_refused_in_a_dtype_of_few_bits_too(make_mask):
    model = hide_in_the_mask(tiny_model().bfloat16(), lambda tokens: make_mask(tokens).bfloat16())
    assert_refused(model, "more than its attention function")


def test_a_mask_that_says_nothing_new_is_no_reason():
    ModelRunner(hide_in_the_mask(tiny_model(), lambda n: mask_of(n, lambda query, key: key <= query)))


def test_an_engine_is_not_made_of_a_model_that_is_refused():
    with pytest.raises(ModelLoadError, match="'llama'"):
        SteeringEngine(hide_in_the_mask(tiny_model(), window), tiny_tokenizer())


def test_a_window_that_only_the_config_tells_of_is_refused_however_long():
    """The texts of the test are shorter than it, so that nothing would show."""
    model = tiny_model()
    model.config.sliding_window = 4096
    assert_refused(model, "a sliding window that their attention function is not told of")


def test_a_window_that_one_of_its_layers_is_not_told_of_is_refused():
    model = tiny("gemma3_text", **{**WINDOWED, "sliding_window": 200})
    model.model.layers[2].self_attn.sliding_window = None
    assert_refused(model, "a sliding window that their attention function is not told of")


def test_a_layer_that_ignores_the_attention_function_is_refused():
    class OwnAttention(nn.Module):
        def forward(self, hidden_states, *args, **kwargs):
            return hidden_states.cumsum(1), None

    model = tiny_model()
    model.model.layers[1].self_attn = OwnAttention()
    assert_refused(model, "layers that do not attend once each")


def test_a_forward_pass_that_fails_by_rows_is_refused_with_its_reason():
    model = tiny_model()
    attention = model.model.layers[0].self_attn
    forward = attention.forward

    def fail_by_rows(*args, **kwargs):
        if kwargs.get("forward_pass") is not None:
            raise ValueError("no rows, please")
        return forward(*args, **kwargs)

    attention.forward = fail_by_rows
    assert_refused(model, "a forward pass that fails when it runs by rows \\(no rows, please\\)")


def test_positions_that_the_model_does_not_take_from_its_input_are_refused():
    model = tiny_model()
    forward = model.model.rotary_emb.forward
    model.model.rotary_emb.forward = lambda x, position_ids: forward(x, torch.arange(x.shape[1]).unsqueeze(0))
    assert_refused(model, "more than its attention function")


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2), (torch.float64, 8)])
def test_bytes_per_token_are_those_of_all_keys_and_values(architecture, dtype, size):
    model = tiny_model(architecture=architecture).to(dtype)
    runner = ModelRunner(model)
    layers, heads, head_dim = 2, 2, 8
    assert runner.bytes_per_token == layers * 2 * heads * head_dim * size
    row = Row(RowMemory(tail=16))
    with torch.inference_mode():
        runner.forward([Segment(row, [3] * 30)])
    (piece,) = row.pieces
    assert sum(state.nbytes for layer in piece.block.layers for state in layer) == 30 * runner.bytes_per_token


@pytest.mark.parametrize("make", [partial(tiny, "gemma4_text", **SHARED), partial(tiny, "gemma3n_text", **GEMMA_3N)])
def test_keys_and_values_that_layers_share_are_stored_and_counted_once(make):
    model = make()
    runner = ModelRunner(model)
    assert [layer.place for layer in runner.architecture.layers] == [0, 1, 0, 1]
    row = Row(RowMemory(tail=16))
    with torch.inference_mode():
        runner.forward([Segment(row, [3] * 30)])
    (piece,) = row.pieces
    assert len(piece.block.layers) == 2
    assert sum(state.nbytes for layer in piece.block.layers for state in layer) == 30 * runner.bytes_per_token


@pytest.mark.parametrize("vocab_size", [1, 2, 7])
def test_a_vocabulary_of_few_tokens_is_enough(vocab_size):
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    ModelRunner(LlamaForCausalLM(config).train(False))


def with_logit(model, value):
    """Let the model give this logit to one token, always."""

    def change(module, inputs, logits):
        logits[..., 5] = value
        return logits

    model.lm_head.register_forward_hook(change)
    return model


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_a_logit_that_is_no_number_is_not_taken_for_a_wrong_one(value):
    ModelRunner(with_logit(tiny_model(), value))


@pytest.mark.parametrize("value", [float("-inf"), float("inf")])
def test_an_infinite_logit_does_not_make_the_test_blind_for_the_others(value):
    assert_refused(with_logit(hide_in_the_mask(tiny_model(), window), value), "more than its attention function")


def test_a_model_that_gives_nothing_but_nan_is_left_for_the_first_request_to_complain_of():
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    ModelRunner(model)


def test_the_self_test_leaves_model_and_random_state_alone():
    model = tiny_model()
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    config, seed = model.config.to_dict(), torch.random.get_rng_state()
    ModelRunner(model)
    assert model.config.to_dict() == config
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())


def test_a_users_own_attention_function_is_kept_for_passes_of_his_own():
    calls = []

    def own(module, query, key, value, attention_mask, **options):
        calls.append(query.shape)
        return torch.zeros(query.shape).transpose(1, 2), None

    AttentionInterface.register("own_of_test", own)
    model = tiny_model()
    model.set_attn_implementation("own_of_test")
    assert_refused(model, "more than its attention function")
    assert calls
    assert model.config._attn_implementation == "own_of_test"
