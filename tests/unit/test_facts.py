# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel's files say."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import pytest

from machines.host import facts
from machines.model.observed import Listener
from machines.model.tree import Tree

ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0100A8C0	0003	0	0	0	00000000	0	0	0
eth0	0000A8C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
br0	0007400A	00000000	0001	0	0	0	00FFFFFF	0	0	0
br0	0007400A	00000000	0001	0	0	9	00FFFFFF	0	0	0
tun0	01020304	00000000	0005	0	0	0	FFFFFFFF	0	0	0
"""

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0200000A:0016 0300000A:C350 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
"""

TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 00000000000000000000000001000000:0277 00000000000000000000000000000000:0000 0A 00000000:00000000
   2: B80D0120000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000
   3: 0000000000000000FFFF00000100007F:1F91 00000000000000000000000000000000:0000 0A 00000000:00000000
"""


def test_routes() -> None:
    assert {str(subnet): link for subnet, link in facts.parse_routes(ROUTES).items()} == {
        "4.3.2.1/32": "tun0",
        "10.64.7.0/24": "br0",
        "192.168.0.0/24": "eth0",
    }


def test_routes_of_ipv6_are_those_to_subnets() -> None:
    lines = (
        "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 "
        "00000400 00000001 00000000 00000003 eth0",
        "20010db8000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 "
        "00000100 00000001 00000000 00000001 eth0",
        "fd120000000000000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 "
        "00000000 00000002 00000000 80200001 lo",
        "fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 "
        "00000100 00000001 00000000 00000001 eth0",
        "ff000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 "
        "00000100 00000001 00000000 00000001 eth0",
    )
    assert facts.parse_routes6("\n".join(lines)) == {ipaddress.IPv6Network("2001:db8::/64"): "eth0"}


def test_routes_of_vpns_in_place_of_the_default_one_are_left_out() -> None:
    lines = [f"tun0\t{word}\t0\t1\t0\t0\t0\t{mask}" for word, mask in (
        ("00000000", "00000080"), ("00000080", "00000080"), ("0000000A", "000000FF"),
    )]  # fmt: skip
    assert facts.parse_routes("\n".join(["", *lines])) == {ipaddress.IPv4Network("10.0.0.0/8"): "tun0"}
    six = "{:032x} {:02x} " + "0" * 32 + " 00 " + "0" * 32 + " 00000100 00000001 00000000 00000001 tun0"
    routes = ("fc00::/7", "8000::/1", "fd12::/16")
    networks = [ipaddress.IPv6Network(text) for text in routes]
    text = "\n".join(six.format(int(network.network_address), network.prefixlen) for network in networks)
    assert facts.parse_routes6(text) == {networks[2]: "tun0"}


def test_listeners() -> None:
    assert facts.parse_listeners(TCP) == (Listener("0.0.0.0", 22), Listener("127.0.0.1", 8080))


def test_listeners_on_ipv6() -> None:
    found = facts.parse_listeners(TCP6)
    assert {Listener("::", 80), Listener("::1", 631), Listener("2001:db8::1", 443)} <= set(found)


def test_listener_on_a_mapped_address_is_on_the_address() -> None:
    assert Listener("127.0.0.1", 8081) in facts.parse_listeners(TCP6)


@pytest.mark.parametrize("parse", [facts.parse_routes, facts.parse_listeners, facts.parse_resolv_conf])
def test_file_that_is_not_there_says_nothing(parse: object) -> None:
    assert callable(parse)
    assert not parse("")


def test_port_that_this_process_listens_on_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert Listener("127.0.0.1", server.getsockname()[1]) in facts.listeners()


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 192.0.2.1\n", ("192.0.2.1",)),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.1", ("192.0.2.1", "192.0.2.2")),
        ("nameserver 127.0.0.53\noptions edns0\n", ()),
        ("nameserver ::1\nnameserver 2001:db8::1\nnameserver fe80::1%eth0\n", ("2001:db8::1",)),
        ("nameserver 2001:db8::1\nnameserver 192.0.2.1\n", ("192.0.2.1", "2001:db8::1")),
        ("# nameserver 192.0.2.1\nnameserver\nnameserver dns.example\n", ()),
        ("  nameserver\t192.0.2.1 # office\n", ("192.0.2.1",)),
    ],
)
def test_name_servers_that_machines_can_reach(text: str, servers: tuple[str, ...]) -> None:
    assert facts.parse_resolv_conf(text) == servers


def test_loopback_is_a_link_and_no_bridge() -> None:
    assert facts.links()["lo"].kind != "bridge"


def test_numbers_of_the_kernel() -> None:
    assert facts.sysctl("kernel.pid_max") == int(Path("/proc/sys/kernel/pid_max").read_text())
    assert facts.sysctl("kernel.there_is_none") is None


@pytest.mark.parametrize(
    ("units", "state"),
    [
        ({}, "not-found"),
        ({"lib": "file"}, ""),
        ({"etc": "/dev/null", "lib": "file"}, "masked"),
        ({"run": "/dev/null", "lib": "file"}, "masked"),
        ({"etc": "file", "lib": "file"}, ""),
    ],
)
def test_machined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, units: dict[str, str], state: str) -> None:
    names = {"etc": "/etc/systemd/system", "run": "/run/systemd/system", "lib": "/usr/lib/systemd/system"}
    real = {"lexists": os.path.lexists, "realpath": os.path.realpath}
    for room, kind in units.items():
        unit = tmp_path / names[room].lstrip("/") / "systemd-machined.service"
        unit.parent.mkdir(parents=True)
        if kind == "file":
            unit.write_text("[Service]\n")
        else:
            unit.symlink_to(kind)
    monkeypatch.setattr(os.path, "lexists", lambda path: real["lexists"](f"{tmp_path}{path}"))
    monkeypatch.setattr(os.path, "realpath", lambda path: real["realpath"](f"{tmp_path}{path}"))
    assert facts.machined_state() == state


def test_journal_links_are_found_by_the_machine_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_id = "0" * 31 + "a"
    tree = tmp_path / "web"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/machine-id").write_text(f"{machine_id}\n")
    monkeypatch.setattr(facts, "JOURNALS", str(tmp_path))
    assert facts.journal_links([Tree("web", str(tree))]) == {}
    (tmp_path / machine_id).symlink_to("/tmp/nspawn-root-x/var/log/journal")
    assert facts.journal_links([Tree("web", str(tree))]) == {"web": str(tmp_path / machine_id)}
