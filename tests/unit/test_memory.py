"""The memory that this process may use: of the host, or less by a cgroup."""

from __future__ import annotations

from pathlib import Path

from netsonde.capture import memory


def make_proc(directory: Path, cgroup: str) -> Path:
    (directory / "proc" / "self").mkdir(parents=True)
    (directory / "proc" / "self" / "cgroup").write_text(cgroup)
    return directory / "proc"


def test_smallest_limit_of_the_cgroups_applies(tmp_path: Path) -> None:
    proc = make_proc(tmp_path, "0::/system.slice/netsonde.service\n")
    (proc / "meminfo").write_text("MemTotal:       4096000 kB\n")
    group = tmp_path / "cgroup" / "system.slice" / "netsonde.service"
    group.mkdir(parents=True)
    assert memory.total_mb(proc, tmp_path / "cgroup") == 4000
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text(f"{512 << 20}\n")
    assert memory.total_mb(proc, tmp_path / "cgroup") == 512


def test_hidden_meminfo_gives_the_host_s_memory(tmp_path: Path) -> None:
    """The agent's unit sets ProcSubset=pid, which hides it."""
    proc = make_proc(tmp_path, "")
    shown = memory.total_mb(memory.PROC, tmp_path)
    assert abs(memory.total_mb(proc, tmp_path) - shown) <= 1


def test_limit_of_the_first_cgroup_version_applies(tmp_path: Path) -> None:
    proc = make_proc(tmp_path, "5:cpu,memory:/netsonde\n3:cpuset:/other\n0::/\n")
    (proc / "meminfo").write_text("MemTotal:       4096000 kB\n")
    group = tmp_path / "cgroup" / "memory" / "netsonde"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{300 << 20}\n")
    (group.parent / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory.total_mb(proc, tmp_path / "cgroup") == 300


def test_limit_above_the_host_s_memory_changes_nothing(tmp_path: Path) -> None:
    proc = make_proc(tmp_path, "0::/\nmalformed\n")
    (proc / "meminfo").write_text("MemTotal:       1024000 kB\n")
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup" / "memory.max").write_text(f"{8 << 30}\n")
    assert memory.total_mb(proc, tmp_path / "cgroup") == 1000
