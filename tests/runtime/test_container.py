import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from osamd.runtime.container import cpu_count, memory_bytes
from osamd.runtime.sessions import choose_placement

GIB = 2**30
V2 = "0::/kubepods/pod1/box\n"
V1 = "4:cpu,cpuacct:/docker/box\n3:memory:/docker/box\n1:name=systemd:/docker/box\n"


def tree(folder: Path, files: Mapping[str, str], membership: str) -> tuple[Path, Path]:
    """A cgroup file system and the file that says where the process is in it."""
    cgroups = folder / "cgroup"
    for name, text in files.items():
        file = cgroups / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "self").write_text(membership)
    return cgroups, folder / "self"


@pytest.mark.parametrize(
    ("files", "membership", "cores"),
    [
        ({"cpu.max": "200000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 64),
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "20000 100000\n"}, "0::/\n", 1),
        ({"kubepods/pod1/box/cpu.max": "max 100000\n", "kubepods/pod1/cpu.max": "300000 100000\n"}, V2, 3),
        ({"kubepods/pod1/box/cpu.max": "400000 100000\n", "kubepods/cpu.max": "800000 100000\n"}, V2, 4),
        ({"cpu.max": "200000 100000\n"}, "0::/not/mounted/here\n", 2),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, V1, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, V1, 64),
        (
            {
                "cpu,cpuacct/docker/box/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/docker/box/cpu.cfs_period_us": "50000\n",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            V1,
            5,
        ),
        ({"unified/kubepods/cpu.max": "700000 100000\n"}, V2, 7),
        ({"cpu.max": "200000 0\n"}, "0::/\n", 64),
        ({"cpu.max": "nonsense"}, "nonsense", 64),
        ({}, "0::/\n", 64),
    ],
)
def test_threads_follow_the_cpu_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str], membership: str, cores: int
) -> None:
    """On 64 cores a quota gives as many threads as it is worth, whichever cgroup up to the root sets it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert cores == cpu_count(*tree(tmp_path, files, membership))


def test_affinity_below_the_quota_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is pinned to two cores gets two, whatever its quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert 2 == cpu_count(*tree(tmp_path, {"cpu.max": "800000 100000"}, "0::/\n"))


def test_sessions_get_as_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a number of threads in the settings, sessions take what the container allows."""
    monkeypatch.setattr("osamd.runtime.sessions.cpu_count", lambda: 3)
    assert 3 == choose_placement(device="cpu", onnx_providers=(), threads=0).threads
    assert 7 == choose_placement(device="cpu", onnx_providers=(), threads=7).threads


@pytest.mark.parametrize(
    ("files", "membership"),
    [
        ({"memory.max": str(GIB)}, "0::/\n"),
        ({"kubepods/pod1/box/memory.max": "max\n", "kubepods/memory.max": f"{GIB}\n"}, V2),
        ({"memory/memory.limit_in_bytes": f"{GIB}\n"}, V1),
        (
            {"memory/docker/box/memory.limit_in_bytes": f"{GIB}\n", "memory/memory.limit_in_bytes": str(2**63)},
            V1,
        ),
    ],
)
def test_memory_limit_of_any_cgroup(tmp_path: Path, files: Mapping[str, str], membership: str) -> None:
    """The smallest memory limit up to the root counts, in both versions."""
    assert GIB == memory_bytes(*tree(tmp_path, files, membership))


def test_no_limit_is_the_whole_machine(tmp_path: Path) -> None:
    """Without cgroups there is the machine's own memory, and its cores."""
    nowhere = tree(tmp_path, {}, "")
    assert os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") == memory_bytes(*nowhere)
    assert len(os.sched_getaffinity(0)) == cpu_count(*nowhere)
