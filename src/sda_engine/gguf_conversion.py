"""Convert a GGUF file once into a folder that transformers loads in seconds.

transformers takes about 25 s to load a GGUF file (its tokenizer has to be rebuilt, its weights unpacked), and
refuses to save what it loaded. So: load, move the weights into a plain model of the same architecture, save that.
"""

import logging
import os
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path

import torch
from filelock import FileLock
from platformdirs import user_cache_path
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

logger = logging.getLogger(__name__)

_FORMAT = "1"  # part of every cache key; raise it when the conversion changes


def converted_folder(gguf_file: Path) -> Path:
    """The folder with the converted model, converting it first where that has not been done.

    A crash leaves no half-written folder: the work happens beside it and is renamed into place. Of several
    processes one converts and the others wait for it.

    Args:
        gguf_file: an existing GGUF file of an architecture that transformers can read.
    """
    cache = cache_folder()
    target = cache / f"{gguf_file.stem}-{_fingerprint(gguf_file)}"
    if target.is_dir():
        return target
    with FileLock(cache / f"{target.name}.lock"):
        if not target.is_dir():
            for stale in cache.glob(f".{target.name}.*"):  # of a process that died; nobody else holds the lock
                shutil.rmtree(stale)
            logger.info("Converting %s into %s; this is done once and takes half a minute.", gguf_file, target)
            work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=cache))
            try:
                _convert(gguf_file, work)
                work.rename(target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return target


def cache_folder() -> Path:
    """Where converted models live: SDA_CACHE_DIR, or the user's cache folder; readable by its owner alone."""
    configured = os.environ.get("SDA_CACHE_DIR")
    cache = Path(configured) if configured else user_cache_path("sda-integrations") / "models"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    return cache


def _convert(gguf_file: Path, target: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    if hasattr(loaded.config, "quantization_config"):  # the weights are unpacked, and the new model an ordinary one
        del loaded.config.quantization_config
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _fingerprint(gguf_file: Path) -> str:
    """Sixteen hexadecimal digits that change with the file and with the conversion."""
    state = gguf_file.stat()
    return sha256(f"{_FORMAT}|{gguf_file.name}|{state.st_size}|{state.st_mtime_ns}".encode()).hexdigest()[:16]
