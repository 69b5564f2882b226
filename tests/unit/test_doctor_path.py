# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way of a packet, on a host in memory: what is said of each hop, and what is not looked at."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from fakes import FakeHost
from machines.host.facts import parse_listeners
from machines.model.network import Network
from machines.model.observed import Record
from machines.model.tree import Tree
from machines.operations.doctor import Finding, examine_machine, mend, mending
from machines.operations.doctor.sockets import Listening, holders
from machines.operations.records import write_network, write_record
from machines.operations.reporter import Reporter
from machines.plan import steps
from machines.render import paths

LEADER = 77
FLEET = """[machines.web]
source = "debian"
bridges = ["br0"]
publish = ["8080:80"]
"""
TCP = "  sl  local_address rem_address   st\n   0: {address}:{port:04X} 00000000:0000 0A\n"
TABLE = (
    'table inet machctl {\n\tchain prerouting {\n\t\ttcp dport 8080 dnat ip to 10.64.3.2:80 comment "web-1"\n\t}\n}\n'
)


def link(number: int, name: str, *addresses: str, **more: Any) -> dict[str, Any]:
    """Give a link as ip -json has it."""
    info = [{"local": address.split("/")[0], "prefixlen": int(address.split("/")[1])} for address in addresses]
    return {"ifindex": number, "ifname": name, "flags": ["UP"], "addr_info": info, **more}


