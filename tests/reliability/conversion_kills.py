"""Converts a GGUF file over and over in forked processes that are killed at random points, and at last in two at once.

A script for the tests. Arguments: the file, the number of kills, a seed. The imports take seconds and the conversion a
fraction of one, so one process imports, and each conversion is a fork of it. Standard output: JSON of what happened.
"""

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path

import torch
from tqdm import tqdm

from sda_engine.models.gguf_conversion import cache_folder, converted_folder, is_whole

GGUF, KILLS, SEED = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


def start(folder: Path) -> int:
    """The process id of a conversion, which fails unless it gives this folder."""
    process = os.fork()
    if process == 0:
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process
        try:
            os._exit(converted_folder(GGUF) != folder)
        except BaseException:  # noqa: BLE001 - it is told by the exit status
            os._exit(1)
    return process


def finish(process: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def digests(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def folders() -> list[str]:
    return [entry.name for entry in cache_folder().iterdir() if entry.is_dir()]


def main() -> None:
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # no thread of its own, and
    tqdm.set_lock(threading.RLock())  # no lock that a killed process takes with it from all forks
    dice = random.Random(SEED)  # noqa: S311 - no secret
    folder = converted_folder(GGUF)  # what is imported on the way is there before the forks
    expected = digests(folder)
    shutil.rmtree(folder)
    begin = time.monotonic()
    assert finish(start(folder))
    took = time.monotonic() - begin
    assert digests(folder) == expected
    counts = {"recovered": 0, "killed in the middle": 0, "half written": 0, "whole after the kill": 0}
    number = 0
    while counts["killed in the middle"] < KILLS and number < 4 * KILLS:  # some end before they are killed
        number += 1
        if number % 3 == 0:  # a folder that was there, and is spoilt
            with (folder / "model.safetensors").open("r+b") as weights:
                weights.truncate(100)
        else:
            shutil.rmtree(folder)
        process = start(folder)
        if number % 2:  # anywhere; or once something has been written
            time.sleep(dice.uniform(0, took))
        else:
            end = time.monotonic() + 10 * took
            while not any(cache_folder().glob(f".{folder.name}.*/*")) and time.monotonic() < end:
                time.sleep(0.0002)
            time.sleep(dice.uniform(0, took / 10))
        os.kill(process, signal.SIGKILL)
        counts["killed in the middle"] += not finish(process)
        counts["half written"] += any(cache_folder().glob(f".{folder.name}.*/*"))
        if is_whole(folder):
            assert digests(folder) == expected
            counts["whole after the kill"] += 1
        assert finish(start(folder))
        assert digests(folder) == expected
        assert folders() == [folder.name]
        assert folder.stat().st_mode & 0o777 == 0o700
        counts["recovered"] += 1
    shutil.rmtree(folder)
    at_once = [start(folder), start(folder)]
    assert all([finish(process) for process in at_once])  # noqa: C419 - both have to be waited for
    assert digests(folder) == expected
    assert folders() == [folder.name]
    sys.stdout.write(json.dumps({**counts, "seconds": took}))


main()
