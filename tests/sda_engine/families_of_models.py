"""Forty families of models and what the engine makes of each: every reason for which families differ is among them."""

from dataclasses import dataclass
from typing import Literal

from benchmarks.census_models.types import Group

Runner = Literal["flat", "own cache"]


@dataclass(frozen=True)
class Family:
    """A type, why it is here, and what is expected of it.

    Attributes:
        model_type: a type of transformers, or a variant of the census.
        shows: what tells it from a plain model.
        runner: what runs it exactly; None where it is refused.
        refused: words of the reason, as a regular expression.
        group: what it is built as.
    """

    model_type: str
    shows: str
    runner: Runner | None = "flat"
    refused: str = ""
    group: Group = "decoder"

    def __str__(self) -> str:
        return f"{self.model_type} ({self.shows})"


_ATTENTION = (
    Family("llama", "plain"),
    Family("gpt2", "learned positions"),
    Family("mixtral", "experts"),
    Family("qwen3: window", "windows in some layers"),
    Family("gemma2", "soft caps of scores"),
    Family("gemma3_text", "positions by kind of layer"),
    Family("deepseek_v3", "latent attention: values smaller than keys"),
    Family("gpt_oss", "attention sinks"),
    Family("mimo_v2_flash", "sinks beside windows"),
    Family("gemma3n_text", "layers that share keys and values"),
    Family("gemma4_text: E2B, shared layers", "shared keys and values of two sizes"),
    Family("llama4_text", "chunks, and a temperature by cached length"),
    Family("ministral3", "a temperature by position"),
    Family("deepseek_v32: short of top-k", "indexed attention that leaves nothing out"),
    Family("nemotron", "layers that hand no keyword arguments down"),
)

_STATES = (
    Family("qwen3_next", "linear attention"),
    Family("qwen3_5_text", "linear attention, positions of three axes"),
    Family("kimi_linear", "linear attention beside latent attention"),
    Family("lfm2", "convolutions"),
    Family("falcon_h1", "Mamba-2 and attention in one layer"),
    Family("nemotron_h", "layers of which some neither attend nor remember"),
    Family("granitemoehybrid", "Mamba-2 beside attention"),
    Family("mamba2", "states alone: no layer stores keys and values"),
    Family("granitemoehybrid: dense", "a class with states, layers without"),
)

_PICTURES = (
    Family("llava", "a decoder within", group="vision"),
    Family("qwen2_5_vl", "positions of three axes", group="vision"),
    Family("video_llama_3", "logits of all tokens, whatever is asked for", group="vision"),
    Family("deepseek_vl", "a decoder that takes attention functions in a model that does not", group="vision"),
    Family("chameleon", "tokens that are ruled out by a huge logit", group="vision"),
)

_OWN_CACHE = (
    Family("mamba", "Mamba-1: a prompt goes in as a whole", "own cache"),
    Family("minimax", "a cache of its own making", "own cache"),
    Family("diffllama", "attention twice, and a difference", "own cache"),
    Family("falcon", "an attention of its own", "own cache"),
    Family("codegen", "an attention of its own, and a configuration that names no padding", "own cache"),
    Family("bloom", "a bias by distance", "own cache"),
)

_REFUSED = (
    Family("rwkv", "states in no cache that transformers knows", None, "recurrent|cache"),
    Family("xlstm", "a cache of another kind", None, "recurrent|cache"),
    Family("paligemma", "a prefix that sees ahead", None, "attention", group="vision"),
    Family("unlimited_ocr", "a window that the cache alone knows of", None, "attention|cache", group="vision"),
    Family("bart", "an encoder", None, "encoder|attend", group="encoder-decoder"),
)

FAMILIES = (*_ATTENTION, *_STATES, *_PICTURES, *_OWN_CACHE, *_REFUSED)
