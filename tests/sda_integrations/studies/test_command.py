from typer.testing import CliRunner

from sda_engine.cli.app import make_app
from sda_integrations.studies import command
from sda_integrations.studies.results import Failure, StudyResults

STUDY = """
name = "mine"
title = "My study"
question = "Does it?"
limit = 9
[[tasks]]
name = "rag"
[arms.plain]
kind = "plain"
"""


def results(**changes):
    made = {
        "study": "mine",
        "title": "My study",
        "question": "Does it?",
        "baseline": "plain",
        "protocol": {"digest": "d1"},
    }
    return StudyResults(**{**made, "tasks": {"rag": 2}, "arms": (), "measures": (), "figures": (), **changes})


def run(monkeypatch, tmp_path, found, *arguments):
    """`sda evaluate` with a study that has run already; what it was asked for, and what it said."""
    asked = []

    def run_study(study, out, **settings):
        asked.append((study, settings))
        out.mkdir()
        return found

    monkeypatch.setattr("sda_integrations.studies.running.run_study", run_study)
    path = tmp_path / "mine.toml"
    path.write_text(STUDY)
    given = ["evaluate", str(path), "--out", str(tmp_path / "out"), *arguments]
    return asked, CliRunner().invoke(make_app(), given)


def test_a_study_leaves_a_report_and_prints_it(monkeypatch, tmp_path):
    asked, done = run(monkeypatch, tmp_path, results(), "--limit", "4", "--resume", "--model", "org/m")
    assert done.exit_code == 0, done.output
    ((study, settings),) = asked
    assert (study.model, study.tasks[0].limit, settings["resume"]) == ("org/m", 4, True)
    assert {one.name for one in (tmp_path / "out").iterdir()} == {"report.html", "report.md", "results.json"}
    assert "My study" in done.output


def test_samples_without_an_answer_are_told_by_the_exit_code(monkeypatch, tmp_path):
    failure = Failure(task="rag", arm="plain", sample="1", error="no")
    _, done = run(monkeypatch, tmp_path, results(failures=(failure,)))
    assert done.exit_code == 2
    assert "1 samples have no answer or no verdict" in done.output
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_missing_extra_is_told_before_anything_is_imported(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "_NEEDS", ("inspect_ai", "no_such_module"))
    _, done = run(monkeypatch, tmp_path, results())
    assert done.exit_code == 2
    assert "no_such_module" in done.output
    assert "sda-integrations[evaluate]" in done.output
