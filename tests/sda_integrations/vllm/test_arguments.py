"""Arguments of `vllm serve` that do not go with steering are refused by name, and no others."""

from argparse import Namespace

import pytest

from sda_engine.errors import ConfigError
from sda_integrations.vllm.arguments import refuse_arguments, refuse_parsed

REFUSED = [
    (["--scheduler-cls", "mine.Scheduler"], "--scheduler-cls mine.Scheduler"),
    (["--scheduler_cls=mine.Scheduler"], "--scheduler-cls mine.Scheduler"),
    (["--speculative-config", '{"method": "ngram"}'], "--speculative-config"),
    (["--speculative-config.method", "ngram"], "--speculative-config ngram"),
    (["-sc", "{}"], "--speculative-config"),
    (["--pipeline-parallel-size", "2"], "--pipeline-parallel-size 2"),
    (["-pp=2"], "--pipeline-parallel-size 2"),
    (["--scheduling-policy", "priority"], "--scheduling-policy priority"),
    (["--kv-transfer-config", "{}"], "--kv-transfer-config"),
    (["--kv-offloading-size", "4"], "--kv-offloading-size"),
    (["--enable-batch-sharded-sampling"], "--enable-batch-sharded-sampling"),
    (["--no-enable-chunked-prefill"], "--no-enable-chunked-prefill"),
    (["--logits-processors", "a:B"], "--logits-processors"),
    (["--logprobs-mode", "raw_logits"], "--logprobs-mode raw_logits"),
    (["--max-logprobs", "20"], "--max-logprobs 20"),
    (["--structured-outputs-config.backend", "xgrammar"], "--structured-outputs-config xgrammar"),
    (["--grpc", "--port", "80"], "--grpc"),
    (["--model", "other"], "--model"),
]
TAKEN = [
    ["--enable-lora", "--lora-modules", "a=b"],
    ["-tp", "4", "--data-parallel-size", "2"],
    ["--pipeline-parallel-size", "1", "--scheduling-policy=fcfs"],
    ["--max-logprobs", "-1"],
    ["--max-logprobs=200"],
    ["--logprobs-mode", "processed_logprobs"],
    ["--port", "8000", "--enforce-eager", "--quantization", "fp8"],
    ["--api-key", "pp"],
    ["--chat-template", "--model"[2:]],
]


@pytest.mark.parametrize(("arguments", "named"), REFUSED)
def test_what_does_not_go_with_steering_is_refused_by_name(arguments, named):
    with pytest.raises(ConfigError, match=f"^vLLM's {named}.* cannot be given: .+ Leave it out.$"):
        refuse_arguments(["--seed", "1", *arguments])


@pytest.mark.parametrize("arguments", TAKEN)
def test_all_else_is_handed_on(arguments):
    refuse_arguments(arguments)


DEFAULTS = {
    "scheduler_cls": None,
    "speculative_config": None,
    "pipeline_parallel_size": 1,
    "enable_chunked_prefill": None,
    "max_logprobs": 20,
    "grpc": False,
}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("scheduler_cls", "mine.Scheduler"),
        ("speculative_config", {"method": "ngram"}),
        ("pipeline_parallel_size", 2),
        ("enable_chunked_prefill", False),
        ("max_logprobs", 19),
        ("grpc", True),
    ],
)
def test_an_abbreviation_is_refused_once_it_is_understood(setting, value):
    with pytest.raises(ConfigError, match=setting.replace("_", "-")):
        refuse_parsed(Namespace(**{**DEFAULTS, setting: value}), Namespace(**DEFAULTS))


def test_the_defaults_of_vllm_are_fine_and_so_are_legal_values():
    given = {**DEFAULTS, "enable_chunked_prefill": True, "max_logprobs": 128, "model": "other/than-default"}
    refuse_parsed(Namespace(**given), Namespace(**DEFAULTS, model="default"))
