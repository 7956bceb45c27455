"""Reports as files, and results that are read again."""

import json
from xml.etree import ElementTree

import pytest

from sda_engine.errors import ConfigError
from sda_integrations.studies.report import load_results, write_report
from tests.sda_integrations.studies.report.made_up import made_up_results


@pytest.fixture(scope="module")
def results():
    return made_up_results()


def test_written_results_come_back_the_same(results, tmp_path):
    write_report(results, tmp_path / "deep" / "out")
    folder = tmp_path / "deep" / "out"
    files = {path.name for path in folder.iterdir() if path.suffix != ".svg"}
    assert files == {"report.html", "report.md", "results.json"}
    assert load_results(folder / "results.json") == results
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_report_that_cannot_be_written_leaves_the_old_one(results, tmp_path, monkeypatch):
    write_report(results, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_report(made_up_results(title="Another"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_a_file_is_refused(results, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="Give a folder"):
        write_report(results, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"{", "JSON"), (b"\xff", "JSON"), (b"{}", "study: Field required"), (None, "No such file")],
)
def test_broken_results_are_refused(tmp_path, content, problem):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        load_results(path)


def test_an_unknown_field_of_results_is_named(results, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**json.loads(results.model_dump_json()), "winner": "me"}))
    with pytest.raises(ConfigError, match="winner"):
        load_results(path)


def test_each_plane_is_a_picture_of_its_own(results, tmp_path):
    write_report(results, tmp_path)
    pictures = list(tmp_path.glob("plane-*.svg"))
    assert {picture.stem.removeprefix("plane-") for picture in pictures} <= set(results.tasks)
    assert pictures
    for picture in pictures:
        root = ElementTree.parse(picture).getroot()  # noqa: S314 - our own
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "steered 4" in picture.read_text(encoding="utf-8")
