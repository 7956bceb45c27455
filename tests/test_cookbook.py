"""The cookbook: each recipe is a script that runs as it stands, offline, and prints what it is about."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

COOKBOOK = Path(__file__).parent.parent / "cookbook"
RECIPES = sorted(path.name for path in COOKBOOK.glob("*.py"))

# A line of each recipe's output, as a regular expression, that shows that its subject worked
PRINTS = {
    "01_quick_start.py": r"revision: (True|False) [\d.]+ None '.*",
    "02_rag_with_per_user_alignment.py": r"found: The library is open from Tuesday to Saturday\. .*",
    "03_agent_with_tools.py": r"tool: On \w+day the library is (closed|open from 10:00 to 19:00)\.",
    "04_structured_output.py": r"regex: (19|20)\d\d-(0[1-9]|1[0-2])-[0-3]\d",
    "05_query_engine.py": r"router picked: (books and readers|coffee and food)",
    "06_function_agent.py": (
        r"tool: (opening_hours \{'day': '\w+day'\} -> On \w+day the library is (closed|open from 10:00 to 19:00)\."
        r"|late_fee \{'days': \d+\} -> The fee for \d+ days is \d+ cents\.)"
    ),
    "07_rag_backend_for_many_users.py": r"10 users, \d+ forward passes for \d+ tokens, 0 rows left",
    "08_rag_over_pictures.py": r"found: A chart of the visitors of the library on each day of the week\.",
}


@pytest.fixture(scope="module")
def runner():
    """A process that runs recipes; see tests/recipes.py."""
    # One thread, since two of them wait for each other wherever another process has a core
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    command = [sys.executable, "-m", "tests.recipes"]
    with subprocess.Popen(command, cwd=COOKBOOK.parent, env=environment, **pipes) as process:
        yield process


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_runs_offline_and_prints_what_it_is_about(recipe, runner, tmp_path):
    file = tmp_path / "printed.txt"
    runner.stdin.write(f"{COOKBOOK / recipe} {file}\n")
    status = runner.stdout.readline()
    printed = file.read_text()
    assert status == "0\n", printed
    assert re.search(f"^{PRINTS[recipe]}$", printed, re.MULTILINE), printed


def test_recipes_are_numbered_documented_and_checked_here():
    assert len({int(recipe[:2]) for recipe in RECIPES}) == len(RECIPES)
    assert list(PRINTS) == RECIPES
    for recipe in RECIPES:
        documentation = ast.get_docstring(ast.parse((COOKBOOK / recipe).read_text()))
        assert documentation, f"{recipe} has no docstring"
        assert "pip install" in documentation, f"{recipe} does not say what to install"
        assert f"python cookbook/{recipe}" in documentation, f"{recipe} does not say how to run it"
