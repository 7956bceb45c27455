"""MEASURES: what can be measured of answers, and which way is better."""

from collections.abc import Mapping
from types import MappingProxyType

from sda_integrations.studies.results import Better, Kind, Measure, Unit

_EFFECTS: tuple[tuple[str, str, Unit, Better, str], ...] = (
    (
        "win_rate",
        "win rate",
        "share",
        "higher",
        "(wins - losses) / all against the baseline, as the judge sees both in both orders.",
    ),
    (
        "win_rate_alike",
        "win rate, lengths alike",
        "share",
        "higher",
        "The same, had both answers the same length: by a logistic regression on the difference.",
    ),
    ("points", "points", "points", "higher", "The judge's rating of the answer alone, 1 to 100."),
    (
        "follows",
        "follows",
        "share",
        "higher",
        "The instruction is followed, by a rule that can check it, and not just recited.",
    ),
    ("follows_and_keeps", "both", "share", "higher", "The instruction is followed and the fact is there."),
    (
        "mc1",
        "MC1",
        "share",
        "higher",
        "The best true answer is likelier than each false one, under the steered distribution.",
    ),
    ("mc2", "MC2", "share", "higher", "The true answers' share of the probability of all that are listed."),
    ("right_refusal", "refuses the unsafe", "share", "higher", "An unsafe request is refused, by rule."),
)
_SIDE_EFFECTS: tuple[tuple[str, str, Unit, Better, str], ...] = (
    ("fact_kept", "fact", "share", "higher", "The value that was asked for is in the answer."),
    (
        "rouge_l",
        "ROUGE-L",
        "share",
        "higher",
        "F1 of the longest common subsequence with the nearest of the references.",
    ),
    (
        "similarity",
        "similarity",
        "share",
        "higher",
        "Cosine of the embeddings of the answer and the nearest of the references.",
    ),
    ("over_refusal", "refuses the safe", "share", "lower", "A safe request that sounds dangerous is refused, by rule."),
    ("valid_call", "valid call", "share", "higher", "The answer calls the tool with arguments that fit its schema."),
    ("arguments_right", "arguments", "share", "higher", "Share of the call's arguments that are those asked for."),
    ("valid_json", "valid JSON", "share", "higher", "The answer is JSON that fits the schema."),
    ("values_right", "values", "share", "higher", "Share of the object's values that the text holds."),
    (
        "surprise",
        "surprise",
        "nats",
        "lower",
        "Log-perplexity of the answer under the plain model without the instruction, nats a token.",
    ),
    ("repetition", "repetition", "share", "lower", "Share of runs of four words that stood in the answer before."),
    ("collapsed", "collapsed", "share", "lower", "The answer is empty or goes round in a loop."),
    ("words", "words", "words", "neither", "Length of the answer."),
    ("changed", "changed", "share", "neither", "Share of its tokens that are not the base context's likeliest."),
)
_COSTS: tuple[tuple[str, str, Unit, Better, str], ...] = (
    ("seconds", "seconds", "seconds", "lower", "From the request to the whole answer, one request at a time."),
    (
        "passes",
        "forward passes",
        "number",
        "lower",
        "Forward passes of the model for one answer, one request at a time.",
    ),
    (
        "tokens",
        "decoded tokens",
        "tokens",
        "lower",
        "Tokens that were decoded for one answer: the base response and dropped revisions included.",
    ),
    (
        "read_tokens",
        "computed tokens",
        "tokens",
        "lower",
        "Tokens that went through the model for one answer, those of every row counted.",
    ),
    (
        "judge_calls",
        "judge calls",
        "number",
        "lower",
        "Ratings of the base response or of revisions that were asked for.",
    ),
    (
        "held_tokens",
        "held tokens",
        "tokens",
        "lower",
        "Most tokens whose keys and values were in memory for one answer, looked at every 5 ms.",
    ),
)


def _made(kind: Kind, rows: tuple[tuple[str, str, Unit, Better, str], ...]) -> dict[str, Measure]:
    return {
        name: Measure(name=name, title=title, about=about, unit=unit, better=better, kind=kind)
        for name, title, unit, better, about in rows
    }


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {**_made("effect", _EFFECTS), **_made("side effect", _SIDE_EFFECTS), **_made("cost", _COSTS)}
)
"""All measures by name, in the order in which tables show them."""
