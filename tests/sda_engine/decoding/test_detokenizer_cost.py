"""What streaming a text costs, and how little of it is held back, where the model writes broken characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sda_engine.decoding.detokenizer import Detokenizer
from sda_engine.testing import tiny_tokenizer
from sda_engine.tokens.tokenizer import SafeTokenizer
from tests.sda_engine.decoding.tokenizers_like import sentencepiece_like

BYTE_LEVEL = SafeTokenizer(tiny_tokenizer())
BYTE_FALLBACK = sentencepiece_like()
BYTES = {token_id: text for token_id in range(320) if (text := BYTE_LEVEL.decode([token_id]))}
BROKEN = [token_id for token_id, text in BYTES.items() if text == "\ufffd"]
WHOLE = [token_id for token_id, text in BYTES.items() if text != "\ufffd"]
SKIPPED = [token_id for token_id in range(320) if token_id not in BYTES]
MOST_PER_TOKEN = 150  # tokens decoded again for each one that comes; in a quadratic run it would be a thousand
MOST_HELD = 4


class Counting:
    """A decoder that counts the tokens it decodes."""

    def __init__(self, decode):
        self._decode = decode
        self.tokens = 0

    def __call__(self, token_ids):
        self.tokens += len(token_ids)
        return self._decode(token_ids)


def fallback(token_ids):
    return BYTE_FALLBACK.decode(list(token_ids), skip_special_tokens=False)


def byte_tokens(data):
    """Data as tokens of single bytes, for the byte-level tokenizer."""
    by_byte = {bytes_char: index for index, bytes_char in enumerate(_alphabet())}
    vocab = tiny_tokenizer().get_vocab()
    names = {index: char for char, index in by_byte.items()}
    return [vocab[names[byte]] for byte in data]


def _alphabet():
    """The letters that stand for the bytes 0..255 in a byte-level vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def pieces_of(token_ids, decode):
    detokenizer = Detokenizer(decode)
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.flush()]


RUNS = {
    "one byte again and again": b"\x80" * 2000,
    "beginnings of characters": b"\xe6" * 2000,
    "characters that lack a byte": b"\xf0\x9f\x98" * 600,
    "broken and whole ones": b"\x80\xe6\xbc\xa2\xe6" * 400,
    "zeros and ones above the range": b"\xff\xc0\xf8" * 600,
}


@pytest.mark.parametrize("data", RUNS.values(), ids=RUNS)
def test_a_run_of_broken_characters_costs_a_bounded_number_of_decoded_tokens_per_token(data):
    decode = Counting(BYTE_LEVEL.decode)
    token_ids = byte_tokens(data)
    assert "".join(pieces_of(token_ids, decode)) == BYTE_LEVEL.decode(token_ids) == data.decode(errors="replace")
    assert decode.tokens < MOST_PER_TOKEN * len(token_ids)


@pytest.mark.parametrize("data", RUNS.values(), ids=RUNS)
def test_only_what_may_still_become_a_character_is_held_back(data):
    detokenizer, given_out = Detokenizer(BYTE_LEVEL.decode), 0
    token_ids = byte_tokens(data)[:300]
    for count, token_id in enumerate(token_ids, 1):
        given_out += len(detokenizer.push(token_id))
        assert len(BYTE_LEVEL.decode(token_ids[:count])) - given_out < MOST_HELD


@pytest.mark.parametrize("before", [[], byte_tokens(b"so \xe6")], ids=["alone", "inside a character"])
def test_a_run_of_tokens_without_a_text_costs_no_more(before):
    decode = Counting(BYTE_LEVEL.decode)
    token_ids = [*before, *SKIPPED[:1] * 2000, *byte_tokens(b" on")]
    assert "".join(pieces_of(token_ids, decode)) == BYTE_LEVEL.decode(token_ids)
    assert decode.tokens < MOST_PER_TOKEN * len(token_ids)


def test_a_broken_run_of_a_tokenizer_that_falls_back_to_bytes_is_streamed_at_the_same_cost():
    decode = Counting(fallback)
    token_ids = [BYTE_FALLBACK.token_to_id("<0x80>")] * 2000
    pieces = pieces_of(token_ids, decode)
    assert "".join(pieces) == fallback(token_ids) == "\ufffd" * 2000
    assert all(pieces[MOST_HELD:-1])
    assert decode.tokens < MOST_PER_TOKEN * len(token_ids)


@pytest.mark.parametrize("text", ["so 漢字漢字 and 🙂🙂🙂 so on", "é" * 40, "🙂" * 40])
def test_characters_in_bytes_come_out_one_by_one_from_a_tokenizer_that_falls_back_to_them(text):
    token_ids = BYTE_FALLBACK.encode(text).ids
    pieces = pieces_of(token_ids, fallback)
    assert "".join(pieces) == fallback(token_ids) == text
    assert not any("\ufffd" in piece for piece in pieces)


tokens = st.one_of(st.sampled_from(BROKEN), st.sampled_from(WHOLE), st.sampled_from(SKIPPED))
broken_runs = st.lists(st.sampled_from(BROKEN), min_size=10, max_size=60)


@given(st.lists(st.one_of(st.lists(tokens, max_size=12), broken_runs), max_size=5))
def test_any_tokens_join_to_what_the_tokenizer_decodes_however_broken_they_are(parts):
    token_ids = [token_id for part in parts for token_id in part]
    decode = Counting(BYTE_LEVEL.decode)
    assert "".join(pieces_of(token_ids, decode)) == BYTE_LEVEL.decode(token_ids)
    assert decode.tokens <= MOST_PER_TOKEN * max(1, len(token_ids))


@given(st.text(alphabet="aé漢🙂 ", max_size=60))
def test_a_text_of_a_tokenizer_that_falls_back_to_bytes_survives(text):
    token_ids = BYTE_FALLBACK.encode(text).ids
    assert "".join(pieces_of(token_ids, fallback)) == fallback(token_ids)
