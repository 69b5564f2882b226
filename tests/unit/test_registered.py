# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import os
import signal

from machines.host import registered

STATE_252 = """# This is private data. Do not parse.
NAME=g1
SCOPE=systemd-nspawn@g1.service
SERVICE=systemd-nspawn
ROOT=/var/lib/machines/g\\x201
ID=58c136f1935b41b18358b4ac194b9534
LEADER={leader}
CLASS=container
REALTIME=1795324038860439
MONOTONIC=2545785418
NETIF=3
"""

STATE_262 = """# This is private data. Do not parse.
NAME=g1
UID=0
UNIT=systemd-nspawn@g1.service
SERVICE="systemd-nspawn"
ROOT="/var/lib/machines/g 1"
ID=58c136f1935b41b18358b4ac194b9534
LEADER={leader}
LEADER_PIDFDID=17
CLASS=container
REALTIME=1795324038860439
NETIF=" 3"
VSOCK_CID=4294967295
"""

FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.99.0.0/24 2 0 2
        +-- 10.99.0.0/28 2 0 2
           |-- 10.99.0.0
              /24 link UNICAST
           |-- 10.99.0.12
              /32 host LOCAL
        |-- 10.99.0.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     |-- 169.254.7.9
        /32 host LOCAL
Local:
  +-- 0.0.0.0/0 3 0 5
           |-- 10.99.0.12
              /32 host LOCAL
"""

IF_INET6 = """00000000000000000000000000000001 01 80 10 80       lo
fe800000000000006c2ff0fffe3a0001 02 40 20 80    host0
fd001234000000000000000000000012 02 40 00 01    host0
fd001234000000000000000000000011 02 40 00 80    host0
fd001234000000000000000000000013 02 40 00 c0    host0
fd001234000000000000000000000014 02 40 00 a0    host0
fd001234000000000000000000000015 02 40 00 88    host0
garbage
"""


def test_a_state_file_of_every_version_reads_the_same():
    for text in (STATE_252, STATE_262):
        machine = registered.parse_state("g1", text.format(leader=160))
        assert machine is not None
        assert (machine.unit, machine.leader, machine.service) == ("systemd-nspawn@g1.service", 160, "systemd-nspawn")
        assert machine.root_directory == "/var/lib/machines/g 1"
        assert machine.since_usec == 1795324038860439


def test_a_state_file_without_a_leader_is_no_machine():
    for text in ("", "\0\xff", "LEADER=\n", "LEADER=abc\n", "LEADER=1\n", "LEADER=-4\n"):
        assert registered.parse_state("g1", text) is None


def test_only_files_named_as_machines_are_read(tmp_path):
    text = STATE_252.format(leader=os.getpid())
    for name in ("b", "a", ".host", ".#a1234", "unit:systemd-nspawn@a.service"):
        (tmp_path / name).write_text(text)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "directory").mkdir()
    (tmp_path / "gone").write_text(STATE_252.format(leader=2**30))
    found = registered.registered(directory=str(tmp_path))
    assert [machine.name for machine in found] == ["a", "b"]
    assert registered.registered_machine("../a", directory=str(tmp_path)) is None
    assert registered.registered_machine("nul\0", directory=str(tmp_path)) is None


def test_no_directory_is_no_machines(tmp_path):
    assert registered.registered(directory=str(tmp_path / "absent")) == ()


def test_ipv4_addresses_are_the_local_ones_once():
    assert registered.parse_fib_trie(FIB_TRIE) == ("10.99.0.12", "169.254.7.9")
    assert registered.parse_fib_trie("") == ()


def test_ipv6_addresses_are_the_usable_ones_the_lasting_first():
    found = registered.parse_if_inet6(IF_INET6)
    assert found == ("fe80::6c2f:f0ff:fe3a:1", "fd00:1234::11", "fd00:1234::12", "fd00:1234::14")
    assert registered.parse_if_inet6("") == ()


def test_link_local_addresses_come_last_and_only_when_asked_for(monkeypatch):
    texts = {"/proc/9/net/fib_trie": FIB_TRIE, "/proc/9/net/if_inet6": IF_INET6}
    monkeypatch.setattr(registered, "_read", lambda path: texts[path])
    monkeypatch.setattr(registered, "shares_network", lambda leader: False)
    everywhere = ("10.99.0.12", "fd00:1234::11", "fd00:1234::12", "fd00:1234::14")
    assert registered.addresses(9) == everywhere
    assert registered.addresses(9, link_local=True) == (*everywhere, "169.254.7.9", "fe80::6c2f:f0ff:fe3a:1")


def test_a_process_in_this_network_has_no_addresses_of_its_own():
    assert registered.addresses(os.getpid()) == ()


def test_assignments_are_unquoted():
    text = """NAME="Debian GNU/Linux"
PRETTY_NAME='It''s'
A=plain
B="with \\"quotes\\" and \\\\"
# comment
no assignment
1X=y
"""
    found = registered.parse_assignments(text)
    assert found["NAME"] == "Debian GNU/Linux"
    assert found["B"] == 'with "quotes" and \\'
    assert found["A"] == "plain"
    assert "1X" not in found


def test_assignments_are_one_plain_word_on_a_terminal():
    found = registered.parse_assignments('ID="a\x1b[31mb\x07"\nNAME="\\x1b]0;x\\nn d"\nV=\u202e9\n')
    assert found == {"ID": "a[31mb", "NAME": "]0;xn d", "V": "9"}


def test_a_signal_that_is_neither_caught_nor_blocked_is_not_taken() -> None:
    kept = signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    try:
        assert not registered.takes_signal(os.getpid(), signal.SIGUSR2)
        signal.signal(signal.SIGUSR2, lambda *_: None)
        assert registered.takes_signal(os.getpid(), signal.SIGUSR2)
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        assert registered.takes_signal(os.getpid(), signal.SIGUSR2)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        signal.signal(signal.SIGUSR2, kept)


def test_one_that_is_gone_misses_no_signal() -> None:
    assert registered.takes_signal(2**22 + 1, signal.SIGTERM)
