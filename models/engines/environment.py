"""What the C libraries of a process that computes on a CPU are to be told: they read it when the process starts.

By default glibc maps fresh pages for each large tensor and gives them back after it, and the kernel clears them every
time. With its variables below it keeps what it has, in one arena, since that of a thread never holds more than 64 MB.
On 2 cores, for a batch of 8, detection fell from 262 to 143 ms a photo and classification from 17.4 to 9.3; for a lone
photo from 170 to 143 and from 15.0 to 14.0. The price: a worker keeps the most memory that it ever needed.

PyTorch's threads spin while they wait for each other. Where more threads than cores have work, that takes the core from
the one waited for: on a busy machine a photo cost 1,000 ms of processor time for 31.

Engines have threads of their own. Where PyTorch has several too, for the little that lies between engines, the two
pools keep each other from the cores: on 2 cores the network of a lone classification took 9.4 ms so, and 8.4 with one
thread of PyTorch's.
"""

import os
import sys

ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**26),
    "OMP_WAIT_POLICY": "PASSIVE",
}


def available_cpus() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require() -> None:
    """Begin this program again where it was started without; it then computes as a server's workers do."""
    if not ENVIRONMENT.items() <= os.environ.items():
        os.execve(sys.executable, sys.orig_argv, os.environ | ENVIRONMENT)
