"""Where the tokens of pictures stand, and where a prompt may be cut."""

import torch

from sda_engine.decoding.row_pictures import RowPictures
from sda_engine.tokens import PictureSpan, PreparedPicture, picture_spans, text_of_prompt
from sda_engine.tokens.picture_tokens import picture_token_id


def shown(number, tokens):
    return [picture_token_id(number, place) for place in range(tokens)]


def test_no_two_tokens_of_pictures_are_the_same_and_none_is_of_a_vocabulary():
    ids = [picture_token_id(number, place) for number in range(50) for place in (0, 1, 2, 1000, 2**20 - 1)]
    assert len(set(ids)) == len(ids)
    assert max(ids) < 0


def test_runs_of_picture_tokens_are_found_with_what_they_show():
    first, second = shown(7, 5), shown(8, 2)
    prompt = [1, *first[:3], 9, *first[3:], 1, *second, *second]
    assert list(picture_spans(prompt)) == [
        PictureSpan(1, 4, 7, 0),
        PictureSpan(5, 7, 7, 3),
        PictureSpan(8, 10, 8, 0),
        PictureSpan(10, 12, 8, 0),
    ]
    assert text_of_prompt(prompt) == [1, 9, 1]


def test_a_piece_cuts_no_picture_whose_tokens_see_each_other_in_both_directions():
    prompt = [1, 1, *shown(3, 4), 1, 1]
    picture = PreparedPicture(3, 4, {"pixel_values": torch.zeros(1)}, both_ways=True)
    pictures = RowPictures(prompt, {3: picture})
    assert [pictures.end_of_piece(0, stop) for stop in range(1, 9)] == [1, 2, 2, 2, 2, 6, 7, 8]
    assert [pictures.end_of_piece(2, stop) for stop in range(3, 9)] == [6, 6, 6, 6, 7, 8]
    assert pictures.blocks(4, 4) == [(2, 6)]
    assert pictures.blocks(6, 8) == pictures.blocks(0, 2) == []
    causal = RowPictures(prompt, {3: PreparedPicture(3, 4, {}, both_ways=False)})
    assert causal.end_of_piece(0, 4) == 4
