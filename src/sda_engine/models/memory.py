"""How much memory this process may still take: what the host has free, or what the containers around it leave."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

_ROOT = Path("/")


@dataclass(frozen=True)
class MemoryLimit:
    """A limit that Linux sets to a group of processes, this one among them.

    Attributes:
        limit, used: bytes; files that are only cached count as free.
    """

    limit: int
    used: int

    @property
    def free(self) -> int:
        """Bytes left; 0 where the limit has been lowered below what is used."""
        return max(0, self.limit - self.used)


@dataclass(frozen=True)
class _Names:
    """What a version of control groups calls its files."""

    limits: tuple[str, ...]
    used: str
    cached: str  # a line of memory.stat


_VERSIONS = {
    "cgroup2": _Names(("memory.max", "memory.high"), "memory.current", "inactive_file"),
    "cgroup": _Names(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
}


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that this process may take before the host or a container around it runs out.

    Args:
        root: where the file system begins.
    """
    return min([psutil.virtual_memory().available, *(limit.free for limit in memory_limits(root))])


def memory_limits(root: Path = _ROOT) -> list[MemoryLimit]:
    """The limits of the control groups that this process is in, its own first; none where the system has no such.

    A container, a Kubernetes pod and a systemd unit each are such a group. An outer one may allow less than an inner.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
    return [
        limit
        for version, mount, begins in _memory_mounts(mounts)
        for group in _group_paths(groups, version)
        for folder in _folders(root / mount.lstrip("/"), group, begins)
        for limit in _limits(folder, _VERSIONS[version])
    ]


def _memory_mounts(mounts: list[str]) -> Iterator[tuple[str, str, str]]:
    """Version, mount point, and the group that the mount point shows, of each mounted tree with memory limits."""
    for line in mounts:
        place, _, kind = line.partition(" - ")
        version, _, options = [*kind.split(" "), "", ""][:3]
        if version == "cgroup2" or (version == "cgroup" and "memory" in options.split(",")):
            yield version, place.split(" ")[4], place.split(" ")[3]


def _group_paths(groups: list[str], version: str) -> Iterator[str]:
    """The path of this process's group, from lines such as "0::/user.slice" or "5:memory:/docker/1f"."""
    for line in groups:
        number, controllers, path = line.split(":", 2)
        if (number == "0") if version == "cgroup2" else ("memory" in controllers.split(",")):
            yield path


def _folders(mount: Path, group: str, begins: str) -> list[Path]:
    """The group's folder and those around it. A container often sees its own folder only, mounted as the whole tree."""
    path, shown = PurePosixPath(group), PurePosixPath(begins)
    inside = path.relative_to(shown) if path.is_relative_to(shown) else PurePosixPath()
    folder = mount / inside
    if ".." in inside.parts or not folder.is_dir():
        folder = mount
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(mount))]


def _limits(folder: Path, names: _Names) -> Iterator[MemoryLimit]:
    used = _number(folder / names.used) or 0
    try:
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    cached = next((int(line.split()[1]) for line in lines if line.startswith(names.cached + " ")), 0)
    for name in names.limits:
        if (limit := _number(folder / name)) is not None:
            yield MemoryLimit(limit, max(0, used - cached))


def _number(file: Path) -> int | None:
    """What a file says in bytes; None where it says "max", or is not there."""
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
