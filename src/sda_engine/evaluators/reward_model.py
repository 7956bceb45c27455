"""RewardModelEvaluator: a sequence classifier of transformers, on this machine, rates the base response."""

import asyncio
import copy
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self, cast

import jinja2
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sda_engine.errors import ConfigError, EvaluationError, ModelLoadError
from sda_engine.evaluators.classifier import check_classifier, fingerprint, load_classifier
from sda_engine.evaluators.protocol import EvaluationRequest, Score
from sda_engine.forks import compute, make_lock
from sda_engine.models import find_turn_rules
from sda_engine.settings import check_argument, shown, unknown_name

_ROLES = ("system", "user", "assistant", "tool")
_check = partial(check_argument, "RewardModelEvaluator")
_MOST_LOGIT = 30.0  # keeps the score above 0 and exp() in range


class RewardModelEvaluator:
    """Rates a response by a reward model or any other sequence classifier of transformers.

    With one label, the score is 100 / (1 + exp(-scale * (reward - offset))): 50 where the reward equals `offset`. With
    several labels that exclude each other it is 100 * P(label). With several that do not (a problem_type of
    "multi_label_classification" or "regression"), the label's own output is the reward. Rewards have no common unit:
    `offset` should be a typical reward of your model on your data, and `scale` one over the spread of its rewards.

    The classifier reads the conversation with the response as its last turn, by its own chat template; tool calls are
    written as JSON, and results of tools become user turns. Without a template it reads a pair of texts: the last user
    turn and the response. Text that looks like a control token is encoded as ordinary text. Nothing is ever cut off.
    It reads no instruction and no rubric: the score is the same for every alignment, so choose a model that was trained
    for yours.

    Everything is loaded and tried out at construction. Remote code is never run, and only safetensors weights are read.
    Threads may share an evaluator; it rates one response at a time. A copy is the object itself.

    Args:
        model: a local folder, a Hub id, or a pair (model, tokenizer) in memory. A model in memory is never changed: it
            has to be in evaluation mode already, and must stay as it is.
        scale: of the reward, per unit; negative where a smaller reward is better; not 0.
        offset: the reward that scores 50.
        label: the label whose probability is the score. With two labels that exclude each other None means the second
            one, by convention the positive one; with one label it means that one; else it has to be named.
        device: as for SteeringEngine.load; not for a model in memory.
        dtype: likewise. Where "auto" picks bfloat16, rewards have two or three digits; "float32" gives all.
        revision: branch, tag or commit of a Hub model; None means its main branch.
        max_tokens: of conversation and response together; None means as many as the model can read. A longer text is
            an EvaluationError.

    Raises:
        ModelLoadError: there is no such classifier, or it cannot be run.
        ConfigError: an argument is out of range or has no effect, the label is unknown, or a model in memory is in
            training mode.
    """

    needs_response = True

    def __init__(
        self,
        model: str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase],
        *,
        scale: float = 1.0,
        offset: float = 0.0,
        label: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        _check("scale", scale, _is_number(scale) and scale != 0, "a number other than 0. The default is 1.0")
        _check("offset", offset, _is_number(offset), "a number. The default is 0.0")
        if isinstance(model, tuple):
            _check_without_effect(device=(device, "auto"), dtype=(dtype, "auto"), revision=(revision, None))
            self._model, tokenizer = check_classifier(model)
            self._tokenizer = copy.deepcopy(tokenizer)  # calls switch settings on it, see tokenization.py
            self._source = type(self._model).__name__
        else:
            _check("model", model, isinstance(model, (str, Path)) and bool(str(model)), _MODELS)
            if Path(model).expanduser().is_dir():
                _check_without_effect(revision=(revision, None))
            self._model, self._tokenizer = compute(lambda: load_classifier(str(model), revision, device, dtype))
            self._source = repr(str(model)) + (f", revision={revision!r}" if revision is not None else "")
        self.scale, self.offset = float(scale), float(offset)
        self._output = _choose_output(self._model.config, label)
        if self._output.is_probability:
            _check_without_effect(scale=(scale, 1.0), offset=(offset, 0.0))
        self.max_tokens = _checked_limit(max_tokens, self._model.config, self._tokenizer)
        self._accepted = frozenset(inspect.signature(self._model.forward).parameters)
        self._weights = fingerprint(self._model, self._tokenizer)
        self._rules = find_turn_rules(partial(self._tokenizer.apply_chat_template, tokenize=False))
        self._lock = make_lock()
        self._try_out()

    @property
    def name(self) -> str:
        """Everything that changes a score: how results and cache keys call this evaluator.

        `weights` is a fingerprint of the model and its tokenizer. It looks at some values of each weight, and so tells
        apart any two models that were trained differently.
        """
        by = f"scale={_plain(self.scale)}, offset={_plain(self.offset)}"
        how = "" if self._output.is_probability else f", {by}"
        return f"RewardModelEvaluator({self._source}, label={self._output.label!r}{how}, weights={self._weights})"

    def __repr__(self) -> str:
        return self.name

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def evaluate(self, request: EvaluationRequest) -> Score:
        """Rate the response of a request.

        Raises:
            EvaluationError: the response is empty, the text is too long or cannot be read, or the model fails or gives
                no finite number. It carries the base response.
        """
        try:
            with self._lock:
                inputs = self._read(request.messages, request.response)
                self._check_length(inputs["input_ids"].shape[-1])
                logits = compute(lambda: self._logits(inputs))
            return self._rated(logits)
        except EvaluationError as error:
            error.base_response = request.response
            raise

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """`evaluate` in a worker thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.evaluate, request)

    def _try_out(self) -> None:
        """Find out now whether the model can rate at all."""
        try:
            inputs = self._read([{"role": "user", "content": "Hi"}], "Hello")
            if set(inputs["input_ids"][0].tolist()) <= set(self._tokenizer.all_special_ids):
                raise EvaluationError(
                    "its tokenizer knows no word. Check that the folder has the tokenizer's files, for which "
                    "transformers may put an empty one."
                )
            compute(lambda: self._logits(inputs))
        except EvaluationError as error:
            raise ModelLoadError(f"The classifier {self._source} cannot rate: {error}") from error

    def _rated(self, logits: Tensor) -> Score:
        output = self._output
        if not bool(torch.isfinite(logits).all()):
            raise EvaluationError(
                f"The classifier {self._source} gave {logits.tolist()}, which are not all finite: no score. Load it "
                f"with dtype='float32', should its values overflow."
            )
        if output.is_probability:
            share = float(torch.softmax(logits, dim=-1)[output.place])
            value = 100.0 * min(1.0, max(math.exp(-_MOST_LOGIT), share))
            return Score(value=value, evaluator=self.name, reason=f"P({output.label}) = {share:.4f}")
        reward = float(logits[output.place])
        logit = max(-_MOST_LOGIT, min(_MOST_LOGIT, self.scale * (reward - self.offset)))
        value = 100.0 / (1.0 + math.exp(-logit))
        return Score(value=value, evaluator=self.name, reason=f"{output.label} {reward:+.4f}")

    def _logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(labels,) float64, on the CPU."""
        if any(module.training for module in self._model.modules()):
            raise EvaluationError(
                f"The model {self._source} is in training mode now, where dropout makes scores random. Call "
                f"model.train(False) before rating."
            )
        accepted = {key: value.to(self._model.device) for key, value in inputs.items() if key in self._accepted}
        without_cache = {"use_cache": False} if "use_cache" in self._accepted else {}
        try:
            with torch.inference_mode():
                logits = getattr(self._model(**accepted, **without_cache), "logits", None)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise EvaluationError(
                f"the model failed on a text of {inputs['input_ids'].shape[-1]} tokens: {error}. Check that model and "
                f"tokenizer belong together, and that max_tokens suits the memory."
            ) from error
        labels = self._model.config.num_labels
        if not isinstance(logits, Tensor) or logits.shape != (1, labels):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else None
            raise EvaluationError(
                f"its logits have the shape {shape} in place of (1, {labels}): use a sequence classifier, e.g. one "
                f"loaded with AutoModelForSequenceClassification."
            )
        return logits[0].cpu().double()  # in this order: not every device has float64

    def _check_length(self, tokens: int) -> None:
        if self.max_tokens is not None and tokens > self.max_tokens:
            raise EvaluationError(
                f"Conversation and response have {tokens} tokens for the classifier {self._source}, and "
                f"max_tokens={self.max_tokens}. Shorten the conversation, raise max_tokens where the model can read "
                f"more, or choose a model with a longer window."
            )

    def _read(self, messages: Sequence[Mapping[str, object]], response: str) -> dict[str, Tensor]:
        """What the model is given, (1, tokens) each. Threads must take turns."""
        if not response:
            raise EvaluationError("The base response is empty, so RewardModelEvaluator has nothing to rate.")
        turns = [*map(_turn, messages), {"role": "assistant", "content": response}]
        try:
            if self._tokenizer.chat_template is None:
                return self._read_pair(turns)
            ids = self._tokenizer.apply_chat_template(
                cast(list[dict[str, str]], self._rules.fit(turns)),
                tokenize=True,
                return_dict=False,
                add_generation_prompt=False,
                sanitize_control_tokens=True,
            )
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise EvaluationError(
                f"The tokenizer of the classifier {self._source} refuses a chat with the roles "
                f"[{', '.join(turn['role'] for turn in turns)}]: {error}. Reorder or merge the messages, or choose a "
                f"model whose chat template takes them."
            ) from error
        input_ids = torch.tensor([ids], dtype=torch.long)
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def _read_pair(self, turns: Sequence[Mapping[str, str]]) -> dict[str, Tensor]:
        questions = [turn["content"] for turn in turns if turn["role"] == "user"]
        if not questions:
            raise EvaluationError("The conversation has no user turn to pair the response with: give it one.")
        pair = self._encode_pair(questions[-1], turns[-1]["content"])
        control = self._control_ids()
        written, meant = (
            sum(token_id in control for token_id in encoded["input_ids"])
            for encoded in (pair, self._encode_pair("a", "b"))
        )
        if written != meant:
            raise EvaluationError(
                f"The tokenizer of the classifier {self._source} makes control tokens out of ordinary text in this "
                f"conversation. Take the control tokens out of the text, or choose another model."
            )
        return {key: torch.tensor([values], dtype=torch.long) for key, values in pair.items()}

    def _encode_pair(self, question: str, response: str) -> Mapping[str, list[int]]:
        encoded = self._tokenizer(question, response, split_special_tokens=True, truncation=False)
        return {key: list(values) for key, values in encoded.items()}

    def _control_ids(self) -> frozenset[int]:
        """Every special token except the one for unknown text, which ordinary text may well become."""
        return frozenset(self._tokenizer.all_special_ids) - {self._tokenizer.unk_token_id}


