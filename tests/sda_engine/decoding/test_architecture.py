import pytest
from transformers import AutoConfig

from sda_engine.decoding.architecture import read_architecture
from sda_engine.errors import ModelLoadError
from sda_engine.testing import tiny_model
from tests.sda_engine.decoding.architectures import GEMMA_3N, LAYERS, LLAMA_4, WINDOW, indexed, tiny


class Bare:
    """As much of a model as its architecture is read from."""

    def __init__(self, model_type, *, is_stateful=False, **settings):
        self.config = AutoConfig.for_model(model_type, **settings)
        self._is_stateful = is_stateful


def test_without_types_each_layer_attends_to_all_before_it():
    architecture = read_architecture(Bare("llama", num_hidden_layers=3))
    assert architecture.attending_layers == (0, 1, 2)
    assert architecture.recurrent_layers == ()
    assert [layer.place for layer in architecture.layers] == [0, 1, 2]
    assert (architecture.window, architecture.thresholds, architecture.scales_by_position) == (None, (), False)


def test_without_types_a_window_is_for_every_layer():
    architecture = read_architecture(Bare("mistral", num_hidden_layers=2, sliding_window=8))
    assert all(layer.has_window for layer in architecture.layers)
    assert (architecture.window, architecture.thresholds) == (8, (8,))


def test_layers_without_attention_store_no_keys_and_values():
    kinds = ["linear_attention", "moe", "full_attention", "mlp", "full_attention"]
    architecture = read_architecture(Bare("nemotron_h", layers_block_type=kinds, is_stateful=True))
    assert architecture.attending_layers == (2, 4)
    assert architecture.recurrent_layers == (0,)
    assert [layer.place for layer in architecture.layers] == [None, None, 0, None, 1]


def test_a_hybrid_layer_both_attends_and_is_recurrent():
    architecture = read_architecture(Bare("falcon_h1", num_hidden_layers=2, is_stateful=True))
    assert architecture.attending_layers == architecture.recurrent_layers == (0, 1)


def test_layers_that_share_keys_and_values_stand_in_the_place_of_the_one_that_stores_them():
    layers = read_architecture(tiny("gemma3n_text", **GEMMA_3N)).layers
    assert [(layer.place, layer.stores) for layer in layers] == [(0, True), (1, True), (0, False), (1, False)]


def test_chunks_and_what_else_depends_on_positions_are_thresholds():
    architecture = read_architecture(tiny("llama4_text", **LLAMA_4))
    assert [layer.chunk for layer in architecture.layers] == [WINDOW, None] * (LAYERS // 2)
    assert architecture.scales_by_position
    assert architecture.thresholds == (4, WINDOW)


def test_thresholds_stand_among_the_parameters_of_positions_too():
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
    assert read_architecture(Bare("llama", rope_parameters=rope)).thresholds == (16,)


def test_states_are_judged_by_the_layers_that_are_there():
    """The class of a Granite 4 says that it is stateful, also for those that only attend."""
    dense = Bare("granitemoehybrid", layer_types=["full_attention"] * 2, num_hidden_layers=2, is_stateful=True)
    assert read_architecture(dense).recurrent_layers == ()
    with pytest.raises(ModelLoadError) as raised:
        read_architecture(Bare("rwkv", is_stateful=True))
    assert raised.value.reason == "recurrent states"


@pytest.mark.parametrize(
    ("model_type", "kind", "settings"),
    [
        ("unlimited_ocr", "reference_sliding_attention", {}),
        (
            "minimax_m3_vl_text",
            "minimax_m3_sparse",
            {"num_hidden_layers": 2, "layer_types": ["full_attention", "minimax_m3_sparse"]},
        ),
    ],
)
def test_layers_of_another_kind_are_named_and_refused(model_type, kind, settings):
    with pytest.raises(ModelLoadError, match=f"a kind that the engine does not know \\(.*{kind}") as raised:
        read_architecture(Bare(model_type, **settings))
    assert kind in raised.value.reason


def test_an_index_is_known_where_it_says_how_many_tokens_it_chooses():
    assert read_architecture(Bare("deepseek_v32", **indexed(most=7), num_hidden_layers=2)).attending_layers == (0, 1)
    with pytest.raises(ModelLoadError, match="indexed_attention"):
        read_architecture(Bare("qwen4_exp_text"))


def test_a_configuration_that_tells_of_no_layers_is_refused():
    with pytest.raises(ModelLoadError, match="does not say how many layers"):
        read_architecture(Bare("blt"))


def test_reading_leaves_the_configuration_alone():
    model = tiny_model(architecture="gemma3")
    before = model.config.to_dict()
    read_architecture(model)
    assert model.config.to_dict() == before
