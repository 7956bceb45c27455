"""Where the samples of tasks come from: JSON lines on this machine, or a data set on the Hub at one revision."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sda_engine.errors import ConfigError
from sda_engine.evaluation.json_lines import read_json_lines

Row = Mapping[str, object]


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        file: what its JSON lines are called in a folder.
        hub: its id on the Hub; None where the Hub does not have it in this form.
        subset: its configuration there.
        split: its split there.
        revision: the commit that figures are told for; None: the one that is the newest when a study begins.
    """

    file: str
    hub: str | None = None
    subset: str | None = None
    split: str = "test"
    revision: str | None = None


@dataclass(frozen=True)
class Source:
    """Where rows came from, for the protocol.

    Attributes:
        name: a file's name, or id and commit on the Hub.
        rows: how many there are.
        digest: SHA-256 of all rows, as JSON with sorted keys.
    """

    name: str
    rows: int
    digest: str


def read_rows(
    data: DataSet, *, folder: Path | None = None, file: str | None = None, revision: str | None = None
) -> tuple[list[Row], Source]:
    """All rows of a data set.

    Args:
        data: which.
        folder: where files of JSON lines lie; one with the set's name is taken from there.
        file: the path of one file, in place of all else.
        revision: a branch, tag or commit of the Hub, in place of the pinned one.

    Raises:
        ConfigError: a file cannot be read, or there is none and the Hub cannot be reached or has no such set.
    """
    path = Path(file) if file is not None else None if folder is None else folder / data.file
    if path is not None and (file is not None or path.is_file()):
        rows = read_json_lines(path, lambda record: record, what="sample", example='{"prompt": "..."}')
        return rows, Source(path.name, len(rows), digest_of(rows))
    if data.hub is None:
        raise ConfigError(
            f"{data.file} is needed, a set that the Hub does not have in this form: give --data FOLDER that holds it, "
            f"or 'data' in the study."
        )
    found, commit = _read_from_hub(data, data.hub, revision or data.revision)
    return found, Source(f"{data.hub}@{commit}", len(found), digest_of(found))


def digest_of(value: object) -> str:
    """SHA-256 of plain JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _read_from_hub(data: DataSet, name: str, revision: str | None) -> tuple[list[Row], str]:
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise ConfigError(
            "Data sets on the Hub need the package datasets: pip install 'sda-integrations[evaluate]', or give --data "
            "FOLDER with files of JSON lines."
        ) from error
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        commit = HfApi().dataset_info(name, revision=revision).sha or "unknown"
        loaded = load_dataset(name, data.subset, split=data.split, revision=commit)
    except (OSError, ValueError, HfHubHTTPError, DatasetsError) as error:  # unreachable, unknown, or a script
        raise ConfigError(
            f"The data set {name} cannot be had from the Hub: {error}. Give --data FOLDER that holds {data.file}, one "
            f"JSON object a line."
        ) from error
    return [dict(row) for row in loaded], commit
