"""VLLMClient: vLLM's asynchronous engine, asked for groups; and what is known of the model that it has loaded."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import AutoTokenizer
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from sda_engine.errors import ConfigError, SDAError
from sda_engine.models import ContextWindow, ModelFacts, ModelSettings, check_templates
from sda_integrations.vllm.task_runner import Decoded, GroupLimits, GroupRequest, died

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.engine.protocol import EngineClient


class VLLMClient:
    """vLLM's engine, as its server sees it.

    Args:
        engine: of vLLM.
    """

    def __init__(self, engine: "EngineClient") -> None:
        self._engine = engine

    @property
    def alive(self) -> bool:
        """Whether its engine runs."""
        return not self._engine.errored

    async def decode(self, request: GroupRequest, request_id: str) -> AsyncGenerator[Decoded, None]:
        """Decode a group. Closing the iterator aborts it.

        Raises:
            EngineClosedError: the engine has died.
            ConfigError: vLLM refuses the request.
            SDAError: vLLM failed.
        """
        prompt: dict[str, object] = {"prompt_token_ids": list(request.prompt)}
        if request.cache_salt is not None:
            prompt["cache_salt"] = request.cache_salt
        try:
            async with aclosing(self._engine.generate(prompt, _params(request), request_id)) as outputs:
                async for output in outputs:
                    completion = output.outputs[0]
                    told = [
                        {token_id: entry.logprob for token_id, entry in place.items()}
                        for place in completion.logprobs or ()
                    ]
                    tokens = tuple(zip(completion.token_ids, told, strict=True))
                    why = completion.stop_reason if completion.finish_reason == "error" else None
                    yield Decoded(tokens, output.num_cached_tokens, completion.finish_reason, why)
        except EngineDeadError as error:
            raise died() from error
        except VLLMClientError as error:
            raise ConfigError(f"vLLM refuses the request: {error}") from error
        except EngineGenerateError as error:
            if not self.alive:
                raise died() from error
            raise SDAError("vLLM failed at this request; the server's log tells why. Send it again.") from error


@dataclass(frozen=True)
class VLLMModel:
    """What is known of the model that vLLM has loaded.

    Attributes:
        place: device and dtype.
        vocab_size: of its logits.
        limits: what one group may need.
    """

    facts: ModelFacts
    place: tuple[str, str]
    vocab_size: int
    limits: GroupLimits


def read_model(config: "VllmConfig", chat_template: str | None, most_requests: int | None) -> VLLMModel:
    """What vLLM's configuration tells of its model.

    Args:
        config: of a server whose engine has started.
        chat_template: that the server was given in place of the model's own; None for none.
        most_requests: that may be taken on at once; None for no limit.

    Raises:
        ModelLoadError: the chat template takes too much time or memory.
    """
    model, cache = config.model_config, config.cache_config
    tokenizer = AutoTokenizer.from_pretrained(
        model.tokenizer, revision=model.tokenizer_revision, trust_remote_code=False
    )
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    check_templates(tokenizer)
    window = ContextWindow(model.max_model_len, model.max_model_len)
    engines = config.parallel_config.data_parallel_size
    return VLLMModel(
        facts=ModelFacts(ModelSettings(model=model.model), tokenizer, _ends(config, tokenizer.eos_token_id), window),
        place=(config.device_config.device_type, str(model.dtype).removeprefix("torch.")),
        vocab_size=model.get_vocab_size(),
        limits=GroupLimits(
            sequences=config.scheduler_config.max_num_seqs,
            tokens=(cache.num_gpu_blocks or 0) // engines * cache.block_size,
            requests=most_requests,
        ),
    )


def _ends(config: "VllmConfig", fallback: int | None) -> frozenset[int]:
    """Every token that ends an answer."""
    ends = config.model_config.try_get_generation_config().get("eos_token_id", fallback)
    if ends is None:
        return frozenset()
    return frozenset(ends if isinstance(ends, (list, tuple)) else [ends])


def _params(request: GroupRequest) -> SamplingParams:
    """vLLM's own sampling takes what the processor leaves: the most likely token."""
    grammar = request.grammar
    return SamplingParams(
        temperature=0.0,
        max_tokens=request.max_tokens,
        stop_token_ids=list(request.stop_token_ids),
        logprobs=request.logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=None if grammar is None else StructuredOutputsParams(grammar=grammar),
        extra_args=dict(request.extra_args),
    )