class NetworkedHost(FakeHost):
    """A host whose machine web is well; tests break it."""

    def __init__(self) -> None:
        super().__init__()
        import ipaddress

        self.placed["web"] = Tree("web", "/var/lib/machines/web", "directory")
        network = Network("br0", ipaddress.IPv4Network("10.64.3.0/24"))
        self.files.texts |= {
            "/etc/machctl/fleet.toml": FLEET,
            paths.network_record("br0"): write_network(network),
            paths.machine_record("web"): write_record(Record("web", {"br0": "10.64.3.2"}, ports=("8080:80",))),
            f"/proc/{LEADER}/net/tcp": TCP.format(address="00000000", port=80),
        }
        self.facts.listeners = lambda leader=None: parse_listeners(self.files.texts.get(f"/proc/{leader}/net/tcp", ""))
        self.outside = {
            "br0": link(3, "br0", "10.64.3.1/24"),
            "vb-web": link(4, "vb-web", master="br0", link_index=2),
            "eth0": link(2, "eth0", "192.0.2.7/24"),
        }
        self.inside = {"host0": link(2, "host0", "10.64.3.2/24", link_index=4)}
        self.own_routes: list[dict[str, Any]] = [{"dst": "default", "gateway": "10.64.3.1", "dev": "host0"}]
        self.rulesets: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        self.table = TABLE
        self.sysctls: dict[str, int] = {}
        self.answers: dict[str, str | None] = {"10.0.2.3": ""}
        self.connections: dict[tuple[str, int], str] = {}
        self.taken = self.neighbour = ""
        self.resolv = "nameserver 10.0.2.3\n"
        self.guests = SimpleNamespace(read_file=lambda root, path: self.resolv if "resolv" in path else None)
        self.facts.sysctl = lambda name: self.sysctls.get(name, 1)
        self.facts.set_sysctl = self.sysctls.__setitem__
        self.probes: Any = SimpleNamespace(
            connects=lambda address, port, **_: self.connections.get(
                (address, port), "refused" if port == 9 else "open"
            ),
            asks_dns=lambda server, name, **_: self.answers.get(server),
        )
        self.tools = SimpleNamespace(which=lambda tool: f"/usr/bin/{tool}", run=self.answer)
        self.machine_runs = True
        self.active.add("machctl-port-web_8080.socket")

    def registered(self) -> dict[str, Any]:
        return {"web": SimpleNamespace(leader=LEADER)} if self.machine_runs else {}

    def running(self) -> dict[str, str]:
        return {"web": "systemd-nspawn@web.service"} if self.machine_runs else {}

    def answer(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> Any:
        words = list(argv)
        inside = words[0] == "nsenter"
        words = words[4:] if inside else words
        text: Any = ""
        match words:
            case ["ip", "-json", "-details", *_]:
                text = json.dumps(list((self.inside if inside else self.outside).values()))
            case ["ip", "-json", family, "route", *_]:
                outer = [{"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"}]
                text = json.dumps([] if family == "-6" else self.own_routes if inside else outer)
            case ["nft", "--json", *_]:
                text = json.dumps({"nftables": self.rulesets[inside]})
            case ["unshare", *_]:
                text = TABLE
            case ["sh", *_]:
                text = self.table
            case ["nft", "-f", _]:
                self.call("load nat")
                self.table = TABLE
            case ["ip", "link", "set", "dev", name, *rest]:
                self.call(" ".join(words))
                self.outside[name] |= {"flags": ["UP"]} | ({"master": rest[1]} if len(rest) > 1 else {})
            case ["ip", "neigh", *_]:
                text = self.neighbour
            case ["ss", *_]:
                text = self.taken
        return SimpleNamespace(returncode=0 if text or words[0] != "sh" else 1, stdout=text, stderr="")


@pytest.fixture
def host() -> NetworkedHost:
    return NetworkedHost()


def look(host: Any) -> list[Finding]:
    return examine_machine("web", host)


def bad(host: Any) -> Finding:
    """Give the one finding that is broken."""
    (finding,) = (finding for finding in look(host) if finding.level == "bad")
    return finding


def skipped(host: Any) -> set[str]:
    return {finding.check for finding in look(host) if finding.level == "skipped"}


def foreign(hook: str) -> dict[str, Any]:
    chain = {"family": "inet", "table": "foreign", "name": "all", "hook": hook, "type": "filter", "prio": 0}
    return {"chain": chain | {"policy": "drop"}}


def test_all_is_well(host: NetworkedHost) -> None:
    findings = look(host)
    assert {finding.level for finding in findings} == {"ok"}
    assert [finding.check for finding in findings] == [
        "machine", "link", "bridge", "address", "route", "neighbour", "forwarding", "nat", "firewall", "dns", "port",
        "listener",
    ]  # fmt: skip
    assert mending(findings) == []


def test_a_machine_that_does_not_run_leaves_its_side_unseen(host: NetworkedHost) -> None:
    host.machine_runs = False
    assert bad(host).remedy == "machctl start web"
    assert {"link", "bridge", "address", "route", "neighbour", "dns", "listener"} <= skipped(host)


def test_a_machine_that_is_started_on_demand_may_be_stopped(host: NetworkedHost) -> None:
    host.machine_runs = False
    host.files.texts["/etc/machctl/fleet.toml"] = FLEET + "on-demand = true\n"
    assert {finding.level for finding in look(host)} == {"ok", "skipped"}
    assert "link: not looked at, as it is stopped" in [finding.message for finding in look(host)]


def test_of_a_range_one_listener_is_enough(host: NetworkedHost) -> None:
    host.files.texts["/etc/machctl/fleet.toml"] = FLEET.replace("8080:80", "8079-8081:79-81")
    assert {finding.level for finding in look(host)} == {"ok"}
    host.files.texts.pop(f"/proc/{LEADER}/net/tcp")
    assert bad(host).message == "nothing listens on ports 79-81 in the machine"


def test_the_first_broken_hop_is_named_and_those_behind_it_are_not(host: NetworkedHost) -> None:
    host.outside["vb-web"]["flags"] = []
    host.inside["host0"]["addr_info"] = []
    host.answers.clear()
    assert bad(host).message == "vb-web, the host's end of host0, is down"
    assert bad(host).fix == (steps.SetLink(reason="it is down", machine="web", link="vb-web"),)
    assert "address: not looked at, as link is broken" in [finding.message for finding in look(host)]


def test_the_host_s_end_is_known_by_its_number(host: NetworkedHost) -> None:
    """nspawn cuts long names."""
    host.outside["ve-anything5Qx_"] = host.outside.pop("vb-web") | {"ifname": "ve-anything5Qx_", "master": "br1"}
    assert bad(host).message == "ve-anything5Qx_ is not in bridge br0, but in br1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda host: host.inside.clear(), "it has no link host0"),
        (lambda host: host.inside["host0"].update(link_index=9), "host0 has no other end on this host"),
        (lambda host: host.inside["host0"].update(flags=[]), "host0 is down in it"),
        (lambda host: host.outside["vb-web"].pop("master"), "vb-web is not in bridge br0, nor in any other"),
        (lambda host: host.outside.pop("br0"), "there is no bridge br0"),
        (lambda host: host.outside["br0"].update(flags=[]), "bridge br0 is down"),
        (lambda host: host.outside["br0"].update(addr_info=[]), "bridge br0 has not its address 10.64.3.1/24"),
        (
            lambda host: host.inside["host0"].update(addr_info=[]),
            "host0 has not its address 10.64.3.2: nothing in the machine set it",
        ),
        (lambda host: host.own_routes.clear(), "it has no IPv4 default route by 10.64.3.1"),
        (
            lambda host: host.own_routes[0].update(gateway="10.64.3.9"),
            "it has no IPv4 default route by 10.64.3.1, but one by 10.64.3.9",
        ),
        (
            lambda host: host.connections.update({("10.64.3.2", 9): "silent"}),
            "the machine does not answer ARP for 10.64.3.2",
        ),
        (
            lambda host: host.sysctls.update({"net/ipv4/ip_forward": 0}),
            "IPv4 is not forwarded: net.ipv4.ip_forward is 0",
        ),
        (lambda host: setattr(host, "table", ""), "nft table inet machctl is not loaded: no NAT, no ports"),
        (
            lambda host: setattr(host, "table", TABLE.replace("8080", "8081")),
            "nft table inet machctl lacks: tcp dport 8080 dnat ip to 10.64.3.2:80",
        ),
        (
            lambda host: host.rulesets[False].append(foreign("forward")),
            "a firewall (nft chain inet foreign all) drops what it sends out, by its policy",
        ),
        (
            lambda host: host.rulesets[False].append(foreign("input")),
            "a firewall (nft chain inet foreign all) drops its answers to this host, by its policy",
        ),
        (lambda host: host.answers.clear(), "name server 10.0.2.3 does not answer the machine, nor this host"),
        (lambda host: setattr(host, "resolv", ""), "the machine knows no name server"),
        (
            lambda host: host.active.discard("machctl-port-web_8080.socket"),
            "machctl-port-web_8080.socket is not active: nothing answers at port 8080 of 127.0.0.1 and [::]",
        ),
        (
            lambda host: setattr(host, "taken", 'LISTEN 0 5 0.0.0.0:8080 0.0.0.0:* users:(("nginx",pid=12,fd=5))\n'),
            "port 8080 of 0.0.0.0 is taken by nginx (PID 12)",
        ),
        (lambda host: host.files.texts.pop(f"/proc/{LEADER}/net/tcp"), "nothing listens on port 80 in the machine"),
        (
            lambda host: host.files.texts.update(
                {f"/proc/{LEADER}/net/tcp": TCP.format(address="0100007F", port=80)}
            ),
            "it listens on 127.0.0.1 only: port 80 of the machine cannot be reached from outside",
        ),
        (
            lambda host: host.rulesets[True].append(foreign("input")),
            "the machine's own firewall (nft chain inet foreign all) drops what comes for port 80, by its policy",
        ),
        (
            lambda host: host.connections.update({("10.64.3.2", 80): "silent"}),
            "port 80 of 10.64.3.2 is silent for this host, though something listens there",
        ),
    ],
)  # fmt: skip
def test_each_fault_is_named_with_its_remedy(host: NetworkedHost, change: Any, message: str) -> None:
    change(host)
    assert bad(host).message == message
    assert bad(host).remedy


