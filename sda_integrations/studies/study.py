"""Study: which ways of answering are compared, on which tasks, by which judges."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from sda_engine.config import Steering
from sda_engine.errors import ConfigError
from sda_engine.settings import Settings, unknown_name

ArmKind = Literal["plain", "prompt", "steered", "corrector", "model"]

_TEXT = "a text of at least one character"
_COUNT = "a whole number of at least 1"


class TaskSpec(Settings):
    """A task of a study.

    Attributes:
        name: one of `tasks.TASKS`.
        limit: samples at most; None means the study's.
        max_tokens: new tokens of an answer at most; None means the study's. Calls and JSON get what they need anyhow.
        alignment: what is steered by, in place of the task's own: a preset's name or an instruction.
        data: a file of JSON lines; None means the folder that the command is given, else the Hub.
        revision: of a set on the Hub; None means the one pinned here, or else the newest, which the protocol records.
    """

    name: str = Field(min_length=1, description=_TEXT)
    limit: int | None = Field(default=None, ge=1, description=_COUNT)
    max_tokens: int | None = Field(default=None, ge=1, description=_COUNT)
    alignment: str | None = Field(default=None, min_length=1, description=_TEXT)
    data: str | None = Field(default=None, min_length=1, description="the path of a file")
    revision: str | None = Field(default=None, min_length=1, description="a branch, tag or commit")


class ArmSpec(Settings):
    """A way of answering.

    Attributes:
        name: how results call it.
        kind: "plain"; "prompt" (the instruction in the prompt, nothing steered); "steered"; "corrector" (a second
            request rewrites the plain answer, as Aligner does); "model" (any model that Inspect knows, as it is).
        steering: fields of Steering, the evaluator as a text such as "contrastive" or "openai:gpt-4.1".
        model: of a corrector or a "model": its name in Inspect, e.g. "openai/gpt-4.1"; None means the study's own.
        base_url: of that model's server.
        template: of a corrector: the message that asks for the correction, with {question}, {answer} and {instruction}.
        instructed: of a "model": whether the instruction stands in its prompt.
        avoid_only: steered away from the alignment's `avoid` text alone, without its instruction.
        tasks: the tasks that it runs; empty means all.
        against: arms that judges compare it with, beside the baseline.
        strength: of an arm that is one point of a sweep, its strength.
        sweep: the sweep's name.
    """

    name: str = Field(min_length=1, description=_TEXT)
    kind: ArmKind = Field(description="'plain', 'prompt', 'steered', 'corrector' or 'model'")
    steering: dict[str, JsonValue] = Field(default_factory=dict, description="a table of fields of Steering")
    model: str | None = Field(default=None, min_length=1, description=_TEXT)
    base_url: str | None = Field(default=None, min_length=1, description="an address such as http://127.0.0.1:8000/v1")
    template: str | None = Field(default=None, min_length=1, description="a text with {question} and {answer}")
    instructed: bool = Field(default=False, description="true or false")
    avoid_only: bool = Field(default=False, description="true or false")
    tasks: tuple[str, ...] = Field(default=(), description="a list of names of tasks")
    against: tuple[str, ...] = Field(default=(), description="a list of names of arms")
    strength: float | None = Field(default=None, ge=0, description="a number of at least 0")
    sweep: str | None = Field(default=None, min_length=1, description=_TEXT)

    @field_validator("tasks", "against", mode="before")
    @classmethod
    def _as_tuple(cls, names: object) -> object:
        return tuple(names) if isinstance(names, list) else names

    @model_validator(mode="after")
    def _fields_have_an_effect(self) -> Self:
        for field, kinds in _BY_KIND.items():
            if self.kind not in kinds and getattr(self, field):
                raise ConfigError(
                    f"The arm {self.name!r} is of kind {self.kind!r}, where {field!r} changes nothing: remove it, or "
                    f"set kind to {' or '.join(map(repr, kinds))}."
                )
        if self.kind == "model" and self.model is None:
            raise ConfigError(f'The arm {self.name!r} needs a model, e.g. model = "openai/gpt-4.1".')
        plain = {name: value for name, value in self.steering.items() if name not in ("evaluator", "chooser")}
        Steering.of_values(plain)  # a mistake shows before anything runs
        return self

    def runs(self, task: str) -> bool:
        """Whether it answers the samples of a task."""
        return not self.tasks or task in self.tasks


_BY_KIND: Mapping[str, tuple[ArmKind, ...]] = {
    "steering": ("steered",),
    "avoid_only": ("steered",),
    "template": ("corrector",),
    "base_url": ("corrector", "model"),
    "model": ("corrector", "model"),
    "instructed": ("model",),
}


class JudgeSpec(Settings):
    """Who judges answers: a model in Inspect, asked for points and for the better of two, or one of our evaluators.

    Attributes:
        model: a model in Inspect, e.g. "openai/gpt-4.1", or "sda/smollm2-135m", whose verdicts a grammar keeps in form.
            In a file, a judge that names neither a model nor an evaluator is the study's own model.
        base_url: of its server.
        evaluator: in place of a model, an evaluator of ours, e.g. "reward:MODEL" or "contrastive": points alone.
        evaluator_url: of its server.
        points, pairs: whether it rates answers, 1 to 100, and whether it compares each with the baseline's.
    """

    model: str | None = Field(default=None, min_length=1, description=_TEXT)
    base_url: str | None = Field(default=None, min_length=1, description="an address such as http://127.0.0.1:8000/v1")
    evaluator: str | None = Field(default=None, min_length=1, description=_TEXT)
    evaluator_url: str | None = Field(default=None, min_length=1, description="an address")
    points: bool = Field(default=True, description="true or false")
    pairs: bool = Field(default=True, description="true or false")

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.model is None) == (self.evaluator is None):
            raise ConfigError(
                'A judge is a model, e.g. model = "openai/gpt-4.1", or an evaluator, e.g. evaluator = "contrastive": '
                "give one of the two."
            )
        return self

    @property
    def name(self) -> str:
        """How results call it."""
        name = self.model or self.evaluator
        assert name is not None, "one of them is given"
        return name


class Study(Settings):
    """A comparison of arms.

    Attributes:
        name, title, question: what it is called, and what it asks.
        model, dtype, device: what answers, see SteeringEngine.load.
        baseline: the arm that the others are held against.
        seed: of sampling; the sample's place is added.
        temperature: of sampling; 0 is greedy.
        max_tokens, limit: new tokens of an answer, and samples of a task, where the task says nothing.
        together: requests at once. Where it is 1, costs are told, and nothing is reused from an earlier request: each
            prompt is a new one to each arm.
        tasks, arms, judges: see their classes; a sweep has been made into an arm for each strength.
    """

    name: str = Field(min_length=1, description=_TEXT)
    title: str = Field(min_length=1, description=_TEXT)
    question: str = Field(min_length=1, description=_TEXT)
    model: str = Field(default="smollm2-135m", min_length=1, description="an alias, a path or a Hub id")
    dtype: str = Field(default="auto", description="'auto', 'float32', 'bfloat16' or 'float16'")
    device: str = Field(default="auto", description="'auto' or a torch device")
    baseline: str = Field(default="plain", min_length=1, description="the name of an arm")
    seed: int = Field(default=0, ge=0, description="a whole number of at least 0")
    temperature: float = Field(default=0.0, ge=0, description="a number of at least 0")
    max_tokens: int = Field(default=96, ge=1, description=_COUNT)
    limit: int | None = Field(default=None, ge=1, description=_COUNT)
    together: int = Field(default=8, ge=1, description=_COUNT)
    tasks: tuple[TaskSpec, ...] = Field(min_length=1, description="at least one [[tasks]]")
    arms: tuple[ArmSpec, ...] = Field(min_length=1, description="at least one [arms.NAME]")
    judges: tuple[JudgeSpec, ...] = Field(default=(), description="a list of [[judges]]")

    @property
    def alone(self) -> bool:
        """Whether each request has the machine to itself, so that its costs are its own."""
        return self.together == 1

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        tasks, arms = [task.name for task in self.tasks], [arm.name for arm in self.arms]
        for kind, names in (("task", tasks), ("arm", arms), ("judge", [judge.name for judge in self.judges])):
            if repeated := [name for name in names if names.count(name) > 1]:
                raise ConfigError(f"The study has two {kind}s named {repeated[0]!r}: each needs a name of its own.")
        if self.baseline not in arms:
            raise unknown_name("The study", self.baseline, arms, "arm")
        for arm in self.arms:
            for kind, given, known in (("task", arm.tasks, tasks), ("arm", arm.against, arms)):
                for name in given:
                    if name not in known:
                        raise unknown_name("The study", name, known, kind)
        return self
