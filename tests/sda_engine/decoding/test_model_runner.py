import pytest
import torch

from sda_engine.decoding.kernels import Kernel
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.rows import Row, RowMemory
from sda_engine.decoding.segments import Segment
from sda_engine.testing import tiny_model
from tests.sda_engine.decoding.architectures import logits_of, logits_together, rows_of

ARCHITECTURES = pytest.mark.parametrize("architecture", ["llama", "gemma3"])
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture
def model(architecture):
    return tiny_model(architecture=architecture)


@torch.inference_mode()
def forward(model, *segments):
    return ModelRunner(model).forward(segments)


@ARCHITECTURES
@pytest.mark.parametrize("sizes", [(1,), (50,), (3, 1, 4, 7, 2), (16, 1), (15, 17)])
def test_rows_of_any_lengths_in_any_pieces_get_the_logits_that_transformers_gives_each_alone(model, sizes):
    rows = rows_of((1, 5, 40, 17, 16, 33))  # the window of gemma3 is 16
    for row, together in zip(rows, logits_together(model, rows, sizes), strict=True):
        torch.testing.assert_close(together, logits_of(model, row), **CLOSE)


TAILS = pytest.mark.parametrize("tail", [2, 8, 22, 256])


@TAILS
@ARCHITECTURES
@pytest.mark.parametrize("sizes", [(50,), (3, 1, 4, 7, 2), (16, 1), (25, 17)])
def test_the_kernel_of_other_devices_gives_the_same(model, sizes, tail, monkeypatch):
    monkeypatch.setattr(Kernel, "_is_flash", lambda *_: False)
    rows = rows_of((1, 5, 40, 17, 16, 33))
    for row, together in zip(rows, logits_together(model, rows, sizes, tail), strict=True):
        torch.testing.assert_close(together, logits_of(model, row), **CLOSE)


@TAILS
@ARCHITECTURES
def test_rows_that_share_their_beginning_attend_to_it_as_if_each_had_its_own(model, tail):
    text, *ends = rows_of([40, 3, 9, 1, 5])
    row = Row(RowMemory(tail))
    forward(model, Segment(row, text))
    forks = [row.fork(30 + place) for place in range(len(ends))]
    other = Row(row.memory)
    logits = forward(
        model,
        Segment(other, text[:7]),
        *(Segment(fork, end, keep=len(end)) for fork, end in zip(forks, ends, strict=True)),
    )
    for fork, end, own in zip(forks, ends, logits[1:], strict=True):
        torch.testing.assert_close(own, logits_of(model, fork.token_ids)[-len(end) :], **CLOSE)
    again = forward(model, *(Segment(fork, [9]) for fork in reversed(forks)), Segment(other, [8, 7]))
    for fork, own in zip((*reversed(forks), other), again, strict=True):
        torch.testing.assert_close(own[-1], logits_of(model, fork.token_ids)[-1], **CLOSE)


@TAILS
@ARCHITECTURES
def test_a_row_that_was_forked_or_cut_back_goes_on_as_if_it_were_new(model, tail):
    (text,) = rows_of([40])
    row = Row(RowMemory(tail))
    forward(model, Segment(row, text[:30]))
    fork = row.fork(20)
    row.truncate(25)
    logits = forward(model, Segment(row, [9, 8, 7], keep=3), Segment(fork, text[20:25], keep=5))
    torch.testing.assert_close(logits[0], logits_of(model, [*text[:25], 9, 8, 7])[25:], **CLOSE)
    torch.testing.assert_close(logits[1], logits_of(model, text[:25])[20:], **CLOSE)


