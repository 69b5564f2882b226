# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a host is what a fleet's file says, looked at with the host's own tools. Runs in a throwaway host."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from inventory import Listing, call, listing

STATE = "/var/lib/machctl"
SYSTEM = "/etc/systemd/system"
CGROUPS = Path("/sys/fs/cgroup/machine.slice")

DNAT = re.compile(
    r"(?P<match>.*?)(?P<protocol>tcp|udp) dport (?P<first>\d+)(-(?P<last>\d+))? dnat (?P<family>ip6?) to (?P<to>.*?)"
    r' comment "(?P<owner>.*)-[0-9a-f]{8}"'
)


class Wanted(NamedTuple):
    """What is to be: what machines have in the end, those that are not of the file too, and networks as declared."""

    machines: Mapping[str, Mapping[str, Any]]
    networks: Mapping[str, Mapping[str, Any]]

    @property
    def bridges(self) -> set[str]:
        """All that machctl is to have made: what is declared, and what a machine is on."""
        return {*self.networks, *(bridge for each in self.machines.values() for bridge in bridges_of(each))}


class Port(NamedTuple):
    """A published port, in the words of the model."""

    address: str
    host: int
    guest: int
    count: int
    protocol: str

    @property
    def single(self) -> bool:
        """Tell whether a proxy can pass it on."""
        return self.protocol == "tcp" and self.count == 1


def bridges_of(machine: Mapping[str, Any]) -> list[str]:
    """Give the bridges a machine is on; the default one where nothing is said."""
    return list(machine.get("bridges", ["machctl0"]))


def ports_of(machine: Mapping[str, Any]) -> list[Port]:
    """Give the ports of a machine."""
    return [Port(*each) for each in machine.get("ports", [])]


def leaders() -> dict[str, int]:
    """Give the first process of each machine that runs."""
    found = {}
    for path in Path("/run/systemd/machines").glob("*"):
        if not path.name.startswith("unit:") and (match := re.search(r"^LEADER=(\d+)", path.read_text(), re.M)):
            found[path.name] = int(match[1])
    return found


def differences(wanted: Wanted, running: set[str], before: Listing) -> list[str]:
    """Say in what the host is not as wanted; ``before`` is how it was without a fleet."""
    now = listing()
    records = {path.stem: json.loads(path.read_text()) for path in Path(STATE, "machines").glob("*.json")}
    networks = {path.stem: json.loads(path.read_text()) for path in Path(STATE, "networks").glob("*.json")}
    found = list(_sets("machine has a record", set(wanted.machines), set(records)))
    found += _sets("network has a record", wanted.bridges, set(networks))
    if found:
        return found
    networkd = "/etc/systemd/network/70-machctl-br0.netdev" in now.paths
    found += _paths(wanted, records, now, before, networkd=networkd)
    found += _units(wanted, records, running, now, before)
    found += _sets("machine runs", running, set(leaders()))
    found += _nat(wanted, records, networks)
    found += _links(wanted, records, networks, running)
    found += _listening(wanted, running)
    found += _limits(wanted, running)
    found += _names(records, networks)
    found += _journals(wanted)
    return found


def _sets(what: str, wanted: set[Any], have: set[Any]) -> Iterator[str]:
    yield from (f"{what}: {each} should be and is not" for each in sorted(wanted - have, key=str))
    yield from (f"{what}: {each} is and should not be" for each in sorted(have - wanted, key=str))


# --- files ---


