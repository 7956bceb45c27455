"""Peak memory of one contender of speed.py, in a process of its own.

    python benchmarks/memory.py CASE CONTENDER FOLDER DTYPE NEW_TOKENS

speed.py starts it for each row of its table. The model is loaded first; then Linux is told to forget the peak so
far, since a float32 model needs more to be read from a bfloat16 file than to answer. What is printed is the peak of
the resident set while the case's requests are answered once, MB, with interpreter, libraries and weights in it.
Elsewhere it is the peak of the whole process, loading included.
"""

import gc
import json
import resource
import subprocess
import sys
from pathlib import Path

from cases import CASES
from contenders import Source, build
from texts import quiet, text_cutter

_STATUS, _FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> None:
    """Measure one contender."""
    case_name, contender_name, folder, dtype, new_tokens = sys.argv[1:]
    quiet()
    case, source = CASES[case_name], Source(folder, dtype)
    contender = build(contender_name, source)
    requests = case.requests("0000", text_cutter(folder))
    tokens = [min(case.most_tokens, int(new_tokens))] * len(requests)
    gc.collect()
    forget_peak()
    contender(requests, tokens)
    print(json.dumps(peak_megabytes()))


def measure_peak(case: str, contender: str, source: Source, new_tokens: int) -> float | None:
    """Peak resident set of a contender in a new process, MB; None where it fails, with its last words on stderr."""
    command = [sys.executable, __file__, case, contender, source.folder, source.dtype, str(new_tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode != 0:
        print(f"no memory for {contender}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return float(done.stdout.strip().splitlines()[-1])


def forget_peak() -> None:
    """Make the resident set of now the peak, where the system can."""
    if _FORGET_PEAK.exists():
        _FORGET_PEAK.write_text("5")


def peak_megabytes() -> float:
    """The peak since then, MB."""
    if _FORGET_PEAK.exists():
        lines = (line.split() for line in _STATUS.read_text().splitlines())
        return next(int(words[1]) for words in lines if words[0] == "VmHWM:") / 1000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1000


if __name__ == "__main__":
    main()
