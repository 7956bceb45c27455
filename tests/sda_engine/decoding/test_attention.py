import threading
from copy import deepcopy
from functools import partial

import pytest
import torch
import transformers as hf

from sda_engine.decoding.attention import row_attention
from sda_engine.decoding.forward_pass import ForwardPass
from sda_engine.decoding.kernels import Kernel
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.reach import Reach
from sda_engine.decoding.rows import Row, RowMemory
from sda_engine.decoding.segments import Segment
from sda_engine.errors import ModelLoadError
from sda_engine.testing import tiny_model
from tests.sda_engine.decoding.architectures import (
    GEMMA_3N,
    LAYERS,
    LLAMA_4,
    MLA,
    SHARED,
    WINDOW,
    WINDOWED,
    chameleon,
    indexed,
    largest_error,
    logits_of,
    random_model,
    rows_of,
    text_settings,
    tiny,
)

TOLERANCE = 1e-4  # of the largest logit; float32 gives some 1e-6, and anything wrong 1e-1
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VISION = {"depth": 1, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 32}


def rope(kind, **parameters):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **parameters}}


def gemma3_that_sees():
    config = hf.Gemma3Config(text_config=text_settings(**WINDOWED), vision_config=VISION, mm_tokens_per_image=4)
    return random_model(hf.Gemma3ForConditionalGeneration, config)


def qwen2_that_sees():
    text = text_settings(**rope("default", mrope_section=[2, 3, 3]))
    config = hf.Qwen2_5_VLConfig(text_config=text, vision_config=QWEN_VISION)
    return random_model(hf.Qwen2_5_VLForConditionalGeneration, config)


