"""What steering brings and what it costs: whether answers follow an instruction AND still hold the fact asked for.

    python benchmarks/kept_answers.py [--quick] [--half tuning] [--questions N] [--out FOLDER] [--parts a,c]

Parts, each a table with 95% intervals (a bootstrap over questions):
    instructions  made-up documents, a question about one fact in them, an instruction that a rule can check
    presets       the same questions under the five presets: facts alone, and a measure of each tone that needs no judge
    tools         a forced call with three arguments: are they right?
    ifeval        IFEval prompts (Zhou et al. 2023) with query and instruction separated (Stolfo et al. 2025)
    summaries     dialogues of DialogSum (Chen et al. 2021): ROUGE against what people wrote

Settings were chosen on the half "tuning" of facts, layouts, draws and instructions; figures are reported on the half
"reporting". Nobody who chooses an answer sees the rule, but for the arm that says so. The last two parts read files
that have to be given by --data. Needs pip install py3langid rouge-score vadersentiment.
"""

import argparse
import asyncio
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from checked_instructions import INSTRUCTIONS, CheckedInstruction
from instructions import DATA, includes, instruction_of, read_rows, words_of
from kept_measures import keeps_topic, rouge_l, tone_of
from rag_facts import REPORTING, TUNING, FactQuestion, holds, make_questions
from rich.progress import Progress
from texts import quiet
from timing import describe_machine, print_table

from sda_engine import Alignment, Completion, Output, Sampling, Steering, SteeringEngine
from sda_engine.alignment import PRESETS
from sda_engine.choosing import recites
from sda_engine.evaluation import Estimate, TunedArm, share
from sda_engine.evaluation.tuning import is_degenerate
from sda_engine.evaluation.tuning_plot import save_plane
from sda_engine.evaluators import EvaluationRequest, Score

TOGETHER = 8  # requests at once
TOKENS = 64
UNLIMITED = {"policy": "budget", "budget": 1e6, "reserve": 0.0, "quiet_divergence": 0.0}  # the paper's, and counted
PLAIN, PROMPT, RULE = "plain", "in the prompt", "revise, the rule itself chooses"


class RuleEvaluator:
    """What a user's own check would be: it knows the benchmark's rule."""

    needs_response = True
    name = "the rule itself"

    def __init__(self, follows: Callable[[str], bool]) -> None:
        self._follows = follows

    def evaluate(self, request: EvaluationRequest) -> Score:
        """90 or 10."""
        return Score(value=90.0 if self._follows(request.response) else 10.0, evaluator=self.name)

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """The same."""
        return self.evaluate(request)


ARMS: Mapping[str, Steering | None] = {
    PLAIN: None,
    PROMPT: Steering(gain=0.0, **UNLIMITED),
    "paper, 0.92": Steering(**UNLIMITED),
    "paper, 2": Steering(amplification=1.0, **UNLIMITED),
    "budget": Steering(policy="budget"),
    "revise": Steering(policy="revise"),
    RULE: Steering(policy="revise"),
}


@dataclass(frozen=True)
class Answer:
    """One answer of one arm, judged.

    Attributes:
        group: what the bootstrap draws: a question.
        fact, follows: whether it holds the fact, and follows the instruction.
        degenerate: whether it is empty or repeats itself.
        changed: share of its tokens that are not the base context's likeliest.
        nats: KL from the base distribution, all tokens together; None where it was not counted.
    """

    arm: str
    group: str
    kind: str
    name: str
    text: str
    fact: bool
    follows: bool
    degenerate: bool
    changed: float
    nats: float | None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--half", choices=(TUNING, REPORTING), default=REPORTING)
    parser.add_argument("--questions", type=int, default=30, help="of each instruction; a third of that elsewhere")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", nargs="*", default=(), help="ends answers of a base model, which would ask on")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--arms", default="|".join(ARMS), help=f"some of {'|'.join(ARMS)}")
    parser.add_argument("--data", type=Path, default=DATA.parent, help="the folder of ifeval_… and dialogsum.jsonl")
    parser.add_argument("--out", type=Path, help="a folder for the answers and the picture")
    parser.add_argument("--quick", action="store_true", help="two questions, three arms: does it run?")
    arguments = parser.parse_args()
    quiet()
    arms = {name: ARMS[name] for name in arguments.arms.split("|")}
    if arguments.quick:
        arguments.questions = 2
        arms = {name: arms[name] for name in (PLAIN, PROMPT, "revise")}
    with SteeringEngine.load(arguments.model) as engine:
        print(describe_machine(engine.model.dtype))
        sampling = Sampling(temperature=arguments.temperature, max_new_tokens=TOKENS, seed=arguments.seed)
        asker = Asker(engine, sampling.replace(stop=arguments.stop))
        for part in arguments.parts.split(","):
            answers = asyncio.run(PARTS[part](asker, arms, arguments))
            if arguments.out is not None:
                save(arguments.out, part, answers)


