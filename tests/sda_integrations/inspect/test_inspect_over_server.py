"""A whole eval of Inspect over the real server."""

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import get_model
from inspect_ai.scorer import includes

from sda_engine.testing import ScriptedEngine
from tests.sda_integrations.inspect_runs import RUNS_INSPECT
from tests.servers import serving

pytestmark = RUNS_INSPECT


def test_an_eval_over_a_server_is_scored_and_has_the_figures_of_each_answer(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SDA_API_KEY", "a-key-of-inspect")
    task = Task(dataset=[Sample(input="Is it?", target="Yes"), Sample(input="Or not?", target="No")], scorer=includes())
    with ScriptedEngine("Yes.") as engine, serving(engine, api_keys=("a-key-of-inspect",)) as url:
        model = get_model(
            "sda/scripted", base_url=f"{url}/v1", alignment="honesty", gain=2.0, amplification=0.5, memoize=False
        )
        (log,) = eval(task, model=model, display="none", log_dir=str(tmp_path), max_tokens=9)
    assert log.status == "success"
    assert log.results.scores[0].metrics["accuracy"].value == 0.5
    for sample in log.samples:
        figures = sample.output.metadata["sda"]
        assert (figures["alignment"], figures["strength"]) == ("honesty", 1.0)
        assert len(figures["tokens"]) == figures["completion_tokens"]
    assert [request.sampling.max_new_tokens for request in engine.requests] == [9, 9]
