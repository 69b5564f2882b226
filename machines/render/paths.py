# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where what machctl writes lies on the host, and whose each file is."""

from __future__ import annotations

import re
from functools import cache

from machines.model.machine import Publish
from machines.model.names import mount_unit

NSPAWN_DIRECTORY = "/etc/systemd/nspawn"
UNIT_DIRECTORY = "/etc/systemd/system"
# Where systemctl set-property keeps what it is told, and what the next boot forgets of it.
CONTROL_DIRECTORIES = ("/etc/systemd/system.control", "/run/systemd/system.control")
NETWORK_DIRECTORY = "/etc/systemd/network"
STATE_DIRECTORY = "/var/lib/machctl"
NAT_DIRECTORY = f"{STATE_DIRECTORY}/nat"
NAT_FILE = f"{STATE_DIRECTORY}/nat.nft"
RECORD_DIRECTORY = f"{STATE_DIRECTORY}/machines"
NETWORK_RECORD_DIRECTORY = f"{STATE_DIRECTORY}/networks"
FIREWALLD_FILE = f"{STATE_DIRECTORY}/firewalld"
FIREWALLD_PORTS = f"{STATE_DIRECTORY}/firewalld-ports"
# The rules that the kernel's flows of UDP are known to follow: written once those of rules before them are gone.
LED_FILE = f"{STATE_DIRECTORY}/udp-rules"
LOG_DIRECTORY = "/var/log/machctl"
POOL_DIRECTORY = "/var/lib/machines"
STORE_DIRECTORY = f"{STATE_DIRECTORY}/store"
LAYER_DIRECTORY = f"{STORE_DIRECTORY}/layers"
POOL_IMAGE = f"{STATE_DIRECTORY}/pool.btrfs"
POOL_MOUNT = f"{STATE_DIRECTORY}/pool"
GUEST_DIRECTORY = f"{STATE_DIRECTORY}/guests"
# What stands for all of a host's device_directory() where one asks what can be done there.
DEVICE_PLACE = f"{STATE_DIRECTORY}/devices-"
# Not below /run: of directories that it has to make there, nspawn 252 makes the host's root the owner, and the guest's
# systemd can write nothing into them.
GUEST_NETWORK_DIRECTORY = "/usr/local/lib/systemd/network"
GUEST_MANAGER_FILE = "/usr/local/lib/systemd/system.conf.d/50-machctl.conf"
GUEST_RESOLV_CONF = "/etc/resolv.conf"
SYSCTL_DIRECTORY = "/etc/sysctl.d"
LOCALNET_DIRECTORY = f"{STATE_DIRECTORY}/localnet"
NETWORK_MANAGER_DIRECTORY = "/etc/NetworkManager/conf.d"
STARTED_PREFIX = "/run/machctl/started-"
# There while apply is at work; what finds it at boot goes on with that.
APPLYING_FILE = f"{STATE_DIRECTORY}/applying.json"
PROBE_DIRECTORY = f"{STATE_DIRECTORY}/health"
HEALTH_DIRECTORY = "/run/machctl/health"
RESULTS_DIRECTORY = "/run/machctl/probes"
ROLLOUT_DIRECTORY = f"{STATE_DIRECTORY}/rollouts"
# Gone with a boot: what it leads to does not run then.
REDIRECT_DIRECTORY = "/run/machctl/nat"
ADOPTED_DIRECTORY = f"{STATE_DIRECTORY}/adopted"
UPDATE_DIRECTORY = f"{STATE_DIRECTORY}/updates"
HOSTS_FILE = "/etc/hosts"
RESOLVER_FILE = "/etc/systemd/resolved.conf.d/machctl.conf"
# There while resolved is to be restarted for its file; one that starts with the host reads it anyway.
RESOLVER_PENDING = "/run/machctl/resolver"
RESOLVER_HEADER = "# machctl: fleet names, answered at the gateways of networks"

_HEADER = re.compile(r"# machctl: (machine|bridge|fleet) (\S+)")


def settings_file(name: str) -> str:
    """The only trusted place for a machine's settings (systemd.nspawn(5))."""
    return f"{NSPAWN_DIRECTORY}/{name}.nspawn"


def dropin_directory(name: str) -> str:
    """Where drop-ins of a machine's unit lie (systemd.unit(5))."""
    return f"{UNIT_DIRECTORY}/systemd-nspawn@{name}.service.d"


def dropin_file(name: str) -> str:
    """The drop-in with a machine's limits and ordering."""
    return f"{dropin_directory(name)}/50-machctl.conf"


