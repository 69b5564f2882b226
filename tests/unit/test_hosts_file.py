# SPDX-License-Identifier: LGPL-2.1-or-later
"""/etc/hosts is written whole, with every byte of others as it was; forwarding takes the host nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from machines.errors import MachctlError
from machines.host import hosts, sysctl

OTHERS = b"127.0.0.1\tlocalhost\r\n192.0.2.1 caf\xe9\n\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "hosts"
    monkeypatch.setattr(hosts, "PATH", str(path))
    return path


def test_bytes_of_others_go_back_as_they_came(path: Path) -> None:
    path.write_bytes(OTHERS)
    path.chmod(0o640)
    hosts.write_hosts(hosts.read_hosts() + "192.0.2.2 web\n")
    assert path.read_bytes() == OTHERS + b"192.0.2.2 web\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["hosts"]


def test_file_that_is_not_there_is_made(path: Path) -> None:
    assert hosts.read_hosts() == ""
    hosts.write_hosts("192.0.2.2 web\n")
    assert path.read_text() == "192.0.2.2 web\n"
    assert path.stat().st_mode & 0o777 == 0o644


def test_link_stays_a_link(path: Path) -> None:
    real = path.with_name("real")
    real.write_text("a\n")
    path.symlink_to(real)
    hosts.write_hosts("b\n")
    assert path.is_symlink()
    assert real.read_text() == "b\n"


def test_mounted_file_is_written_in_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("old\n")
    inode = path.stat().st_ino

    def busy(old: str, new: str) -> None:
        raise OSError(errno.EBUSY, "is mounted")

    monkeypatch.setattr(os, "rename", busy)
    hosts.write_hosts("new\n")
    assert (path.read_text(), path.stat().st_ino) == ("new\n", inode)


def test_file_that_cannot_be_written_is_an_error_that_names_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(old: str, new: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    path.write_text("old\n")
    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(MachctlError, match="cannot be written: Operation not permitted"):
        hosts.write_hosts("new\n")
    assert path.read_text() == "old\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["hosts"]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    conf = tmp_path / "net/ipv6/conf"
    links = {"all": (1, 0), "default": (1, 0), "eth0": (1, 0), "wlan0": (2, 0), "br0": (0, 0), "tun.1": (1, 1)}
    for link, (accept, forwards) in links.items():
        (conf / link).mkdir(parents=True)
        (conf / link / "accept_ra").write_text(f"{accept}\n")
        (conf / link / "forwarding").write_text(f"{forwards}\n")
    monkeypatch.setattr(sysctl, "_IPV6", str(conf))
    monkeypatch.setattr(sysctl, "_path", lambda name: f"{tmp_path}/{name}")
    return conf


def accepting(conf: Path) -> dict[str, int]:
    return {link.name: int((link / "accept_ra").read_text()) for link in conf.iterdir()}


def test_links_that_take_routes_go_on_taking_them(kernel: Path) -> None:
    sysctl.forward_ipv6()
    # What is off stays off, and one that forwards already takes none as it is.
    assert accepting(kernel) == {"all": 1, "default": 2, "eth0": 2, "wlan0": 2, "br0": 0, "tun.1": 1}
    assert (kernel / "all/forwarding").read_text() == "1"


def test_host_that_forwards_already_is_as_somebody_wanted_it(kernel: Path) -> None:
    (kernel / "all/forwarding").write_text("1\n")
    sysctl.forward_ipv6()
    assert accepting(kernel)["eth0"] == 1


def test_host_without_ipv6_has_nothing_to_turn_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysctl, "_path", lambda name: f"{tmp_path}/{name}")
    sysctl.forward_ipv6()
    assert not sysctl.ipv6_enabled()
    assert not list(tmp_path.iterdir())
