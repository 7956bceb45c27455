"""Where vLLM is found, what is told of it, and how our code runs in it."""

import importlib.util
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from sda_engine.errors import SDAError
from sda_integrations.vllm import environments
from sda_integrations.vllm.environments import (
    Environment,
    Installed,
    find_environment,
    look_into,
    needed_packages,
    own_folders,
    problems_of,
    usable_environment,
)
from tests.sda_integrations.vllm.environments import make_environment

ROOT = Path(__file__).resolve().parents[3]
CHECKOUT = Environment(Path("/there/bin/python"), ("/checkout",))


def installed(**differences):
    return Installed(**{"python": (3, 11), "vllm": "0.32.0", "own": None, "missing": (), **differences})


def test_vllm_is_looked_for_here_and_beside_the_commands_own_environment(nowhere):
    beside = make_environment(nowhere / "own" / "vllm")
    assert find_environment().python == beside
    here = make_environment(nowhere / ".venv" / "vllm")
    assert find_environment().python == here


def test_an_interpreter_that_is_named_comes_first(nowhere):
    make_environment(nowhere / ".venv" / "vllm")
    named = make_environment(nowhere / "elsewhere")
    assert find_environment(named).python == named


def test_vllm_beside_the_command_is_used_as_it_is(nowhere, monkeypatch):
    make_environment(nowhere / ".venv" / "vllm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert find_environment() == Environment(Path(sys.executable))


def test_where_there_is_none_all_places_and_the_remedy_are_told(nowhere):
    with pytest.raises(SDAError) as refused:
        find_environment()
    for said in (
        str(nowhere / ".venv" / "vllm"),
        str(nowhere / "own" / "vllm"),
        "SDA_VLLM_PYTHON",
        "sda vllm --install",
    ):
        assert said in str(refused.value)


@pytest.mark.parametrize("named", ["nothing", "."])
def test_what_is_no_interpreter_is_refused_by_its_path(nowhere, named):
    with pytest.raises(SDAError, match=f"no interpreter at {nowhere / named}"):
        find_environment(nowhere / named)


def test_what_is_installed_is_asked_of_the_interpreter(nowhere):
    python = make_environment(nowhere / "v", own="0.1.0", missing=["tenacity"])
    assert look_into(Environment(python)) == Installed((3, 11), "0.32.0", "0.1.0", ("tenacity",))


def test_a_real_interpreter_can_be_asked():
    told = look_into(Environment(Path(sys.executable)))
    assert (told.python, told.vllm, told.own) == (sys.version_info[:2], None, version("sda-integrations"))


@pytest.mark.parametrize("script", ["#!/bin/sh\necho broken >&2\nexit 1\n", "#!/bin/sh\necho no JSON\n", "no program"])
def test_an_interpreter_that_does_not_run_is_told_with_the_reason(nowhere, script):
    python = nowhere / "python"
    python.write_text(script)
    python.chmod(0o755)
    with pytest.raises(SDAError, match=f"^{python} cannot be asked what it has installed: .+sda vllm --install"):
        look_into(Environment(python))


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ({"vllm": None}, "It has no vLLM"),
        ({"vllm": "0.33.0"}, "Its vLLM is 0.33.0, and this version of SDA was tested with 0.32.x only"),
        ({"python": (3, 10)}, "Its Python is 3.10, and SDA needs 3.11"),
        ({"missing": ("tenacity",)}, "It lacks tenacity: /there/bin/python -m pip install"),
    ],
)
def test_each_thing_that_is_missing_is_a_problem(differences, said):
    (problem,) = problems_of(CHECKOUT, installed(**differences))
    assert problem.startswith(said)


def test_a_version_that_was_not_tested_can_be_tried_but_a_package_cannot_be_missed():
    assert problems_of(CHECKOUT, installed(vllm="0.33.0"), untested=True) == []
    assert problems_of(CHECKOUT, installed(vllm="0.33.0", missing=("tenacity",)), untested=True)


@pytest.mark.parametrize(("own", "said"), [(None, "no sda-integrations"), ("0.0.9", "sda-integrations 0.0.9")])
def test_where_ours_is_no_checkout_the_same_version_must_be_installed_there(own, said):
    elsewhere = Environment(Path("/there/bin/python"))
    (problem,) = problems_of(elsewhere, installed(own=own))
    assert said in problem
    assert problems_of(elsewhere, installed(own=version("sda-integrations"))) == []
    assert problems_of(CHECKOUT, installed(own=own)) == []


def test_all_problems_of_an_environment_are_told_at_once(nowhere):
    python = make_environment(nowhere / ".venv" / "vllm", vllm="0.31.0", missing=["tenacity"])
    with pytest.raises(SDAError, match=rf"environment of {python}.*0\.31\.0.*lacks tenacity"):
        usable_environment()
    with pytest.raises(SDAError, match="lacks tenacity"):
        usable_environment(untested=True)


def test_a_checkouts_folders_are_handed_on_and_a_site_folder_never_is(monkeypatch):
    """It has another torch and other packages in it."""
    assert set(own_folders()) == {str(ROOT), str(ROOT / "src")}
    monkeypatch.setattr(environments, "get_path", lambda scheme: str(ROOT))
    assert own_folders() == ()


def test_our_code_runs_in_an_environment_from_the_checkout_behind_all_else(tmp_path):
    """And nothing of the folder that one is in is imported in its place."""
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong one')")
    code = Environment(Path(sys.executable), ("/last",)).command("mod", ["--flag", "a b"])
    assert code[1] == "-P"
    assert code[-2:] == ["--flag", "a b"]
    (tmp_path / "mod.py").write_text("import sys\ndef main(): print(sys.path[-1], sys.argv[1:])")
    environment = Environment(Path(sys.executable), (str(tmp_path),))
    done = subprocess.run(
        environment.command("mod", ["x"]), cwd=tmp_path, env=environment.environ(), capture_output=True, text=True
    )
    assert done.stdout.split(" ", 1) == [str(tmp_path), "['x']\n"], done.stderr


def test_programs_of_the_environment_come_first(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    environ = CHECKOUT.environ()
    assert (environ["PATH"], environ["VIRTUAL_ENV"]) == ("/there/bin:/usr/bin", "/there")


def test_what_is_needed_beside_vllm_is_the_extra(monkeypatch):
    asked = ["torch>=2.8", "platformdirs>=4.3; extra == 'vllm'", 'tenacity>=9.0 ; extra == "vllm"', "x; extra == 'all'"]
    monkeypatch.setattr(environments, "requires", lambda name: asked)
    assert needed_packages() == ["platformdirs>=4.3", "tenacity>=9.0"]
