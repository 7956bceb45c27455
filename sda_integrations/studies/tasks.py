"""TASKS: what a study can ask, by what an arm is steered there, and how answers are checked and judged."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

from sda_integrations.studies import samples
from sda_integrations.studies.checks import (
    Check,
    check_call,
    check_fact,
    check_instruction,
    check_json,
    check_nothing,
    check_references,
    check_refusal,
)
from sda_integrations.studies.data import DataSet
from sda_integrations.studies.samples import MakeSamples

Form = Literal["text", "call", "json", "choice"]


@dataclass(frozen=True)
class TaskKind:
    """A task.

    Attributes:
        about: what is asked, in a sentence.
        make: makes samples of rows.
        data: where the rows come from; None where samples are made up.
        alignment: the preset that arms steer by; None where each sample has an instruction of its own.
        judged: the preset whose rubric judges use; None where nobody judges.
        check: the task's own measures, which need no judge.
        form: of an answer: a text, a tool's call, JSON, or a choice among given answers, which nobody writes.
        least_tokens: what an answer in that form may take in any case: one that is cut off is none.
        count: samples that there are of made-up ones.
    """

    about: str
    make: MakeSamples
    data: DataSet | None = None
    alignment: str | None = None
    judged: str | None = None
    check: Check = check_nothing
    form: Form = "text"
    least_tokens: int = 0
    count: int = 100


# The commit that inspect_evals has pinned too; the others are pinned by the protocol of a study's first run
_TRUTHFULQA = DataSet(
    "truthfulqa.jsonl",
    "truthfulqa/truthful_qa",
    "generation",
    split="validation",
    revision="741b8276f2d1982aa3d5b832d3ee81ed3b896490",
)
_BEAVERTAILS = DataSet("beavertails.jsonl", "PKU-Alignment/BeaverTails-Evaluation")
_HARMFULQA = DataSet("harmfulqa.jsonl", "declare-lab/HarmfulQA", split="train")
_HARMFUL_QUESTIONS = partial(samples.prompts, field="question", category="topic")

TASKS: Mapping[str, TaskKind] = MappingProxyType(
    {
        "empathy": TaskKind(
            "EmpatheticDialogues (Rashkin et al. 2018): somebody tells of a feeling.",
            samples.prompts,
            DataSet("empathetic_dialogues.jsonl"),
            alignment="empathy",
            judged="empathy",
        ),
        "summaries": TaskKind(
            "DialogSum (Chen et al. 2021): a dialogue is to be summarised.",
            samples.summaries,
            DataSet("dialogsum.jsonl", "knkarthick/dialogsum"),
            alignment="summarization",
            judged="summarization",
            check=check_references,
        ),
        "beavertails-helpful": TaskKind(
            "BeaverTails' evaluation prompts (Ji et al. 2023), for helpfulness.",
            samples.prompts,
            _BEAVERTAILS,
            alignment="helpfulness",
            judged="helpfulness",
        ),
        "beavertails-harmless": TaskKind(
            "The same, for harmlessness.",
            samples.prompts,
            _BEAVERTAILS,
            alignment="harmlessness",
            judged="harmlessness",
        ),
        "harmfulqa-helpful": TaskKind(
            "HarmfulQA (Bhardwaj, Poria 2023), for helpfulness.",
            _HARMFUL_QUESTIONS,
            _HARMFULQA,
            alignment="helpfulness",
            judged="helpfulness",
        ),
        "harmfulqa-harmless": TaskKind(
            "The same, for harmlessness.",
            _HARMFUL_QUESTIONS,
            _HARMFULQA,
            alignment="harmlessness",
            judged="harmlessness",
        ),
        "truthfulqa": TaskKind(
            "TruthfulQA (Lin et al. 2021): questions that invite a common mistake.",
            samples.truthful,
            _TRUTHFULQA,
            alignment="honesty",
            judged="honesty",
        ),
        "truthfulqa-mc": TaskKind(
            "The same: how likely are its true answers beside the false ones?",
            samples.truthful,
            _TRUTHFULQA,
            alignment="honesty",
            form="choice",
        ),
        "ifeval": TaskKind(
            "IFEval (Zhou et al. 2023), instruction and query separated (Stolfo et al. 2025).",
            samples.instructed,
            DataSet("ifeval_single_instruction.jsonl"),
            check=check_instruction,
        ),
        "rag": TaskKind(
            "A question on made-up documents, and an instruction that a rule can check.",
            samples.documents,
            check=check_fact,
        ),
        "rag-tones": TaskKind(
            "The same questions with the presets in turn.",
            samples.documents_with_tones,
            check=check_fact,
        ),
        "refusals": TaskKind(
            "Safe requests that sound dangerous, after XSTest (Röttger et al. 2023), and some unsafe ones.",
            samples.borderline,
            alignment="harmlessness",
            check=check_refusal,
            count=60,
        ),
        "calls": TaskKind(
            "A request that one call of a tool answers.",
            samples.bookings,
            alignment="empathy",
            check=check_call,
            form="call",
            least_tokens=160,
        ),
        "json": TaskKind(
            "A text about a person, to be extracted by a JSON schema.",
            samples.people,
            alignment="empathy",
            check=check_json,
            form="json",
            least_tokens=240,
        ),
    }
)
