"""Reports to files and results from files."""

import os
from pathlib import Path

from pydantic import ValidationError

from sda_engine.errors import ConfigError
from sda_integrations.studies.report.figures import figures_of
from sda_integrations.studies.report.markdown import markdown_of
from sda_integrations.studies.report.page import page_of
from sda_integrations.studies.report.readings import Readings
from sda_integrations.studies.results import StudyResults

RESULTS_FILE = "results.json"


def write_report(results: StudyResults, folder: Path) -> None:
    """Write report.html, report.md, results.json and a picture of each plane into a folder, which is made if need be.

    Each file is replaced in one step: whoever reads it meanwhile has the whole old or the whole new one, and one that
    cannot be written leaves the old one.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / RESULTS_FILE, results.model_dump_json(indent=1) + "\n")  # first: all else follows from it
        _replace(folder / "report.md", markdown_of(results))
        _replace(folder / "report.html", page_of(results))
        for name, picture in figures_of(Readings(results)).items():
            _replace(folder / name, picture)
    except OSError as error:
        raise ConfigError(
            f"The report cannot be written to {str(folder)!r}: {error.strerror or error}. Give a folder that can be "
            "written, on a disk with some megabytes left."
        ) from error


def load_results(path: Path) -> StudyResults:
    """The results of a study from its results.json.

    Raises:
        ConfigError: there is no such file, or it is none that `write_report` has written.
    """
    try:
        return StudyResults.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"There are no results to read in {str(path)!r}: {error.strerror or error}. Give the {RESULTS_FILE} that a "
            "study has written."
        ) from error
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise ConfigError(
            f"{str(path)!r} holds no results of a study: {f'{place}: ' if place else ''}{problem['msg']}. Give the "
            f"{RESULTS_FILE} that a study has written, or run the study again."
        ) from error


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
