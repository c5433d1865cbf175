"""CPU and memory limits of this process, including those of its container (cgroup version 1 or 2)."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
# Lines of ``hierarchy:controllers:path``; version 2 has the one with no controllers (cgroups(7)).
MEMBERSHIP: Final = Path("/proc/self/cgroup")


def cpu_count(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Cores this process may use: its CPU affinity or its CPU quota, whichever is less, rounded up.

    ``docker run --cpus=2`` on 64 cores gives 2: threads beyond the quota would only be throttled.

    Args:
        cgroups: where the cgroup file systems are mounted.
        membership: the file that says which cgroups this process is in.
    """
    count = len(os.sched_getaffinity(0))
    for folder in _folders("cpu", cgroups, membership):
        # An unreadable file, and "max" or -1 in it, mean no limit.
        with contextlib.suppress(OSError, ValueError):
            quota, period = _quota(folder)
            if quota > 0 and period > 0:
                count = min(count, math.ceil(quota / period))
    return max(1, count)


def memory_bytes(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Memory this process may use: the machine's, or the smallest limit of its cgroups.

    Args:
        cgroups: where the cgroup file systems are mounted.
        membership: the file that says which cgroups this process is in.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _folders("memory", cgroups, membership):
        for name in ("memory.max", "memory.limit_in_bytes"):
            # Without a limit the file says "max", or a number beyond any memory.
            with contextlib.suppress(OSError, ValueError):
                total = min(total, int((folder / name).read_text("ascii")))
    return total


def _quota(folder: Path) -> tuple[int, int]:
    """Microseconds of CPU time in each period, and the period."""
    try:
        quota, period = (folder / "cpu.max").read_text("ascii").split()
    except FileNotFoundError:
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period"))
    return int(quota), int(period)


def _folders(controller: str, cgroups: Path, membership: Path) -> Iterator[Path]:
    """The process's cgroup and its ancestors, each of which may set a limit, for both versions.

    Inside a container the path may be the host's, which is not mounted; the container's own limits are then at the root
    of the mount, which is always included.
    """
    yield cgroups
    yield cgroups / controller
    try:
        lines = membership.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        inside = PurePosixPath(path).relative_to("/") if path.startswith("/") else PurePosixPath()
        if not controllers:
            mounts = [cgroups, cgroups / "unified"]
        elif controller in controllers.split(","):
            mounts = [cgroups / controllers, cgroups / controller]
        else:
            continue
        for mount in mounts:
            for part in (inside, *inside.parents):
                yield mount / part
