"""What the two ways to run a model cost beside plain loops over transformers.

    python benchmarks/runners.py [--repetitions 5] [--tokens 32] [--requests 1 8] [--types qwen3_5_text gptj]

Random models of four layers in float32: a hybrid, whose rows share one flat pass; one on its own cache whose rows are
joined; and one whose rows go through passes of their own. Tokens per second of greedy answers of a fixed length:

    engine        all requests at once, steered, two rows each
    generate      transformers' own, one request after the other, one row each: not steered
    two forwards  two rows with a cache each, one request after the other, steered

All in one run, in turn. The ratios say how many times as fast the engine is.
"""

import asyncio
from collections.abc import Sequence

import torch
import transformers
from texts import quiet
from timing import describe_machine, make_parser, measure, print_table
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from sda_engine import Alignment, Sampling, Steering, SteeringEngine
from sda_engine.prompts import make_contexts
from sda_engine.steering import steer
from sda_engine.testing import tiny_tokenizer
from sda_engine.tokens import SafeTokenizer

STRENGTH, AMPLIFICATION = 1.0, 0.5  # with the gain of 2
ALIGNMENT = Alignment(instruction="Be brief.")
TEXTS = [
    f"Tell me how the {number + 2} foxes find the library, " + "and who asks them for it, " * number
    for number in range(8)
]
SHAPE: dict[str, object] = {"vocab_size": 320, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8}
TYPES: dict[str, dict[str, object]] = {
    "qwen3_5_text": {
        "intermediate_size": 768,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
    },
    "gptj": {"rotary_dim": 16},
    "deepseek_v4": {
        "num_key_value_heads": 1,
        "head_dim": 32,
        "q_lora_rank": 64,
        "o_lora_rank": 64,
        "o_groups": 2,
        "qk_rope_head_dim": 16,
        "moe_intermediate_size": 128,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 64,
        "index_n_heads": 16,
        "index_head_dim": 16,
        "index_topk": 64,
    },
}

Prompts = tuple[list[int], list[int]]


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--types", nargs="+", choices=[*TYPES], default=[*TYPES])
    arguments = parser.parse_args()
    quiet()
    print(describe_machine(torch.float32))
    rows = []
    for model_type in arguments.types:
        with SteeringEngine(random_model(model_type), tiny_tokenizer()) as engine:
            for requests in arguments.requests:
                rows.append(compare(engine, TEXTS[:requests], arguments.tokens, arguments.repetitions))
    print_table(
        f"Tokens per second, medians of {arguments.repetitions}",
        ["type", "runner", "requests", "engine", "generate", "x generate", "two forwards", "x two forwards"],
        rows,
        texts=2,
    )


def random_model(model_type: str) -> PreTrainedModel:
    """A model that never ends its answers by itself."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](**SHAPE, **TYPES[model_type], bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = []  # None would mean the tokenizer's
    return model.eval()


def compare(engine: SteeringEngine, texts: Sequence[str], tokens: int, repetitions: int) -> list[str]:
    """One line of the table."""
    prompts = [prompts_of(engine, text) for text in texts]
    timings = measure(
        {
            "engine": lambda: asyncio.run(answer(engine, texts, tokens)),
            "generate": lambda: [generate(engine.model, base, tokens) for base, _ in prompts],
            "two forwards": lambda: [two_forwards(engine.model, pair, tokens) for pair in prompts],
        },
        repetitions,
    )
    engine_speed, generate_speed, loop_speed = (len(texts) * tokens / timing.median for timing in timings.values())
    return [
        engine.model.config.model_type,
        str(engine.describe()["runner"]),
        str(len(texts)),
        f"{engine_speed:.0f}",
        f"{generate_speed:.0f}",
        f"{engine_speed / generate_speed:.2f}",
        f"{loop_speed:.0f}",
        f"{engine_speed / loop_speed:.2f}",
    ]


def prompts_of(engine: SteeringEngine, text: str) -> Prompts:
    """The base prompt and the instructed one, as the engine makes them."""
    contexts = make_contexts([{"role": "user", "content": text}], ALIGNMENT, SafeTokenizer(engine.tokenizer))
    base, instructed = ([*contexts.shared, *tail] for tail in contexts.tails.values())
    return base, instructed


async def answer(engine: SteeringEngine, texts: Sequence[str], tokens: int) -> None:
    """All of them at once."""
    sampling = Sampling(temperature=0, max_new_tokens=tokens)
    steering = Steering(policy="paper", amplification=AMPLIFICATION)
    asked = [
        engine.agenerate([{"role": "user", "content": text}], ALIGNMENT, steering=steering, sampling=sampling)
        for text in texts
    ]
    for completion in await asyncio.gather(*asked):
        if len(completion.token_ids) != tokens:
            raise RuntimeError(f"an answer has {len(completion.token_ids)} tokens, and {tokens} were asked for")


def generate(model: PreTrainedModel, prompt: list[int], tokens: int) -> None:
    """One row, by transformers."""
    ids = torch.tensor([prompt])
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)


@torch.inference_mode()
def two_forwards(model: PreTrainedModel, prompts: Prompts, tokens: int) -> None:
    """Two rows, each on a cache that the model makes."""
    caches: list[object] = [None, None]
    fed = [torch.tensor([prompt]) for prompt in prompts]
    for _ in range(tokens):
        logprobs = []
        for row, ids in enumerate(fed):
            output = model(input_ids=ids, past_key_values=caches[row], use_cache=True)
            caches[row] = output.past_key_values
            logprobs.append(torch.log_softmax(output.logits[:, -1].float(), dim=-1))
        fed = [steer(logprobs[0], logprobs[1], STRENGTH).argmax(dim=-1, keepdim=True)] * 2


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
