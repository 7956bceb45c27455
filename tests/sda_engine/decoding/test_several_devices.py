"""Models whose layers are not all in one place: indices and masks go where each layer is."""

import pytest
import torch

from sda_engine import Sampling, Steering, SteeringEngine
from sda_engine.decoding.forward_pass import ForwardPass
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.reach import Reach
from sda_engine.decoding.rows import Row, RowMemory
from sda_engine.decoding.segments import Segment
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.conftest import user

MAPS = {
    "all in one place": {"": "cpu"},
    "a layer on the disk": {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    },
}


def answer(engine):
    sampling = Sampling(temperature=0, max_new_tokens=6)
    return engine.generate(
        user("hi " * 30), "be kind", steering=Steering(amplification=0.5), sampling=sampling
    ).token_ids


@pytest.mark.parametrize("device_map", MAPS.values(), ids=MAPS)
def test_a_model_by_device_map_answers_as_in_one_place(device_map, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        wanted = answer(engine)
    with SteeringEngine.load(str(tmp_path), dtype="float32", device_map=device_map) as engine:
        assert answer(engine) == wanted


def test_indices_and_masks_are_where_the_layer_is_and_made_once_for_each_device():
    memory = RowMemory(tail=8)
    rows = [Row(memory) for _ in range(3)]
    model = tiny_model()
    runner = ModelRunner(model)
    runner.forward([Segment(row, [5, 6, 7][: 1 + place]) for place, row in enumerate(rows)])
    segments = [Segment(row, [9] * (3 - place)) for place, row in enumerate(rows)]
    here, there = torch.device("cpu"), torch.device("meta")
    forward_pass = ForwardPass(segments, here)
    at_home = forward_pass.together, forward_pass._write_to
    forward_pass._move_to(there)
    away = forward_pass.together
    assert away.kept.device == away.tokens.device == there
    assert {index.device for index in forward_pass._write_to if index is not None} == {there}
    assert forward_pass.tail_mask(2, Reach(), torch.float32).device == there
    forward_pass._move_to(here)
    assert (forward_pass.together, forward_pass._write_to) == at_home
    assert forward_pass.tail_mask(2, Reach(), torch.float32).device == here
    forward_pass._move_to(there)
    assert forward_pass.together is away
