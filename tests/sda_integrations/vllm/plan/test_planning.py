"""Plans: what fits, and what an error says where nothing does."""

from dataclasses import replace

import pytest

from sda_engine.errors import ConfigError
from sda_integrations.vllm.plan.gpus import GIB, GPUS, find_gpu
from sda_integrations.vllm.plan.models import PRESETS, Experts
from sda_integrations.vllm.plan.options import PlanOptions
from sda_integrations.vllm.plan.planning import make_plan
from sda_integrations.vllm.plan.precision import QUANTIZATIONS, cache_bytes, weight_bytes

LLAMA = PRESETS["llama-3.1-8b"]
LARGE = PRESETS["llama-3.3-70b"]
H100 = PlanOptions(gpu="h100")


def test_what_is_left_of_a_gpu_goes_to_keys_and_values():
    plan = make_plan(LLAMA, H100)
    assert plan.budget == pytest.approx(79.2 * 0.92 * GIB)
    assert plan.deployment.weights == 2 * LLAMA.parameters
    assert plan.cache_memory == plan.budget - plan.deployment.weights - 4 * GIB
    assert plan.blocks == int(plan.cache_memory // (16 * 128 * 1024)) - 1


def test_as_many_requests_fit_as_there_are_blocks_for():
    plan = make_plan(LLAMA, H100)
    assert plan.plain.blocks.total == 82  # 1300 tokens
    assert plan.steered.blocks.total == 62 + 20 + 22  # 995 in common; 1300 and 1340
    assert (plan.plain.at_once, plan.steered.at_once) == (plan.blocks // 82, plan.blocks // 104)


def test_vllms_limit_of_rows_counts_every_row():
    plan = make_plan(LLAMA, replace(H100, max_num_seqs=101))
    assert (plan.plain.at_once, plan.steered.at_once) == (101, 50)
    assert plan.steered.rows_decide


def test_more_gpus_hold_a_part_each_of_weights_and_heads():
    plan = make_plan(LARGE, replace(H100, tensor_parallel_size=4))
    assert plan.deployment.weights == 2 * LARGE.parameters / 4
    assert plan.cache.token_bytes == 2 * 80 * 8 * 128 * 2 / 4


def test_four_bits_leave_the_embeddings_as_they_are():
    plan = make_plan(LARGE, replace(H100, quantization="awq"))
    others = LARGE.parameters - LARGE.embeddings
    assert plan.deployment.weights == pytest.approx(others * QUANTIZATIONS["awq"] + 2 * LARGE.embeddings)


def test_the_files_own_quantization_counts_where_none_is_asked_for():
    stored = replace(LARGE, quantization="fp8")
    assert weight_bytes(stored, "auto", None, None) == 1
    assert weight_bytes(stored, "auto", None, 0.75) == 0.75


def test_a_cache_of_fp8_holds_twice_as_much():
    plain, small = make_plan(LLAMA, H100), make_plan(LLAMA, replace(H100, kv_cache_dtype="fp8"))
    assert small.cache.block_bytes * 2 == plain.cache.block_bytes
    assert cache_bytes("auto", "float32") == 4


def test_engines_side_by_side_answer_so_many_times_as_much():
    one, two = make_plan(LLAMA, H100), make_plan(LLAMA, replace(H100, data_parallel_size=2))
    assert two.most() == pytest.approx([2 * rate for rate in one.most()])


def test_steering_costs_little_with_few_requests_and_up_to_half_with_many():
    plan = make_plan(LLAMA, H100)
    kept = [pace.kept for pace in plan.paces if pace.kept is not None]
    assert kept[0] > 0.98
    assert kept == sorted(kept, reverse=True)
    assert 0.5 < kept[-1] < 0.6


def test_three_rows_cost_more_than_two():
    two, three = make_plan(LLAMA, H100), make_plan(LLAMA, replace(H100, rows=3))
    assert three.steered.blocks.total == two.steered.blocks.total + 22
    assert three.most()[1] < two.most()[1]


def test_where_the_instruction_stands_first_nothing_is_shared():
    plan = make_plan(LLAMA, replace(H100, common_tokens=0))
    assert plan.steered.blocks.tails == (82, 84)
    assert plan.steered.prompt_computed == 1000 + 1040


def test_a_model_that_does_not_fit_is_told_how_many_gpus_would_hold_it():
    with pytest.raises(
        ConfigError, match=r"llama-3\.3-70b does not fit on 1 x h100: of 79\.2 GiB, .* take 131\.4"
    ) as told:
        make_plan(LARGE, H100)
    assert "With --tensor-parallel-size 2 it fits" in str(told.value)
    assert make_plan(LARGE, replace(H100, tensor_parallel_size=2)).steered.at_once > 0


def test_a_remedy_proposes_no_number_of_gpus_that_vllm_refuses():
    """Qwen2.5 7B has 28 heads, 4 of keys: 3 GPUs cannot share them, and 2 are too few here."""
    with pytest.raises(ConfigError, match="With --tensor-parallel-size 4 it fits"):
        make_plan(PRESETS["qwen2.5-7b"], PlanOptions(gpu_memory=9.5, bandwidth=1))


def test_a_model_that_fits_nowhere_is_told_so():
    with pytest.raises(ConfigError, match="It does not fit on 64 of them either"):
        make_plan(LARGE, PlanOptions(gpu_memory=4, bandwidth=1, overhead=4))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"gpu": "h1000"}, "--gpu is 'h1000': it must be one of h100, h200"),
        ({"gpu": None}, "give --gpu, one of h100, .* or both --gpu-memory"),
        ({"gpu_memory": -1.0}, "--gpu-memory is -1: it must be above 0"),
        ({"bandwidth": float("nan")}, "--bandwidth is nan"),
        ({"pipeline_parallel_size": 2}, "Share the layers over more GPUs by --tensor-parallel-size"),
        ({"tensor_parallel_size": 3}, "32 heads, 8 of keys, which can be shared by 1, 2, 4, 8, 16, 32 GPUs"),
        ({"tensor_parallel_size": 0}, "--tensor-parallel-size is 0: it must be at least 1"),
        ({"data_parallel_size": 0}, "--data-parallel-size is 0"),
        ({"block_size": 0}, "--block-size is 0"),
        ({"max_num_seqs": 1}, "--max-num-seqs is 1, and one request has 2 rows"),
        ({"gpu_memory_utilization": 1.1}, "--gpu-memory-utilization is 1.1: it must be above 0 and at most 1"),
        ({"overhead": -1.0}, "--overhead is -1: it must be 0 GiB or more"),
        ({"dtype": "int8"}, "--dtype is 'int8': it must be one of auto, bfloat16"),
        ({"kv_cache_dtype": "int4"}, "--kv-cache-dtype is 'int4': a plan knows auto, bfloat16"),
        ({"quantization": "mxfp4"}, "quantization 'mxfp4' is not known .* Give --weight-bytes"),
        ({"weight_bytes": 0.0}, "--weight-bytes is 0: it must be above 0"),
        ({"common_tokens": 1001}, "--common-tokens is 1001: it must be at most the prompt's 1000 tokens"),
        ({"answer_tokens": 131_072}, "longest row has 132112 tokens, .* smaller by 1040 together"),
    ],
)
def test_an_option_out_of_range_is_refused_with_the_remedy(wrong, told):
    with pytest.raises(ConfigError, match=told):
        make_plan(LLAMA, replace(H100, **wrong))


def test_experts_over_several_engines_are_refused():
    with pytest.raises(ConfigError, match="spreads the experts of mixtral-8x7b over all of its engines"):
        make_plan(PRESETS["mixtral-8x7b"], replace(H100, data_parallel_size=2))


def test_another_gpu_is_described_by_memory_and_bandwidth():
    gpu = find_gpu(None, 48, 1.5)
    assert (gpu.memory, gpu.bandwidth, gpu.flops, gpu.rows) == (48 * GIB, 1.5e12, None, 256)
    assert find_gpu("H100", 94, None).memory == 94 * GIB


def test_vllm_runs_fewer_rows_on_small_gpus_and_on_the_a100():
    assert {name for name, gpu in GPUS.items() if gpu.rows == 256} == {"a100-80", "a100-40", "l40s", "l4", "rtx-4090"}


def test_more_rows_meet_more_experts():
    """The second row of a steered request is not free where it brings experts of its own."""
    plan = make_plan(PRESETS["mixtral-8x7b"], replace(H100, tensor_parallel_size=2))
    assert isinstance(PRESETS["mixtral-8x7b"].experts, Experts)
    assert plan.paces[0].kept is not None
    assert plan.paces[0].kept < 0.7
