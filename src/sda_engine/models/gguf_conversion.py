"""Convert a GGUF file once into a folder that transformers loads in seconds.

transformers takes about 25 s to load a GGUF file (its tokenizer has to be rebuilt, its weights unpacked), and
refuses to save what it loaded. So: load, move the weights into a plain model of the same architecture, save that.
"""

import json
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
from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from sda_engine.errors import ModelLoadError

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_EDGE = 2**22  # bytes at either end of a file that go into its checksum
_NO_ARCHITECTURES = {"general", "tokenizer", "t5", "umt5"}  # and what has an encoder, which is not steered
_FORMAT = "1"  # part of every cache key; raise it when the conversion changes


def converted_folder(gguf_file: Path) -> Path:
    """The folder with the converted model, converting it first where that has not been done, or is spoilt.

    A crash leaves no half-written folder: the work happens beside it and is renamed into place. Of several
    processes one converts and the others wait for it.

    Args:
        gguf_file: an existing GGUF file of an architecture that transformers can read.
    """
    cache = cache_folder()
    target = cache / _folder_name(gguf_file)
    if is_whole(target):
        return target
    with FileLock(cache / f"{target.name}.lock"):
        if not is_whole(target):
            for stale in cache.glob(f".{target.name}.*"):  # of a process that died; nobody else holds the lock
                shutil.rmtree(stale)
            logger.info("Converting %s into %s; this is done once and takes half a minute.", gguf_file, target)
            work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=cache))  # of mode 0700
            try:
                _convert(gguf_file, work)
                _write_manifest(work)
                if target.exists():  # spoilt; gone before the new one is there, after which nobody would look for it
                    spoilt = target.rename(work.with_suffix(".spoilt"))
                    shutil.rmtree(spoilt)
                work.rename(target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return target


def find_converted_folder(gguf_file: Path) -> Path | None:
    """The folder with the converted model, where there is one already.

    Raises:
        ModelLoadError: others may write to the cache folder.
    """
    target = cache_folder() / _folder_name(gguf_file)
    return target if is_whole(target) else None


def is_whole(folder: Path) -> bool:
    """Whether a converted folder holds what was written there: files of the same sizes, and the same bytes.

    The bytes of weights are not read again, which would take as long as loading them: their beginning and their end
    are. It shows a file that a full disk or a lost cache of the system has cut off or left empty.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest) and all(_seal(folder / name) == seal for name, seal in manifest.items())
    except (OSError, ValueError, AttributeError):
        return False


def cache_folder() -> Path:
    """Where converted models live: SDA_CACHE_DIR, or the user's cache folder; readable by its owner alone.

    Raises:
        ModelLoadError: it was there before, and others may write to it.
    """
    cache = cache_path()
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.name == "posix" and cache.stat().st_mode & 0o022:
        raise ModelLoadError(
            f"Others may write to the folder of converted models, {str(cache)!r}, and could change what is loaded. "
            f"Make it your own (chmod 700), or name another one in SDA_CACHE_DIR."
        )
    return cache


def cache_path() -> Path:
    """Where that folder is, or would be."""
    configured = os.environ.get("SDA_CACHE_DIR")
    return Path(configured) if configured else user_cache_path("sda-integrations") / "models"


def _convert(gguf_file: Path, target: Path) -> None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
        loaded = AutoModelForCausalLM.from_pretrained(
            gguf_file.parent,
            gguf_file=gguf_file.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
    except ValueError as error:
        if "architecture" not in str(error) and "Unrecognized configuration class" not in str(error):
            raise
        raise _unread_architecture(gguf_file, error) from error
    if hasattr(loaded.config, "quantization_config"):  # the weights are unpacked, and the new model an ordinary one
        del loaded.config.quantization_config
    with torch.device("meta"):  # it takes over the weights that are there: two copies might not fit into memory
        model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _unread_architecture(gguf_file: Path, error: ValueError) -> ModelLoadError:
    read = sorted({*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_ARCHS} - _NO_ARCHITECTURES)
    reason = str(error).strip().splitlines()[0].rstrip(".")
    return ModelLoadError(
        f"The GGUF file {str(gguf_file)!r} cannot be converted: {reason}. transformers reads the architectures "
        f"{', '.join(read)}. Choose a file of one of these, or the model's own safetensors weights."
    )


def _write_manifest(folder: Path) -> None:
    """Write down each file's seal, last of all, once the disk has everything."""
    seals = {}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as written:
            os.fsync(written.fileno())
        seals[file.name] = _seal(file)
    with (folder / _MANIFEST).open("w", encoding="utf-8") as manifest:
        json.dump(seals, manifest)
        manifest.flush()
        os.fsync(manifest.fileno())


def _seal(file: Path) -> str:
    """Size and SHA-256 of a file; of a large one the checksum of its two ends."""
    with file.open("rb") as content:
        size = os.fstat(content.fileno()).st_size
        digest = sha256(content.read(_EDGE))
        content.seek(max(size - _EDGE, min(size, _EDGE)))
        digest.update(content.read(_EDGE))
    return f"{size}:{digest.hexdigest()}"


def _folder_name(gguf_file: Path) -> str:
    return f"{gguf_file.stem}-{_fingerprint(gguf_file)}"


def _fingerprint(gguf_file: Path) -> str:
    """Sixteen hexadecimal digits that change with the file and with the conversion."""
    state = gguf_file.stat()
    return sha256(f"{_FORMAT}|{gguf_file.name}|{state.st_size}|{state.st_mtime_ns}".encode()).hexdigest()[:16]
