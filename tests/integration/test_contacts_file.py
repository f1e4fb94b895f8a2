"""The DHT nodes of the last run on the disk."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from zmqex.adapters.discovery.contacts import read_contacts, write_contacts
from zmqex.errors import StorageError


def test_what_was_written_is_read_at_the_next_start(tmp_path: Path) -> None:
    """Replaced as a whole, for this user only; nothing at the first start."""
    path = tmp_path / "contacts.json"
    assert read_contacts(path) == []
    for contacts in ([("127.0.0.1", 5)], [("::1", 6), ("8.8.8.8", 7)]):
        write_contacts(path, contacts)
        assert read_contacts(path) == contacts
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"\xff", b"[[1, 2]]", b'{"a": 1}', b'[["a", 5, 6]]'])
def test_a_file_of_another_content_is_named(tmp_path: Path, content: bytes) -> None:
    """And left to its owner; the node starts without it."""
    path = tmp_path / "contacts.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StorageError, match=r"contacts\.json"):
        read_contacts(path)


def test_a_file_that_others_can_change_is_not_believed(tmp_path: Path) -> None:
    """Nor a link; and a directory that refuses is named."""
    path = tmp_path / "contacts.json"
    write_contacts(path, [("127.0.0.1", 5)])
    path.chmod(0o666)
    with pytest.raises(StorageError, match="chmod 600"):
        read_contacts(path)
    with pytest.raises(StorageError):
        write_contacts(tmp_path / "missing" / "contacts.json", [])
