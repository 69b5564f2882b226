# SPDX-License-Identifier: LGPL-2.1-or-later
"""doctor NAME on broken hosts: each fault is planted, named, mended by --fix where that is safe, and taken back."""

from __future__ import annotations

import pytest

from machines.model.frozen import dataclass, field
from throwaway import Done, Host, Roads, until

# What scripts know of the host: INSIDE runs a tool of the host's in the machine's network.
KNOWN = r"""
set -e
leader=$(sed -n 's/^LEADER=//p' /run/systemd/machines/debian)
INSIDE="nsenter --target $leader --net"
OWN=$(ip -o -4 address show dev br0 | awk '{print $4; exit}')
SOCKET=$(cd /etc/systemd/system; echo machctl-port-debian_*.socket)
GUEST=$($INSIDE ip -o -4 address show dev host0 | awk '{print $4; exit}')
"""
RECONFIGURE = "machctl exec debian -- networkctl reconfigure host0 </dev/null"
IN_GUEST = "machctl exec debian -- sh -c"
SITE = "/etc/nginx/sites-available/default"
FLEET = "/etc/machctl/fleet.d/debian.toml"
DOCKER = """table ip filter {
    chain DOCKER-USER { }
    chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }
}"""


@dataclass(frozen=True)
class Fault:
    """A fault: the script that plants it, the check and words that name it, whether --fix mends it, and its end."""

    name: str
    plant: str
    check: str
    says: tuple[str, ...]
    mended: bool = False
    undo: str = "true"
    skipped: tuple[str, ...] = field(default_factory=tuple)
    level: str = "bad"


def chain(hook: str, *rules: str, family: str = "inet", policy: str = "drop") -> str:
    """Give the command that adds a foreign firewall."""
    inner = "; ".join([f"type filter hook {hook} priority 0", f"policy {policy}", *rules])
    return f"nft 'table {family} foreign {{ chain {hook} {{ {inner}; }}; }}'"


