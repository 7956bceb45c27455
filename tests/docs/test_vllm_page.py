"""The page on vLLM shows the table of differences that the code has and the contract's tests try."""

from pathlib import Path

from sda_integrations.vllm.differences import DIFFERENCES

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "vllm.md"


def test_the_page_has_every_difference_and_no_other():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index("| | `sda serve` | inside vLLM |") + 2
    shown = lines[start : start + len(DIFFERENCES) + 1]
    assert shown[:-1] == [f"| {one.what} | {one.served} | {one.in_vllm} |" for one in DIFFERENCES]
    assert shown[-1] == ""
