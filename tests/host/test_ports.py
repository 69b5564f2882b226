# SPDX-License-Identifier: LGPL-2.1-or-later
"""publish, unpublish and port on a machine that runs, what others have already, and what a machine may reach."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import lan
from throwaway import Host, Roads

NFT = "nft list table inet machctl"


@pytest.fixture(scope="module", params=("trixie", "static"))
def host(request: pytest.FixtureRequest, roads: Roads) -> Iterator[Host]:
    """A host with a LAN and two machines that run, a and b; in the end as it was."""
    host = roads.get(request.param).ready().host
    with lan.lan(host), host.only_debian():
        for name in ("a", "b"):
            host.copy(name)
            host.machctl("start", name, "--wait", "ip")
        yield host


def reached(host: Host, port: int, servers: dict[str, tuple[str, int]], **where: str) -> dict[str, str]:
    """Ask a port from everywhere; give the answers."""
    cells = list(lan.cells("x", port, where or None))
    came = lan.probe(host, servers, cells, limit=3)
    return {name.removeprefix("x "): each["answer"] for name, each in came.items() if "answer" in each}


def test_ports_of_a_running_machine_open_and_close_at_once(host: Host) -> None:
    host.machctl("publish", "a", "7600:7000", "7600:7000/udp", "7610-7612:7010-7012").says("published 7600:7000")
    host.machctl("plan", "--detailed-exitcode")
    ways = {
        f"{family} {source} {protocol}"
        for family in lan.FAMILIES
        for source in lan.SOURCES
        for protocol in lan.PROTOCOLS
    }
    assert set(reached(host, 7600, {"one": ("a", 7000)})) == ways - {"ipv6 localhost udp"}
    tcp = {way for way in ways if way.endswith("tcp")}
    assert set(reached(host, 7611, {"two": ("a", 7011)})) == tcp - {"ipv6 localhost tcp"}
    host.machctl("unpublish", "a", "7600", "7600/udp", "7610-7612")
    assert reached(host, 7600, {"one": ("a", 7000)}) == {}
    host.machctl("plan", "--detailed-exitcode")
    assert 'comment "a-' not in host.sh(NFT)
    assert not host.sh("ls /etc/systemd/system | grep machctl-port-a_ || true")


FLOWS = """
import socket
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket
for family in (socket.AF_INET, socket.AF_INET6):
    with NFCTSocket(nfgen_family=family) as tracked:
        for each in tracked.dump(tuple_orig=NFCTAttrTuple(family=family, proto=socket.IPPROTO_UDP)):
            way = NFCTAttrTuple.from_netlink(family, each.get_attr("CTA_TUPLE_ORIG"))
            print(way.saddr, way.dport)