class Asker:
    """Asks one engine, a few requests at a time."""

    def __init__(self, engine: SteeringEngine, sampling: Sampling) -> None:
        self.engine = engine
        self.sampling = sampling

    async def all(self, title: str, asks: Sequence[Mapping[str, object]]) -> list[Completion]:
        """The answers to requests, each of them the arguments of `agenerate`; each draws with a seed of its own."""
        room = asyncio.Semaphore(TOGETHER)
        with Progress(transient=True) as progress:
            bar = progress.add_task(title, total=len(asks))

            async def one(place: int, ask: Mapping[str, object]) -> Completion:
                sampling = self.sampling.replace(seed=(self.sampling.seed or 0) + place)
                async with room:
                    done = await self.engine.agenerate(**{"sampling": sampling, **ask})
                progress.advance(bar)
                return done

            return list(await asyncio.gather(*(one(place, ask) for place, ask in enumerate(asks))))


def user(text: str) -> list[dict[str, str]]:
    """A chat of one message."""
    return [{"role": "user", "content": text}]


def steered(arm: str, steering: Steering | None, instruction: CheckedInstruction, text: str) -> dict[str, object]:
    """The request of an arm. A prohibition is put into the prompt as one, and steered away from."""
    if steering is None:
        return {"messages": user(text)}
    if arm == RULE:
        steering = steering.replace(chooser=RuleEvaluator(instruction.follows))
    if arm == PROMPT and instruction.asked is not None:
        return {"messages": user(f"{text}\n{instruction.asked}")}
    return {"messages": user(text), "alignment": instruction.alignment, "steering": steering}


def follows(text: str, instruction: CheckedInstruction) -> bool:
    """Whether a text follows an instruction, and does not just speak of it."""
    return instruction.follows(text) and not recites(text, instruction.alignment.instruction or "")


def judged(arm: str, question: FactQuestion, instruction: CheckedInstruction, done: Completion) -> Answer:
    """An answer with everything that is measured of it."""
    tokens = done.trace.tokens
    changed = [token.base[0].text != token.text for token in tokens if token.base and token.text]
    spent = [token.spent for token in tokens]
    return Answer(
        arm=arm,
        group=question.prompt,
        kind=instruction.kind,
        name=instruction.name,
        text=done.text,
        fact=holds(done.text, question.value),
        follows=follows(done.text, instruction),
        degenerate=is_degenerate(done),
        changed=float(np.mean(changed)) if changed else 0.0,
        nats=None if None in spent else float(sum(value for value in spent if value is not None)),
    )


async def measure_instructions(
    asker: Asker, arms: Mapping[str, Steering | None], arguments: argparse.Namespace
) -> list[Answer]:
    """Facts and instructions together, by arm, by kind and by instruction."""
    questions = make_questions(arguments.questions, arguments.half, seed=arguments.seed)
    instructions = [instruction for instruction in INSTRUCTIONS if instruction.half == arguments.half]
    answers: list[Answer] = []
    for arm, steering in arms.items():
        pairs = [(question, instruction) for question in questions for instruction in instructions]
        done = await asker.all(arm, [steered(arm, steering, i, question.prompt) for question, i in pairs])
        answers += [judged(arm, *pair, one) for pair, one in zip(pairs, done, strict=True)]
    print_answers(f"Instructions, half {arguments.half!r}, {len(questions)} questions", answers, lambda answer: "")
    print_answers("By kind", answers, lambda answer: answer.kind)
    print_answers("By instruction", answers, lambda answer: answer.name)
    if arguments.out is not None:
        draw_plane(arguments.out, answers)
    return answers


