import os
from pathlib import Path

import pytest

from focaldet.system import cores as module
from focaldet.system.cores import cores, cpu_quota


def machine(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """What Linux shows of control groups: the groups of this process, and files below the mounts."""
    for name, text in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(text)
    (folder / "own").write_text(own)
    return folder / "own", folder / "cgroup"


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),  # in a container
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/gone\n", {"cpu.max": "300000 100000"}, 3.0),  # its path is the host's
        (
            "4:memory:/m\n1:cpu,cpuacct:/docker/c\n0::/\n",
            {"cpu,cpuacct/docker/c/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/docker/c/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/\n", {"cpu.max": "words\n"}, None),
    ],
)
def test_quota_is_the_least_of_the_groups_around_the_process(
    tmp_path: Path, own: str, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(*machine(tmp_path, own, files)) == quota


def test_without_linux_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 6), (2.5, 3), (0.2, 1), (64.0, 6)])
def test_cores_are_those_allowed_and_no_more_than_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(module, "cpu_quota", lambda: quota)
    assert cores() == expected
