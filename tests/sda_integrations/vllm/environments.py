"""Environments of vLLM that are scripts: they answer as its interpreter would, and note what they were asked to run."""

import json
import sys
from pathlib import Path

from sda_integrations.vllm.environments import DISTRIBUTION

GOOD = {"python": [3, 11], "vllm": "0.32.0", "own": None, "missing": []}

_PYTHON = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    print(json.dumps(sys.argv[1:]), file=log)
if sys.argv[1:] and {distribution!r} in sys.argv:
    print({probed!r})
elif "checking" in sys.argv[3]:
    print("vLLM says something first")
    print({problems!r})
"""


def make_environment(folder: Path, problems=(), **differences) -> Path:
    """The interpreter of an environment that has what is good, but for some differences."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    script = _PYTHON.format(
        python=sys.executable,
        log=str(folder / "log"),
        distribution=DISTRIBUTION,
        probed=json.dumps({**GOOD, **differences}),
        problems=json.dumps(list(problems)),
    )
    python.write_text(script)
    python.chmod(0o755)
    return python
