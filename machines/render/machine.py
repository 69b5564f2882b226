# SPDX-License-Identifier: LGPL-2.1-or-later
"""A declared machine, placed in its networks, to the files that make it one: path to text."""

from __future__ import annotations

from machines.model.base import Payload
from machines.model.machine import Bind, Machine
from machines.model.names import bridge_unit, link_network, machine_unit, mount_unit
from machines.render import paths
from machines.render.environment import escape_setting, quote_word, render
from machines.render.links import (
    Wire,
    early_command,
    hairpin_end,
    inner_commands,
    network_settings,
    outer_commands,
    wires,
)
from machines.render.placement import Placement
from machines.render.ports import nspawn_ports, port_files, used_unit

# The kernel build's defaults differ. index=on refuses a layer that was copied; with metacopy=on files of a layer would
# be nothing without their base; without redirect_dir=on a guest that renames a directory of its base copies it
# (Documentation/filesystems/overlayfs.rst).
OVERLAY_OPTIONS = "index=off,metacopy=off,redirect_dir=on"

NAT_UNIT = "machctl-nat.service"
APPLY_UNIT = "machctl-apply.service"


def render_machine(machine: Machine, placement: Placement) -> dict[str, str]:
    """Give every file on the host that belongs to ``machine`` alone."""
    header = paths.machine_header(machine.name, machine.origin)
    found = wires(machine, placement)
    files = port_files(machine, placement, header=header)
    guest = _guest(machine, placement, found, header)
    files |= guest
    # On the host it would be a link into what is gone after a stop, or that only the machine has mounted.
    link_journal = not (placement.payload or _forgets(machine) or placement.storage == "raw")
    # That of an interface or of a bridge of others waits for it, where no udev tells systemd of devices too.
    wants = list(dict.fromkeys(bridge_unit(link_network(link, machine.name) or link.target) for link in machine.links))
    if placement.networks:
        wants.append(NAT_UNIT)
    before = dict.fromkeys(each.machine for each in machine.after)
    settings = _settings(machine, placement)
    files[paths.settings_file(machine.name)] = render(
        "machine.nspawn",
        header=header,
        hostname=machine.hostname,
        payload=_payload(placement.payload, machine),
        uid=placement.uid,
        ephemeral=_ephemeral(machine, placement),
        link_journal=link_journal,
        binds=[
            *_seen(machine.name, guest),
            *(_bind(bind, placement) for bind in machine.binds),
        ],
        exec_lines=settings[0],
        file_lines=settings[1],
        private=machine.network != "host",
        links=network_settings(found),
        ports=nspawn_ports(machine, placement) if any(map(_first_port, found)) else [],
    )
    files[paths.dropin_file(machine.name)] = render(
        "dropin.conf",
        header=header,
        wants=[*wants, *(machine_unit(name) for name in before)],
        # Where that is at work at boot it is finished before anything starts.
        after=[*wants, *(machine_unit(name) for name in before), APPLY_UNIT],
        waits=" ".join(str(each) for each in machine.after if each.unit or each.healthy),
        started=[
            paths.settings_file(machine.name),
            paths.dropin_file(machine.name),
            *([paths.guest_directory(machine.name)] if guest else []),
        ],
        memory=machine.memory,
        cpu_quota=f"{machine.cpus * 100:.0f}" if machine.cpus else "",
        setting_lines=settings[2],
        hairpin=hairpin_end(found),
        used=used_unit(machine),
        link_journal=link_journal,
        tree=paths.tree(machine.name),
        # What is published can change while the machine runs; this file must not, or systemd has to read it again.
        sockets=f"{paths.port_prefix(machine.name)}*.socket" if machine.network == "private" else "",
        demanded=paths.sockets_file(machine.name),
        redirect=paths.redirect_file(machine.name),
        sysctl=paths.sysctl_file(machine.name),
        early=next(filter(None, map(early_command, found)), ""),
        commands=[command for wire in found for command in outer_commands(wire)],
        name=machine.name,
        guest_links=_guest_links(found) if placement.payload else [],
    )
    if machine.health is not None:
        from machines.render.health import health_files

        files |= health_files(machine, header=header, payload=placement.payload)
    if placement.uid is not None:
        files |= _mounts(machine.name, placement.uid, header)
    return files


def _guest(machine: Machine, placement: Placement, found: list[Wire], header: str) -> dict[str, str]:
    """Give the files on the host that the machine sees among its own."""
    if placement.payload:
        # There is no resolved in it to ask.
        text = render("resolv.conf", header=header, dns=placement.dns, domain=placement.domain)
        return {paths.guest_resolv_conf(machine.name): text}
    files = {
        paths.guest_network_file(machine.name, wire.inner): render(
            "guest.network",
            header=header,
            link=wire.inner,
            mac=wire.mac,
            mtu=wire.mtu,
            addresses=wire.addresses,
            gateways=wire.gateways if wire.default else (),
            own=wire.network is not None and wire.link.vlan is None,
            default_route=wire.default,
            dns=placement.dns,
            domain=placement.domain,
        )
        for wire in found
        if not wire.by_networkd
    }
    if machine.environment:
        from machines.render.given import manager_lines

        made = render("manager.conf", header=header, assignments=manager_lines(machine))
        files[paths.guest_manager_file(machine.name)] = made
    return files