"""


def flows(host: Host, port: int) -> set[str]:
    """Give who the kernel knows to ask a port of the host over UDP."""
    found = (line.split() for line in host.run("python3", "-", stdin=FLOWS).stdout.splitlines())
    return {client for client, asked in found if int(asked) == port}


def test_a_client_that_keeps_its_port_is_led_where_it_is_led_now(host: Host) -> None:
    def answers(port: int, limit: float = 3) -> set[str]:
        ways = [("lan", lan.HERE["ipv4"]), ("lan", lan.HERE["ipv6"]), ("", lan.HERE["ipv4"]), ("", "127.0.0.1")]
        cells = [
            {"id": f"{at} {to}", "at": at, "to": to, "port": port, "protocol": "udp", "from": port + 100 + index}
            for index, (at, to) in enumerate(ways)
        ]
        came = lan.probe(host, {"one": ("a", 7000), "two": ("b", 7000)}, cells, limit=limit)
        return {each.get("answer", "nobody").split()[0] for each in came.values()}

    clients = {lan.THERE[family] for family in lan.FAMILIES}
    host.machctl("publish", "a", "7600:7000/udp", "7601:7000/udp")
    assert answers(7600) == answers(7601) == {"one"}
    assert flows(host, 7601) >= clients
    host.machctl("unpublish", "a", "7600/udp")
    assert not flows(host, 7600) & clients
    # From here on the kernel tracks that the host itself is asked, in vain.
    assert answers(7600, limit=0.3) == {"nobody"}
    host.machctl("publish", "b", "7600:7000/udp")
    assert answers(7600) == {"two"}
    assert flows(host, 7601) >= clients
    host.machctl("unpublish", "b", "7600/udp")
    host.machctl("unpublish", "a", "7601/udp")
    host.machctl("plan", "--detailed-exitcode")
    assert not host.exists("/var/lib/machctl/udp-rules")


def test_clients_of_the_lan_are_seen(host: Host) -> None:
    host.machctl("publish", "a", "7600:7000", "7600:7000/udp")
    answers = reached(host, 7600, {"one": ("a", 7000)})
    for family in lan.FAMILIES:
        for protocol in lan.PROTOCOLS:
            assert answers[f"{family} lan {protocol}"] == f"one {lan.THERE[family]}"
    host.machctl("unpublish", "a", "7600", "7600/udp")


def test_port_says_who_answers_where(host: Host) -> None:
    host.machctl("publish", "a", "7600:7000", "7601:53/udp")
    rows = {row["port"]: row for row in host.machctl("port", "a", "--json").json()}
    assert rows["7600"]["state"] == "open"
    assert rows["7600"]["proxy"] == ["127.0.0.1", "::1"]
    assert rows["7600"]["not"] == []
    assert rows["7601/udp"]["not"][0].startswith("[::1]: the kernel sends nothing")
    host.machctl("stop", "a")
    assert {row["state"] for row in host.machctl("port", "a", "--json").json()} == {"closed"}
    host.machctl("start", "a", "--wait", "ip")
    assert "open" in host.machctl("port").stdout
    host.machctl("unpublish", "a", "7600", "7601/udp")


def test_port_that_somebody_has_is_refused(host: Host) -> None:
    host.machctl("publish", "a", "7600-7609:7000-7009")
    host.machctl("publish", "b", "7605:80", status=5).says("port 7605 belongs to machine a", "7610:80")
    with host.background("python3", "-c", "import socket,time; s=socket.create_server(('', 7620)); time.sleep(60)"):
        host.sh("until ss -ltn 'sport = 7620' | grep -q 7620; do sleep 0.05; done")
        host.machctl("publish", "b", "7620:80", status=5).says("port 7620 is taken", "ss -ltnp")
        host.machctl("publish", "b", "7620:80/udp")
    host.machctl("publish", "b", "0:80", status=2).says("'0' is not a port")
    host.machctl("publish", "b", "65536", status=2).says("ports go from 1 to 65535")
    host.machctl("publish", "b", "9-8:9-8", status=2).says("goes backwards")
    host.machctl("publish", "b", "7700:80", "7699-7701:80-82", status=2).says("are the same on the host")
    host.machctl("unpublish", "b", "81", status=4).says("does not publish 81")
    host.machctl("unpublish", "b", "7620/udp")
    host.machctl("unpublish", "a", "7600-7609")


def test_a_port_that_was_published_live_is_open_after_the_machine_reboots_itself(host: Host) -> None:
    host.machctl("publish", "a", "7600:7000")
    before = host.sh("systemctl show -P MainPID systemd-nspawn@a")
    host.inside("a", "systemctl reboot", status=None)
    main = "pid=$(systemctl show -P MainPID systemd-nspawn@a)"
    host.sh(f'until {main}; test "$pid" != 0 && test "$pid" != {before}; do sleep 0.1; done')
    host.sh("until systemctl is-active -q machctl-port-a_7600.socket; do sleep 0.1; done")
    assert "ipv4 localhost tcp" in reached(host, 7600, {"one": ("a", 7000)})
    host.machctl("unpublish", "a", "7600")


def test_rules_come_back(host: Host) -> None:
    host.machctl("publish", "a", "7600:7000")
    host.sh("nft flush ruleset")
    host.machctl("plan", "--detailed-exitcode", status=10)
    host.machctl("apply")
    assert "dport 7600" in host.sh(NFT)
    if host.sh("systemctl cat nftables.service >/dev/null 2>&1 && echo yes || true"):
        for verb in ("start", "restart", "reload"):
            host.sh(f"systemctl {verb} nftables; until {NFT} 2>/dev/null | grep -q 'dport 7600'; do sleep 0.1; done")
        host.sh("systemctl stop nftables")
        host.machctl("apply")
    assert "dport 7600" in host.sh(NFT)
    host.machctl("unpublish", "a", "7600")


def direct(host: Host, name: str) -> dict[str, str]:
    """The addresses of a machine itself."""
    shown = host.machine(name)["addresses"]
    return {"ipv4": next(each for each in shown if "." in each), "ipv6": next(each for each in shown if ":" in each)}


def pairs(host: Host, sources: tuple[str, ...], target: str, port: int) -> dict[str, str]:
    """Ask a machine's own addresses from others; give who was answered."""
    cells = [
        {"id": f"{source} {family} {protocol}", "at": f"machine:{source}", "to": to, "port": port, "protocol": protocol}
        for source in sources
        for family, to in direct(host, target).items()
        for protocol in lan.PROTOCOLS
    ]
    came = lan.probe(host, {"it": (target, port)}, cells, limit=2)
    return {name: each["answer"] for name, each in came.items() if "answer" in each}


