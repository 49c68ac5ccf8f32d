from pathlib import Path

import pytest

from focaldet.system.memory import free_bytes


def linux(folder: Path, available_kb: int, files: dict[str, str]) -> tuple[Path, Path, Path]:
    """What Linux shows of its memory and of a control group."""
    (folder / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {available_kb} kB\n")
    (folder / "own").write_text("0::/a\n")
    for name, text in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(text)
    return folder / "meminfo", folder / "own", folder / "cgroup"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 8000 * 1024),
        ({"a/memory.max": "max\n", "a/memory.current": "10\n", "a/memory.stat": ""}, 8000 * 1024),
        (
            {"a/memory.max": "5000\n", "a/memory.current": "2000\n", "a/memory.stat": "anon 7\ninactive_file 500\n"},
            3500,
        ),
        ({"memory.max": "5000\n", "memory.current": "9000\n", "memory.stat": ""}, 0),  # of the group around it
    ],
)
def test_free_memory_is_the_least_of_the_machine_and_its_groups(tmp_path: Path, files: dict[str, str], free: int):
    assert free_bytes(*linux(tmp_path, 8000, files)) == free
