"""Which family a type belongs to, by the beginning of its name; the longest one that fits counts."""

from collections.abc import Mapping
from types import MappingProxyType

ONE_OF_ITS_KIND = "others"

_BEGINNINGS: Mapping[str, str] = MappingProxyType(
    {
        "A.X": "axk",
        "Aria": "aria",
        "BERT": "bert big_bird electra ernie megatron-bert rembert roc_bert roformer modernbert",
        "BART": "bart bigbird_pegasus blenderbot marian mbart mvp pegasus plbart prophetnet",
        "BLIP": "blip instructblip",
        "BLOOM": "bloom",
        "Command": "cohere aya",
        "Cosmos": "cosmos",
        "DeepSeek": "deepseek janus unlimited_ocr",
        "dots": "dots",
        "ERNIE 4.5": "ernie4_5 paddleocr",
        "EXAONE": "exaone",
        "Falcon": "falcon",
        "Gemma": "gemma vaultgemma recurrent_gemma shieldgemma paligemma diffusion_gemma t5gemma",
        "GLM": "glm",
        "GPT": "gpt openai-gpt codegen ctrl",
        "Granite": "granite bamba",
        "HunYuan": "hunyuan hy_",
        "HyperCLOVA": "hyperclovax",
        "Idefics, SmolVLM": "idefics smolvlm",
        "Inkling": "inkling",
        "InternLM, InternVL": "internlm internvl",
        "Kimi": "kimi",
        "Kosmos": "kosmos",
        "LFM": "lfm",
        "Llama": "llama mllama",
        "LLaVA": "llava vipllava video_llava fast_vlm perception_lm",
        "LongCat": "longcat",
        "Mamba": "mamba",
        "MiniCPM": "minicpm cpmant",
        "MiniMax": "minimax",
        "Mistral": "mistral ministral mixtral lighton_ocr",
        "MPT, DBRX": "mpt dbrx",
        "Muse": "muse",
        "Nemotron": "nemotron",
        "OLMo": "olmo flex_olmo molmo",
        "OPT": "opt xglm biogpt",
        "Phi": "phi",
        "Qwen": "qwen",
        "RoBERTa": "roberta camembert data2vec xlm-roberta xmod",
        "RWKV, xLSTM": "rwkv xlstm",
        "SmolLM": "smollm",
        "speech and music": "moshi moss musicgen whisper",
        "Starcoder": "starcoder gpt_bigcode",
        "Zamba, ZAYA": "zamba zaya",
    }
)
_FAMILY_OF = {beginning: family for family, all_of_it in _BEGINNINGS.items() for beginning in all_of_it.split()}


def family_of(model_type: str) -> str:
    """The family's name, or ONE_OF_ITS_KIND."""
    fitting = [beginning for beginning in _FAMILY_OF if model_type.startswith(beginning)]
    return _FAMILY_OF[max(fitting, key=len)] if fitting else ONE_OF_ITS_KIND
