"""What a killed systemd-nspawn leaves in /run."""

from pathlib import Path

import pytest

from drill import nspawn
from drill.records import Record


@pytest.mark.parametrize("mounted", [True, False])
def test_the_socket_directory_of_a_killed_machine_is_unmounted_and_removed(monkeypatch, tmp_path, mounted):
    record = Record("one", "10.90.0.2", "10.90.0.1", "drill0")
    sockets = tmp_path / "unix-export" / record.machine
    propagate = tmp_path / "propagate" / record.machine
    for directory in (sockets, propagate):
        directory.mkdir(parents=True)
    ran = []
    monkeypatch.setattr(nspawn, "_RUNTIME", tmp_path)
    monkeypatch.setattr(nspawn, "run", lambda argv, *, purpose: ran.append(argv))
    monkeypatch.setattr(Path, "is_mount", lambda path: mounted and path == sockets)
    nspawn.clear_runtime(record)
    assert ran == ([["umount", str(sockets)]] if mounted else [])
    assert not sockets.exists()
    assert not propagate.exists()
    nspawn.clear_runtime(record)
