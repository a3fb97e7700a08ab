"""How a process that computes on a CPU should get its memory from glibc.

By default glibc maps fresh pages for each large tensor and gives them back after it, and the kernel clears them every
time. With these variables it keeps what it has, in one arena, since that of a thread never holds more than 64 MB. On 2
cores, for a batch of 8, detection fell from 262 to 143 ms a photo and classification from 17.4 to 9.3; for a lone photo
from 170 to 143 and from 15.0 to 14.0. The price: a worker keeps the most memory that it ever needed.
"""

# glibc reads them when a process starts, so they are for the environment of the process to be started.
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**26),
}