@pytest.mark.parametrize("filtered", ["0", "1"])
def test_isolated_machine_is_reached_by_its_published_ports_alone(host: Host, filtered: str) -> None:
    host.sh(f"echo {filtered} | tee /proc/sys/net/bridge/bridge-nf-call-ip*tables >/dev/null 2>&1 || true")
    host.machctl("publish", "b", "7600:7000")
    assert len(pairs(host, ("a",), "b", 7000)) == 4
    host.machctl("set", "b", "isolated=yes")
    host.machctl("plan", "--detailed-exitcode")
    assert pairs(host, ("a",), "b", 7000) == {}
    assert pairs(host, ("b",), "a", 7000) == {}
    out = lan.probe(host, {}, lan.outward("b"), limit=1)
    assert not [name for name, came in out.items() if "answer" in came]
    sources = {way.rsplit(" ", 1)[0] for way in reached(host, 7600, {"it": ("b", 7000)}) if way.endswith("tcp")}
    assert sources == {f"{family} {source}" for family in lan.FAMILIES for source in lan.SOURCES}
    # An address that it gives itself is nobody's.
    for verb in ("add", "del"):
        host.inside("b", f"ip addr {verb} 10.99.99.99/32 dev host0; ip addr {verb} fd99::99/128 dev host0")
        assert pairs(host, ("b",), "a", 7000) == {}
    host.machctl("set", "b", "isolated=")
    assert "bridge machctl" not in host.sh("nft list tables")
    host.machctl("unpublish", "b", "7600")
    assert len(pairs(host, ("b",), "a", 7000)) == 4


def test_egress_is_what_a_machine_may_reach(host: Host) -> None:
    host.machctl("set", "b", f"egress={lan.PORT},7001/udp")
    out = lan.probe(host, {}, lan.outward("b"), limit=1)
    assert {name for name, came in out.items() if "answer" in came} == {"out ipv4 tcp", "out ipv6 tcp"}
    assert set(pairs(host, ("b",), "a", 7001)) == {"b ipv4 udp", "b ipv6 udp"}
    assert pairs(host, ("b",), "a", 7000) == {}
    assert {way.rsplit(" ", 1)[1] for way in pairs(host, ("a",), "b", 7000)} == {"tcp"}
    host.machctl("set", "b", "egress=none")
    out = lan.probe(host, {}, lan.outward("b"), limit=1)
    assert not [name for name, came in out.items() if "answer" in came]
    host.machctl("set", "b", "egress=")
    host.machctl("plan", "--detailed-exitcode")