def _first_port(wire: Wire) -> bool:
    """Tell whether a link is the machine's first and a plain port of a bridge: nspawn finds its address by itself."""
    return wire.primary or (wire.inner == "host0" and bool(wire.bridge) and wire.link.vlan is None)


def _seen(name: str, guest: dict[str, str]) -> list[dict[str, str]]:
    """Give the binds that show a machine its settings: of links a directory, so that one can come while it runs."""
    known = {
        paths.guest_resolv_conf(name): paths.GUEST_RESOLV_CONF,
        paths.guest_manager_file(name): paths.GUEST_MANAGER_FILE,
    }
    binds = {path: known[path] for path in guest if path in known}
    if len(guest) > len(binds):
        binds[paths.guest_directory(name)] = paths.GUEST_NETWORK_DIRECTORY
    return [{"key": "BindReadOnly", "value": f"{source}:{target}"} for source, target in binds.items()]


def _payload(payload: Payload | None, machine: Machine) -> dict[str, object] | None:
    if payload is None:
        return None
    if machine.environment:
        from machines.render.given import image_environment

        payload = payload._replace(environment=tuple(image_environment(machine, payload)))
    return {
        "command": " ".join(map(quote_word, payload.command)),
        "environment": [quote_word(assignment) for assignment in payload.environment],
        "user": "" if payload.user in {"root", "0"} else payload.user,
        "directory": payload.directory,
    }


def _ephemeral(machine: Machine, placement: Placement) -> str:
    """Only btrfs copies a tree at every start without it taking time; the others get a layer in memory over it."""
    if not machine.ephemeral:
        return ""
    return "snapshot" if placement.storage == "btrfs" else "memory"


def _guest_links(found: list[Wire]) -> list[str]:
    """What is done from outside in a machine that has nothing inside to give its links their addresses."""
    lines = []
    for wire in found:
        for command in inner_commands(wire):
            line = f'nsenter --target "$$leader" --net ip {command}'
            if wire.link.kind == "macvlan" and command.endswith(" up"):
                # The kernel takes the namespace of the last run apart when it has the time, and until then its macvlan
                # has the address that this one is to have (drivers/net/macvlan.c, macvlan_open).
                line = f"for try in 1 2 3 4 5 6 7 8 9; do {line} && break; sleep 0.3; done"
            lines.append(line)
    return lines


def _mounts(name: str, uid: int, header: str) -> dict[str, str]:
    """The mounts that make a machine's tree of its base and its layer (systemd.mount(5))."""
    layer, tree = paths.layer(name), paths.tree(name)
    lower = mount_unit(f"{layer}/lower")
    values = {
        "header": header, "name": name, "layer": layer, "tree": tree, "uid": uid, "lower": lower,
        "tree_unit": mount_unit(tree),
        "options": OVERLAY_OPTIONS,
    }  # fmt: skip
    return {
        f"{paths.UNIT_DIRECTORY}/{lower}": render("lower.mount", **values),
        f"{paths.UNIT_DIRECTORY}/{mount_unit(tree)}": render("tree.mount", **values),
    }


def _forgets(machine: Machine) -> bool:
    """Tell whether nothing that is written to the tree is there after a stop."""
    return machine.ephemeral or machine.read_only or bool(machine.volatile)


def _settings(machine: Machine, placement: Placement) -> tuple[list[str], list[str], list[str]]:
    """Give lines of [Exec] and [Files] of its settings, and of [Service] of its drop-in."""
    found: tuple[list[str], list[str], list[str]] = ([], [], [])
    if machine.has_settings or machine.ephemeral:
        from machines.render.settings import exec_lines, file_lines, unit_lines

        found = exec_lines(machine, placement), file_lines(machine, placement), unit_lines(machine, placement)
    if machine.environment or machine.secrets:
        from machines.render import given

        found[0].extend(given.exec_lines(machine))
        found[2].extend(given.unit_lines(machine, placement))
    return found


def _bind(bind: Bind, placement: Placement) -> dict[str, str]:
    value = f"{escape_setting(bind.source)}:{escape_setting(bind.destination)}"
    # Without a map all of it belongs to nobody inside: enough to read, useless to write (systemd-nspawn(1), --bind=).
    mapping = bind.mapping or ("idmap" if bind.source in placement.idmap_paths else "")
    return {
        "key": "BindReadOnly" if bind.read_only else "Bind",
        "value": value + (f":{mapping}" if mapping not in {"", "noidmap"} else ""),
    }