class _Output(NamedTuple):
    """Which of a classifier's outputs makes the score, and how."""

    place: int
    label: str
    is_probability: bool


_MODELS = "a folder, a Hub id, or a pair (model, tokenizer) in memory, e.g. 'organisation/name'"


def _choose_output(config: PreTrainedConfig, label: str | None) -> _Output:
    labels = cast(Mapping[int, str], config.id2label)  # transformers makes numbers of the keys that JSON made texts
    names = [labels[place] for place in range(len(labels))]
    exclusive = len(names) > 1 and config.problem_type not in ("multi_label_classification", "regression")
    if label is None:
        if len(names) > 2 or (len(names) == 2 and not exclusive):
            raise ConfigError(
                f"RewardModelEvaluator.label is missing: the classifier has several labels, so name the one that makes "
                f"a high score. Its labels are: {', '.join(names)}."
            )
        return _Output(len(names) - 1, names[-1], exclusive)
    if label not in names:
        raise unknown_name("The classifier", str(label), names, "label")
    return _Output(names.index(label), label, exclusive)


def _checked_limit(max_tokens: int | None, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """As many tokens as are wanted, or as the model can read; None where it states no limit."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    stated = [limit for limit in (positions, tokenizer.model_max_length) if isinstance(limit, int) and 0 < limit < 1e9]
    window = min(stated, default=None)
    if max_tokens is None:
        return window
    whole = isinstance(max_tokens, int) and not isinstance(max_tokens, bool) and max_tokens >= 1
    must_be = "a whole number of at least 1" + (f" and at most {window}, which the model can read" if window else "")
    _check("max_tokens", max_tokens, whole and (window is None or max_tokens <= window), must_be)
    return max_tokens


def _turn(message: Mapping[str, object]) -> dict[str, str]:
    """A message as a turn of text alone."""
    role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
    if role not in _ROLES:
        raise EvaluationError(f"A message has the role {shown(role)}: it must be one of {', '.join(_ROLES)}.")
    parts = content if isinstance(content, (list, tuple)) else [] if content is None else [content]
    text = "".join(map(_part_text, parts))
    functions = [call.get("function", call) if isinstance(call, Mapping) else call for call in _as_list(calls)]
    lines = [text] * bool(text) + [json.dumps(function, ensure_ascii=False, default=str) for function in functions]
    return {"role": "user" if role == "tool" else str(role), "content": "\n".join(lines)}


def _part_text(part: object) -> str:
    if isinstance(part, Mapping) and part.get("type") == "image":
        return "[image]"
    text = part.get("text") if isinstance(part, Mapping) else part
    if not isinstance(text, str):
        raise EvaluationError(
            f"A message has content that is no text ({shown(part)}), which RewardModelEvaluator cannot read: describe "
            f"images and files in words."
        )
    return text


def _as_list(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else ()


def _check_without_effect(**given: tuple[object, object]) -> None:
    """Refuse arguments, name -> (value, default), that this model has no use for."""
    for name, (value, default) in given.items():
        must_be = f"left at {default!r}, since it has no effect on this model"
        _check(name, value, value == default, must_be)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: float) -> str:
    return repr(value).removesuffix(".0")
