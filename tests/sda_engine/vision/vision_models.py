"""Tiny random models that see, with real processors, and pictures for them."""

import importlib
import sys
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    GotOcr2ImageProcessorPil,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    InternVLProcessor,
    LlavaProcessor,
    PixtralImageProcessorPil,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen3VLProcessor,
)

from sda_engine import SteeringEngine
from sda_engine.pictures import Picture
from sda_engine.testing import tiny_tokenizer

# as models that see have it: contents are lists of parts, or texts
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# as that of SmolVLM: lists alone
PARTS_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] | capitalize }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>Assistant:{% endif %}"
)
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
_SIGHT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def picture(seed, size=(40, 28)):
    """A picture of noise in blocks, with colours of its own."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels, "RGB").resize(size, Image.Resampling.NEAREST)


def _tokenizer(image_token, more=(), **named):
    tokenizer = tiny_tokenizer(chat_template=None)
    tokens = [image_token, *more, *named.values()]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    for name, token in {"image_token": image_token, **named}.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def _model(model_type, tokenizer, text, sight, **more):
    config = AutoConfig.for_model(
        model_type,
        text_config={**_TEXT, "vocab_size": len(tokenizer), **text},
        vision_config={**_SIGHT, **sight},
        **{"image_token_id": tokenizer.image_token_id, "tie_word_embeddings": False, **more},
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        model = AutoModelForImageTextToText.from_config(config)
        for name, weights in model.named_parameters():
            if weights.ndim >= 2:
                scale = 0.5 if "embed" in name else 1.6 / weights[0].numel() ** 0.5
                weights.copy_(torch.randn(weights.shape) * scale)
            elif weights.ndim == 1:
                weights.add_(torch.randn(weights.shape) * 0.2)
    model.train(False)
    return model


def _template(image_token, template=TEMPLATE):
    return template.replace("IMAGE", image_token)


def llava():
    tokenizer = _tokenizer("<image>")
    model = _model(
        "llava",
        tokenizer,
        {"model_type": "llama"},
        {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8},
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    sight = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        sight,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image>"),
    )
    return model, processor


def pixtral():
    """Pixtral: LLaVA with a tower that takes any size, and tokens that break the lines of a picture."""
    tokenizer = _tokenizer("[IMG]", ["[IMG_BREAK]", "[IMG_END]"])
    model = _model(
        "llava",
        tokenizer,
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "pixtral", "image_size": 64, "patch_size": 8},
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return model, _pixtral_processor(tokenizer)


def mistral3():
    tokenizer = _tokenizer("[IMG]", ["[IMG_BREAK]", "[IMG_END]"])
    model = _model(
        "mistral3",
        tokenizer,
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "pixtral", "image_size": 64, "patch_size": 8},
        vision_feature_layer=-1,
        spatial_merge_size=2,
    )
    return model, _pixtral_processor(tokenizer, spatial_merge_size=2)


def _pixtral_processor(tokenizer, spatial_merge_size=1):
    sight = PixtralImageProcessorPil(size={"longest_edge": 48}, patch_size={"height": 8, "width": 8})
    return _pixtral_processor_class()(
        sight, tokenizer, patch_size=8, spatial_merge_size=spatial_merge_size, chat_template=_template("[IMG]")
    )


def _pixtral_processor_class():
    """transformers' own, which for one function of a module imports torchvision; its twin for PIL has that function."""
    package = "transformers.models.pixtral"
    twin = importlib.import_module(f"{package}.image_processing_pil_pixtral")
    with patch.dict(sys.modules, {f"{package}.image_processing_pixtral": twin}):
        return importlib.import_module(f"{package}.processing_pixtral").PixtralProcessor


_QWEN = ["<|vision_start|>", "<|vision_end|>"]
_ROPE = {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [1, 1, 2]}


def _qwen_processor(processor_class, tokenizer, patch_size):
    sight = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}, patch_size=patch_size, merge_size=2
    )
    return without_videos(processor_class)(
        sight, tokenizer, None, chat_template=_template("<|vision_start|><|image_pad|><|vision_end|>")
    )


def without_videos(processor_class):
    """The processor's class, which takes None for what processes videos: that needs torchvision."""

    class WithoutVideos(processor_class):
        def check_argument_for_proper_class(self, argument_name, argument):
            return type(None) if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    WithoutVideos.__name__ = processor_class.__name__
    return WithoutVideos


def _qwen_ids(tokenizer):
    return {
        "video_token_id": tokenizer.video_token_id,
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }


def qwen2_5_vl():
    tokenizer = _tokenizer("<|image_pad|>", _QWEN, video_token="<|video_pad|>")
    model = _model(
        "qwen2_5_vl",
        tokenizer,
        {"rope_parameters": _ROPE},
        {
            "depth": 2,
            "num_heads": 4,
            "patch_size": 8,
            "window_size": 32,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
        },
        **_qwen_ids(tokenizer),
    )
    return model, _qwen_processor(Qwen2_5_VLProcessor, tokenizer, 8)


