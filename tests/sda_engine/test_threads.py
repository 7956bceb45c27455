import asyncio
import subprocess
import sys
import threading

import pytest

from sda_engine.threads import event_loop_in_thread, start_thread


def test_a_thread_gives_what_its_function_returns_or_raises():
    assert start_thread(lambda: 7, "seven").result(10) == 7
    with pytest.raises(SystemExit):
        start_thread(sys.exit, "leaves").result(10)


def test_what_still_runs_in_the_loop_is_cancelled_and_not_waited_for():
    began, cancelled, gate = threading.Event(), threading.Event(), threading.Event()

    async def sleep():
        began.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.set()
            gate.wait(10)
            raise

    def be_interrupted():
        with event_loop_in_thread("loop") as loop:
            asyncio.run_coroutine_threadsafe(sleep(), loop)
            assert began.wait(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert cancelled.wait(10)
    gate.set()


def test_threads_that_never_end_do_not_keep_the_interpreter():
    script = """
import asyncio, threading
from sda_engine.threads import event_loop_in_thread, start_thread
start_thread(threading.Event().wait, "waits")
began = threading.Event()
async def wait():
    began.set()
    await asyncio.to_thread(threading.Event().wait)
with event_loop_in_thread("loop") as loop:
    asyncio.run_coroutine_threadsafe(wait(), loop)
    began.wait()
print("end")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "end\n"
