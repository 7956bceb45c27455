"""Builds the wheel as a release would, and tries it with nothing, and with each extra alone.

    python .ci/wheel.py

The wheel is made from the source distribution, so that what this leaves out is missed here. Each environment is an
empty one that holds the wheel and links to exactly those installed distributions that the wheel's own metadata asks
for. So a package that only the development environment has is absent, nothing is downloaded, and it takes a minute or
two.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path, PurePath
from sysconfig import get_path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wheel_promises import PROMISES

ROOT = Path(__file__).resolve().parent.parent
SITE = Path(get_path("purelib"))
OWN_NAME = "sda-integrations"
TIMEOUT = 600  # seconds for one environment, on a busy machine

# Runs all promises in one process, since torch takes seconds to import; prints the error of each, or null, as JSON
TRY = """
import json, sys, traceback, warnings
warnings.simplefilter("ignore")
errors = []
for extra, promise in json.loads(sys.argv[1]):
    try:
        exec(compile(promise, "promise", "exec"), {})
        errors.append(None)
    except Exception:
        errors.append(traceback.format_exc())
print(json.dumps(errors))
"""


def main() -> None:
    """Build, try, and exit with 1 where a promise is broken."""
    broken = []
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        metadata = next(iter(Distribution.discover(path=[str(wheel)])))
        extras = metadata.metadata.get_all("Provides-Extra") or []
        untried = set(extras) - set(PROMISES) - {"all", "dev", "docs"}  # which promise nothing of their own
        broken += [f"extra {extra!r} has no promise in .ci/wheel_promises.py" for extra in sorted(untried)]
        needs = {extra: set(resolve(metadata, extra)) for extra in PROMISES}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for faults in pool.map(lambda extra: list(try_extra(Path(folder), wheel, extra, needs)), PROMISES):
                broken += faults
    print("".join(f"BROKEN {line}\n" for line in broken) or "Every promise holds.")
    sys.exit(1 if broken else 0)


def try_extra(folder: Path, wheel: Path, extra: str, needs: Mapping[str, set[str]]) -> Iterator[str]:
    """What is wrong with the wheel and one extra, or none."""
    print(f"{wheel.name} with {f'the extra {extra}' if extra else 'no extra'}", flush=True)
    environment = folder / (extra or "base")
    python = make_environment(environment, wheel, needs[extra])
    missing = {other: lacking(needs, other, needs[extra]) for other in PROMISES}
    yield from (f"with [{extra}]: {fault}" for fault in try_promises(python, environment, missing))


def build_wheel(folder: Path) -> Path:
    """The wheel of the source distribution of this checkout."""
    hatchling = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run([*hatchling, "--target", "sdist"], cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    source = next(path for path in folder.iterdir() if path.is_dir())
    subprocess.run([*hatchling, "--target", "wheel"], cwd=source, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def resolve(metadata: Distribution, extra: str) -> Iterator[str]:
    """Names of the distributions that the wheel asks for with an extra, and that those ask for in turn."""
    seen: set[tuple[str, str]] = set()
    waiting = [(OWN_NAME, ""), (OWN_NAME, extra)]
    while waiting:
        name, extra = step = waiting.pop()
        if step in seen:
            continue
        seen.add(step)
        if name != OWN_NAME:
            yield name
        asking = metadata if name == OWN_NAME else distribution(name)
        for requirement in map(Requirement, asking.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), more) for more in ("", *requirement.extras)]


def make_environment(folder: Path, wheel: Path, names: set[str]) -> Path:
    """An environment with the wheel and links to what these distributions installed; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for place in (place for name in names for place in owned_places()[name]):
        target = site / place.relative_to(SITE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(place)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--no-compile", str(wheel)], check=True)
    return python


@cache
def owned_places() -> Mapping[str, set[Path]]:
    """The files and the topmost folders that belong to one distribution alone, by its name.

    Several distributions can share the folder of a namespace, as those of LlamaIndex do; only what is below is theirs.
    """
    owners: dict[PurePath, set[str]] = defaultdict(set)
    files: list[tuple[str, PurePath]] = []
    for installed in distributions():
        name = canonicalize_name(installed.name)
        for file in installed.files or ():
            if ".." in file.parts:  # a command
                continue
            files.append((name, file))
            for place in (file, *file.parents):
                owners[place].add(name)
    places: dict[str, set[Path]] = defaultdict(set)
    for name, file in files:
        topmost = next(place for place in (*reversed(file.parents), file) if place.parts and len(owners[place]) == 1)
        places[name].add(SITE / topmost)
    return places


def lacking(needs: Mapping[str, set[str]], extra: str, names: set[str]) -> set[str]:
    """The extras that one would have to install to have an extra whole, itself and those that are parts of it."""
    return {part for part in PROMISES if needs[part] <= needs[extra] and not needs[part] <= names}


def try_promises(python: Path, folder: Path, missing: Mapping[str, set[str]]) -> Iterator[str]:
    """What is wrong with the promises of the extras in an environment, where these extras are missing for each."""
    trials = [[extra, promise] for extra in PROMISES for promise in PROMISES[extra]]
    command = [str(python), "-I", "-c", TRY, json.dumps(trials)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if run.returncode != 0:
        yield run.stderr
        return
    for (extra, promise), error in zip(trials, json.loads(run.stdout.splitlines()[-1]), strict=True):
        remedies = [f"pip install 'sda-integrations[{part}]'" for part in sorted(missing[extra])]
        if error is not None and not any(remedy in error for remedy in remedies):
            wanted = f"fails without a word of {' or '.join(remedies)}" if remedies else "fails"
            yield f"{promise.strip()!r} {wanted}:\n{error}"


if __name__ == "__main__":
    main()
