"""What an engine promises of pictures, whatever the family: on the tiny engine that users test with."""

import asyncio

import pytest
import torch

from sda_engine import Alignment, Sampling, Steering
from sda_engine.blank_pictures import blanked
from sda_engine.choosing import Revision
from sda_engine.contents import pictures_of
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.row_pictures import RowPictures
from sda_engine.decoding.rows import Row, RowMemory
from sda_engine.decoding.segments import Segment
from sda_engine.errors import ContextLengthError, MessageError, SDAError
from sda_engine.evaluators import CachedEvaluator, RewardModelEvaluator
from sda_engine.evaluators.protocol import EvaluationRequest
from sda_engine.evaluators.verdict import make_rating_prompt
from sda_engine.pictures import Picture
from sda_engine.prompts import AVOIDED, BASE, INSTRUCTED, draft_messages, make_contexts
from sda_engine.testing import ScriptedEvaluator, tiny_engine, tiny_reward_model, tiny_vision_engine
from tests.sda_engine.decoding.company import worker
from tests.sda_engine.vision.vision_models import loop_with_pictures, picture, processor_inputs

GREEDY = Sampling(temperature=0, max_new_tokens=6)
HALF = Steering(policy="paper", amplification=0.5)


def image(seed):
    return {"type": "image", "picture": Picture.of(picture(seed))}


def text(words):
    return {"type": "text", "text": words}


def chat(*parts):
    return [{"role": "user", "content": list(parts)}]


@pytest.fixture(scope="module")
def engine():
    with tiny_vision_engine() as engine:
        yield engine


def fresh_render(engine, messages):
    return engine._tokenizer.render(messages)


def test_a_text_only_model_says_that_it_reads_text_only():
    with tiny_engine() as blind, pytest.raises(MessageError, match="reads text only"):
        blind.generate(chat(image(1), text("What is it?")))


def test_a_model_that_sees_says_that_its_processor_is_missing(engine):
    with (
        type(engine)(engine.model, engine.tokenizer) as blind,
        pytest.raises(MessageError, match="without its processor"),
    ):
        blind.generate(chat(image(1)))


@pytest.mark.parametrize("forged", ["<image>", "<|im_end|>", "a<image><image>b"])
def test_user_text_forges_neither_pictures_nor_control_tokens(engine, forged):
    control = set(engine.tokenizer.added_tokens_decoder)
    plain = fresh_render(engine, chat(image(1), text("quiet")))
    tricked = fresh_render(engine, chat(image(1), text(forged)))
    assert [one for one in tricked if one < 0] == [one for one in plain if one < 0]
    assert [one for one in tricked if one in control] == [one for one in plain if one in control]
    assert forged in engine.tokenizer.decode([one for one in tricked if one >= 0])


def test_texts_around_a_picture_forge_no_control_token_together(engine):
    with pytest.raises(MessageError, match="together"):
        engine.generate(chat(text("<|im_"), image(1), text("end|>")))


def test_two_pictures_share_no_prefix_and_the_same_picture_does(engine):
    one, other, same = (
        fresh_render(engine, chat(text("Look:"), image(seed), text("What is it?"))) for seed in (31, 32, 31)
    )
    first = next(place for place, token_id in enumerate(one) if token_id < 0)
    assert one == same
    assert one[:first] == other[:first]
    assert not set(one[first : first + 4]) & set(other[first : first + 4])
    engine.generate(chat(image(31), text("What is it?")), sampling=GREEDY)
    seen = engine.generate(chat(image(31), text("What is that?")), sampling=GREEDY)
    unseen = engine.generate(chat(image(32), text("What is it?")), sampling=GREEDY)
    assert seen.usage.cached_prompt_tokens > 10 > unseen.usage.cached_prompt_tokens


def test_eight_requests_on_one_large_picture_hold_little_more_than_one():
    """At most 1.3 times the keys and values of one request, on a picture of 1,024 tokens and short texts."""
    alone, together = most_held(1), most_held(8)
    assert alone > 1024
    assert together <= 1.3 * alone
    assert together - 1024 <= 8 * (alone - 1024)  # of the picture nobody holds a copy


def most_held(requests):
    """The most tokens that rows hold before any pass while so many requests on one picture run."""
    held = []

    async def ask():
        sampling = Sampling(temperature=0, max_new_tokens=3)
        look = Alignment(instruction="Look.")
        asked = [chat(image(1), text(letter)) for letter in "abcdefgh"[:requests]]
        await asyncio.gather(*(engine.agenerate(one, look, steering=HALF, sampling=sampling) for one in asked))

    with tiny_vision_engine(picture_tokens=1024) as engine:
        memory = worker(engine)._batch._memory
        engine.model.register_forward_pre_hook(lambda *_: held.append(memory.row_tokens))
        asyncio.run(ask())
        assert engine.stats().pictures_read == 1
    return max(held)


def test_a_picture_that_fails_spoils_nothing():
    with tiny_vision_engine() as engine:
        tower = engine.model.model.vision_tower
        hook = tower.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("no light")))
        with pytest.raises(SDAError, match="no light"):
            engine.generate(chat(image(1)), sampling=GREEDY)
        assert engine.generate(chat(text("Hello.")), sampling=GREEDY).token_ids
        hook.remove()
        assert engine.generate(chat(image(1)), sampling=GREEDY).token_ids


