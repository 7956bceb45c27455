"""The trial's other side: a process that compiles one grammar under limits, and says what came of it or dies of it.

It is run by its path, since importing the package would load torch, and needs nothing but llguidance.
"""

import faulthandler
import json
import os
import random
import signal
import sys
import threading

_STEPS = 16  # tokens of a random answer, each with its mask
_STACK_BYTES = 512 * 1024  # less than any thread has that compiles for good


def main() -> None:
    """Read limits, vocabulary and grammar; write one line of JSON."""
    limits, vocabulary, grammar = (json.loads(sys.stdin.buffer.readline()) for _ in range(3))
    sys.path.append(limits["packages"])
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper  # found by the line above

    tokenizer = LLTokenizer(
        TokenizerWrapper(_Tokens(vocabulary)), n_vocab=len(vocabulary["tokens"]), eos_token=vocabulary["eos"]
    )
    answer: dict[str, str] = {}

    def compile_and_step() -> None:
        LLMatcher(
            tokenizer, 'start: "a"', log_level=0
        )  # the memory that any thread and any grammar needs is not counted
        _limit(limits["seconds"], limits["bytes"])
        matcher = LLMatcher(
            tokenizer, grammar, log_level=0, limits=LLParserLimits(max_lexer_states=limits["lexer_states"])
        )
        rng = random.Random(0)  # noqa: S311 - the same answer at every trial
        for _ in range(_STEPS):
            matcher.compute_ff_tokens()
            matcher.deep_copy()
            mask = matcher.compute_bitmask()
            allowed = [8 * k + bit for k, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1]
            if matcher.is_error() or matcher.is_stopped() or not allowed:
                break
            matcher.consume_token(rng.choice(allowed))
        answer["error"] = matcher.get_error()

    if hasattr(signal, "SIGPROF"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # a parent that ignores it would pass that on
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=compile_and_step)
    thread.start()
    thread.join()
    os.write(1, json.dumps(answer).encode() + b"\n")
    os._exit(0)  # nothing is left to be cleaned up


class _Tokens:
    """A vocabulary in the form that llguidance takes; texts are cut into bytes, which costs the same."""

    bos_token_id = None

    def __init__(self, vocabulary: dict[str, list[object]]) -> None:
        self.tokens = [str(text).encode("latin-1") for text in vocabulary["tokens"]]
        self.special_token_ids = vocabulary["special"]
        self.eos_token_id = vocabulary["eos"][0]
        self._ids = {text: token_id for token_id, text in enumerate(self.tokens) if len(text) == 1}

    def __call__(self, text: bytes) -> list[int]:
        return [self._ids[bytes([byte])] for byte in text if bytes([byte]) in self._ids]


def _limit(seconds: float, size: int) -> None:
    """Have the system end this process past so much time of its own, or so much more memory than it has now."""
    try:
        import resource  # POSIX only
    except ImportError:
        faulthandler.dump_traceback_later(seconds, exit=True)  # time alone, and other processes' time as well
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # macOS counts what it shares, and refuses
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[0])
        limit = pages * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
