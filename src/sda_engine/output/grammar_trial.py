"""The trial of a doubtful grammar: it is compiled in a process of its own first, which may die of it.

llguidance checks its own limits only now and then: some grammars of a few hundred bytes take minutes, gigabytes or
the whole process. Where the operating system knows no limits of memory (Windows, macOS), the limit of time alone holds.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import llguidance

from sda_engine.errors import ConstraintError
from sda_engine.output import grammar_trial_child

SECONDS = 2.0  # of processor time, to compile and to take the first steps
MEMORY_BYTES = 512 * 2**20
MAX_LEXER_STATES = 50_000  # about 100 MB in one answer
_PATIENCE_SECONDS = 60.0  # for the process to start and end, on a machine that is busy


class TrialProcess:
    """Tries out grammars for one vocabulary, each in a fresh process.

    Args:
        tokens: the bytes of every token.
        special_token_ids: tokens that are no text.
        eos_token_ids: tokens that end an answer.
    """

    def __init__(self, tokens: Sequence[bytes], special_token_ids: Sequence[int], eos_token_ids: Sequence[int]) -> None:
        self._vocabulary = json.dumps(
            {
                "tokens": [text.decode("latin-1") for text in tokens],
                "special": list(special_token_ids),
                "eos": list(eos_token_ids),
            }
        )

    def run(self, grammar: str) -> str | None:
        """Compile a grammar and take some steps with it: what is wrong with it, or None.

        Raises:
            ConstraintError: no process could be started, or none that ended.
        """
        limits = {
            "packages": str(Path(llguidance.__file__).parent.parent),
            "lexer_states": MAX_LEXER_STATES,
            "seconds": SECONDS,
            "bytes": MEMORY_BYTES,
        }
        lines = (json.dumps(limits), self._vocabulary, json.dumps(grammar), "")
        try:
            done = subprocess.run(  # noqa: S603 - the interpreter that runs this, on a file of this package
                [sys.executable or "python", "-I", "-S", grammar_trial_child.__file__],
                input="\n".join(lines).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_PATIENCE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConstraintError(
                f"The constraint has to be tried out in a process of its own, and none could be run: {error}. Make it "
                f"simpler, or check that {sys.executable!r} is a Python interpreter."
            ) from error
        if done.returncode != 0 or not done.stdout:
            return f"compiling it takes more than {SECONDS:.0f} seconds, {MEMORY_BYTES // 2**20} MB or a thread's stack"
        error_message: str = json.loads(done.stdout)["error"]
        return error_message or None
