from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sda_engine.decoding.proposals import Proposer, count_that_pays

TOKENS = st.lists(st.integers(0, 2), max_size=12)


def proposer(*sources, answer="", most=8, cost=0.0):
    """A proposer over texts of one letter per token, with the prompt last; free proposals are as long as can be."""
    made = Proposer([[ord(letter) for letter in source] for source in sources], most=most, cost=cost)
    for letter in answer:
        made.append(ord(letter))
    return made


def proposed(*sources, answer="", most=8, cost=0.0):
    return "".join(map(chr, proposer(*sources, answer=answer, most=most, cost=cost).propose()))


def test_an_answer_goes_on_as_the_prompt_went_on_after_the_same_tokens():
    assert proposed("the quick fox", answer=" qu") == "ick fox "


def test_an_answer_goes_on_as_it_did_itself():
    assert proposed("", answer="abcde ab") == "cde ab"


def test_a_repetition_is_proposed_up_to_the_end_of_the_text():
    assert proposed("", answer="abab") == "ab"
    assert proposed("", answer="aaaaa") == "a"


def test_the_longest_match_wins_over_a_more_recent_one():
    assert proposed("1234x 34y", answer="-1234", most=1) == "x"
    assert proposed("234x 34y", answer="-234", most=1) == "x"
    assert proposed("34x 4y", answer="-34", most=1) == "x"


def test_one_token_is_not_a_match():
    assert proposed("4x", answer="-4") == ""


def test_of_equally_long_matches_the_most_recent_wins():
    assert proposed("abx aby", answer="-ab", most=1) == "y"
    assert proposed("abx aby", answer="abz-ab", most=1) == "z"


def test_of_equally_long_matches_the_one_in_the_later_source_wins():
    assert proposed("abx", "aby", "-", answer="ab", most=1) == "y"
    assert proposed("abx", "aby", "abz", answer="-ab", most=1) == "z"


def test_a_longer_match_in_an_earlier_source_wins():
    assert proposed("abcx", "bcy", answer="abc", most=1) == "x"


def test_the_last_tokens_may_straddle_prompt_and_answer():
    assert proposed("abcd-ab", answer="c", most=1) == "d"
    assert proposed("abcd-ab", most=1) == "c"


def test_what_straddled_prompt_and_answer_is_found_again():
    assert proposed("xa", answer="bc-ab", most=1) == "c"


def test_a_match_never_runs_across_the_end_of_a_source():
    assert proposed("xa", "bc", answer="-ab") == ""


def test_a_proposal_ends_where_its_source_ends():
    assert proposed("abc", "xyz", answer="ab") == "c"


def test_the_end_of_a_source_has_nothing_to_propose_and_an_earlier_place_does():
    assert proposed("ab", "-", answer="ab") == ""
    assert proposed("abc ab", "-", answer="ab", most=1) == "c"


@pytest.mark.parametrize("answer", ["", "a", "ab"])
def test_a_text_that_is_too_short_to_match_proposes_nothing(answer):
    assert proposed("", answer=answer) == ""


def test_nothing_beyond_the_limits_is_proposed():
    free = proposer("abcdef", answer="-ab", most=3)
    assert len(free.propose()) == len(free.propose(9)) == 3
    assert len(free.propose(2)) == 2
    assert free.propose(0) == free.propose(-1) == []
    assert len(free.propose()) == 3


def test_a_limit_of_zero_turns_proposals_off():
    assert proposed("abcdef", answer="abab", most=0) == ""


def test_the_sources_are_left_as_they_are():
    prompt = [1, 2, 3]
    made = Proposer([prompt], most=4, cost=0.0)
    made.append(4)
    assert prompt == [1, 2, 3]


def tokens_per_cost(chance, cost, count):
    return sum(chance**power for power in range(count + 1)) / (1 + cost * count)


@given(st.floats(0, 1), st.floats(0, 2), st.integers(0, 20))
def test_the_count_gives_the_most_tokens_for_the_cost(chance, cost, limit):
    count = count_that_pays(chance, cost, limit=limit)
    best = max(tokens_per_cost(chance, cost, other) for other in range(limit + 1))
    assert 0 <= count <= limit
    assert tokens_per_cost(chance, cost, count) == pytest.approx(best, rel=1e-12)


def test_a_count_that_only_breaks_even_is_not_tried():
    assert count_that_pays(0.5, 0.5, limit=8) == 0  # 1.5 tokens for a cost of 1.5
    assert count_that_pays(0.0, 0.0, limit=8) == 0


def test_certain_tokens_are_proposed_up_to_the_limit():
    assert count_that_pays(1.0, 0.9, limit=8) == 8


@pytest.mark.parametrize(("matched", "prior"), [("ab", 0.3), ("abc", 0.5), ("abcd", 0.7)])
@pytest.mark.parametrize("cost", [0.01, 0.1, 0.25, 0.4, 0.8])
def test_a_longer_match_is_trusted_more_from_the_start(matched, prior, cost):
    text = matched + "0123456789"
    best = max(range(9), key=lambda count: tokens_per_cost(prior, cost, count))
    assert proposed(text, answer="-" + matched, cost=cost) == "0123456789"[:best]


def counts(made, passes, right):
    """How many tokens each of so many passes over the same text proposes, with all of them right or all wrong."""
    sizes = []
    for _ in range(passes):
        sizes.append(len(made.propose()))
        if sizes[-1]:
            made.learn(sizes[-1] if right else 0)
    return sizes