def qwen3_vl():
    tokenizer = _tokenizer("<|image_pad|>", _QWEN, video_token="<|video_pad|>")
    model = _model(
        "qwen3_vl",
        tokenizer,
        {"rope_parameters": _ROPE},
        {
            "depth": 3,
            "num_heads": 4,
            "patch_size": 8,
            "deepstack_visual_indexes": [0, 1],
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
        },
        **_qwen_ids(tokenizer),
    )
    return model, _qwen_processor(Qwen3VLProcessor, tokenizer, 8)


def qwen3_5():
    """Qwen 3.5: layers that carry states beside those that attend, and positions of three axes."""
    tokenizer = _tokenizer("<|image_pad|>", _QWEN, video_token="<|video_pad|>")
    model = _model(
        "qwen3_5",
        tokenizer,
        {
            "rope_parameters": _ROPE,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
        {"depth": 3, "num_heads": 4, "patch_size": 8, "out_hidden_size": 32, "num_position_embeddings": 64},
        **_qwen_ids(tokenizer),
    )
    return model, _qwen_processor(Qwen3VLProcessor, tokenizer, 8)


def gemma3():
    """Gemma 3: the tokens of a picture see each other in both directions, in layers with a window too."""
    tokenizer = _tokenizer("<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    model = _model(
        "gemma3",
        tokenizer,
        {
            "model_type": "gemma3_text",
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 8,
        },
        {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 4, "vision_use_head": False},
        mm_tokens_per_image=16,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    sight = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    return model, Gemma3Processor(sight, tokenizer, image_seq_length=16, chat_template=_template("<start_of_image>"))


def smolvlm():
    """SmolVLM with the processor of Idefics3, from which it differs in videos alone: its own needs num2words."""
    return idefics3("smolvlm")


def idefics3(model_type="idefics3"):
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = _tokenizer("<image>", ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows])
    sight = Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    processor = Idefics3Processor(sight, tokenizer, image_seq_len=4, chat_template=_template("<image>", PARTS_TEMPLATE))
    model = _model(
        model_type,
        tokenizer,
        {"model_type": "llama"},
        {"image_size": 32, "patch_size": 8},
        scale_factor=2,
    )
    return model, processor


def internvl():
    tokenizer = _tokenizer(
        "<IMG_CONTEXT>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    sight = GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=3, min_patches=1
    )
    processor = without_videos(InternVLProcessor)(
        sight, tokenizer, None, image_seq_length=4, chat_template=_template("<IMG_CONTEXT>\n")
    )
    model = _model(
        "internvl",
        tokenizer,
        {"model_type": "qwen2"},
        {"image_size": [32, 32], "patch_size": [8, 8]},
        downsample_ratio=0.5,
    )
    return model, processor


FAMILIES = {
    "LLaVA": llava,
    "Pixtral": pixtral,
    "Mistral 3": mistral3,
    "Qwen2.5-VL": qwen2_5_vl,
    "Qwen3-VL": qwen3_vl,
    "Qwen 3.5": qwen3_5,
    "Gemma 3": gemma3,
    "Idefics3": idefics3,
    "SmolVLM": smolvlm,
    "InternVL": internvl,
}


class SeeingEngine(SteeringEngine):
    """An engine that its test can ask for the processor."""

    processor = None


def engine_of(family, **options):
    """An engine on a tiny model of a family."""
    model, processor = FAMILIES[family]()
    engine = SeeingEngine(model, processor.tokenizer, processor=processor, name=family, **options)
    engine.processor = processor
    return engine


def ours(messages):
    """Messages of transformers as the engine has them inside."""
    return [{**message, "content": [_ours(part) for part in message["content"]]} for message in messages]


def _ours(part):
    return {"type": "image", "picture": Picture.of(part["image"])} if part["type"] == "image" else part


def processor_inputs(processor, messages):
    """What transformers makes of a chat by itself."""
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )


@torch.inference_mode()
def loop_with_pictures(model, rows, strengths, max_new_tokens, ends):
    """Greedy SDA as separate forward passes over whole texts, pictures included: no cache, no batch.

    Args:
        rows: row -> the processor's inputs, "base" first, "instructed" and "avoided" where wanted.
        strengths: (strength, avoid_strength).
    """
    strength, avoid_strength = strengths
    rows = {row: dict(inputs) for row, inputs in rows.items()}
    tokens = []
    while len(tokens) < max_new_tokens:
        logprobs = {}
        for row, inputs in rows.items():
            output = model(**inputs, use_cache=False)
            logprobs[row] = torch.log_softmax(output.logits[0, -1].double(), dim=-1)
            if hasattr(model.base_model, "rope_deltas"):
                model.base_model.rope_deltas = None
        base = logprobs["base"]
        instructed = logprobs.get("instructed", base)
        steered = instructed + strength * (instructed - base)
        if "avoided" in logprobs:
            steered = steered - avoid_strength * (logprobs["avoided"] - base)
        tokens.append(int(steered.argmax()))
        if tokens[-1] in ends:
            break
        for inputs in rows.values():
            for name, more in {"input_ids": tokens[-1], "attention_mask": 1}.items():
                inputs[name] = torch.cat([inputs[name], torch.tensor([[more]])], dim=1)
            for name in ("token_type_ids", "mm_token_type_ids"):
                if name in inputs:
                    inputs[name] = torch.cat([inputs[name], torch.tensor([[0]])], dim=1)
    return tokens
