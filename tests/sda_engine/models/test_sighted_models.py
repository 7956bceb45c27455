"""Models that see, loaded by name: their class, and the processor that pictures will go through."""

import json
import logging

import pytest
import torch
import transformers as hf
from PIL import Image
from transformers.utils.import_utils import is_torchvision_available

from sda_engine import Sampling, SteeringEngine
from sda_engine.cli import info_facts
from sda_engine.errors import ConfigError, ModelLoadError
from sda_engine.models import auto_classes
from sda_engine.models.loading import ModelSettings, load_model
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.sda_engine.decoding.architectures import random_model, text_settings
from tests.sda_engine.models.sighted import FAMILIES, save_sighted

IDS = torch.tensor([[5, 9, 2, 77, 31]])


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"mistral3"}))
def test_a_model_that_sees_is_loaded_by_name_with_its_processor_and_answers(family, tmp_path):
    saved = save_sighted(family, tmp_path)
    with SteeringEngine.load(str(tmp_path), dtype="float32", device="cpu") as engine:
        assert type(engine.model) is type(saved)
        processor = engine._loaded_model.processor
        assert isinstance(processor, hf.ProcessorMixin)
        token = next(iter(FAMILIES[family][3].values())) if family != "gemma3" else processor.boi_token
        token = "<IMG_CONTEXT>" if family == "internvl" else token
        made = processor(text=[f"a {token} b"], images=[[Image.new("RGB", (28, 28), "red")]], return_tensors="pt")
        assert made["pixel_values"].numel()
        with torch.inference_mode():
            ours, theirs = (model(input_ids=IDS, use_cache=False).logits for model in (engine.model, saved))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        done = engine.generate(user("hi"), "be kind", sampling=Sampling(temperature=0, max_new_tokens=3))
        assert done.token_ids


@pytest.mark.skipif(is_torchvision_available(), reason="with torchvision its processor is there")
def test_a_processor_that_needs_torchvision_is_missing_without_it_and_text_works(tmp_path, caplog):
    saved = save_sighted("mistral3", tmp_path)
    with SteeringEngine.load(str(tmp_path), dtype="float32", device="cpu") as engine:
        assert type(engine.model) is type(saved)
        assert engine._loaded_model.processor is None
        assert engine.generate(user("hi"), sampling=Sampling(temperature=0, max_new_tokens=2)).token_ids
    assert "requires the Torchvision library" in caplog.text


def test_a_model_that_only_writes_has_no_processor(tmp_path, caplog):
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "sda_engine"):
        assert load_model(ModelSettings(model=str(tmp_path))).facts.processor is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "processor"),
        (
            lambda folder: change(folder / "preprocessor_config.json", image_processor_type="Evil"),
            "Unrecognized image processor",
        ),
    ],
)
def test_without_a_processor_that_works_text_does_and_the_log_says_why(tmp_path, caplog, spoil, reason):
    save_sighted("llava", tmp_path)
    spoil(tmp_path)
    with (
        caplog.at_level(logging.WARNING, "sda_engine"),
        SteeringEngine.load(str(tmp_path), dtype="float32", device="cpu") as engine,
    ):
        assert engine._loaded_model.processor is None
        assert engine.generate(user("hi"), sampling=Sampling(temperature=0, max_new_tokens=2)).token_ids
    (record,) = caplog.records
    assert "takes text alone" in record.getMessage()
    assert reason in record.getMessage()


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_processor_can_be_given_with_a_model_and_anything_else_is_refused(tmp_path):
    save_sighted("llava", tmp_path)
    loaded = load_model(ModelSettings(model=str(tmp_path), dtype="float32"))
    tokenizer, processor = loaded.facts.tokenizer, loaded.facts.processor
    with SteeringEngine(loaded.model, tokenizer, processor=processor) as engine:
        assert engine._loaded_model.processor is processor
    with pytest.raises(ConfigError, match=r"processor cannot be a \w*Tokeniz"):
        SteeringEngine(loaded.model, tokenizer, processor=tiny_tokenizer())


def test_the_template_of_a_processor_is_tried_out_too(tmp_path):
    save_sighted("llava", tmp_path)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}"
    loaded = load_model(ModelSettings(model=str(tmp_path), dtype="float32"))
    loaded.facts.processor.chat_template = endless
    with pytest.raises(ModelLoadError, match="chat template"):
        SteeringEngine(loaded.model, loaded.facts.tokenizer, processor=loaded.facts.processor)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("Llama4ForConditionalGeneration", hf.AutoModelForImageTextToText),
        ("Llama4ForCausalLM", hf.AutoModelForCausalLM),
        (None, hf.AutoModelForCausalLM),
    ],
)
def test_of_two_classes_the_one_that_was_saved_counts_and_else_that_for_text(architecture, expected):
    config = hf.Llama4Config(architectures=architecture and [architecture])
    assert auto_classes.model_class_of(config) is expected


@pytest.mark.parametrize("config", [hf.Gemma3Config(), hf.LlamaConfig(), hf.Gemma3TextConfig()])
def test_what_the_causal_mapping_has_alone_is_loaded_by_it(config):
    assert auto_classes.model_class_of(config) is hf.AutoModelForCausalLM


@pytest.mark.parametrize(
    ("config", "reason"), [(hf.CLIPConfig(), "no class for models of type 'clip'"), (hf.UdopConfig(), "an encoder for")]
)
def test_what_cannot_be_steered_is_refused_before_its_weights_are_read(config, reason):
    with pytest.raises(ValueError, match=reason):
        auto_classes.model_class_of(config)


def test_a_classifier_that_sees_is_no_language_model(tmp_path):
    config = hf.ShieldGemma2Config(
        text_config=text_settings(vocab_size=328), vision_config=FAMILIES["gemma3"][1]().vision_config.to_dict()
    )
    random_model(hf.ShieldGemma2ForImageClassification, config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="no whole language model"):
        load_model(ModelSettings(model=str(tmp_path)))


def test_info_describes_a_model_that_sees(tmp_path):
    saved = save_sighted("internvl", tmp_path)
    facts = info_facts._model_facts(str(tmp_path), torch.float32, torch.device("cpu"))
    assert facts["sees_pictures"]
    assert facts["weights_bytes"] == 4 * sum(weight.numel() for weight in saved.parameters())
    assert facts["context_window"] == 256


def test_info_says_what_is_wrong_with_a_model_that_brings_its_own_code(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.C"}}))
    facts = info_facts._model_facts(str(tmp_path), torch.float32, torch.device("cpu"))
    assert "never run here" in facts["problem"]


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}},
        {"model_type": "clip", "auto_map": {"AutoModelForCausalLM": "evil.M"}},
    ],
)
def test_a_model_that_only_its_own_code_could_run_is_refused_with_that_reason(tmp_path, config):
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match=r"auto_map.*never run here.*trust_remote_code stays off"):
        load_model(ModelSettings(model=str(tmp_path)))
