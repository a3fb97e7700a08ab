"""The number of CPUs: affinity and CPU quotas of cgroups, read from files as the kernel writes them."""

import os
from pathlib import Path

import pytest

from foursight.models.engines import environment


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)


def system(root: Path, membership: str, **files: str) -> Path:
    """Write a root folder with proc/self/cgroup and files of sys/fs/cgroup."""
    for name, text in {"proc/self/cgroup": membership, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
        ("0::/a.slice/b.scope\n", {"a.slice/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "500000 100000\n", "a/cpu.max": "400000 100000\n", "cpu.max": "max 100000"}, 4),
        # The path is the host's, in a container that mounts only its own cgroup.
        ("0::/docker/0123\n", {"cpu.max": "250000 100000\n"}, 3),
        ("4:cpu,cpuacct:/a\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": "200000\n",
                                "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, 2),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n",
                                "cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "10000\n"}, 5),
        ("7:cpuset:/a\n1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)  # fmt: skip
def test_a_cpu_quota_limits_the_number_of_cpus(
    membership: str, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    assert environment.available_cpus(system(tmp_path, membership, **files)) == expected


def test_affinity_limits_the_number_of_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    monkeypatch.setattr(os, "process_cpu_count", lambda: 1, raising=False)
    assert environment.available_cpus(system(tmp_path, "0::/\n", **{"cpu.max": "200000 100000\n"})) == 1


def test_this_machine_has_at_least_one_cpu() -> None:
    assert 1 <= environment.available_cpus() <= 8