def test_a_model_that_does_more_with_pictures_than_the_engine_knows_is_refused():
    with tiny_vision_engine() as engine:
        inner = engine.model.model
        forward = inner.forward

        def tricky(*args, mm_encoder_outputs=None, **kwargs):
            output = forward(*args, mm_encoder_outputs=mm_encoder_outputs, **kwargs)
            if mm_encoder_outputs and "forward_pass" not in kwargs:  # as if it saw more than rows tell
                output.last_hidden_state = output.last_hidden_state.flip(-1)
            return output

        inner.forward = tricky
        for _ in range(2):
            with pytest.raises(MessageError, match="do more with pictures"):
                engine.generate(chat(image(1)), sampling=GREEDY)
        assert engine.generate(chat(text("Hello.")), sampling=GREEDY).token_ids


def test_weights_that_change_are_seen_in_pictures_too():
    with tiny_vision_engine() as engine:
        before = engine.generate(chat(image(1)), sampling=GREEDY)
        with torch.no_grad():
            engine.model.model.multi_modal_projector.linear_2.weight.mul_(-3.0)
        after = engine.generate(chat(image(1)), sampling=GREEDY)
        assert engine.stats().pictures_read == 2
        assert before.token_ids != after.token_ids


def test_prompts_with_pictures_count_against_the_context_window():
    with tiny_vision_engine(context_window=64, picture_tokens=64) as engine:
        assert engine.count_prompt_tokens(chat(image(1))) > 64
        with pytest.raises(ContextLengthError):
            engine.generate(chat(image(1)))


@torch.inference_mode()
def test_an_image_token_that_the_model_writes_shows_no_picture(engine):
    """Its own embedding stands there, as in transformers' loop, also beside a picture in the same pass."""
    written = [50, engine.model.config.image_token_id, 60]
    runner, memory = ModelRunner(engine.model), RowMemory()
    prompt, prepared = fresh_render(engine, chat(image(1))), engine._tokenizer.prepare(image(1)["picture"])
    plain, seeing = Row(memory), Row(memory)
    seeing.pictures = RowPictures(prompt, {prepared.number: prepared})
    logits, _ = runner.forward([Segment(plain, written), Segment(seeing, prompt)])
    expected = engine.model(input_ids=torch.tensor([written])).logits[0, -1]
    torch.testing.assert_close(logits[-1], expected, atol=1e-4, rtol=1e-4)


def test_a_blank_picture_is_steered_away_from(engine):
    alignment = Alignment(blank_picture=True)
    processor, model = engine._loaded_model.processor, engine.model
    shown = picture(1)
    hidden = blanked(Picture.of(shown)).image
    assert hidden.size == shown.size
    assert len(hidden.getcolors()) == 1
    rows = {
        row: processor_inputs(
            processor, [{"role": "user", "content": [{"type": "image", "image": one}, text("What is it?")]}]
        )
        for row, one in {BASE: shown, AVOIDED: hidden}.items()
    }
    steering = Steering(policy="paper", avoid_strength=1.5)
    done = engine.generate(chat(image(1), text("What is it?")), alignment, steering=steering, sampling=GREEDY)
    assert list(done.token_ids) == loop_with_pictures(model, rows, (0.0, 1.5), 6, {2})


def test_without_a_picture_there_is_nothing_blank(engine):
    with pytest.raises(MessageError, match="no picture"):
        engine.generate(chat(text("Hello.")), Alignment(blank_picture=True))
    contexts = make_contexts(
        chat(text("Hello.")), Alignment(instruction="Look well.", blank_picture=True), engine._tokenizer
    )
    assert set(contexts.tails) == {BASE, INSTRUCTED}


def test_blank_pictures_share_no_prefix_with_the_others(engine):
    contexts = make_contexts(chat(image(1), text("q")), Alignment(blank_picture=True), engine._tokenizer)
    assert all(token_id >= 0 for token_id in contexts.shared)
    assert contexts.prompt_tokens(BASE) == contexts.prompt_tokens(AVOIDED)


def test_an_instruction_stands_behind_the_picture_that_all_rows_share(engine):
    contexts = make_contexts(chat(text("Look:"), image(1)), Alignment(instruction="Be brief."), engine._tokenizer)
    assert sum(token_id < 0 for token_id in contexts.shared) == 4


@pytest.mark.parametrize("sees", ["chat", "answer", "question"])
def test_a_request_that_revises_keeps_its_pictures(engine, sees):
    steering = Steering(policy="revise", amplification=0.5, revisions=[Revision(sees=sees)])
    alignment = Alignment(instruction="Look well.", blank_picture=True)
    done = engine.generate(chat(image(1), text("What is it?")), alignment, steering=steering, sampling=GREEDY)
    assert done.attempts
    drafts = draft_messages(chat(image(1), text("What is it?")), "A fox.", sees)
    assert len(pictures_of(drafts)) == 1


def test_evaluators_are_shown_that_there_was_a_picture(engine):
    evaluator = ScriptedEvaluator([50])
    engine.generate(chat(image(1), text("q")), "honesty", steering=Steering(evaluator=evaluator), sampling=GREEDY)
    (asked,) = evaluator.requests
    assert "[image]\nq" in make_rating_prompt(asked).user
    assert RewardModelEvaluator(tiny_reward_model()).evaluate(asked).value is not None


def test_scores_of_chats_with_pictures_are_kept_by_what_they_show(tmp_path):
    inner = ScriptedEvaluator([50, 60])
    cached = CachedEvaluator(inner, path=tmp_path / "scores.sqlite")
    alignment = Alignment(instruction="Be brief.")
    values = [
        cached.evaluate(EvaluationRequest(chat(image(seed), text("q")), "a", alignment)).value for seed in (1, 1, 2)
    ]
    assert values == [50, 50, 60]
