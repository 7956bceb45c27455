"""The memory limits of containers, read from trees of control groups as Linux shows them."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn

from sda_engine.decoding import default_cache_tokens
from sda_engine.models import available_memory, memory_limits, packed_linear
from sda_engine.models.packed_linear import PackedLinear, pack_linear_layers

HOST = 64 * 2**30
V2_MOUNT = "30 23 0:26 {begins} /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate"
V1_MOUNT = "35 30 0:30 {begins} /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory"
OTHER_MOUNT = "36 30 0:31 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct"


@pytest.fixture(autouse=True)
def host(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=HOST, total=HOST))


@pytest.fixture
def tree(tmp_path):
    """Makes a file system with these control groups: path of a folder -> name of a file -> what it says."""

    def make(groups, mounts, folders):
        written = {"proc/self": {"cgroup": groups, "mountinfo": "\n".join(mounts)}, **folders}
        for folder, files in written.items():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (tmp_path / folder / name).write_text(f"{text}\n")
        return tmp_path

    return make


def v2(limit, used=0, cached=0, **more):
    return {"memory.max": limit, "memory.current": used, "memory.stat": f"anon 5\ninactive_file {cached}", **more}


def v1(limit, used=0, cached=0):
    return {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": used,
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {cached}",
    }


def test_a_container_with_a_namespace_of_its_own_is_seen(tree):
    root = tree("0::/", [V2_MOUNT.format(begins="/")], {"sys/fs/cgroup": v2(2_000, used=500)})
    assert available_memory(root) == 1_500


def test_a_container_that_sees_the_paths_of_its_host_is_seen(tree):
    root = tree("0::/docker/1f", [V2_MOUNT.format(begins="/docker/1f")], {"sys/fs/cgroup": v2(2_000, used=500)})
    assert available_memory(root) == 1_500


def test_a_path_that_the_container_does_not_see_means_its_own_folder(tree):
    for path in ("0::/kubepods/pod1/2a", "0::/../2a"):
        root = tree(path, [V2_MOUNT.format(begins="/")], {"sys/fs/cgroup": v2(2_000, used=500)})
        assert available_memory(root) == 1_500


def test_cached_files_count_as_free(tree):
    root = tree("0::/", [V2_MOUNT.format(begins="/")], {"sys/fs/cgroup": v2(2_000, used=1_500, cached=900)})
    assert available_memory(root) == 1_400


def test_the_least_of_all_groups_around_counts(tree):
    folders = {
        "sys/fs/cgroup/pods/pod/one": v2("max", used=100),
        "sys/fs/cgroup/pods/pod": v2(5_000, used=4_800),  # its other containers take most of it
        "sys/fs/cgroup/pods": v2(9_000, used=5_000),
        "sys/fs/cgroup": {"memory.stat": "anon 1"},
    }
    root = tree("0::/pods/pod/one", [V2_MOUNT.format(begins="/")], folders)
    assert [limit.limit for limit in memory_limits(root)] == [5_000, 9_000]
    assert available_memory(root) == 200


def test_a_group_that_is_slowed_down_from_a_limit_on_is_kept_below_it(tree):
    folder = v2(5_000, used=100, **{"memory.high": 1_000})
    root = tree("0::/unit", [V2_MOUNT.format(begins="/")], {"sys/fs/cgroup/unit": folder})
    assert available_memory(root) == 900


def test_the_first_version_of_control_groups_is_read_too(tree):
    groups = "12:cpu,cpuacct:/docker/1f\n5:memory:/docker/1f\n0::/"
    folders = {
        "sys/fs/cgroup/memory/docker/1f": v1(3_000, used=2_000, cached=500),
        "sys/fs/cgroup/memory/docker": v1(2**63 - 4096, used=1_000_000),
    }
    root = tree(groups, [OTHER_MOUNT, V1_MOUNT.format(begins="/")], folders)
    assert available_memory(root) == 1_500


def test_a_limit_below_what_is_used_leaves_nothing_and_one_above_the_host_means_nothing(tree):
    mount = [V2_MOUNT.format(begins="/")]
    assert available_memory(tree("0::/", mount, {"sys/fs/cgroup": v2(1_000, used=2_000)})) == 0
    assert available_memory(tree("0::/", mount, {"sys/fs/cgroup": v2(2 * HOST)})) == HOST


def test_without_limits_or_without_control_groups_the_host_counts(tree, tmp_path):
    assert available_memory(tmp_path / "nothing") == HOST
    assert available_memory(tree("0::/", [V2_MOUNT.format(begins="/")], {"sys/fs/cgroup": v2("max")})) == HOST


@pytest.mark.parametrize("limit", [4_000, 400_000])
def test_a_container_bounds_what_keys_and_values_and_packed_weights_take(monkeypatch, limit):
    for module in ("sda_engine.decoding.memory", packed_linear.__name__):
        monkeypatch.setattr(f"{module}.available_memory", lambda: limit)
    layer = nn.Linear(100, 100)
    pack_linear_layers(nn.Sequential(layer))
    assert isinstance(layer, PackedLinear) == (limit == 400_000)
    assert default_cache_tokens(torch.device("cpu"), bytes_per_token=100) == limit // 200