def test_packets_that_are_too_big_are_said_to_be_lost(host: NetworkedHost) -> None:
    host.inside["host0"]["mtu"], host.outside["vb-web"]["mtu"], host.outside["br0"]["mtu"] = 1500, 1500, 1400
    (finding,) = (finding for finding in look(host) if finding.level != "ok")
    text = "host0 sends packets of up to 1500 bytes, br0 takes 1400: larger ones are lost"
    assert (finding.level, finding.message) == ("warning", text)


def test_an_address_that_two_have_is_said_to_be(host: NetworkedHost) -> None:
    host.inside["host0"]["address"] = "02:00:00:00:00:01"
    host.neighbour = "10.64.3.2 dev br0 lladdr 02:00:00:00:00:02 REACHABLE"
    text = "somebody else has 10.64.3.2 as well, and answers: 02:00:00:00:00:02, not 02:00:00:00:00:01"
    assert bad(host).message == text
    host.connections["10.64.3.2", 9] = "silent"
    assert {finding.level for finding in look(host)} == {"ok"}


def test_egress_that_leaves_no_names_is_named(host: NetworkedHost) -> None:
    host.files.texts["/etc/machctl/fleet.toml"] = FLEET + 'egress = ["443"]\n'
    host.answers.clear()
    message = "name server 10.0.2.3 does not answer the machine: egress lets it reach 443, and not 53/udp"
    assert bad(host).message == message


def test_one_of_several_name_servers_is_enough(host: NetworkedHost) -> None:
    host.resolv = "nameserver 192.0.2.53\nnameserver 10.0.2.3\nnameserver nonsense\n"
    assert [finding.level for finding in look(host) if finding.check == "dns"] == ["warning", "ok"]


