"""Options of `sda vllm --plan`: vLLM's own where it has them, and what a plan needs beside. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from sda_integrations.vllm.plan.gpus import GPUS


def _gpus(*names: str, text: str, **settings: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="GPUs", **settings)


def _engine(*names: str, text: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="As vllm serve takes them")


def _request(text: str, **limits: Any) -> Any:
    return typer.Option(help=text, rich_help_panel="Requests", **limits)


@dataclass(frozen=True)
class PlanOptions:
    """What to plan for."""

    gpu: Annotated[str | None, _gpus(text=f"One of {', '.join(GPUS)}.")] = None
    gpu_memory: Annotated[float | None, _gpus(text="GiB of a GPU, where it is another.")] = None
    bandwidth: Annotated[float | None, _gpus(text="TB per second from its memory, where it is another.")] = None
    overhead: Annotated[
        float,
        _gpus(text="GiB on each GPU for activations, CUDA graphs and libraries. vLLM measures them at its start."),
    ] = 4.0
    tensor_parallel_size: Annotated[
        int, _engine("--tensor-parallel-size", "-tp", text="GPUs that share each layer.")
    ] = 1
    pipeline_parallel_size: Annotated[
        int, _engine("--pipeline-parallel-size", "-pp", text="1: groups of rows do not run on more.")
    ] = 1
    data_parallel_size: Annotated[
        int, _engine("--data-parallel-size", "-dp", text="Engines, each with all the weights.")
    ] = 1
    gpu_memory_utilization: Annotated[float, _engine(text="Of a GPU's memory, above 0 and at most 1.")] = 0.92
    block_size: Annotated[int, _engine(text="Tokens of a block; some attention backends take more, as vLLM logs.")] = 16
    max_num_seqs: Annotated[
        int | None, _engine(text="Rows at once. Default: vLLM's, 1024 on large GPUs and 256 on others.")
    ] = None
    dtype: Annotated[str, _engine(text="auto, bfloat16, float16 or float32.")] = "auto"
    quantization: Annotated[
        str | None, _engine("--quantization", "-q", text="fp8, awq, gptq or bitsandbytes. Default: as the files say.")
    ] = None
    kv_cache_dtype: Annotated[str, _engine(text="auto, bfloat16, float16 or fp8.")] = "auto"
    weight_bytes: Annotated[float | None, _gpus(text="Bytes of a quantized weight, where no name tells.")] = None
    prompt_tokens: Annotated[int, _request("Of the prompt.", min=1)] = 1000
    instruction_tokens: Annotated[int, _request("By which each other row's prompt is longer.", min=0)] = 40
    answer_tokens: Annotated[int, _request("Of the answer.", min=1)] = 300
    rows: Annotated[
        int,
        _request("Of a steered request: 2; 3 with an avoided context; one more for each alignment combined.", min=1),
    ] = 2
    common_tokens: Annotated[
        int | None,
        _request(
            "That all prompts begin with. Default: all but the last 5 of the prompt, since the instruction stands "
            "after the question; give the tokens before it where it stands elsewhere.",
            min=0,
        ),
    ] = None