RIGHT = {
    "llama": partial(tiny, "llama"),
    "llama, eager": partial(tiny, "llama", attn_implementation="eager"),
    "llama, scaled positions": partial(
        tiny,
        "llama",
        **rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
    ),
    "llama, yarn": partial(tiny, "llama", **rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "mistral, window": partial(tiny, "mistral", sliding_window=WINDOW),
    "mistral, no window": partial(tiny, "mistral", sliding_window=None),
    "ministral3": partial(tiny, "ministral3", sliding_window=None),
    "mixtral": partial(tiny, "mixtral", sliding_window=WINDOW),
    "qwen2, window in half the layers": partial(
        tiny, "qwen2", use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2
    ),
    "qwen3": partial(tiny, "qwen3"),
    "qwen3_moe": partial(tiny, "qwen3_moe"),
    "gemma": partial(tiny, "gemma"),
    "gemma2, softcap": partial(tiny, "gemma2", **WINDOWED, attn_logit_softcapping=2.0),
    "gemma2, no softcap": partial(tiny, "gemma2", **WINDOWED, attn_logit_softcapping=None),
    "gemma3": partial(tiny, "gemma3_text", **WINDOWED),
    "gemma3 that sees": gemma3_that_sees,
    "gemma4": partial(tiny, "gemma4_text", **WINDOWED, hidden_size_per_layer_input=8, vocab_size_per_layer_input=128),
    "gemma4, layers of two shapes": partial(
        tiny,
        "gemma4_text",
        **WINDOWED,
        global_head_dim=32,
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
        hidden_size_per_layer_input=0,
    ),
    "vaultgemma": partial(tiny, "vaultgemma", **WINDOWED),
    "phi": partial(tiny, "phi"),
    "phi3": partial(tiny, "phi3", sliding_window=WINDOW),
    "gpt2": partial(tiny, "gpt2"),
    "gpt_neox": partial(tiny, "gpt_neox"),
    "gpt_bigcode": partial(tiny, "gpt_bigcode"),
    "opt": partial(tiny, "opt", ffn_dim=64, word_embed_proj_dim=64),
    "olmo2": partial(tiny, "olmo2"),
    "olmo3": partial(tiny, "olmo3", **WINDOWED),
    "cohere2": partial(tiny, "cohere2", **WINDOWED),
    "starcoder2": partial(tiny, "starcoder2", sliding_window=WINDOW),
    "granite": partial(tiny, "granite"),
    "smollm3": partial(tiny, "smollm3"),
    "glm4": partial(tiny, "glm4"),
    "exaone4": partial(tiny, "exaone4", **WINDOWED),
    "deepseek_v3, values smaller than keys": partial(tiny, "deepseek_v3", **MLA),
    "qwen2 that sees": qwen2_that_sees,
    "granite, hybrid by name": partial(
        tiny,
        "granitemoehybrid",
        layer_types=["full_attention"] * LAYERS,
        position_embedding_type="rope",
        num_local_experts=0,
        shared_intermediate_size=64,
    ),
    "nemotron, keywords not handed down": partial(tiny, "nemotron"),
    "biogpt": partial(tiny, "biogpt"),
    "stablelm": partial(tiny, "stablelm"),
    "chameleon, masked logits": chameleon,
    "gpt_oss, sinks": partial(tiny, "gpt_oss", **WINDOWED),
    "gemma3n, shared keys and values": partial(tiny, "gemma3n_text", **GEMMA_3N),
    "gemma4, shared keys and values": partial(tiny, "gemma4_text", **SHARED),
    "llama4, chunks, queries scaled by position": partial(tiny, "llama4_text", **LLAMA_4),
    "deepseek_v32, as long as it attends to all tokens": partial(tiny, "deepseek_v32", **indexed(most=33)),
}
NEW_KERNELS = {name: RIGHT[name] for name in RIGHT if name.startswith(("gpt_oss", "gemma3n", "llama4"))}
REFUSED = {
    "recurrent states": partial(tiny, "mamba"),
    "recurrent states without layer types": partial(tiny, "rwkv"),
    "linear attention": partial(tiny, "jamba", num_hidden_layers=8),
    "alibi": partial(tiny, "bloom"),
    "attention of its own": partial(tiny, "gptj"),
    "layers of a kind of its own": partial(tiny, "minimax_m3_vl_text", layer_types=["minimax_m3_sparse"] * LAYERS),
}
# What the attention function is not told of, or does not reach; see the comment on each.
RIGHT_OR_REFUSED = {
    "phimoe, its window only in the mask": partial(tiny, "phimoe", sliding_window=WINDOW),
    "doge, keys weighed by the mask": partial(tiny, "doge"),
    "diffllama, each layer attends twice": partial(tiny, "diffllama"),
    "hrm_text, each layer runs several times": partial(tiny, "hrm_text"),
    "roberta, positions that begin behind the padding": partial(tiny, "roberta", is_decoder=True),
    "bert, not causal": partial(tiny, "bert"),
    "afmoe": partial(tiny, "afmoe", **WINDOWED, num_shared_experts=1),
    "jetmoe": partial(tiny, "jetmoe", kv_channels=16),
}


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT)
def test_rows_decoded_together_are_what_transformers_makes_of_each_alone(make):
    assert largest_error(make()) < TOLERANCE


@pytest.mark.parametrize("make", NEW_KERNELS.values(), ids=NEW_KERNELS)
def test_the_kernel_of_other_devices_knows_sinks_and_chunks_too(make, monkeypatch):
    monkeypatch.setattr(Kernel, "_is_flash", lambda *_: False)
    assert largest_error(make()) < TOLERANCE


@pytest.mark.parametrize("tail", [4, 64])
@pytest.mark.parametrize("make", NEW_KERNELS.values(), ids=NEW_KERNELS)
@torch.inference_mode()
def test_rows_that_share_a_beginning_or_take_proposals_back_go_on_as_if_each_were_new(make, tail):
    model = make()
    runner = ModelRunner(model)
    text, *ends = rows_of([30, 3, 9, 1])
    row = Row(RowMemory(tail))
    runner.forward([Segment(row, text)])
    forks = [row.fork(20 + 3 * place) for place in range(len(ends))]
    runner.forward([Segment(fork, [*end, 9, 9, 9], keep=4) for fork, end in zip(forks, ends, strict=True)])
    for fork in forks:
        fork.truncate(fork.length - 2)  # the last two proposals were wrong
    logits = runner.forward([Segment(fork, [8, 7], keep=2) for fork in forks])
    for fork, own in zip(forks, logits, strict=True):
        expected = logits_of(model, fork.token_ids)[-2:]
        torch.testing.assert_close(own, expected, atol=TOLERANCE * float(expected.abs().max()), rtol=0.0)


