"""What tests share lives in a helper module, never in a file of tests."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent


def imported(source):
    """The modules that a file may import from, as full names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)
            yield node.module or ""


def test_no_file_imports_from_a_file_of_tests():
    test_files = {path.stem for path in TESTS.rglob("test_*.py")}
    found = {
        (str(path.relative_to(TESTS)), name)
        for path in TESTS.rglob("*.py")
        for name in imported(path.read_text(encoding="utf-8"))
        if test_files.intersection(name.split("."))
    }
    assert not found, "move what is shared to a module whose name does not begin with test_"


def test_each_folder_of_tests_is_a_package():
    """So that files of the same name do not clash, and helpers are imported by their full path."""
    folders = {path.parent for path in TESTS.rglob("*.py")}
    assert {folder for folder in folders if not (folder / "__init__.py").exists()} == set()