@TAILS
@ARCHITECTURES
def test_a_fork_gets_what_it_shares_in_the_pass_in_which_its_row_does(model, tail):
    (text,) = rows_of([40])
    row = Row(RowMemory(tail))
    forward(model, Segment(row, text[:5]))
    fork = row.fork(20, text)
    logits = forward(model, Segment(row, text[5:30]), Segment(fork, [9, 8, 7], keep=3))
    torch.testing.assert_close(logits[0][0], logits_of(model, text[:30])[-1], **CLOSE)
    torch.testing.assert_close(logits[1], logits_of(model, [*text[:20], 9, 8, 7])[20:], **CLOSE)
    logits = forward(model, Segment(fork, [6]))
    torch.testing.assert_close(logits[0][0], logits_of(model, [*text[:20], 9, 8, 7, 6])[-1], **CLOSE)


@ARCHITECTURES
def test_each_segment_keeps_the_logits_of_as_many_of_its_last_tokens_as_it_asks_for(model):
    rows = rows_of((6, 4, 1))
    memory = RowMemory()
    logits = forward(
        model,
        Segment(Row(memory), rows[0], keep=2),
        Segment(Row(memory), rows[1], keep=4),
        Segment(Row(memory), rows[2]),
    )
    assert [piece.shape for piece in logits] == [(2, 320), (4, 320), (1, 320)]
    for row, piece in zip(rows, logits, strict=True):
        torch.testing.assert_close(piece, logits_of(model, row)[-len(piece) :], **CLOSE)


def test_a_model_that_gives_all_logits_whatever_it_is_asked_for_gets_those_kept_that_were_meant(monkeypatch):
    model = tiny_model()
    give = model.forward
    monkeypatch.setattr(model, "forward", lambda *args, logits_to_keep=None, **more: give(*args, **more))
    rows = rows_of((6, 4))
    memory = RowMemory()
    logits = forward(model, Segment(Row(memory), rows[0], keep=2), Segment(Row(memory), rows[1]))
    for row, keep, piece in zip(rows, (2, 1), logits, strict=True):
        torch.testing.assert_close(piece, logits_of(model, row)[-keep:], **CLOSE)


@ARCHITECTURES
def test_a_pass_appends_its_tokens_to_its_rows(model):
    memory = RowMemory()
    rows = [Row(memory), Row(memory)]
    forward(model, Segment(rows[0], [3, 4]), Segment(rows[1], [5]))
    forward(model, Segment(rows[0], [6]))
    assert [row.token_ids for row in rows] == [[3, 4, 6], [5]]


@ARCHITECTURES
@pytest.mark.parametrize("layer", [0, 1])
def test_a_pass_that_fails_leaves_its_rows_as_they_were(model, layer):
    texts = rows_of((21, 18))
    memory = RowMemory(tail=16)
    rows = [Row(memory), Row(memory)]
    forward(model, *(Segment(row, text[:15]) for row, text in zip(rows, texts, strict=True)))

    def fail(*_):
        raise MemoryError("no more")

    runner = ModelRunner(model)
    hook = model.model.layers[layer].mlp.register_forward_hook(fail)  # the layer has written its keys by then
    with pytest.raises(MemoryError), torch.inference_mode():
        runner.forward([Segment(row, [9, 9, 9]) for row in rows])
    hook.remove()
    assert [row.token_ids for row in rows] == [text[:15] for text in texts]
    logits = forward(model, *(Segment(row, text[15:], keep=3) for row, text in zip(rows, texts, strict=True)))
    for text, piece in zip(texts, logits, strict=True):
        torch.testing.assert_close(piece, logits_of(model, text)[-3:], **CLOSE)


@ARCHITECTURES
def test_logits_come_from_one_transfer_and_without_a_graph(model):
    memory = RowMemory()
    logits = forward(model, Segment(Row(memory), [3, 4]), Segment(Row(memory), [5]))
    assert all(not piece.requires_grad for piece in logits)
    assert len({piece.untyped_storage().data_ptr() for piece in logits}) == 1


def test_one_more_token_costs_more_in_float32_on_a_cpu_than_in_bfloat16():
    assert ModelRunner(tiny_model()).token_cost > ModelRunner(tiny_model().bfloat16()).token_cost > 0