FAULTS = [
    Fault(
        "link-down", "ip link set vb-debian down", "link", ("vb-debian", "host's end", "down"), mended=True,
        skipped=("bridge", "address", "route", "neighbour", "dns", "listener"),
    ),
    Fault(
        "guest-link-down", "$INSIDE ip link set host0 down", "link", ("host0 is down in it",),
        undo="$INSIDE ip link set host0 up", skipped=("bridge", "address", "dns", "listener"),
    ),
    Fault(
        "out-of-its-bridge", "ip link set vb-debian nomaster", "bridge", ("vb-debian is not in bridge br0",),
        mended=True, skipped=("address", "neighbour", "dns", "listener"),
    ),
    Fault(
        "in-another-bridge", "ip link add br9 type bridge; ip link set vb-debian master br9", "bridge",
        ("vb-debian is not in bridge br0", "br9"), mended=True, undo="ip link del br9",
    ),
    Fault("bridge-down", "ip link set br0 down", "bridge", ("bridge br0", "is down"), mended=True),
    Fault(
        "bridge-without-address", "ip address del $OWN dev br0", "bridge", ("br0 has not its address", "$OWN"),
        mended=True, skipped=("address", "dns"),
    ),
    Fault(
        "bridge-gone", "ip link del br0", "bridge", ("there is no bridge br0",), mended=True,
    ),
    Fault(
        "guest-address-missing", "$INSIDE ip address del $GUEST dev host0", "address",
        ("host0 has not its address", "$GUEST"), undo=RECONFIGURE, skipped=("route", "neighbour", "dns", "listener"),
    ),
    Fault(
        "guest-route-missing", "$INSIDE ip route del default", "route", ("no IPv4 default route by",), undo=RECONFIGURE,
        skipped=("dns",),
    ),
    Fault(
        "frames-dropped", chain("output", "ether type arp drop", family="bridge", policy="accept")
        + "; ip neigh flush dev br0", "neighbour", ("does not answer ARP",), undo="nft delete table bridge foreign",
        skipped=("dns", "listener"),
    ),
    Fault(
        "address-twice",
        "ip netns add twin; ip link add twin0 type veth peer name twin1 netns twin; "
        "ip link set twin0 master br0 up; ip -n twin address add $GUEST dev twin1; ip -n twin link set twin1 up; "
        "ip neigh replace ${GUEST%/*} dev br0 nud reachable "
        "lladdr $(ip -n twin -o link show twin1 | sed 's/.*ether //; s/ .*//')",
        "neighbour", ("somebody else has ${GUEST%/*} as well",), undo="ip netns del twin; ip neigh flush dev br0",
    ),
    Fault(
        "not-forwarded", "echo 0 >/proc/sys/net/ipv4/ip_forward", "forwarding",
        ("IPv4 is not forwarded", "net.ipv4.ip_forward is 0"), mended=True, skipped=("dns",),
    ),
    Fault(
        "not-forwarded-ipv6", "echo 0 >/proc/sys/net/ipv6/conf/all/forwarding", "forwarding",
        ("IPv6 is not forwarded",), mended=True, level="warning",
    ),
    Fault(
        "not-forwarded-link", "echo 0 >/proc/sys/net/ipv4/conf/br0/forwarding", "forwarding",
        ("net.ipv4.conf.br0.forwarding is 0",), mended=True,
    ),
    Fault(
        "table-flushed", "nft flush ruleset", "nat", ("inet machctl is not loaded",), mended=True,
        skipped=("dns", "port", "listener"),
    ),
    Fault(
        "rule-missing",
        "handle=$(nft -a list chain inet machctl prerouting | sed -n '/ip to .*:80 /s/.* handle //p' | head -n 1); "
        "nft delete rule inet machctl prerouting handle $handle",
        "nat", ("lacks", "dport 8080 dnat ip to"), mended=True, skipped=("port",),
    ),
    Fault(
        "rule-added", "nft insert rule inet machctl forward drop", "nat", ("has what nobody wrote: drop",), mended=True,
    ),
    Fault(
        "forward-policy-drop", chain("forward"), "firewall",
        ("inet foreign forward", "by its policy"), undo="nft delete table inet foreign", skipped=("dns",),
    ),
    Fault(
        "forward-rule-drop", chain("forward", 'iifname "br0" counter drop', policy="accept"), "firewall",
        ("inet foreign forward", 'iifname "br0"'), undo="nft delete table inet foreign",
    ),
    Fault(
        "docker", f"nft '{DOCKER}'", "firewall", ("Docker", "ip filter FORWARD"), undo="nft delete table ip filter",
    ),
    Fault(
        "input-drop", chain("input", 'iifname "lo" accept', "ct state established,related accept"), "firewall",
        ("inet foreign input", "questions for names"), undo="nft delete table inet foreign", skipped=("dns",),
    ),
    Fault(
        "name-server-silent", "systemctl stop systemd-resolved.service", "dns",
        ("name server", "does not answer the machine"), undo="systemctl start systemd-resolved.service",
    ),
    Fault(
        "socket-stopped", "systemctl stop $SOCKET", "port",
        ("$SOCKET is not active", "127.0.0.1"), mended=True, skipped=("listener",),
    ),
    Fault(
        "port-taken",
        "systemctl stop $SOCKET; systemd-run --quiet --unit=taker --property=Type=exec "
        "python3 -m http.server --bind 127.0.0.1 8080; "
        "for i in $(seq 50); do ss -Hltn sport = :8080 | grep -q . && break; sleep 0.1; done",
        "port", ("port 8080 of 127.0.0.1 is taken by python3 (PID",),
        undo="systemctl stop taker.service; systemctl start $SOCKET", skipped=("listener",),
    ),
    Fault(
        "nothing-listens", f"{IN_GUEST} 'systemctl stop nginx' </dev/null", "listener",
        ("nothing listens on port 80 in the machine",), undo=f"{IN_GUEST} 'systemctl start nginx' </dev/null",
    ),
    Fault(
        "listens-on-loopback",
        f"{IN_GUEST} 'cp {SITE} /root/site; sed -i \"s/listen 80/listen 127.0.0.1:80/; /::/d\" {SITE}; "
        "systemctl restart nginx' </dev/null",
        "listener", ("it listens on 127.0.0.1 only",),
        undo=f"{IN_GUEST} 'mv /root/site {SITE}; systemctl restart nginx' </dev/null",
    ),
    Fault(
        "guest-firewall", f"$INSIDE {chain('input', 'ct state established accept', 'iifname lo accept')}", "listener",
        ("own firewall", "inet foreign input", "port 80"), undo="$INSIDE nft delete table inet foreign",
    ),
    Fault(
        "egress", f"cp {FLEET} /root/fleet; sed -i '/^\\[machines.debian\\]/a egress = [\"443\"]' {FLEET}; "
        "machctl apply debian", "dns", ("egress lets it reach 443", "not 53/udp"),
        undo=f"mv /root/fleet {FLEET}; machctl apply debian",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def host(roads: Roads) -> Host:
    """One host for all of them, its machine running and healthy."""
    road = roads.get("trixie").ready()
    good = until(lambda: examine(road.host), is_well)
    assert is_well(good), good
    return road.host


def examine(host: Host, *words: str, status: int | None = None) -> Done:
    return host.machctl("doctor", "debian", *words, "--json", status=status)


def is_well(done: Done) -> bool:
    return done.status == 0 and {finding["level"] for finding in done.json()} == {"ok"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_broken_host_is_named(fault: Fault, host: Host) -> None:
    words = host.sh(f"{KNOWN}printf '%s\\n' {' '.join(quoted(word) for word in fault.says)}").splitlines()
    host.sh(KNOWN + fault.plant)
    try:
        done = examine(host, status=1 if fault.level == "bad" else 0)
        wrong = [finding for finding in done.json() if finding["level"] in {"bad", "warning"}]
        named = next(finding for finding in wrong if finding["level"] == fault.level)
        assert named["check"] == fault.check, done
        missing = [word for word in words if word.split("/")[0] not in named["message"]]
        assert not missing, f"{missing} not in {named}"
        assert named["remedy"], named
        skipped = {finding["check"] for finding in done.json() if finding["level"] == "skipped"}
        assert set(fault.skipped) <= skipped, done
        if fault.mended:
            assert is_well(mended := examine(host, "--fix")), mended
            assert host.get("http://127.0.0.1:8080")
    finally:
        host.sh(KNOWN.replace("set -e", "") + fault.undo)
    after = until(lambda: examine(host), is_well, limit=15)
    assert is_well(after), after


def quoted(word: str) -> str:
    return '"' + word.replace('"', '\\"') + '"'


def test_a_machine_that_is_stopped_is_said_to_be(host: Host) -> None:
    host.machctl("stop", "debian")
    try:
        done = host.machctl("doctor", "debian", status=1)
        assert "bad      debian is not running\n         -> machctl start debian" in done.stdout
        assert "skipped  link: not looked at, as machine is broken" in done.stdout
    finally:
        host.machctl("start", "debian", "--wait", "ip")


def test_a_dry_run_says_what_would_be_mended(host: Host) -> None:
    host.sh("nft delete table inet machctl")
    try:
        done = host.machctl("--dry-run", "doctor", "debian", "--fix")
        assert "inet machctl" in done.stdout
        assert host.sh("nft list tables | grep -c 'inet machctl' || true") == "0"
    finally:
        host.machctl("doctor", "debian", "--fix")


def test_the_host_as_a_whole_is_looked_at_too(host: Host) -> None:
    host.sh("ip link set br0 down; nft delete table inet machctl; echo 0 >/proc/sys/net/ipv4/ip_forward")
    try:
        found = {row["check"]: row for row in host.machctl("doctor", "--json").json()}
        for check in ("forwarding", "nat", "bridge"):
            assert (found[check]["level"], bool(found[check]["remedy"])) == ("warning", True)
        assert "br0 is down" in found["bridge"]["message"]
    finally:
        host.machctl("doctor", "--fix")
    assert {row["level"] for row in host.machctl("doctor", "--json").json()} == {"ok"}
    assert is_well(until(lambda: examine(host), is_well))


def test_no_such_machine(host: Host) -> None:
    host.machctl("doctor", "debain", status=4).says("debain", "did you mean debian")
