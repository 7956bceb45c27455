"""Greedy decoding against a plain transformers loop with separate forward passes: the same tokens, in float32."""

import pytest

from sda_engine import Alignment, Sampling, Steering
from sda_engine.prompts import make_contexts
from sda_engine.testing import tiny_engine
from tests.conftest import user
from tests.oracles import two_forward_loop
from tests.sizes import ALL, size

WORDS = "The reading room opens at nine and the archive keeps letters, maps and a clock that runs backwards. "


def expected_tokens(engine, messages, alignment, strengths, max_new_tokens):
    contexts = make_contexts(messages, alignment, engine._tokenizer, context_window=engine.context_window)
    prompts = {row: list(contexts.shared + tail) for row, tail in contexts.tails.items()}
    ends, weights = engine._loaded_model.eos_token_ids, alignment.weights if alignment else ()
    return two_forward_loop(engine.model, prompts, strengths, max_new_tokens, ends, weights or (1.0,))


def decoded_tokens(engine, messages, alignment, max_new_tokens, **steering):
    done = engine.generate(
        messages,
        alignment,
        steering=Steering(**steering).fitting(alignment),
        sampling=Sampling(temperature=0, max_new_tokens=max_new_tokens),
    )
    return list(done.token_ids)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])  # the latter with a sliding window of 16 tokens
@pytest.mark.parametrize("words", [1, 4, 40, 200] if ALL else [1, 200])
@pytest.mark.parametrize(
    ("alignment", "amplification", "avoid_strength"),
    [
        (None, 0.0, None),
        (Alignment(instruction="be kind"), 0.0, None),
        (Alignment(instruction="be kind and answer in many words"), 0.7, None),
        (Alignment(instruction="be kind", avoid="cold words and a long list of cold things"), 0.5, 0.8),
        (Alignment(avoid="cold words"), 0.5, None),
        (Alignment.combine({"be kind": 1.0, "answer in many words": 1.0}), 0.0, None),
        (Alignment.combine({"be kind": 1.0, "answer in many words": 0.5, "sing of the fox": 3.0}), 0.7, None),
        (Alignment.combine({"be kind": 1.0, "answer in many words": 0.5}, avoid="cold words"), 0.5, 0.8),
    ],
    ids=[
        "plain",
        "instructed",
        "steered",
        "steered and avoided",
        "avoided alone",
        "two, instructed",
        "three, steered",
        "two, steered and avoided",
    ],
)
def test_tiny_models_give_the_tokens_of_the_two_forward_loop(
    architecture, words, alignment, amplification, avoid_strength
):
    with tiny_engine(architecture=architecture, seed=words) as engine:
        messages = user(WORDS[: 5 * words])
        strength = 2.0 * amplification
        strengths = (strength, strength if avoid_strength is None else avoid_strength)
        expected = expected_tokens(engine, messages, alignment, strengths, 24)
        decoded = decoded_tokens(
            engine, messages, alignment, 24, amplification=amplification, avoid_strength=avoid_strength
        )
    assert decoded == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "new_tokens"),
    [(10, size(24, 6)), (100, size(16, 4)), (size(1100, 300), size(6, 2))],  # the last in several pieces
)
def test_the_real_model_gives_the_tokens_of_the_two_forward_loop(smollm2_float32, length, new_tokens):
    engine = smollm2_float32
    document = WORDS * 100
    ids = engine.encode(document)[: max(1, length - 45)]  # 45 tokens of template and question around it
    messages = user(engine.tokenizer.decode(ids) + "\nWhat does the archive keep?" if length > 10 else "Hi")
    alignment = Alignment(instruction="Answer warmly, in one short sentence.", avoid="A list of prices.")
    without_avoid = Alignment(instruction=alignment.instruction)
    combined = Alignment.combine([(without_avoid, 2.0), ("Answer at length, in many sentences.", 1.0)])
    # A long prompt takes its time
    for chosen in (combined,) if length > size(1000, 10) else (alignment, without_avoid, combined):
        expected = expected_tokens(engine, messages, chosen, (1.2, 0.5), new_tokens)
        assert decoded_tokens(engine, messages, chosen, new_tokens, amplification=0.6, avoid_strength=0.5) == expected
    assert abs(engine.count_prompt_tokens(messages) - length) <= 40
