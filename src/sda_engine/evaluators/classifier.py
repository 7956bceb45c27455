"""Load a sequence classifier of transformers, and tell it apart from any other."""

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sda_engine.errors import ConfigError, ModelLoadError
from sda_engine.models import check_hub, check_templates, resolve_device, resolve_dtype

_AUTO_CLASS = "AutoModelForSequenceClassification"
_SAMPLES = 64  # values of each weight that the fingerprint looks at

Classifier = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load_classifier(model: str, revision: str | None, device: str, dtype: str) -> Classifier:
    """Load a classifier and its tokenizer. Remote code is never run, and only safetensors weights are read.

    Args:
        model: a local folder or a Hub id.
        revision: see ModelSettings.
        device: see ModelSettings.
        dtype: see ModelSettings.

    Raises:
        ModelLoadError: there is no such classifier, or transformers cannot load it.
        ConfigError: device or dtype is unknown or not available here.
    """
    place = resolve_device(device)
    precision = resolve_dtype(dtype, place)
    path = Path(model).expanduser()
    source = str(path) if path.is_dir() else model
    try:
        if not path.is_dir():
            check_hub(source, revision)
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        if _AUTO_CLASS in (getattr(config, "auto_map", None) or {}):
            raise ModelLoadError(
                f"The classifier {model!r} brings code of its own, which is never run. Read that code, load the model "
                f"with it yourself, and pass the pair (model, tokenizer)."
            )
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        check_templates(tokenizer)
        loaded, report = AutoModelForSequenceClassification.from_pretrained(
            source,
            config=config,
            revision=revision,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=precision,
            output_loading_info=True,
        )
    except ModelLoadError:
        raise
    except Exception as error:  # a stranger's files can break transformers anywhere
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelLoadError(
            f"The classifier {model!r} could not be loaded: {reason.rstrip('.')}. Check that it is a folder with "
            f"config.json, a tokenizer and safetensors weights, or a Hub id 'organisation/name' that this machine can "
            f"reach (HF_TOKEN for a gated one)."
        ) from error
    if report["missing_keys"]:
        raise ModelLoadError(
            f"The model {model!r} is no trained classifier: {', '.join(sorted(report['missing_keys']))} would be "
            f"random. Choose one that was saved with its classification head."
        )
    loaded.to(place)
    return loaded.train(False), tokenizer


def check_classifier(pair: tuple[object, ...]) -> Classifier:
    """A model in memory and its tokenizer, if they can be used as they are.

    Raises:
        ConfigError: they are anything else, or the model is in training mode.
    """
    match pair:
        case (PreTrainedModel() as model, PreTrainedTokenizerBase() as tokenizer):
            if any(module.training for module in model.modules()):
                raise ConfigError(
                    f"The {type(model).__name__} is in training mode, where dropout makes scores random, and a model "
                    f"of yours is never changed: call model.train(False) first."
                )
            return model, tokenizer
    kinds = ", ".join(type(part).__name__ for part in pair)
    raise ConfigError(
        f"RewardModelEvaluator.model cannot be a tuple ({kinds}): it must be a pair (model, tokenizer) of transformers."
    )


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """12 hex digits of the weights (some of each), the configuration, the vocabulary and the chat template."""
    digest = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            if value.numel() and not value.is_meta:
                flat = value.detach().reshape(-1)
                some = flat[:: max(1, flat.numel() // _SAMPLES)].contiguous().cpu()
                digest.update(some.view(torch.uint8).numpy().tobytes())
    words = [tokenizer.chat_template, sorted(tokenizer.get_vocab().items())]
    digest.update(json.dumps(words).encode())
    return digest.hexdigest()[:12]
