"""What importing the adapter does, with and without LangChain."""

import subprocess
import sys

import sda_integrations.langchain

WITHOUT_LANGCHAIN = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "langchain_core":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
try:
    import sda_integrations.langchain
except ImportError as error:
    print(error)
"""


def test_the_public_names_are_exactly_these() -> None:
    assert sda_integrations.langchain.__all__ == ["ChatSDA"]


def test_without_langchain_core_the_error_names_the_extra() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_LANGCHAIN], capture_output=True, text=True, check=True, timeout=120
    )
    assert "pip install 'sda-integrations[langchain]'" in run.stdout
