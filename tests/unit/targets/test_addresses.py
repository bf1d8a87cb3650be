"""Sockets: short enough, private, different, and cleaned up."""

import contextlib
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from headrace.errors import ReplicaError
from headrace.targets import addresses
from headrace.targets.addresses import LONGEST_SOCKET_PATH, Addresses, free_port, short_name


@pytest.fixture(params=["short", "long"])
def run_dir(request, tmp_path):
    folder = tmp_path / ("r" * 200 if request.param == "long" else "r")
    folder.mkdir()
    return folder


def test_a_socket_can_be_bound_whatever_the_folder_and_the_name(run_dir):
    addresses = Addresses(run_dir)
    path = addresses.socket("org/a-model:with.a.long-name" * 4 + "-1")
    assert len(os.fsencode(path)) <= LONGEST_SOCKET_PATH
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not addresses.socket("org/a-model:with.a.long-name" * 4 + "-1").exists()
    addresses.close()
    assert not path.parent.exists()


def long_folder(place):
    """As TMPDIR is within some sandboxes; `serve` passes it as the folder to run in."""
    folder = place / ("t" * 200)
    folder.mkdir()
    return folder


def test_where_the_temporary_folder_is_too_deep_sockets_are_in_tmp(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(long_folder(tmp_path)))
    made = Addresses(Path(tempfile.gettempdir()))
    assert made.socket("chat-1").is_relative_to("/tmp")
    assert len(os.fsencode(made.socket("x" * 40))) <= LONGEST_SOCKET_PATH
    made.close()
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_where_no_folder_will_do_that_is_said(tmp_path, monkeypatch):
    deep = long_folder(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    monkeypatch.setattr(addresses, "SHORT_PLACE", deep / "missing")
    with pytest.raises(ReplicaError, match=r"none of /.*ttt, /.*ttt/missing will do\. Set TMPDIR to one\."):
        Addresses(deep)


def test_two_targets_in_one_folder_do_not_meet(tmp_path):
    first, second = Addresses(tmp_path), Addresses(tmp_path)
    assert first.socket("chat-1") != second.socket("chat-1")
    first.close()
    assert second.socket("chat-1").parent.exists()
    second.close()


def test_what_a_killed_headrace_left_is_removed_and_what_lives_stays(tmp_path):
    left = tmp_path / "headrace-left"
    left.mkdir()
    (left / "lock").touch()
    (left / "chat-1.sock").touch()
    other = tmp_path / "headrace-of-someone"
    other.mkdir()
    alive = Addresses(tmp_path)
    Addresses(tmp_path).close()
    assert not left.exists()
    assert other.exists()
    assert alive.socket("chat-1").parent.exists()
    alive.close()


@pytest.mark.parametrize("name", ["chat-1", "a" * 40])
def test_a_plain_name_stays_as_it_is(name):
    assert short_name(name) == name


def test_other_names_stay_different():
    names = ["a/b-1", "a.b-1", "a_b-1", "x" * 100 + "-1", "y" + "x" * 99 + "-1"]
    short = [short_name(name) for name in names]
    assert len(set(short)) == len(names)
    assert all(len(name) <= 40 and Path(name).name == name for name in short)


def test_free_ports_come_in_a_row():
    first = free_port(3)
    with contextlib.ExitStack() as stack:
        for offset in range(3):
            stack.enter_context(socket.socket()).bind(("127.0.0.1", first + offset))


def test_ports_in_a_row_end_with_the_last_one(monkeypatch):
    found = iter([65535, 40000, 40001])
    bound = addresses._bound
    monkeypatch.setattr(addresses, "_bound", lambda probes, port: bound(probes, port) if port > 65535 else next(found))
    assert free_port(2) == 40000


def test_a_free_port_can_be_bound():
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