def test_server_of_the_hosts_own_that_does_not_answer_is_named(host: NetworkedHost) -> None:
    host.facts.local_dns = lambda: "127.0.0.1"
    host.resolv = "nameserver 10.64.3.1\n"
    assert bad(host).remedy.startswith("it is 127.0.0.1 of this host that is to answer there")


def test_firewall_in_front_of_a_port_that_starts_the_machine_is_named(host: NetworkedHost) -> None:
    host.machine_runs = False
    host.files.texts["/etc/machctl/fleet.toml"] = FLEET + "on-demand = true\n"
    lan = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}}
    rule = {"family": "inet", "table": "firewalld", "chain": "all", "handle": 7, "expr": [lan, {"drop": None}]}
    host.rulesets[False] = [{"chain": foreign("input")["chain"] | {"table": "firewalld", "policy": "accept"}}]
    assert "bad" not in {finding.level for finding in look(host)}
    host.rulesets[False].append({"rule": rule})
    assert "what comes for port 8080 of this host, and is to start it" in bad(host).message
    assert "firewall-cmd --permanent --add-port=8080/tcp" in bad(host).remedy


def test_mending_goes_on_until_nothing_is_left_to_do(host: NetworkedHost) -> None:
    """The second fault comes to light behind the first."""
    host.outside["vb-web"] |= {"flags": [], "master": "br9"}
    host.table = ""
    notifications = SimpleNamespace(settimeout=lambda seconds: None)
    host.links.notifications = lambda namespace: _Opened(notifications)
    findings = asyncio.run(mend(lambda: look(host), "web", host, Reporter()))  # type: ignore[arg-type]
    assert {finding.level for finding in findings} == {"ok"}
    back = ["ip link set dev vb-web master br0 down", "ip link set dev vb-web up"]
    assert host.done == ["ip link set dev vb-web up", "load nat", *back]


def test_what_mending_does_not_help_is_not_tried_again(host: NetworkedHost) -> None:
    host.sysctls["net/ipv4/ip_forward"] = 0
    host.facts.set_sysctl = lambda name, value: host.call(f"set {name}")
    host.links.notifications = lambda namespace: _Opened(SimpleNamespace(settimeout=lambda seconds: None))
    findings = asyncio.run(mend(lambda: look(host), "web", host, Reporter()))  # type: ignore[arg-type]
    assert host.done == ["set net/ipv4/ip_forward"]
    assert any(finding.level == "bad" for finding in findings)


def test_ipv6_is_forwarded_only_once_routes_are_kept(host: NetworkedHost) -> None:
    record = json.loads(host.files.texts[paths.network_record("br0")]) | {"subnet6": "fd00::/64"}
    host.files.texts[paths.network_record("br0")] = json.dumps(record)
    host.outside["br0"]["addr_info"].append({"local": "fd00::1", "prefixlen": 64})
    host.sysctls |= {"net/ipv6/conf/all/forwarding": 0, "net/ipv6/conf/eth0/accept_ra": 1}
    plain = copy.copy(host.answer)

    def answer(argv: Sequence[str], **more: Any) -> Any:
        if list(argv) == ["ip", "-json", "-6", "route", "show", "default"]:
            return SimpleNamespace(returncode=0, stdout='[{"dst": "default", "dev": "eth0", "protocol": "ra"}]')
        return plain(argv, **more)

    host.tools.run = answer
    (finding,) = (finding for finding in look(host) if finding.check == "forwarding")
    assert (finding.level, [str(step) for step in finding.fix]) == (
        "warning",
        ["set net/ipv6/conf/eth0/accept_ra to 2", "set net/ipv6/conf/all/forwarding to 1"],
    )


def test_holders_of_ports_are_named(host: NetworkedHost) -> None:
    host.taken = (
        'LISTEN 0 4096 127.0.0.1:8080 0.0.0.0:* users:(("systemd",pid=1,fd=55))\n'
        "LISTEN 0 4096 [::1]:8080 [::]:*\n"
        'LISTEN 0 4096 *:8080 *:* users:(("a \\"b",pid=7,fd=5))\n'
    )
    assert holders(8080, "tcp", host) == [  # type: ignore[arg-type]
        Listening("127.0.0.1", 8080, "systemd", 1),
        Listening("::1", 8080),
        Listening("0.0.0.0", 8080, 'a \\"b', 7),
    ]


class _Opened:
    """What notifications() gives: a socket that is open for a while."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket

    def __enter__(self) -> Any:
        return self.socket

    def __exit__(self, *_: object) -> None:
        pass
