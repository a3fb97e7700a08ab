"""CPUs that a process may use, and the variables that its C libraries read at start.

Memory: by default glibc maps fresh pages for each large tensor and returns them afterwards, and the kernel clears them
every time. With the variables below it keeps its memory, in a single arena, because a thread's own arena never holds
more than 64 MB. On 2 cores and a batch of 8, this took detection from 262 to 143 ms per image and classification from
17.4 to 9.3 ms; for a single image from 170 to 143 and from 15.0 to 14.0 ms. The price: a worker never returns memory.

Threads: by default PyTorch's threads spin while they wait for each other, which takes the core from the thread that
they wait for. On a busy machine, an image cost 1,000 ms of CPU time instead of 31.
"""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**26),
    "OMP_WAIT_POLICY": "PASSIVE",
}


def require() -> None:
    """Restart this program with ENVIRONMENT, unless it is set already."""
    if not ENVIRONMENT.items() <= os.environ.items():
        os.execve(sys.executable, sys.orig_argv, os.environ | ENVIRONMENT)


def available_cpus(root: Path = Path("/")) -> int:
    """Return the number of CPUs that this process may use: its affinity, or its cgroups' CPU quota rounded up if less.

    `root` is the folder that contains proc/ and sys/.
    """
    if sys.version_info >= (3, 13):
        count = os.process_cpu_count() or 1
    else:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(quota) for quota in _cpu_quotas(root))]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    """The quotas, in CPUs, of this process's cgroups and of all above them; cgroup versions 1 and 2.

    https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/scheduler/sched-bwc.html
    """
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        # In a container the path may be that of the host, which is not mounted: the mount itself is then the cgroup.
        groups = [group.relative_to("/") for group in (PurePosixPath(path), *PurePosixPath(path).parents)]
        if controllers == "":
            for group in groups:
                yield from _ratio(_read(mount / group / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            for folder in (mount / controllers, mount / "cpu"):
                for group in groups:
                    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                    yield from _ratio([_read(folder / group / name).strip() for name in names])


def _ratio(values: list[str]) -> Iterator[float]:
    """Yield quota / period if the quota is limited: "max" and -1 mean that it is not."""
    if len(values) == 2 and all(value.isdecimal() for value in values) and int(values[1]) > 0:
        yield int(values[0]) / int(values[1])


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