def _paths(
    wanted: Wanted, records: Mapping[str, Any], now: Listing, before: Listing, *, networkd: bool
) -> Iterator[str]:
    exact: set[str] = set()
    for name, machine in wanted.machines.items():
        exact |= set(_files(name, machine, records[name]))
    for bridge in wanted.bridges:
        exact |= {f"{STATE}/networks/{bridge}.json", f"{STATE}/nat/bridge-{bridge}.nft"}
        exact |= {f"/etc/systemd/network/70-machctl-{bridge}.{end}" for end in ("netdev", "network") if networkd}
        if bridge in wanted.networks:
            exact.add(f"{SYSTEM}/multi-user.target.wants/machctl-bridge@{bridge}.service")
    parents = {parent for path in exact for parent in (path.rsplit("/", 1)[0], path.rsplit("/", 2)[0])}
    loose = re.compile("|".join(_loose(set(wanted.machines), records)))
    kept = {path for path in before.paths if not _is_of_machine(path)}
    for path in sorted(exact - now.paths):
        yield f"no file {path}"
    for path in sorted(now.paths - exact - parents - kept):
        # Trees that other tests have put aside on this host.
        if not loose.fullmatch(path) and "/.kept-" not in path:
            yield f"left behind: {path}"
    for path in sorted(kept - now.paths):
        if path not in parents and not path.startswith(("/run/systemd/nspawn", f"{STATE}/store")):
            yield f"lost: {path}"


def _is_of_machine(path: str) -> bool:
    """Tell whether a path is the main job's machine's, which is one of those wanted."""
    return re.search(r"[/@-]debian([/._]|$)", path) is not None or "br0" in path


