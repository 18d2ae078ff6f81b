from __future__ import annotations

from pathlib import Path

import pytest

from co2ssl.config import host_memory, usable_cores
from co2ssl.cores import cpu_limit, memory_limit

GB = 2**30
NO_LIMIT = "9223372036854771712"
"""What version 1 says where there is none."""


def lay_out(root: Path, files: dict[str, str]) -> Path:
    """A root folder with these files; names without a slash at the start stand below ``sys/fs/cgroup``."""
    for name, text in files.items():
        path = root / name[1:] if name.startswith("/") else root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


DOCKER_2 = {"/proc/self/cgroup": "0::/", "cpu.max": "200000 100000", "memory.max": str(4 * GB)}
DOCKER_1 = {
    "/proc/self/cgroup": "4:memory:/docker/ab12\n3:cpu,cpuacct:/docker/ab12\n1:name=systemd:/docker/ab12\n0::/x",
    "cpu/cpu.cfs_quota_us": "250000",
    "cpu/cpu.cfs_period_us": "100000",
    "memory/memory.limit_in_bytes": str(4 * GB),
}
NESTED_2 = {
    "/proc/self/cgroup": "0::/user.slice/job_7/step_0",
    "user.slice/cpu.max": "800000 100000",
    "user.slice/job_7/cpu.max": "150000 100000",
    "user.slice/job_7/step_0/cpu.max": "max 100000",
    "user.slice/memory.max": "max",
    "user.slice/job_7/memory.max": str(3 * GB),
    "user.slice/job_7/step_0/memory.max": str(5 * GB),
    "user.slice/job_8/cpu.max": "100000 100000",
    "user.slice/job_8/memory.max": str(GB),
}
NESTED_1 = {
    "/proc/self/cgroup": "4:memory:/slurm/job_7\n3:cpu:/slurm/job_7",
    "cpu/cpu.cfs_quota_us": "-1",
    "cpu/cpu.cfs_period_us": "100000",
    "cpu/slurm/job_7/cpu.cfs_quota_us": "300000",
    "cpu/slurm/job_7/cpu.cfs_period_us": "50000",
    "memory/memory.limit_in_bytes": NO_LIMIT,
    "memory/slurm/memory.limit_in_bytes": str(2 * GB),
    "memory/slurm/job_7/memory.limit_in_bytes": NO_LIMIT,
}
BOTH = {
    "/proc/self/cgroup": "3:cpu,cpuacct:/a\n0::/b",
    "cpu,cpuacct/a/cpu.cfs_quota_us": "700000",
    "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
    "unified/b/memory.max": str(6 * GB),
}


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        (DOCKER_2, 2.0, 4 * GB),
        (DOCKER_1, 2.5, 4 * GB),
        (NESTED_2, 1.5, 3 * GB),
        (NESTED_1, 6.0, 2 * GB),
        (BOTH, 7.0, 6 * GB),
        # Outside of what a container with a namespace of its own can see.
        ({**DOCKER_2, "/proc/self/cgroup": "0::/../../other"}, 2.0, 4 * GB),
        ({name: text for name, text in DOCKER_2.items() if name != "/proc/self/cgroup"}, 2.0, 4 * GB),
        ({"/proc/self/cgroup": "0::/", "cpu.max": "max 100000", "memory.max": "max"}, None, None),
        ({"cpu.max": "", "memory.max": "lots"}, None, None),
        ({"cpu.max": "200000 0", "memory.max": "0"}, None, None),
        ({"/proc/self/cgroup": "nonsense\n::\n"}, None, None),
        ({}, None, None),
    ],
)
def test_the_smallest_limit_on_the_way_up_counts(
    files: dict[str, str], cores: float | None, memory: int | None, tmp_path: Path
) -> None:
    root = lay_out(tmp_path, files)
    assert cpu_limit(root) == cores
    assert memory_limit(root) == memory


@pytest.mark.parametrize(("quota", "cores"), [(100_000, 1), (150_000, 2), (200_000, 2), (20_000, 1), (6_400_000, 64)])
def test_cores_are_rounded_up_and_never_more_than_there_are(
    quota: int, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert usable_cores(lay_out(tmp_path, {"cpu.max": f"{quota} 100000"})) == cores
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    assert usable_cores(tmp_path) == 1


def test_memory_is_that_of_the_container(tmp_path: Path) -> None:
    whole = host_memory(tmp_path)
    assert host_memory(lay_out(tmp_path, {"memory.max": str(2**26)})) == 2**26
    assert host_memory(lay_out(tmp_path, {"memory.max": NO_LIMIT})) == whole