def test_an_index_that_leaves_tokens_out_makes_rows_differ():
    """So that the context window of such a model ends where its index begins to choose."""
    assert largest_error(tiny("deepseek_v32", **indexed(most=20))) > 100 * TOLERANCE


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_a_model_that_cannot_be_run_by_rows_is_refused_when_its_runner_is_made(make):
    model = make()
    with pytest.raises(ModelLoadError, match="Load a model") as raised:
        ModelRunner(model)
    assert repr(model.config.model_type) in str(raised.value)
    assert raised.value.reason
    assert raised.value.reason in str(raised.value)


@pytest.mark.parametrize("name", ["alibi", "attention of its own"])
def test_attention_that_no_function_of_ours_can_stand_in_for_is_called_that(name):
    with pytest.raises(ModelLoadError) as raised:
        ModelRunner(REFUSED[name]())
    assert raised.value.reason == "attention that does not go through the interface of transformers"


def test_layers_with_a_copy_of_the_configuration_attend_by_rows_too():
    model = tiny_model()
    copy = deepcopy(model.config)
    model.model.layers[1].self_attn.config = copy
    usual = copy._attn_implementation
    assert largest_error(model) < TOLERANCE
    assert copy._attn_implementation == usual


@pytest.mark.parametrize("make", RIGHT_OR_REFUSED.values(), ids=RIGHT_OR_REFUSED)
def test_no_model_gives_wrong_results_without_a_word(make):
    model = make()
    logits_of(model, [3, 4, 5])  # it runs in transformers
    try:
        ModelRunner(model)
    except ModelLoadError:
        return
    assert largest_error(model) < TOLERANCE