def port_unit(name: str, port: Publish, suffix: str) -> str:
    """The unit that listens on a published port (``socket``) or passes its connections on (``service``)."""
    address = "-" + port.address.replace(":", ".") if port.address else ""
    return f"{port_prefix(name)}{port.host}{address}.{suffix}"


def port_prefix(name: str) -> str:
    """What the names of a machine's port units begin with, and no other machine's: names have no underscore."""
    return f"machctl-port-{name}_"


def started(name: str, path: str) -> str:
    """The copy that a machine made of one of its files when it started, which says what it runs with."""
    directory = f"{guest_directory(name)}/"
    if path.startswith(directory):
        return f"{STARTED_PREFIX}{name}/{name}/{path.removeprefix(directory)}"
    return f"{STARTED_PREFIX}{name}/{path.rpartition('/')[2]}"


def units_read(name: str) -> str:
    """What systemd is known to have read of the unit of a machine that runs."""
    return f"{STARTED_PREFIX}{name}/units-read"


def sockets_file(name: str) -> str:
    """The drop-in that has the sockets of a machine listen from boot on (systemd.special(7), sockets.target)."""
    return f"{UNIT_DIRECTORY}/sockets.target.d/50-machctl-{name}.conf"


def sysctl_file(name: str) -> str:
    """What of the kernel's settings the published ports of a machine need (sysctl.d(5))."""
    return f"{SYSCTL_DIRECTORY}/70-machctl-{name}.conf"


def bridge_sysctl_file(bridge: str) -> str:
    """What of the kernel's settings a bridge needs, in the form of sysctl.d(5).

    Not in a place of systemd's: udev would set it with the bridge, be the nft table that guards it there or not.
    """
    return f"{LOCALNET_DIRECTORY}/{bridge}.conf"


def unmanaged_file(bridge: str) -> str:
    """What keeps NetworkManager from a bridge and the links in it (NetworkManager.conf(5))."""
    return f"{NETWORK_MANAGER_DIRECTORY}/70-machctl-{bridge}.conf"


def probe_file(name: str) -> str:
    """How the health of a machine is probed: of one that has it, only."""
    return f"{PROBE_DIRECTORY}/{name}"


def health_dropin(name: str) -> str:
    """The drop-in that has a machine probed while it runs, which counts without starting it again."""
    return f"{dropin_directory(name)}/60-machctl-health.conf"


def health_file(name: str) -> str:
    """The health of a machine that runs; written only when that changes."""
    return f"{HEALTH_DIRECTORY}/{name}"


def results_file(name: str) -> str:
    """What the last probes of a machine said."""
    return f"{RESULTS_DIRECTORY}/{name}"


def unit_dropin(unit: str) -> str:
    """The drop-in of machctl's own for a unit of units/."""
    return f"{UNIT_DIRECTORY}/{unit}.d/50-machctl.conf"


def rollout_file(name: str) -> str:
    """What is kept of the last rollout of a machine."""
    return f"{ROLLOUT_DIRECTORY}/{name}.json"


def redirect_file(name: str) -> str:
    """The rules that lead the ports of a machine to its stand-in; while they are there its sockets outlive it."""
    return f"{REDIRECT_DIRECTORY}/{name}.nft"


def unit_of(path: str) -> str:
    """The unit that a unit file or a drop-in is of."""
    return path.removeprefix(f"{UNIT_DIRECTORY}/").split("/")[0].removesuffix(".d")


def bootstrap_log(name: str) -> str:
    """All that the bootstrapper of a machine printed."""
    return f"{LOG_DIRECTORY}/{name}.bootstrap.log"


def tree(name: str) -> str:
    """A machine's root tree."""
    return f"{POOL_DIRECTORY}/{name}"


def layer(name: str) -> str:
    """What a machine has of its own over a base, where its tree is mounted of the two."""
    return f"{LAYER_DIRECTORY}/{name}"


def mount_units(name: str) -> tuple[str, str]:
    """The units that mount a machine's tree: its base with the machine's ids, then the layer over it."""
    return mount_unit(f"{layer(name)}/lower"), mount_unit(tree(name))


def network_record(bridge: str) -> str:
    """The record of a bridge that machctl made."""
    return f"{NETWORK_RECORD_DIRECTORY}/{bridge}.json"


def machine_record(name: str) -> str:
    """The record of what a machine was given."""
    return f"{RECORD_DIRECTORY}/{name}.json"


def update_record(name: str) -> str:
    """The record of an update of a machine that is under way."""
    return f"{UPDATE_DIRECTORY}/{name}.json"


def guest_directory(name: str) -> str:
    """What a machine sees of its settings: a tree that machctl writes nothing into is the guest's alone."""
    return f"{GUEST_DIRECTORY}/{name}"


