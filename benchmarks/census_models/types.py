"""All types of the two mappings of transformers, in the groups that are counted apart."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from .settings import VARIANTS

Group = Literal["variant", "other", "vision", "decoder"]

# Causal by their mapping alone: encoders, decoders that wait for an encoder's states, models of speech and music
_OTHERS = frozenset(
    "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert reformer rembert roberta "
    "roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xlnet xmod "
    "bart bigbird_pegasus blenderbot blenderbot-small git marian mbart mvp pegasus plbart prophetnet trocr whisper "
    "moshi moss_transcribe_diarize musicgen musicgen_melody".split()
)

TYPES: Mapping[Group, tuple[str, ...]] = MappingProxyType(
    {
        "variant": tuple(VARIANTS),
        "other": tuple(sorted(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name in _OTHERS)),
        "vision": tuple(sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)),
        "decoder": tuple(sorted(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in _OTHERS)),
    }
)
