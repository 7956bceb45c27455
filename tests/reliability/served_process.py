"""`sda serve` in a process of its own that can be killed, and started again without importing everything anew."""

import os
import signal
import subprocess
import sys
from pathlib import Path

_SUPERVISOR = """
import os, sys
import typer
from sda_integrations.server.command import serve
import sda_integrations.server.run  # what takes ten seconds; a fork has it at once

while sys.stdin.readline():
    process = os.fork()
    if not process:
        typer.run(serve)
    print(process, flush=True)
    os.waitpid(process, 0)
"""


class ServedProcess:
    """A process that serves each time it is told to, as a supervisor starts a server that has died.

    Args:
        model: folder of the model.
        options: of `sda serve`.

    Attributes:
        said: the lines of its standard error so far.
    """

    def __init__(self, model: Path, *options: str) -> None:
        command = [sys.executable, "-c", _SUPERVISOR, str(model), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._supervisor = subprocess.Popen(command, text=True, env=environment, **pipes)
        self._serving: int | None = None
        self.said: list[str] = []

    def serve(self) -> None:
        """Start a server, and wait until it listens.

        Raises:
            AssertionError: it does not.
        """
        self._supervisor.stdin.write("serve\n")
        self._supervisor.stdin.flush()
        self._serving = int(self._supervisor.stdout.readline())
        for line in self._supervisor.stderr:
            self.said.append(line)
            if line.startswith("Serving"):
                return
        raise AssertionError("".join(self.said))

    def kill(self) -> None:
        """kill -9."""
        assert self._serving is not None, "it serves"
        os.kill(self._serving, signal.SIGKILL)
        self._serving = None

    def close(self) -> None:
        """End everything."""
        if self._serving is not None:
            self.kill()
        self._supervisor.stdin.close()
        self.said += self._supervisor.stderr.readlines()
        self._supervisor.stdout.close()
        self._supervisor.stderr.close()
        self._supervisor.wait()