def device_directory(name: str) -> str:
    """Where a machine's own nodes of devices lie while it runs: not below /run, where no node can be opened."""
    return f"{DEVICE_PLACE}{name}"


def device_copy(name: str, device: str) -> str:
    """A machine's own node of a device of the host."""
    return f"{device_directory(name)}/{device.removeprefix('/dev/').replace('/', '!')}"


def guest_network_file(name: str, link: str) -> str:
    """The file that configures one of a machine's links (systemd.network(5)), before all that is in its tree."""
    return f"{guest_directory(name)}/05-machctl-{link}.network"


def guest_manager_file(name: str) -> str:
    """What a machine's own systemd is told (systemd-system.conf(5))."""
    return f"{guest_directory(name)}/system.conf"


def guest_resolv_conf(name: str) -> str:
    """The name servers of a machine that nothing inside looks after (resolv.conf(5))."""
    return f"{guest_directory(name)}/resolv.conf"


def adopted_directory(name: str) -> str:
    """What the files of a machine said that others wrote, before machctl wrote them."""
    return f"{ADOPTED_DIRECTORY}/{name}"


def adopted_file(name: str, path: str) -> str:
    """How the file at ``path`` was before machine ``name`` was adopted."""
    return f"{adopted_directory(name)}/{path.strip('/').replace('/', ':')}"


def ejected_file(name: str) -> str:
    """The declaration of a machine that was ejected, where adopt finds it."""
    return f"/etc/machctl/ejected/{name}.toml"


def ejected_header(name: str) -> str:
    """The first line of a file of a machine that was ejected."""
    return f"# Of machine {name}, written by machctl, which has ejected it: nobody but you changes it now."


def machine_header(name: str, origin: str) -> str:
    """The first line of every file that is rendered for a machine."""
    return f"# machctl: machine {name}, declared in {origin}; edit that and run: machctl apply {name}"


def bridge_header(bridge: str, origin: str = "") -> str:
    """The first line of every file that is rendered for a bridge; ``origin`` is the file it is declared in."""
    if origin:
        return f"# machctl: bridge {bridge}, declared in {origin}; edit that and run: machctl apply"
    return f"# machctl: bridge {bridge}, made for the machines that are on it; gone with the last of them"


def private_files(name: str) -> tuple[str, ...]:
    """What says of a machine what its declaration says, and is read by root alone."""
    return (settings_file(name), dropin_file(name), probe_file(name))


def declared_in(text: str) -> str:
    """Give the file that a machine was declared in when ``text`` was rendered for it; "" where it does not say that."""
    return text.partition("\n")[0].partition(", declared in ")[2].partition(";")[0]


def owner(path: str, text: str) -> tuple[str, str] | None:
    """Tell whose a file is, as ("machine"|"bridge"|"fleet", name); None if machctl did not write it there.

    The first line alone does not say it: machinectl copies settings with their first line to another machine.
    """
    match = _HEADER.match(text)
    if match is None:
        return None
    kind, name = match[1], match[2].rstrip(",;")
    if kind == "machine":
        files, prefixes = _own_paths(name)
        mine = path in files or path.startswith(prefixes)
    elif kind == "bridge":
        own = [f"{NAT_DIRECTORY}/bridge-{name}.nft", bridge_sysctl_file(name), unmanaged_file(name)]
        mine = path in own or path.startswith(f"{NETWORK_DIRECTORY}/70-machctl-{name}.")
    else:
        mine = path in {NAT_FILE, RESOLVER_FILE} or path in {
            f"{UNIT_DIRECTORY}/{mount_unit(where)}" for where in (POOL_MOUNT, POOL_DIRECTORY, STORE_DIRECTORY)
        }
    return (kind, name) if mine else None


def is_bridge_file(path: str, text: str) -> bool:
    """Tell whether machctl wrote a file there for a bridge."""
    # Most of a fleet's files are machines', and need not be looked at any closer.
    return text.startswith("# machctl: bridge ") and owner(path, text) is not None


@cache
def _own_paths(name: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """The files of a machine, and how the paths of others of its files begin."""
    own = [settings_file(name), dropin_file(name), f"{NAT_DIRECTORY}/machine-{name}.nft"]
    own += [sockets_file(name), sysctl_file(name), probe_file(name), health_dropin(name)]
    own += [f"{UNIT_DIRECTORY}/{unit}" for unit in mount_units(name)]
    return frozenset(own), (f"{UNIT_DIRECTORY}/{port_prefix(name)}", f"{guest_directory(name)}/")
