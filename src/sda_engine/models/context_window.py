"""The context window of a model, from its configuration: without loading weights, and without the Hub."""

import json
import logging
import struct
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from sda_engine.models.loading import ModelSettings, find_model
from sda_engine.models.stated_window import context_window

logger = logging.getLogger(__name__)

_MAGIC, _MOST_ENTRIES, _MOST_BYTES = b"GGUF", 1000, 2**16
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of GGUF's numbers, by type
_TEXT, _ARRAY = 8, 9


def context_window_of(settings: ModelSettings) -> int | None:
    """Tokens that a model can attend to, prompt and answer together; what loading it would give.

    Returns:
        None where it cannot be told from what lies on this machine: a Hub model that was never downloaded, or files
        that cannot be read. Nothing is raised, since loading the model will say what is wrong.
    """
    source = find_model(settings.model)
    try:
        if isinstance(source, Path):
            return _of_folder(source) if source.is_dir() else _read_gguf(source, source.stat().st_mtime_ns)
        cached = try_to_load_from_cache(source, "config.json", revision=settings.revision)
        return _of_folder(Path(cached).parent) if isinstance(cached, str) else None
    except Exception as error:  # noqa: BLE001 - a stranger's files can break transformers anywhere
        logger.debug("The context window of %r cannot be told yet: %s", settings.model, error)
        return None


def _of_folder(folder: Path) -> int | None:
    return _read_folder(folder, (folder / "config.json").stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _read_folder(folder: Path, _changed: int) -> int | None:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer = folder / "tokenizer_config.json"
    stated = json.loads(tokenizer.read_text(encoding="utf-8")) if tokenizer.is_file() else {}
    return context_window(config, int(stated.get("model_max_length", VERY_LARGE_INTEGER))).tokens


@lru_cache(maxsize=64)
def _read_gguf(file: Path, _changed: int) -> int | None:
    """The context length in the header of a GGUF file, which stands before its long lists of tokens."""
    with file.open("rb") as header:
        if header.read(4) != _MAGIC:
            return None
        _, _, entries = struct.unpack("<IQQ", header.read(20))
        for _ in range(min(entries, _MOST_ENTRIES)):
            name = _read_text(header)
            kind = _read_number(header, 4)
            if name.endswith(b".context_length"):
                return _read_number(header, _WIDTHS[kind])
            _skip(header, kind)
    return None


def _skip(header: BinaryIO, kind: int) -> None:
    if kind == _TEXT:
        _read_text(header)
    elif kind == _ARRAY:
        of, length = _read_number(header, 4), _read_number(header, 8)
        if of in _WIDTHS:
            header.seek(_WIDTHS[of] * length, 1)
        else:
            for _ in range(min(length, _MOST_ENTRIES)):
                _skip(header, of)
    else:
        header.seek(_WIDTHS[kind], 1)


def _read_text(header: BinaryIO) -> bytes:
    length = _read_number(header, 8)
    if length > _MOST_BYTES:
        raise ValueError(f"a text of {length} bytes before the context length")
    return header.read(length)


def _read_number(header: BinaryIO, width: int) -> int:
    digits = header.read(width)
    if len(digits) < width:
        raise ValueError("the file ends before the context length")
    return int.from_bytes(digits, "little")
