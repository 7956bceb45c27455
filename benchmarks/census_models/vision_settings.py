"""What single types need that also see or hear. They are shown no picture: their towers only have to be built."""

from collections.abc import Mapping
from types import MappingProxyType

from .settings import PLAIN_ROPE, ROPE_BY_LAYER, ROPE_WITH_TEMPERATURE, SLIDING_AND_FULL, TEXT_SETTINGS, Settings
from .shape import LAYERS, THRESHOLD

# Heads of 16 turn by eight frequencies; these are shared out to time, height and width
_ROPE_OF_THREE = {**PLAIN_ROPE, "mrope_section": [2, 3, 3]}
_INTERLEAVED_ROPE = {**_ROPE_OF_THREE, "mrope_interleaved": True}
_HALF_ROPE = {**PLAIN_ROPE, "mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
_MARKERS = {"<image>": 250, "IMGIMGABCD": 251, "<|extra_200|>": 252, "<|visual token 000000|>": 251}


def _text(settings: Settings) -> Settings:
    return {"text_config": settings}


def _rope(parameters: Settings) -> Settings:
    return _text({"rope_parameters": parameters})


_TEXT_PARTS: dict[str, Settings] = {
    "cohere_compass": _text(TEXT_SETTINGS["cohere_compass_text"]),
    "deepseek_ocr2": _text({"mlp_layer_types": ["dense", "sparse"] * (LAYERS // 2)}),
    "gemma3n": _text(TEXT_SETTINGS["gemma3n_text"]),
    "glm5_next": _text({"head_dim": 0, "qk_rope_head_dim": 0, "index_kpool": 4}),
    "inkling2": {"vision_config": {"text_hidden_size": 64}, **_text(TEXT_SETTINGS["inkling2_text"])},
    "inkling_mm_model": _text(TEXT_SETTINGS["inkling_text"]),
    "lfm2_vl": _text(TEXT_SETTINGS["lfm2"]),
    "minimax_m3_vl": _text(TEXT_SETTINGS["minimax_m3_vl_text"]),
    "qwen4_exp": _text(TEXT_SETTINGS["qwen4_exp_text"]),
    "step3p7": _text(
        {
            "layer_types": SLIDING_AND_FULL,
            "sliding_window": THRESHOLD,
            "num_sliding_attention_heads": 4,
            "rope_parameters": ROPE_BY_LAYER,
        }
    ),
}

_POSITIONS_OF_SEVERAL_AXES: dict[str, Settings] = {
    "cosmos3_edge": _rope(_ROPE_OF_THREE),
    "ernie4_5_vl_moe": _text(
        {
            "moe_intermediate_size": [32, 16],  # of text and of pictures
            "rope_parameters": {**PLAIN_ROPE, "mrope_section": [3, 3, 2]},
        }
    ),
    "glm46v": _rope(_ROPE_OF_THREE),
    "glm4v": _rope(_ROPE_OF_THREE),
    "glm4v_moe": _rope(_HALF_ROPE),
    "glm_ocr": _rope(_ROPE_OF_THREE),
    "glmga": _rope(_ROPE_OF_THREE),
    "hunyuan_vl": _text({"head_dim": 16, "rope_parameters": {**PLAIN_ROPE, "mrope_section": [2, 2, 2, 2]}}),
    "mistral4": {
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "head_dim": 16,
        "num_key_value_heads": 4,
        "rope_parameters": {**ROPE_WITH_TEMPERATURE, "partial_rotary_factor": 0.5},
    },
    "paddleocr_vl": _rope(_ROPE_OF_THREE),
    "qwen2_5_omni_thinker": _rope(_ROPE_OF_THREE),
    "qwen2_5_vl": _rope(_ROPE_OF_THREE),
    "qwen2_vl": _rope(_ROPE_OF_THREE),
    "qwen3_omni_moe_thinker": _rope(_INTERLEAVED_ROPE),
    "qwen3_vl": _rope(_INTERLEAVED_ROPE),
    "qwen3_vl_moe": _rope(_INTERLEAVED_ROPE),
}

_TOWERS: dict[str, Settings] = {
    "chameleon": {"vocabulary_map": _MARKERS},
    "dots3_note": {
        "vision_config": {"adapter_in_dim": 64, "adapter_out_dim": 64, "hidden_size": 64},
        "audio_config": {
            "adapter_out_dim": 64,
            "adapter_input_size": 64,
            "hidden_size": 64,
            "num_key_value_heads": 4,
        },
    },
    "emu3": {"vocabulary_map": _MARKERS},
    "fast_vlm": {"vision_config": _SIGLIP},
    "granite4_vision": {"deepstack_layer_map": [], "spatial_target_layers": [], "downsample_rate": "1/2"},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}, "vision_config": {"image_size": [28, 28]}},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "perception_lm": {"vision_config": {"model_args": {"embed_dim": 64}}},
}

VISION_SETTINGS: Mapping[str, Settings] = MappingProxyType({**_TEXT_PARTS, **_POSITIONS_OF_SEVERAL_AXES, **_TOWERS})
