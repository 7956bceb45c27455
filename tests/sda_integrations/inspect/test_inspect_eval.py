"""Whole evals: over a scripted engine, and steered on the real model."""

import subprocess
import sys

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import get_model
from inspect_ai.scorer import includes

import sda_integrations.inspect
from sda_engine.errors import EvaluationError
from sda_engine.testing import ScriptedEvaluator
from tests.sda_integrations.inspect_runs import RUNS_INSPECT

pytestmark = RUNS_INSPECT

WITHOUT_INSPECT = """
import sys
sys.modules["inspect_ai"] = None
try:
    import sda_integrations.inspect
except ImportError as error:
    print(error)
"""


def run(model, samples, tmp_path, **settings) -> EvalLog:
    task = Task(dataset=[Sample(input=question, target=target) for question, target in samples], scorer=includes())
    (log,) = eval(task, model=model, display="none", log_dir=str(tmp_path), **settings)
    return log


def test_an_eval_of_two_samples_is_scored_and_logged(scripted, tmp_path) -> None:
    engine = scripted("Yes.", "No.")
    model = get_model("sda/scripted", engine=engine, alignment="honesty", evaluator="simulated:0", memoize=False)
    log = run(model, [("Is it?", "Yes"), ("Or is it?", "Yes")], tmp_path, max_connections=1, max_samples=1)
    assert log.status == "success"
    assert log.results.scores[0].metrics["accuracy"].value == 0.5
    read = read_eval_log(log.location)
    figures = read.samples[0].output.metadata["sda"]
    assert figures["alignment"] == "honesty"
    assert figures["judge_calls"] == 1
    assert read.samples[0].output.usage.output_tokens > figures["completion_tokens"]
    assert read.eval.model_args["alignment"] == "honesty"


def test_a_refused_setting_fails_the_eval_and_names_itself(scripted, tmp_path) -> None:
    model = get_model("sda/scripted", engine=scripted(), memoize=False)
    log = run(model, [("Is it?", "Yes")], tmp_path, presence_penalty=0.5)
    assert log.status == "error"
    assert "GenerateConfig.presence_penalty cannot be 0.5" in log.error.message


def test_a_failed_rating_fails_its_sample_alone(scripted, tmp_path) -> None:
    judge = ScriptedEvaluator([80, EvaluationError("no verdict")])
    model = get_model("sda/scripted", engine=scripted("Yes."), alignment="honesty", evaluator=judge, memoize=False)
    log = run(model, [("Is it?", "Yes"), ("Or?", "Yes")], tmp_path, fail_on_error=False, max_samples=1)
    assert log.status == "success"
    assert ["no verdict" in sample.error.message if sample.error else None for sample in log.samples] == [None, True]


def test_without_inspect_the_error_names_the_extra() -> None:
    run = [sys.executable, "-c", WITHOUT_INSPECT]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120)
    assert "pip install 'sda-integrations[inspect]'" in done.stdout


def test_the_public_names_are_exactly_these() -> None:
    assert sda_integrations.inspect.__all__ == ["SDAModelAPI", "SimulatedEvaluator", "sda"]
    for name in sda_integrations.inspect.__all__:
        assert getattr(sda_integrations.inspect, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'SDAModel'"):
        _ = sda_integrations.inspect.SDAModel


@pytest.mark.slow
@pytest.mark.default_policy
def test_the_real_model_answers_a_task_steered(smollm2, tmp_path) -> None:
    model = get_model(
        f"sda/{smollm2.name}", engine=smollm2, alignment="honesty", evaluator="contrastive", memoize=False
    )
    log = run(model, [("What is the capital of France?", "Paris")], tmp_path, temperature=0.0, max_tokens=12)
    assert log.status == "success"
    (sample,) = log.samples
    assert sample.scores["includes"].value == "C"
    figures = sample.output.metadata["sda"]
    assert "Paris" in figures["base_response"]
    assert figures["score"]["evaluator"].startswith("ContrastiveEvaluator")
    assert sum(figures["seconds"].values()) <= sample.output.time
