"""What importing the adapters brings along."""

import subprocess
import sys

# One process for both, since it spends seconds on what they do import
IMPORTS = """
import sys
import sda_integrations.langchain
assert "openai" not in sys.modules
import sda_integrations.llama_index
assert "sda_engine.evaluators.judge" not in sys.modules
"""


def test_importing_the_adapters_does_not_import_the_openai_sdk_nor_our_evaluator_for_it():
    done = subprocess.run([sys.executable, "-c", IMPORTS], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