def _files(name: str, machine: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[str]:
    yield f"/var/lib/machines/{name}"
    yield f"/etc/systemd/nspawn/{name}.nspawn"
    yield f"{SYSTEM}/systemd-nspawn@{name}.service.d/50-machctl.conf"
    yield f"{STATE}/machines/{name}.json"
    for index in range(len(bridges_of(machine))):
        yield f"{STATE}/guests/{name}/05-machctl-{'host0' if index == 0 else f'host{index}'}.network"
    if machine.get("environment"):
        yield f"{STATE}/guests/{name}/system.conf"
    if machine.get("health"):
        yield f"{SYSTEM}/systemd-nspawn@{name}.service.d/60-machctl-health.conf"
        yield f"{STATE}/health/{name}"
    if machine.get("autostart"):
        yield f"{SYSTEM}/machines.target.wants/systemd-nspawn@{name}.service"
    if machine.get("on-demand"):
        yield f"{SYSTEM}/sockets.target.d/50-machctl-{name}.conf"
    for unit in _port_units(name, machine):
        yield f"{SYSTEM}/{unit}.socket"
        yield f"{SYSTEM}/{unit}.service"
    if dnat_of(machine, record) or machine.get("isolated") or "egress" in machine:
        yield f"{STATE}/nat/machine-{name}.nft"
    if record["storage"] == "overlay":
        yield f"{STATE}/store/layers/{name}"
        escaped = name.replace("-", r"\x2d")
        yield f"{SYSTEM}/var-lib-machctl-store-layers-{escaped}-lower.mount"
        yield f"{SYSTEM}/var-lib-machines-{escaped}.mount"


def _port_units(name: str, machine: Mapping[str, Any]) -> set[str]:
    return {
        f"machctl-port-{name}_{port.host}" + (f"-{port.address}" if port.address else "")
        for port in ports_of(machine)
        if port.single and (machine.get("on-demand") or not port.address or port.address.startswith("127."))
    }


def _loose(names: set[str], records: Mapping[str, Any]) -> Iterator[str]:
    """Give patterns of what there may be, or not: what nspawn makes, kept trees, folders that others are in."""
    which = "(" + "|".join(map(re.escape, sorted(names))) + ")"
    bases = "|".join(sorted({re.escape(record["base"]) for record in records.values() if record["base"]})) or "-"
    yield rf"/var/lib/machines/\.#{which}\.lck"
    yield r"/run/systemd/nspawn/?(locks(/.*)?|propagate|unix-export|shutdown|notify)?"
    yield rf"/run/systemd/nspawn/(propagate|unix-export|notify|shutdown)/{which}(/.*)?"
    yield rf"{STATE}/store(/(bases|layers|snapshots))?"
    # Bases stay for the next machine; those of the small trees as well.
    yield rf"{STATE}/store/bases/({bases}|[^/.]+)(/(base\.json|tree))?"
    yield rf"{STATE}/store/layers/{which}/(upper|lower|work|base)"
    # Whose tree was made anew has the old one as a snapshot.
    yield rf"{STATE}/store/snapshots/{which}(/recreated-[^/]*(/(snapshot\.json|tree))?)?"
    yield rf"/run/machctl/(started-{which}(/.*)?|health(/{which})?|probes(/{which})?)"
    yield rf"{STATE}/guests/{which}"
    yield r"/etc/machctl/(fleet\.toml|fleet\.d/debian\.toml)"


# --- systemd ---


def _units(
    wanted: Wanted, records: Mapping[str, Any], running: set[str], now: Listing, before: Listing
) -> Iterator[str]:
    names = "(" + "|".join(map(re.escape, sorted(wanted.machines))) + ")"
    ports = {unit for name, machine in wanted.machines.items() for unit in _port_units(name, machine)}
    bridges = {f"machctl-bridge@{bridge}.service" for bridge in wanted.bridges}
    escaped = names.replace(r"\-", r"\\x2d")
    loose = re.compile(
        rf"systemd-nspawn@{names}\.service|machctl-health@\d+\.(timer|service)|machctl-healthy@{names}\.service"
        rf"|var-lib-machines(-{escaped})?\.mount|var-lib-machctl-store-layers-{escaped}-lower\.mount"
        rf"|machctl-carrier-{names}\.service|system-machctl.*\.slice|machctl-firewall\.service"
    )
    units = {unit for unit in now.units - before.units if not loose.fullmatch(unit)}
    port_units = {unit for unit in now.units if unit.startswith("machctl-port-")}
    yield from (f"unit left behind: {unit}" for unit in sorted(units - bridges - port_units))
    for unit in sorted(port_units):
        if unit.rpartition(".")[0] not in ports:
            yield f"unit left behind: {unit}"
    for unit in sorted(bridges - now.units):
        yield f"unit {unit} is not there"
    yield from (f"failed: {line}" for line in call("systemctl", "--failed", "--plain", "--no-legend").splitlines())


# --- the kernel ---


def targets_of(machine: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Give the addresses that a machine's ports lead to: those on the first of its bridges."""
    first = bridges_of(machine)[0]
    return record["addresses"].get(first), record["addresses6"].get(first)


def dnat_of(machine: Mapping[str, Any], record: Mapping[str, Any]) -> set[tuple[str, ...]]:
    """Give what nft has to send to a machine: chain, family, protocol, first and last port, and where to."""
    found: set[tuple[str, ...]] = set()
    for port in ports_of(machine):
        last = port.host + port.count - 1
        for family, address in zip(("ip", "ip6"), targets_of(machine, record), strict=True):
            if address is None or (port.single and (machine.get("on-demand") or port.address.startswith("127."))):
                continue
            if port.address and family == "ip6":
                continue
            words = (family, port.protocol, str(port.host), str(last), _target(port, family, address))
            local = port.address.startswith("127.")
            found |= {("output", *words)} | (set() if local else {("prerouting", *words)})
    return found


def _target(port: Port, family: str, address: str) -> str:
    if port.host == port.guest:
        return address
    if port.count == 1:
        return f"[{address}]:{port.guest}" if family == "ip6" else f"{address}:{port.guest}"
    return f"map {address} from {port.guest}"


def _nat(wanted: Wanted, records: Mapping[str, Any], networks: Mapping[str, Any]) -> Iterator[str]:
    text = call("nft", "list", "table", "inet", "machctl")
    chains: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"\s*chain (\S+) {", line):
            chains[match[1]] = []
        elif chains:
            chains[list(chains)[-1]].append(line.strip())
    have: set[tuple[str, ...]] = set()
    for chain in ("prerouting", "output"):
        for line in chains[chain]:
            if match := DNAT.match(line):
                to = match["to"]
                if pairs := re.findall(r"(\d+) : (\S+) \. (\d+)", to):
                    to = f"map {pairs[0][1]} from {pairs[0][2]}"
                words = (chain, match["family"], match["protocol"], match["first"], match["last"] or match["first"], to)
                have.add((match["owner"], *words))
    want = {(name, *each) for name, machine in wanted.machines.items() for each in dnat_of(machine, records[name])}
    yield from _sets("nft sends", want, have)
    elements = re.search(r"set networks {.*?elements = {([^}]*)}", text, re.S)
    named = set(re.findall(r'"([^"]+)"', elements[1])) if elements else set()
    yield from _sets("nft knows network", wanted.bridges, named)
    yield from _chains(wanted, records, networks, chains)


def _chains(
    wanted: Wanted, records: Mapping[str, Any], networks: Mapping[str, Any], chains: Mapping[str, list[str]]
) -> Iterator[str]:
    """What may reach what: by machines, and by networks."""
    refused = {match[1] for line in chains["isolated"] if (match := re.search(r"daddr (\S+) ", line))}
    limited = {match[1] for line in chains["restricted"] if (match := re.search(r"saddr (\S+) .*goto refuse", line))}
    own = {name: {*record["addresses"].values(), *record["addresses6"].values()} for name, record in records.items()}
    isolated = {each for name, machine in wanted.machines.items() if machine.get("isolated") for each in own[name]}
    restricted = {each for name, machine in wanted.machines.items() if "egress" in machine for each in own[name]}
    yield from _sets("isolated", isolated, refused)
    yield from _sets("restricted", isolated | restricted, limited)
    ways = {
        match.groups() for line in chains["reach"] if (match := re.search(r'iifname "(.*?)" oifname "(.*?)"', line))
    }
    reach = {(bridge, bridge) for bridge in wanted.bridges}
    reach |= {(name, other) for name, values in wanted.networks.items() for other in values.get("reach", [])}
    yield from _sets("reaches", reach, ways)
    sealed = {match[1] for line in chains["sealed"] if (match := re.search(r'[io]ifname "(.*?)"', line))}
    modes = {name: wanted.networks.get(name, {}).get("mode", "nat") for name in wanted.bridges}
    yield from _sets("sealed", {name for name, mode in modes.items() if mode == "isolated"}, sealed)
    masked = {
        match[1] for line in chains["postrouting"]
        if (match := re.search(r"ip saddr (\S+) ip daddr != .* masquerade", line))
    }  # fmt: skip
    yield from _sets("masked", {networks[name]["subnet"] for name, mode in modes.items() if mode == "nat"}, masked)


def _links(wanted: Wanted, records: Mapping[str, Any], networks: Mapping[str, Any], running: set[str]) -> Iterator[str]:
    links = {link["ifname"]: link for link in json.loads(call("ip", "-j", "address"))}
    kinds = {link["ifname"] for link in json.loads(call("ip", "-j", "link", "show", "type", "bridge"))}
    yield from _sets("bridge", wanted.bridges, kinds)
    for bridge in sorted(wanted.bridges & kinds):
        said, record, link = wanted.networks.get(bridge, {}), networks[bridge], links[bridge]
        if said.get("subnet", record["subnet"]) != record["subnet"]:
            yield f"network {bridge} has {record['subnet']}"
        subnets = _subnets(record)
        # One that is not declared any more keeps what it has.
        if bridge in wanted.networks and bool(record["subnet6"]) != said.get("ipv6", True):
            yield f"network {bridge} has the IPv6 subnet {record['subnet6']}"
        have = {f"{each['local']}/{each['prefixlen']}" for each in link["addr_info"] if each.get("scope") == "global"}
        yield from _sets(f"bridge {bridge} has", {_gateway(subnet) for subnet in subnets}, have)
        if said.get("mtu", link["mtu"]) != link["mtu"]:
            yield f"bridge {bridge} has an MTU of {link['mtu']}"
    ports = {name: link["master"] for name, link in links.items() if link.get("master")}
    want = {bridge: sum(bridge in bridges_of(wanted.machines[name]) for name in running) for bridge in wanted.bridges}
    have_ports = {bridge: list(ports.values()).count(bridge) for bridge in wanted.bridges}
    if want != have_ports:
        yield f"links in bridges: {ports}, and there should be {want}"
    for name in running:
        for index, bridge in enumerate(bridges_of(wanted.machines[name])):
            first = f"vb-{name}"
            if index == 0 and len(first) <= 15 and ports.get(first) != bridge:
                yield f"{first} of {name} is in {ports.get(first)} and should be in {bridge}"
    for name, record in records.items():
        bridges = set(bridges_of(wanted.machines[name]))
        yield from _sets(f"{name} has an address on", bridges, set(record["addresses"]))


def _gateway(subnet: str) -> str:
    network = ipaddress.ip_network(subnet)
    return f"{network[1]}/{network.prefixlen}"


def _listening(wanted: Wanted, running: set[str]) -> Iterator[str]:
    sockets = call("ss", "-Hlnt").splitlines()
    have = {int(line.split()[3].rpartition(":")[2]) for line in sockets}
    want = {
        port.host
        for name, machine in wanted.machines.items()
        if name in running or machine.get("on-demand")
        for port in ports_of(machine)
        if port.single and (machine.get("on-demand") or not port.address or port.address.startswith("127."))
    }
    yield from _sets("listens on", want, {port for port in have if 8080 <= port < 10000})


def _limits(wanted: Wanted, running: set[str]) -> Iterator[str]:
    for name in sorted(running):
        directory = CGROUPS / f"systemd-nspawn@{name}.service"
        machine = wanted.machines[name]
        for key, file in (("memory", "memory.max"), ("memory-high", "memory.high"), ("tasks", "pids.max")):
            path = directory / file
            if path.exists():
                want, have = str(machine.get(key, "max")), path.read_text().strip()
                if key == "tasks" and key not in machine:
                    # The stock unit has one of its own.
                    want = "16384"
                if want != have:
                    yield f"{file} of {name} is {have} and should be {want}"
        path = directory / "cpu.max"
        if path.exists():
            want = f"{round(machine['cpus'] * 100000)} 100000" if "cpus" in machine else "max 100000"
            if (have := path.read_text().strip()) != want:
                yield f"cpu.max of {name} is {have} and should be {want}"


def _names(records: Mapping[str, Any], networks: Mapping[str, Any]) -> Iterator[str]:
    lines = Path("/etc/hosts").read_text().splitlines()
    words = [line.split() for line in lines if ".machctl.internal" in line]
    have = {(each[0], each[1].partition(".")[0]) for each in words}
    want = {
        (address, name)
        for name, record in records.items()
        for address in (*record["addresses"].values(), *record["addresses6"].values())
    }
    gateways = {_gateway(subnet).partition("/")[0] for net in networks.values() for subnet in _subnets(net)}
    yield from _sets("hosts(5) has", want | {(gateway, "host") for gateway in gateways}, have)


def _subnets(network: Mapping[str, Any]) -> list[str]:
    return [network["subnet"], *([network["subnet6"]] if network["subnet6"] else [])]


def _journals(wanted: Wanted) -> Iterator[str]:
    """Links that nspawn makes to the journals of machines: of those there are, and one of each."""
    links = [path for path in Path("/var/log/journal").glob("*") if path.is_symlink()]
    names = [str(path.readlink()).split("/")[4] for path in links]
    yield from (
        f"journal of {name} is linked" for name in names if name not in wanted.machines or names.count(name) > 1
    )
