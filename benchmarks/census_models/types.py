"""All types of the two mappings of transformers, in the groups that are counted apart.

Encoder-decoders are no group of the census: none runs, and a test says so.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from .settings import VARIANTS

Group = Literal["variant", "other", "vision", "decoder", "encoder-decoder"]

# Causal by their mapping alone
_ENCODERS = (
    "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert reformer rembert roberta "
    "roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xlnet xmod"
)
_DECODERS_OF_ENCODER_DECODERS = (
    "bart bigbird_pegasus blenderbot blenderbot-small git marian mbart mvp pegasus plbart prophetnet trocr whisper"
)
_SPEECH_AND_MUSIC = "moshi moss_transcribe_diarize musicgen musicgen_melody"
_OTHERS = frozenset(f"{_ENCODERS} {_DECODERS_OF_ENCODER_DECODERS} {_SPEECH_AND_MUSIC}".split())

TYPES: Mapping[Group, tuple[str, ...]] = MappingProxyType(
    {
        "variant": tuple(VARIANTS),
        "other": tuple(sorted(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name in _OTHERS)),
        "vision": tuple(sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)),
        "decoder": tuple(sorted(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in _OTHERS)),
    }
)
