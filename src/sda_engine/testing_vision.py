"""A tiny model that sees, for `sda_engine.testing`."""

from typing import Any

import torch
from transformers import (
    AddedToken,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

IMAGE_TOKEN = "<image>"  # noqa: S105 - of a vocabulary
VISION_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PATCH = 8  # pixels each way that one image token shows


def tiny_vision_model(
    tokenizer: PreTrainedTokenizerFast, shape: dict[str, Any], *, seed: int, picture_tokens: int
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A random LLaVA of two layers with its processor. torch's global random state is left alone.

    Args:
        tokenizer: gets one token more.
        shape: of the decoder, without the size of its vocabulary.
        picture_tokens: that each picture takes; a square number.
    """
    side = _PATCH * round(picture_tokens**0.5)
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
    config = LlavaConfig(
        text_config=LlamaConfig(**{**shape, "vocab_size": len(tokenizer)}),
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=side,
            patch_size=_PATCH,
            initializer_range=0.3,
        ),
        image_token_index=len(tokenizer) - 1,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.train(False)
    processor = LlavaProcessor(  # type: ignore[no-untyped-call]
        CLIPImageProcessorPil(size={"height": side, "width": side}, do_center_crop=False),
        tokenizer,
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VISION_TEMPLATE,
    )
    return model, processor
