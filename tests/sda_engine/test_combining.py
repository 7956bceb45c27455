"""Alignment.combine: what it is as data, what it refuses, and what evaluators are told of it."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sda_engine import PRESETS, Alignment, AlignmentWarning, Steering
from sda_engine.alignment import resolve_alignment
from sda_engine.errors import ConfigError
from sda_engine.evaluators.protocol import EvaluationRequest
from sda_engine.evaluators.verdict import make_rating_prompt

HONEST, WARM = PRESETS["honesty"], PRESETS["empathy"]
BOTH = Alignment.combine({"honesty": 1.0, "empathy": 0.5})


def test_presets_and_instructions_with_weights_are_one_alignment():
    assert BOTH.parts == ((HONEST, 1.0), (WARM, 0.5))
    assert BOTH.name == "honesty+empathy"
    assert BOTH.instructions == (HONEST.instruction, WARM.instruction)
    assert BOTH.weights == pytest.approx((2 / 3, 1 / 3))
    assert (BOTH.instruction, BOTH.avoid) == (None, None)
    own = Alignment.combine({" Honesty ": 1, "Answer as a careful librarian.": 1})
    assert own.parts == ((HONEST, 1.0), (Alignment(instruction="Answer as a careful librarian."), 1.0))


def test_other_alignments_have_one_instruction_or_none():
    assert (HONEST.instructions, HONEST.weights, HONEST.parts) == ((HONEST.instruction,), (1.0,), ())
    only_avoids = Alignment(avoid="cold words")
    assert (only_avoids.instructions, only_avoids.weights) == ((), ())


@pytest.mark.parametrize(
    "given",
    [{"honesty": 1.0, "empathy": 0.5}, [("honesty", 1), ("empathy", 0.5)], ((HONEST, 1.0), [WARM, 0.5]), BOTH],
)
def test_a_mapping_a_list_and_the_alignment_mean_the_same(given):
    assert resolve_alignment(given) == BOTH


def test_it_is_plain_data_that_comes_back_by_every_way():
    combined = Alignment.combine([(HONEST, 2), (Alignment(instruction="Be brief.", avoid="Long words."), 1)])
    plain = json.loads(json.dumps(combined.model_dump(mode="json")))
    assert Alignment(**plain) == combined
    assert Alignment.model_validate(combined.model_dump()) == combined
    assert Alignment.model_validate_json(combined.model_dump_json()) == combined
    assert Alignment.combine(combined.parts) == combined
    assert hash(Alignment(**plain)) == hash(combined)
    assert combined.replace(name="mine").parts == combined.parts


def test_the_plain_data_of_other_alignments_says_nothing_of_parts():
    for plain in (HONEST.model_dump(), HONEST.model_dump(mode="json"), json.loads(HONEST.model_dump_json())):
        assert list(plain) == ["instruction", "rubric", "avoid", "name"]
        assert Alignment(**plain) == HONEST
    assert list(BOTH.model_dump()["parts"][0][0]) == ["instruction", "rubric", "avoid", "name"]


def test_the_only_one_is_returned_as_it_is():
    assert Alignment.combine({"honesty": 0.3}) is HONEST
    assert resolve_alignment([(WARM, 7)]) is WARM
    assert Alignment.combine([("honesty", 1), (HONEST, 2)]) is HONEST
    assert Alignment.combine({"honesty": 1}, avoid="guesses") == HONEST.replace(avoid="guesses")


def test_what_is_combined_already_counts_by_its_parts():
    nested = Alignment.combine([(BOTH, 3), ("empathy", 1), ("Be brief.", 2)])
    assert [part.name for part, _ in nested.parts] == ["honesty", "empathy", "custom"]
    assert nested.weights == pytest.approx((2 / 6, 2 / 6, 2 / 6))


class TestAvoid:
    CALM = Alignment(instruction="Be calm.", avoid="Shouting.", name="calm")

    def test_the_only_text_to_avoid_is_that_of_all(self):
        assert Alignment.combine([(self.CALM, 1), ("honesty", 1)]).avoid == "Shouting."
        again = Alignment(instruction="Be quiet.", avoid="Shouting.")
        assert Alignment.combine([(self.CALM, 1), (again, 1)]).avoid == "Shouting."

    def test_one_that_is_given_comes_first(self):
        both = [(self.CALM, 1), (Alignment(instruction="Be brief.", avoid="Long words."), 1)]
        assert Alignment.combine(both, avoid="Long shouts.").avoid == "Long shouts."
        assert Alignment.combine({"honesty": 1, "empathy": 1}, avoid="Guesses.").avoid == "Guesses."
        with pytest.raises(ConfigError, match=r"2 different texts, 'Shouting\.' and 'Long words\.'.*avoid=\.\.\."):
            Alignment.combine(both)

    def test_parts_do_not_lose_theirs_in_silence(self):
        with pytest.raises(ConfigError, match=r"Alignment\.combine takes it over"):
            Alignment(parts=((self.CALM, 1.0), (HONEST, 1.0)))

    def test_what_only_avoids_is_no_part(self):
        with pytest.raises(ConfigError, match=r"needs an instruction of its own.*avoid=\.\.\."):
            Alignment.combine([("honesty", 1), (Alignment(avoid="Guesses."), 1)])


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf, 10**400, True, "1", None])
def test_a_weight_that_is_no_number_above_0_is_refused_with_the_remedy(weight):
    with pytest.raises(ConfigError, match=r"The weight of 'honesty' cannot be .* finite number above 0\. Leave out"):
        resolve_alignment({"honesty": weight, "empathy": 1})
    with pytest.raises(ConfigError, match=r"Alignment\.parts cannot be .* each weight above 0"):
        Alignment(parts=[(HONEST, weight), (WARM, 1)])


@pytest.mark.parametrize("given", [{}, [], (), [("honesty",)], ["honesty", "empathy"], [("honesty", 1, 2)]])
def test_what_is_no_list_of_pairs_is_refused_with_an_example(given):
    with pytest.raises(ConfigError, match=r'as in \{"honesty": 1\.0, "empathy": 0\.5\}, or a list of pairs'):
        resolve_alignment(given)


def test_other_mistakes_are_told_with_their_remedy():
    with pytest.raises(ConfigError, match="None cannot be a part"):
        Alignment.combine([(None, 1), ("honesty", 1)])
    with pytest.raises(ConfigError, match=r"alignment cannot be 3: .* several of these with weights"):
        Alignment.combine([(3, 1), ("honesty", 1)])
    with pytest.raises(ConfigError, match=r"has an instruction beside those of its parts: make it a part"):
        Alignment(instruction="Be brief.", parts=BOTH.parts)
    with pytest.raises(ConfigError, match="needs an instruction of its own"):
        Alignment(parts=((BOTH, 1.0),))
    with pytest.raises(ConfigError, match=r"Alignment\.parts cannot be 3"):
        Alignment(parts=3)


def test_parts_are_warned_of_like_alignments():
    with pytest.warns(AlignmentWarning, match="Did you mean the preset 'honesty'"):
        resolve_alignment({"honestly": 1, "empathy": 1})
    with pytest.warns(AlignmentWarning, match="says what not to do"):
        resolve_alignment({"Do not swear.": 1, "empathy": 1})


def test_the_rubric_holds_those_of_the_parts_with_their_shares():
    rubric = BOTH.rating_rubric
    assert f"- 66.7% of the rating, honesty: {HONEST.rubric}" in rubric
    assert f"- 33.3% of the rating, empathy: {WARM.rubric}" in rubric
    own = Alignment.combine({"Be brief.": 1, "honesty": 3}, avoid="Guesses.").rating_rubric
    assert "- 25% of the rating, custom: Rate how well the response follows this instruction: Be brief." in own
    assert own.endswith("the nearer the response comes to text of this kind: Guesses.")
    of_a_part = Alignment.combine([(Alignment(instruction="Be brief.", avoid="Guesses."), 1), ("honesty", 1)])
    assert of_a_part.rating_rubric.count("Guesses.") == 1
    assert BOTH.replace(rubric="Rate the rhymes.").rating_rubric == "Rate the rhymes."


def test_judges_are_asked_by_that_rubric():
    system, _ = make_rating_prompt(EvaluationRequest([{"role": "user", "content": "q"}], "r", BOTH))
    assert BOTH.rating_rubric in system


def test_a_combined_alignment_has_what_steering_by_an_instruction_looks_at():
    steering = Steering(avoid_strength=0.5, gain=3.0)
    assert steering.idle_for(BOTH) == {"avoid_strength": "the alignment has no text to avoid"}
    assert steering.idle_for(BOTH.replace(avoid="Guesses.")) == {}


@given(st.lists(st.floats(5e-324, 1.7e308), min_size=2, max_size=5))
def test_weights_are_shares_of_one_however_far_apart(weights):
    combined = Alignment.combine([(f"Be {place}.", weight) for place, weight in enumerate(weights)])
    assert sum(combined.weights) == pytest.approx(1)
    assert [weight for _, weight in combined.parts] == weights
    assert all(share >= 0 for share in combined.weights)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=5), st.floats(1e-3, 1e3))
def test_only_the_ratios_of_weights_matter(weights, scale):
    def shares(factor):
        return Alignment.combine([(f"Be {place}.", factor * one) for place, one in enumerate(weights)]).weights

    assert shares(scale) == pytest.approx(shares(1.0))
