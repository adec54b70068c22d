"""Does the demo's small file survive what may happen to it?"""

from __future__ import annotations

from pathlib import Path

import pytest

from coral_backend.demo.state import DemoState, Entry, kept_port, write_atomically


def test_entries_are_on_the_disk_at_once(tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "demo.json"
    first = DemoState(path, told.append)
    first.put("a", Entry(1))
    first.put("b", Entry(2, (7, 8)))
    again = DemoState(path, told.append)
    assert (again.get("a"), again.get("b"), again.get("c")) == (Entry(1), Entry(2, (7, 8)), None)
    assert list(again.others("a")) == [("b", Entry(2, (7, 8)))]
    again.drop("a")
    assert DemoState(path, told.append).get("a") is None
    assert told == []
    assert [file.name for file in tmp_path.iterdir()] == ["demo.json"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_file_of_before_is_read(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text('{"k": {"project": 3, "tasks": [4, 5]}}')
    assert DemoState(tmp_path / "demo.json", pytest.fail).get("k") == Entry(3, (4, 5))


@pytest.mark.parametrize(
    "content",
    [b"", b'{"k": {"project": 3, "ta', b"[1]", b'{"k": 3}', b'{"k": {"project": 3}}', b"\xff\xfe", b"[" * 9999],
)
def test_a_damaged_file_counts_as_absent_and_is_told_once(tmp_path: Path, content: bytes) -> None:
    path, told = tmp_path / "demo.json", list[str]()
    path.write_bytes(content)
    assert DemoState(path, told.append).get("k") is None
    assert DemoState(path, told.append).get("k") is None
    assert len(told) == 1
    assert "damaged" in told[0]
    assert (tmp_path / "demo.json.damaged").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"80 80", b"0", b"65536", b"-1", b"\xff"])
def test_a_file_without_a_port_is_told(tmp_path: Path, content: bytes) -> None:
    told: list[str] = []
    (tmp_path / "web.port").write_bytes(content)
    assert kept_port(tmp_path / "web.port", told.append) is None
    assert len(told) == 1


def test_a_kept_port_is_read(tmp_path: Path) -> None:
    assert kept_port(tmp_path / "web.port", pytest.fail) is None
    write_atomically(tmp_path / "web.port", "8123")
    assert kept_port(tmp_path / "web.port", pytest.fail) == 8123


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
