"""Tiny models that see, saved as their makers save them: configuration, weights, tokenizer and processor."""

import json
from pathlib import Path

import transformers as hf

from sda_engine.testing import tiny_tokenizer
from tests.sda_engine.decoding.architectures import random_model, text_settings

_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
# of each family: its class, the settings of its configuration, its image processor, the tokens that stand for pictures
FAMILIES = {
    "llava": (
        hf.LlavaForConditionalGeneration,
        lambda: hf.LlavaConfig(
            text_config=hf.LlamaConfig(**_text()), vision_config=hf.CLIPVisionConfig(**_TOWER), image_token_index=320
        ),
        lambda: hf.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        {"image_token": "<image>"},
        {"processor_class": "LlavaProcessor", "patch_size": 14, "vision_feature_select_strategy": "default"},
    ),
    "qwen2_5_vl": (
        hf.Qwen2_5_VLForConditionalGeneration,
        lambda: hf.Qwen2_5_VLConfig(
            text_config=_text(rope_parameters=_ROPE),
            vision_config={
                "depth": 1,
                "hidden_size": 32,
                "out_hidden_size": 64,
                "num_heads": 2,
                "intermediate_size": 32,
            },
        ),
        lambda: hf.Qwen2VLImageProcessorPil(),
        {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        {"processor_class": "Qwen2_5_VLProcessor"},
    ),
    "gemma3": (
        hf.Gemma3ForConditionalGeneration,
        lambda: hf.Gemma3Config(text_config=_text(), vision_config=_TOWER, mm_tokens_per_image=4),
        lambda: hf.Gemma3ImageProcessorPil(size={"height": 28, "width": 28}),
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        {"processor_class": "Gemma3Processor", "image_seq_length": 4},
    ),
    "idefics3": (
        hf.Idefics3ForConditionalGeneration,
        lambda: hf.Idefics3Config(
            text_config=hf.LlamaConfig(**_text()), vision_config=_TOWER, image_token_id=320, scale_factor=2
        ),
        lambda: hf.Idefics3ImageProcessorPil(),
        {"image_token": "<image>"},
        {"processor_class": "Idefics3Processor", "image_seq_len": 1},
    ),
    "internvl": (
        hf.InternVLForConditionalGeneration,
        lambda: hf.InternVLConfig(
            text_config=hf.Qwen2Config(**_text()),
            vision_config={**_TOWER, "image_size": [28, 28], "patch_size": [14, 14]},
            image_token_id=320,
        ),
        lambda: hf.GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}),
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        {"processor_class": "InternVLProcessor", "image_seq_length": 1},
    ),
    "mistral3": (
        hf.Mistral3ForConditionalGeneration,
        lambda: hf.Mistral3Config(
            text_config=hf.MistralConfig(**_text()),
            vision_config=hf.PixtralVisionConfig(**{**_TOWER, "head_dim": 16}),
            image_token_index=320,
            spatial_merge_size=2,
        ),
        lambda: hf.PixtralImageProcessorPil(size={"longest_edge": 28}, patch_size=14),
        {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"},
        {"processor_class": "PixtralProcessor", "patch_size": 14, "spatial_merge_size": 2},
    ),
}


def _text(**more):
    return text_settings(vocab_size=328, **more)


def save_sighted(family: str, folder: Path) -> hf.PreTrainedModel:
    """Save a tiny model of a family that sees, with all that lies beside one; the model itself comes back."""
    model_class, config, image_processor, tokens, processor = FAMILIES[family]
    model = random_model(model_class, config())
    model.save_pretrained(folder)
    save_processor(folder, image_processor(), tokens, processor)
    return model


def save_processor(folder, image_processor, tokens, settings):
    """As transformers saves a processor, whose parts for videos cannot be made without torchvision."""
    plain = tiny_tokenizer()
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        extra_special_tokens=tokens,
        chat_template=plain.chat_template,
    )
    tokenizer.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(settings))