def test_a_mask_shows_each_token_itself_and_what_is_before_it_or_its_window_or_its_chunk():
    row = Row(RowMemory())
    row.append([7, 8])
    forward_pass = ForwardPass([Segment(row, list(range(9, 30)))], torch.device("cpu"))
    (alone,) = forward_pass.alone

    def shown(reach):
        return (forward_pass.mask_alone(alone, 0, reach, torch.float32)[:3, :5] == 0).int().tolist()

    assert shown(Reach()) == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert shown(Reach(window=2)) == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]
    assert shown(Reach(chunk=3)) == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    assert shown(Reach(window=2, chunk=3)) == [[0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    once = forward_pass.mask_alone(alone, 0, Reach(window=2), torch.float32)
    assert once is forward_pass.mask_alone(alone, 0, Reach(window=2), torch.float32)  # made once for all layers


# --- the model is its owner's


def implementation(model):
    return model.config.get_text_config(decoder=True)._attn_implementation


@pytest.fixture(params=["llama, sdpa", "llama, eager", "gemma2", "gemma3 that sees"])
def model(request):
    if request.param == "gemma2":
        return tiny("gemma2", **WINDOWED, attn_logit_softcapping=2.0)  # transformers runs it with "eager"
    if request.param == "gemma3 that sees":
        return gemma3_that_sees()
    return tiny("llama", attn_implementation=request.param.removeprefix("llama, "))


def decoder_layer(model, place):
    return model.get_decoder().layers[place]


def test_the_model_keeps_its_own_attention_and_its_config_after_a_pass_and_after_an_error(model):
    before, usual = model.config.to_dict(), implementation(model)
    with torch.inference_mode():
        ModelRunner(model).forward([Segment(Row(RowMemory()), [3, 4, 5])])
    assert (model.config.to_dict(), implementation(model)) == (before, usual)
    with pytest.raises(ZeroDivisionError), row_attention(model):
        raise ZeroDivisionError
    assert (model.config.to_dict(), implementation(model)) == (before, usual)


@torch.inference_mode()
def padded_batch(model):
    """What somebody else might do with the model: a forward pass and generate() over two rows, the second padded."""
    ids = torch.tensor([rows_of([20])[0], [0] * 9 + rows_of([11])[0]])
    mask = (ids != 0).long()
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    written = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
    return torch.cat([logits[0], logits[1, 9:]]), written


def assert_same(results, expected):
    torch.testing.assert_close(results[0], expected[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(results[1], expected[1])


def test_somebody_else_gets_what_he_always_gets_while_a_pass_runs(model):
    expected = padded_batch(model)
    with row_attention(model):
        assert_same(padded_batch(model), expected)
    assert_same(padded_batch(model), expected)


@pytest.mark.parametrize("begins_within", [True, False])
def test_somebody_elses_pass_that_overlaps_the_begin_or_end_of_ours_is_right(model, begins_within):
    """Its masks are made under one attention function, and its later layers run under the other."""
    ids = torch.tensor([rows_of([20])[0], [0] * 9 + rows_of([11])[0]])
    mask = (ids != 0).long()
    ours = row_attention(model)

    def change(*_):
        if begins_within:
            ours.__exit__(None, None, None)
        else:
            ours.__enter__()

    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        unpadded = model(input_ids=ids[:1], use_cache=False).logits
        for given, right in (({"attention_mask": mask}, expected), ({}, unpadded)):
            ours = row_attention(model)
            hook = decoder_layer(model, 1).register_forward_pre_hook(change)
            if begins_within:
                ours.__enter__()
            logits = model(input_ids=ids[: len(right)], **given, use_cache=False).logits
            hook.remove()
            if not begins_within:
                ours.__exit__(None, None, None)
            torch.testing.assert_close(logits[0], right[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(logits[-1, 9:], right[-1, 9:], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("usual", ["sdpa", "eager"])
def test_somebody_else_gets_the_tokens_that_an_index_chooses_while_a_pass_runs(usual):
    """His layers make no mask of them where another attention function has the place of the two that they know."""
    model = tiny("deepseek_v32", **indexed(most=8), attn_implementation=usual)
    (ids,) = rows_of([30])
    expected = logits_of(model, ids)
    with row_attention(model):
        torch.testing.assert_close(logits_of(model, ids), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_pass_of_somebody_else_from_a_hook_within_ours_is_his_own(model):
    ours, his = rows_of([24, 14])
    expected = logits_of(model, ours)[-1], logits_of(model, his)
    found = []

    def look(*_):
        hook.remove()
        found.append(logits_of(model, his))

    runner = ModelRunner(model)
    row = Row(RowMemory())
    runner.forward([Segment(row, ours[:10])])
    hook = decoder_layer(model, 1).register_forward_pre_hook(look)
    ((logits,),) = runner.forward([Segment(row, ours[10:])])
    torch.testing.assert_close(logits, expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[0], expected[1], atol=1e-4, rtol=1e-4)


def test_two_runners_of_one_model_do_not_disturb_each_other():
    """The first pass ends while the second is under way, if they are let run side by side at all."""
    model = tiny_model()
    usual = implementation(model)
    prompts = dict(zip(("first", "second"), rows_of([9, 14]), strict=True))
    expected = {name: logits_of(model, prompt)[-1:] for name, prompt in prompts.items()}
    second_is_in, first_is_out = threading.Event(), threading.Event()
    logits = {}

    def meet(*_):
        if threading.current_thread().name == "first":
            second_is_in.wait(0.3)
        else:
            second_is_in.set()
            first_is_out.wait(0.3)

    @torch.inference_mode()
    def run(name):
        (logits[name],) = ModelRunner(model).forward([Segment(Row(RowMemory()), prompts[name])])
        if name == "first":
            first_is_out.set()

    hook = decoder_layer(model, 1).register_forward_pre_hook(meet)
    threads = [threading.Thread(target=run, args=(name,), name=name) for name in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    hook.remove()
    assert implementation(model) == usual
    for name in prompts:
        torch.testing.assert_close(logits[name], expected[name], atol=1e-4, rtol=1e-4)