@pytest.mark.parametrize(("matched", "longest_pause"), [("ab", 120), ("abc", 50), ("abcd", 30)])
def test_wrong_proposals_turn_them_off_and_they_are_tried_again(matched, longest_pause):
    made = proposer(matched + "0123456789", answer="-" + matched, cost=0.2)
    sizes = counts(made, 1000, right=False)
    tries = [place for place, size in enumerate(sizes) if size]
    assert sizes[0] > 0
    assert sum(sizes) * 0.2 < 0.02 * len(sizes)
    assert set(sizes[100:]) == {0, 1}
    pauses = [later - earlier for earlier, later in pairwise(tries) if earlier > 100]
    assert 10 < min(pauses) <= max(pauses) < longest_pause


@pytest.mark.parametrize("matched", ["ab", "abc", "abcd"])
def test_right_proposals_grow_to_the_limit_and_stay_there(matched):
    made = proposer(matched + "0123456789", answer="-" + matched, cost=0.2)
    sizes = counts(made, 40, right=True)
    assert sizes == sorted(sizes)
    assert sizes[20:] == [8] * 20


def test_proposals_that_were_turned_off_come_back_when_they_are_right():
    made = proposer("abcd0123456789", answer="-abcd", cost=0.2)
    counts(made, 1000, right=False)
    assert counts(made, 60, right=True)[-1] == 8


def test_a_cost_above_the_prior_is_never_tried():
    made = proposer("ab0123456789", answer="-ab", cost=0.35)
    assert set(counts(made, 500, right=False)) == {0}


def test_each_match_length_learns_for_itself():
    made = proposer("abcd0123", "xy0123", answer="-abcd", cost=0.2)
    before = proposed("abcd0123", "xy0123", answer="-xy", cost=0.2)
    counts(made, 100, right=False)
    for letter in "-xy":
        made.append(ord(letter))
    assert "".join(map(chr, made.propose())) == before != ""


def test_the_tokens_after_a_wrong_one_teach_nothing():
    def after(first, *, accepted):
        made = proposer("abcd0123456789", answer="-abcd", most=8, cost=0.1)
        assert len(made.propose(first)) == first
        made.learn(accepted)
        return counts(made, 30, right=False)

    assert after(4, accepted=1) == after(2, accepted=1)


def test_a_proposal_is_learned_from_once():
    made = proposer("abcd0123456789", answer="-abcd")
    assert len(made.propose()) == 8
    made.learn(8)
    with pytest.raises(AssertionError):
        made.learn(8)


def test_a_pass_without_proposals_by_its_limit_teaches_nothing():
    made, other = (proposer("abcd0123456789", answer="-abcd", cost=0.2) for _ in range(2))
    for _ in range(1000):
        made.propose(0)
    assert counts(made, 50, right=False) == counts(other, 50, right=False)


def went_on(texts, size):
    """What followed the last tokens of the last text where they occurred last, by a search through all texts."""
    last = texts[-1][-size:]
    for text in reversed(texts):
        for place in range(len(text) - 1, size - 1, -1):
            if len(last) == size and text[place - size : place] == last:
                return text[place:]
    return []


def longest_went_on(texts):
    return next((following for size in (4, 3, 2) if (following := went_on(texts, size))), [])


@given(st.lists(TOKENS, min_size=1, max_size=3), TOKENS)
def test_a_free_proposal_is_what_a_search_through_the_texts_finds(sources, answer):
    made = Proposer(sources, most=5, cost=0.0)
    for done in range(len(answer) + 1):
        assert made.propose() == longest_went_on([*sources[:-1], sources[-1] + answer[:done]])[:5]
        if done < len(answer):
            made.append(answer[done])


@given(st.lists(TOKENS, min_size=1, max_size=3), TOKENS, st.floats(0, 1), st.data())
def test_every_proposal_is_how_some_text_went_on_whatever_was_right(sources, answer, cost, data):
    made = Proposer(sources, most=5, cost=cost)
    for done, token in enumerate(answer):
        texts = [*sources[:-1], sources[-1] + answer[:done]]
        if found := made.propose():
            assert found == longest_went_on(texts)[: min(5, len(found))]
            made.learn(data.draw(st.integers(0, len(found))))
        made.append(token)


@given(st.lists(TOKENS, min_size=1, max_size=3), TOKENS, st.floats(0, 1))
def test_the_same_tokens_give_the_same_proposals(sources, answer, cost):
    def run():
        made = Proposer(sources, most=5, cost=cost)
        for token in answer:
            made.append(token)
            found = made.propose()
            if found:
                made.learn(len(found) // 2)
            yield found

    assert list(run()) == list(run())


class CountingToken(int):
    """A token id that counts how often any such id is looked at."""

    looks = 0

    def __hash__(self):
        CountingToken.looks += 1
        return super().__hash__()

    def __eq__(self, other):
        CountingToken.looks += 1
        return super().__eq__(other)


def test_a_token_costs_the_same_work_however_long_the_text_is():
    made = Proposer([[]], most=8, cost=0.2)
    looks = []
    for place in range(10_000):
        CountingToken.looks = 0
        made.append(CountingToken(place * place % 1009))
        made.propose()
        looks.append(CountingToken.looks)
    # each of 9 tokens in the last 4, 3 and 2 is hashed and compared, once to remember them and once to look them up
    assert max(looks) <= 9 * 2 * 2
