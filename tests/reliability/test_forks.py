"""A process that is forked from one whose engine has answered (gunicorn --preload, Celery, multiprocessing)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sizes import ALL

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system knows no forks")

SCRIPT = Path(__file__).with_name("forked_requests.py")


@pytest.mark.parametrize("threads", [1, 2] if ALL else [2])  # with helpers that a fork leaves behind
def test_a_forked_process_answers_or_says_why_not_and_the_parent_goes_on(threads: int) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        cwd=SCRIPT.parents[2],
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found == dict.fromkeys(found, 0), done.stderr.decode()
    assert len(found) == 18
