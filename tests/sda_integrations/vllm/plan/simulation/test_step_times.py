"""The line through measured steps."""

import json

import pytest

from sda_engine.errors import ConfigError
from sda_integrations.vllm.plan.simulation.step_times import StepSample, StepTimes, fit_step_times, read_steps

PLACES = [(1, 0, 100), (8, 0, 900), (8, 0, 8000), (0, 512, 512), (4, 64, 3000), (32, 0, 9000)]


def samples(times):
    return [
        StepSample(rows=rows, prefill_tokens=prefill, kv_tokens=cached, seconds=times.seconds(rows, prefill, cached))
        for rows, prefill, cached in PLACES
    ]


def test_a_line_is_found_again():
    line = StepTimes(base=0.02, row=0.001, prefill_token=0.0005, kv_token=2e-6)
    assert fit_step_times(samples(line)) == line


def test_no_part_is_negative():
    """Rows that cost nothing, and noise that would make them cheaper than that."""
    flat = samples(StepTimes(base=0.02, row=0.0, prefill_token=0.0005, kv_token=2e-6))
    flat[-1] = flat[-1].model_copy(update={"seconds": 0.9 * flat[-1].seconds})
    found = fit_step_times(flat)
    assert found.row == 0
    assert found.base == pytest.approx(0.02, rel=0.1)


def test_steps_that_do_not_tell_the_parts_apart_are_refused():
    alike = [StepSample(rows=rows, prefill_tokens=0, kv_tokens=10 * rows, seconds=0.1) for rows in (1, 2, 4, 8)]
    with pytest.raises(ConfigError, match="4 measured steps do not tell rows, prompt tokens and cached tokens apart"):
        fit_step_times(alike)


def test_a_file_is_read(tmp_path):
    file = tmp_path / "steps.json"
    sample = {"rows": 8, "prefill_tokens": 0, "kv_tokens": 4000, "seconds": 0.05}
    file.write_text(json.dumps({"source": "a CPU", "samples": [sample]}))
    measured = read_steps(file)
    assert (measured.source, measured.samples) == ("a CPU", (StepSample(**sample),))


@pytest.mark.parametrize("text", ["{", '{"samples": []}', '{"source": "", "samples": [{"rows": -1}]}', "[]"])
def test_a_file_of_something_else_is_refused_with_an_example(tmp_path, text):
    file = tmp_path / "steps.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"steps\.json holds no measured steps: .* It must be JSON such as"):
        read_steps(file)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match="No such file or directory"):
        read_steps(tmp_path / "none.json")