async def measure_presets(
    asker: Asker, arms: Mapping[str, Steering | None], arguments: argparse.Namespace
) -> list[Answer]:
    """Facts under the five presets, and how far the tone moved."""
    questions = make_questions(max(2, arguments.questions), arguments.half, seed=arguments.seed + 1)
    answers: list[Answer] = []
    for name, preset in PRESETS.items():
        instruction = CheckedInstruction(name, name, arguments.half, preset, partial(tone_of, name))
        for arm, steering in arms.items():
            if arm == RULE:
                continue
            done = await asker.all(f"{name}: {arm}", [steered(arm, steering, instruction, q.prompt) for q in questions])
            answers += [judged(arm, q, instruction, one) for q, one in zip(questions, done, strict=True)]
    print_answers(f"Presets, {len(questions)} questions; follows: the tone", answers, lambda answer: answer.kind)
    return answers


BOOK = {
    "name": "book_table",
    "description": "Books a table at a restaurant.",
    "parameters": {
        "type": "object",
        "properties": {
            "restaurant": {"type": "string", "maxLength": 40},
            "guests": {"type": "integer"},
            "day": {"type": "string", "maxLength": 20},
        },
        "required": ["restaurant", "guests", "day"],
        "additionalProperties": False,
    },
}
RESTAURANTS = ("Luna", "Blue Door", "Old Harbour", "Pepper", "Green Table", "Casa Rosa", "Nord", "Ginger")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


async def measure_tools(
    asker: Asker, arms: Mapping[str, Steering | None], arguments: argparse.Namespace
) -> list[Answer]:
    """A forced call: whether restaurant, guests and day are right."""
    rng = np.random.default_rng(arguments.seed)
    wanted = [
        (str(rng.choice(RESTAURANTS)), int(rng.integers(2, 12)), str(rng.choice(DAYS)))
        for _ in range(max(2, arguments.questions))
    ]
    answers: list[Answer] = []
    for name in ("honesty", "empathy", "helpfulness", "harmlessness"):
        for arm, steering in arms.items():
            if arm == RULE:
                continue
            asks = []
            for place, guests, day in wanted:
                ask = {
                    "messages": user(f"Book a table at {place} for {guests} people on {day}, please."),
                    "output": Output(tools=[BOOK], tool_choice="required"),
                }
                asks.append(ask if steering is None else {**ask, "alignment": name, "steering": steering})
            for call, done in zip(wanted, await asker.all(f"{name}: {arm}", asks), strict=True):
                given = done.tool_calls[0]["function"]["arguments"] if done.tool_calls else {}
                right = (given.get("restaurant"), given.get("guests"), given.get("day")) == call
                answers.append(
                    Answer(
                        arm, str(call), name, name, json.dumps(given), right, bool(done.tool_calls), False, 0.0, None
                    )
                )
    print_answers("Forced calls; fact: all three arguments; follows: a valid call", answers, lambda answer: "")
    return answers


IFEVAL_RULES: Mapping[str, str] = {
    "punctuation:no_comma": "no commas",
    "change_case:english_capital": "capitals",
    "change_case:english_lowercase": "small letters",
    "startend:quotation": "quotation marks",
    "detectable_format:title": "title",
}


async def measure_ifeval(
    asker: Asker, arms: Mapping[str, Steering | None], arguments: argparse.Namespace
) -> list[Answer]:
    """Adherence on IFEval rows, beside whether the answer is still about the question."""
    rules = {instruction.name: instruction.follows for instruction in INSTRUCTIONS}
    cases = []
    for row in read_rows(arguments.data / DATA.name):
        (kind,) = row["instruction_id_list"]
        if kind == "keywords:existence":
            cases.append((row, kind, partial(includes, words=words_of(row))))
        elif kind in IFEVAL_RULES:
            cases.append((row, kind, rules[IFEVAL_RULES[kind]]))
    cases = cases[1::2] if arguments.half == REPORTING else cases[::2]
    cases = cases[: 3 * arguments.questions]
    plain: list[str] = []
    answers: list[Answer] = []
    asker = Asker(asker.engine, asker.sampling.replace(max_new_tokens=96))
    for arm, steering in arms.items():
        asks = []
        for row, _, follows in cases:
            made = CheckedInstruction("", "", "", quiet_alignment(instruction_of(row)), follows)
            asks.append(steered(arm, steering, made, str(row["prompt_without_instruction"])))
        done = await asker.all(arm, asks)
        plain = plain or [one.text for one in done]
        on_topic = keeps_topic(plain, [one.text for one in done])
        for (row, kind, follows), one, about in zip(cases, done, on_topic, strict=True):
            question = FactQuestion(str(row["prompt"]), "", "", "", 0)
            made = CheckedInstruction(kind, kind, "", quiet_alignment(instruction_of(row)), follows)
            answers.append(replace(judged(arm, question, made, one), fact=about))
    print_answers(f"IFEval, {len(cases)} rows; fact: about the same as the plain answer", answers, lambda answer: "")
    print_answers("IFEval by kind", answers, lambda answer: answer.kind)
    return answers


