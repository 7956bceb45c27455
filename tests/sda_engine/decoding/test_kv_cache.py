import pytest
import torch
from transformers import MambaConfig

from sda_engine.decoding.kv_cache import check_cache_support, fork, left_padding_mask, merge, new_cache
from sda_engine.decoding.model_runner import ModelRunner, PromptState
from sda_engine.errors import ModelLoadError
from sda_engine.prompts import Contexts
from sda_engine.testing import tiny_model


@pytest.fixture(params=["llama", "gemma3"])
def model(request):
    return tiny_model(architecture=request.param)


@torch.inference_mode()
def filled(model, ids):
    cache = new_cache(model.config)
    logits = model(torch.tensor([ids]), past_key_values=cache, use_cache=True).logits[0, -1]
    return cache, logits


def test_a_fork_goes_on_without_changing_the_cache_it_came_from(model):
    cache, _ = filled(model, range(3, 30))
    before = [(layer.keys.clone(), layer.get_seq_length()) for layer in cache.layers]
    with torch.inference_mode():
        model(torch.tensor([[7, 8]]), past_key_values=fork(cache), use_cache=True)
    for layer, (keys, length) in zip(cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert layer.get_seq_length() == length


@pytest.mark.parametrize("lengths", [(5, 5), (4, 9), (30, 12), (40, 41, 3)])
def test_rows_of_different_lengths_decode_together_as_they_do_alone(model, lengths):
    rows = [[3 + (7 * row + place) % 300 for place in range(length)] for row, length in enumerate(lengths)]
    runner = ModelRunner(model)
    more = [11, 12, 13, 14]
    with torch.inference_mode():
        prompts = [PromptState(Contexts(shared=(), tails={"base": tuple(row)})) for row in rows]
        batch = runner.make_batch([runner.prefill(prompt, "base") for prompt in prompts])
        together = [runner.decode(batch, torch.full((len(rows), 1), token))[:, -1] for token in more]
    for place, row in enumerate(rows):
        for step in range(len(more)):
            _, alone = filled(model, [*row, *more[: step + 1]])
            torch.testing.assert_close(together[step][place], alone, atol=1e-5, rtol=1e-4)


def test_the_padding_mask_hides_the_left():
    mask = left_padding_mask([1, 3], torch.device("cpu"))
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_merging_one_row_copies_nothing(model):
    cache, _ = filled(model, range(3, 9))
    merged = merge([cache], [6])
    assert merged.layers[0].keys is cache.layers[0].keys


def test_the_shared_prefix_is_computed_once_and_every_row_once(model, monkeypatch):
    forwarded = []
    forward = model.forward
    monkeypatch.setattr(
        model,
        "forward",
        lambda input_ids, **kw: forwarded.append(input_ids.shape[1]) or forward(input_ids, **kw),
    )
    runner = ModelRunner(model)
    prompt = PromptState(Contexts(shared=tuple(range(3, 23)), tails={"base": (30,), "instructed": (31, 32, 33)}))
    with torch.inference_mode():
        for row in ("base", "instructed", "base", "instructed"):
            runner.prefill(prompt, row)
    windowed = model.config.model_type != "llama"  # a sliding window cannot go back to the end of the prefix
    assert forwarded == ([20, 1, 3] if windowed else [21, 3])


def test_scoring_gives_the_log_probability_of_each_token_in_each_context(model):
    prompt = PromptState(Contexts(shared=(3, 4, 5), tails={"base": (6,), "instructed": (7, 8)}))
    text = [20, 21, 22]
    with torch.inference_mode():
        scored = ModelRunner(model).score(prompt, ("base", "instructed"), text)
        for row, tail in prompt.contexts.tails.items():
            logits = model(torch.tensor([[3, 4, 5, *tail, *text]])).logits[0].float().log_softmax(-1)
            start = 3 + len(tail) - 1
            expected = torch.stack([logits[start + place, token] for place, token in enumerate(text)])
            torch.testing.assert_close(scored[row], expected, atol=1e-5, rtol=1e-4)


def test_a_model_with_recurrent_states_is_refused_by_name():
    with pytest.raises(ModelLoadError, match=r"'mamba'.*LinearAttentionLayer"):
        check_cache_support(MambaConfig(num_hidden_layers=2))
