import pytest
from hypothesis import given
from hypothesis import strategies as st

from sda_engine.decoding.detokenizer import Detokenizer, StopChecker
from sda_engine.testing import tiny_tokenizer
from sda_engine.tokens.tokenizer import SafeTokenizer
from tests.sda_engine.decoding.tokenizers_like import sentencepiece_like

TOKENIZER = SafeTokenizer(tiny_tokenizer())


def pieces_of(ids, decode):
    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.push(token) for token in ids]
    return [*pieces, detokenizer.flush()]


@given(st.text())
def test_the_pieces_join_to_the_text_and_no_character_is_split(text):
    pieces = pieces_of(TOKENIZER.encode(text), TOKENIZER.decode)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


@given(st.lists(st.integers(0, 319), max_size=30))
def test_any_tokens_join_to_what_the_tokenizer_decodes(ids):
    assert "".join(pieces_of(ids, TOKENIZER.decode)) == TOKENIZER.decode(ids)


@pytest.mark.parametrize("text", ["hello there", "héllo 漢字 words", "🙂 of the world"])
def test_a_decoder_that_drops_the_first_space_keeps_the_others(text):
    tokenizer = sentencepiece_like()
    ids = tokenizer.encode(text).ids
    pieces = pieces_of(ids, lambda some: tokenizer.decode(list(some), skip_special_tokens=False))
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=False) == text


def test_a_character_of_several_tokens_comes_out_whole_with_its_last_token():
    ids = TOKENIZER.encode("漢")
    assert len(ids) == 3
    assert pieces_of(ids, TOKENIZER.decode) == ["", "", "漢", ""]


def test_an_incomplete_character_at_the_end_is_flushed_as_the_tokenizer_shows_it():
    ids = TOKENIZER.encode("漢")[:2]
    assert pieces_of(ids, TOKENIZER.decode)[-1] == TOKENIZER.decode(ids) == "\ufffd"


def checked(pieces, stop):
    checker = StopChecker(stop)
    given_out = []
    for piece in pieces:
        given_out.append(checker.push(piece))
        if checker.stopped:
            break
    else:
        given_out.append(checker.flush())
    return given_out, checker.stopped


def test_a_stop_string_that_spans_pieces_is_found_and_nothing_of_it_is_given_out():
    assert checked(["one EN", "D", "OFIT two"], ["ENDOFIT"]) == (["one ", "", ""], True)


def test_what_only_looked_like_a_stop_string_is_given_out_late():
    assert checked(["a EN", "Dx", " b"], ["ENDOFIT"]) == (["a ", "ENDx", " b", ""], False)


def test_what_is_held_back_at_the_end_is_flushed():
    assert checked(["a EN"], ["END"]) == (["a ", "EN"], False)


def test_the_first_of_several_stop_strings_ends_the_text():
    assert checked(["ab\nUser: END"], ["END", "\nUser:"]) == (["ab"], True)


@given(
    st.lists(st.text(alphabet="abc", max_size=3), max_size=12),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_the_text_ends_where_the_earliest_stop_string_of_the_whole_text_begins(pieces, stop):
    # while pieces arrive, the checker can only see the earliest among those complete so far
    text = ""
    expected = "".join(pieces)
    for piece in pieces:
        text += piece
        if found := [place for one in stop if (place := text.find(one)) >= 0]:
            expected = text[: min(found)]
            break
    given_out, _ = checked(pieces, stop)
    assert "".join(given_out) == expected