def quiet_alignment(instruction: str) -> Alignment:
    """An alignment without the warning that an instruction forbids something: here that is what is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Alignment(instruction=instruction)


async def measure_summaries(
    asker: Asker, arms: Mapping[str, Steering | None], arguments: argparse.Namespace
) -> list[Answer]:
    """Summaries by the preset "summarization": ROUGE-L F1 against the references."""
    rows = read_rows(arguments.data / "dialogsum.jsonl")
    rows = rows[1::2] if arguments.half == REPORTING else rows[::2]
    rows = rows[: max(2, arguments.questions)]
    table = []
    answers: list[Answer] = []
    for arm, steering in arms.items():
        if arm == RULE:
            continue
        asks = []
        for row in rows:
            ask = {"messages": user(f"Summarise the dialogue.\n\n{row['dialogue']}")}
            asks.append(ask if steering is None else {**ask, "alignment": "summarization", "steering": steering})
        scores = []
        for row, done in zip(rows, await asker.all(arm, asks), strict=True):
            references = [str(value) for key, value in row.items() if re.fullmatch(r"summary\d?", key)]
            scores.append(rouge_l(done.text, references))
            question = FactQuestion(str(row["dialogue"]), "", "", "", 0)
            made = CheckedInstruction("rouge", "summary", "", PRESETS["summarization"], bool)
            answers.append(judged(arm, question, made, done))
        groups = [str(row["dialogue"]) for row in rows]
        degenerate = [answer.degenerate for answer in answers if answer.arm == arm]
        table.append([arm, shown(share(scores, groups), 1), shown(share(degenerate, groups))])
    print_table(f"Summaries of {len(rows)} dialogues", ["arm", "ROUGE-L", "degenerate"], table)
    return answers


PARTS = {
    "instructions": measure_instructions,
    "presets": measure_presets,
    "tools": measure_tools,
    "ifeval": measure_ifeval,
    "summaries": measure_summaries,
}


def print_answers(title: str, answers: Sequence[Answer], by: Callable[[Answer], str]) -> None:
    """A row per group and arm."""
    grouped: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for answer in answers:
        grouped[by(answer), answer.arm].append(answer)
    table = []
    for (name, arm), some in sorted(grouped.items(), key=lambda item: item[0][0]):
        groups = [answer.group for answer in some]
        nats = [answer.nats for answer in some if answer.nats is not None]
        table.append(
            [
                name,
                arm,
                shown(share([answer.fact for answer in some], groups)),
                shown(share([answer.follows for answer in some], groups)),
                shown(share([answer.fact and answer.follows for answer in some], groups)),
                shown(share([answer.degenerate for answer in some], groups)),
                f"{100 * np.mean([answer.changed for answer in some]):.0f}%",
                f"{np.mean(nats):.1f}" if nats else "",
            ]
        )
    print_table(title, ["", "arm", "fact", "follows", "both", "degenerate", "tokens changed", "nats"], table)


def shown(estimate: Estimate, digits: int = 0) -> str:
    """A share in percent with its interval."""
    value = f"{100 * estimate.value:.{digits}f}%"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({100 * estimate.low:.{digits}f}..{100 * estimate.high:.{digits}f})"


def draw_plane(folder: Path, answers: Sequence[Answer]) -> None:
    """Effect against cost: each arm a point, facts kept to the right, instructions followed upwards."""
    arms = []
    for arm in dict.fromkeys(answer.arm for answer in answers):
        some = [answer for answer in answers if answer.arm == arm]
        groups = [answer.group for answer in some]
        fact, follows, degenerate = (
            share([getattr(answer, name) for answer in some], groups) for name in ("fact", "follows", "degenerate")
        )
        both = share([answer.fact and answer.follows for answer in some], groups)
        arms.append(TunedArm(arm, ARMS[arm], fact, follows, both, degenerate, seconds=0.0))
    folder.mkdir(parents=True, exist_ok=True)
    save_plane(arms, folder / "kept_answers.svg")


def save(folder: Path, part: str, answers: Sequence[Answer]) -> None:
    """Write every answer, a JSON object a line."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(vars(answer), ensure_ascii=False) for answer in answers]
    (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
