"""What importing the adapter does, with and without LangChain."""

import subprocess
import sys

import pytest

import sda_integrations.langchain

WITHOUT_A_PACKAGE = """
import sys
from importlib.abc import MetaPathFinder

blocked, statement = sys.argv[1:]

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
try:
    exec(statement)
except ImportError as error:
    print(error)
"""


def test_the_public_names_are_exactly_these() -> None:
    assert sda_integrations.langchain.__all__ == ["ChatModelEvaluator", "ChatSDA", "SDAMiddleware"]
    for name in sda_integrations.langchain.__all__:
        assert isinstance(getattr(sda_integrations.langchain, name), type)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SDAMiddlewear'"):
        _ = sda_integrations.langchain.SDAMiddlewear


@pytest.mark.parametrize(
    ("blocked", "statement", "printed"),
    [
        ("langchain_core", "import sda_integrations.langchain", "pip install 'sda-integrations[langchain]'"),
        (
            "langchain",
            "from sda_integrations.langchain import ChatSDA; from sda_integrations.langchain import SDAMiddleware",
            "SDAMiddleware needs langchain, which is not installed. "
            "Install it with: pip install 'sda-integrations[agents]'",
        ),
    ],
)
def test_without_a_package_the_rest_works_and_the_error_names_it(blocked: str, statement: str, printed: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_PACKAGE, blocked, statement],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert printed in run.stdout
