# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one table of what a declaration may say: the reader, the writer, ``set`` and the JSON Schema all go by it."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from machines.model.frozen import NamedTuple


class Key(NamedTuple):
    """A key of a table. The field of the Machine it fills is called like it, with underscores, and has its default.

    ``kind`` is what stands in the file: ``text``, ``number`` (or a string that holds one), ``flag``, ``texts`` (a list
    of strings), ``words`` (a string or a list of strings), ``map`` (a table of strings) or ``table`` (one with the keys
    that ``inner`` names). ``parse`` names the function of this package, as ``MODULE.FUNCTION``, that makes the value of
    it: from the string, from each string of a list, from name and string of each entry of a map, from the values of a
    table's keys by field. It raises InvalidValue. ``form`` names what gives the text back; str() where there is none.
    ``one_of`` names the keys of which a later layer's takes the place of an earlier one's, whichever it is.
    ``settable`` is for what ``machctl set`` may change. ``special`` ones are read and written by hand (fleet.py).
    """

    name: str
    kind: str
    about: str
    parse: str = ""
    form: str = ""
    choices: tuple[str, ...] = ()
    example: object = None
    inner: str = ""
    one_of: str = ""
    settable: bool = False
    special: bool = False

    @property
    def field(self) -> str:
        """The field that it fills."""
        return self.name.replace("-", "_")


# In the order in which machctl writes them.
KEYS = (
    Key("source", "text", "What its root tree is made of.", special=True, example="debian:trixie"),
    Key("profiles", "texts", "Profiles it takes keys from, the later before the earlier.", special=True,
        example=["small"]),
    Key("replicas", "number", "Make that many of it: NAME-1, NAME-2, ...", special=True, example=3),
    Key("max-unavailable", "number", "Restart, make anew or update at most that many of its replicas at a time.",
        "runtime.parse_replicas", "runtime.write_number", example=1),
    Key("checksum", "text", "What a tar: or raw: source has to be: sha256:HEX.", "values.parse_checksum",
        example=f"sha256:{'0' * 64}"),
    Key("insecure", "flag", "Take whatever a URL gives, without a checksum."),
    Key("mirror", "text", "Where the bootstrap gets packages from.", "values.parse_mirror",
        example="http://mirror.example/debian"),
    Key("keyring", "text", "The keys that packages are signed with.", "values.parse_keyring",
        example="/usr/share/keyrings/mine.gpg"),
    Key(
        "variant", "text", "How much a bootstrap installs.", "values.parse_variant",
        choices=("minbase", "buildd", "important", "standard"),
    ),
    Key(
        "bootstrapper", "text", "What bootstraps the tree.", "values.parse_bootstrapper",
        choices=("auto", "debootstrap", "mmdebstrap", "pacstrap", "dnf"),
    ),
    Key("packages", "texts", "Packages that are in the tree from the start.", "values.parse_package",
        example=["nginx-light"]),
    Key(
        "storage", "text", "How the tree is kept.", "values.parse_storage",
        choices=("auto", "btrfs", "overlay", "reflink", "copy"),
    ),
    Key("disk", "number", "How much disk its tree may take.", "values.parse_disk", "values.format_memory",
        example="10G", settable=True),
    Key("ephemeral", "flag", "Forget all changes to the tree when it stops."),
    Key("hostname", "text", "What it calls itself, where that is not its name.", "values.parse_hostname",
        example="www.example.org"),
    Key("network", "text", "A network of its own, the host's or none.", special=True,
        choices=("private", "host", "none")),
    Key("bridges", "texts", "Bridges or networks it is on: BRIDGE[,vlan=,ip=,gw=,mac=,name=].", special=True,
        example=["br0"]),
    Key("links", "texts", "Links of any kind: zone:Z, veth, macvlan:eth0, ipvlan:eth0, interface:eth1.", special=True,
        example=["veth"]),
    Key("isolated", "flag", "Keep it from everything but its published ports.", settable=True),
    Key("egress", "texts", "All that it may reach: ports. An empty list is nothing.", "values.parse_egress",
        example=["443", "53/udp"], settable=True),
    Key("publish", "texts", "Ports that answer on the host: [IP:]HOST:GUEST[/tcp|/udp].", "values.parse_publish",
        example=["8080:80"]),
    Key("on-demand", "flag", "Start it at the first connection to a published port."),
    Key("idle-stop", "number", "Stop it that long after the last connection.", "values.parse_duration",
        "values.format_duration", example="10m"),
    Key("binds", "texts", "Directories and files of the host that it sees: SRC:DST[:ro][,idmap|noidmap|rootidmap].",
        "values.parse_bind", example=["/srv/www:/var/www:ro"], settable=True),
    Key("tmpfs", "texts", "Places of its tree that are in memory: PATH[:SIZE].", "runtime.parse_tmpfs",
        example=["/tmp:64M"], settable=True),
    Key("read-only", "flag", "Let nothing be written to its tree.", settable=True),
    Key("volatile", "text", "Forget at each stop all but /usr (yes), /var (state), or all changes (overlay).",
        "runtime.parse_volatile", choices=("no", "yes", "state", "overlay"), settable=True),
    Key("devices", "texts", "Device nodes of the host that it may use: /dev/NODE[:rwm].", "runtime.parse_device",
        example=["/dev/dri/renderD128"], settable=True),
    Key("capabilities", "texts", "What its root may do beside what every machine's may (capabilities(7)).",
        "runtime.parse_capability", example=["sys_nice"], settable=True),
    Key("drop-capabilities", "texts", "What its root may not do.", "runtime.parse_capability",
        example=["net_raw"], settable=True),
    Key("system-call-filter", "texts", "System calls, or groups, that it may use beside the usual; with ~ may not.",
        "runtime.parse_call", example=["@keyring", "~bpf"], settable=True),
    Key("nesting", "flag", "Let it run containers of its own: podman, docker.", settable=True),
    Key("memory", "number", "How much memory it may use.", "values.parse_memory", "values.format_memory",
        example="512M", settable=True),
    Key("memory-high", "number", "Slow it down when it uses more memory than that.", "values.parse_memory",
        "values.format_memory", example="384M", settable=True),
    Key("swap", "number", "How much swap it may use.", "runtime.parse_swap", "runtime.write_swap",
        example="1G", settable=True),
    Key("cpus", "number", "How many processors it may use.", "values.parse_cpus", "values.write_cpus",
        example=1.5, settable=True),
    Key("cpu-weight", "number", "Its share of processors when they are short, of 1 to 10000; 100 is usual.",
        "runtime.parse_weight", "runtime.write_number", example=50, settable=True),
    Key("io-weight", "number", "Its share of the disks when they are busy, of 1 to 10000; 100 is usual.",
        "runtime.parse_weight", "runtime.write_number", example=50, settable=True),
    Key("tasks", "number", "How many processes and threads it may have.", "runtime.parse_tasks",
        "runtime.write_number", example=1024, settable=True),
    Key("restart", "text", "Start it again when it ends by itself.", "runtime.parse_restart",
        choices=("no", "on-failure", "always"), settable=True),
    Key("restart-delay", "number", "Wait that long before.", "values.parse_duration", "values.format_duration",
        example="5s", settable=True),
    Key("health", "table", "How it is told whether it does its work, and what is done where it does not.",
        "health.make_health", "health.health_values", inner="health.KEYS", settable=True),
    Key("ssh-keys", "texts", "Public keys that root may log in with.", "values.parse_ssh_key",
        example=["ssh-ed25519 AAAA me"]),
    Key("autostart", "flag", "Start it when the host boots."),
    Key("after", "texts", "What it waits for: a machine, a unit in it, or that it is healthy.", "after.parse_after",
        example=["db", "db/postgresql.service", "db:healthy"]),
    Key("environment", "map", "Environment of its first process, and so of all of it. Not for secrets.",
        "environment.parse_variable", example={"LANG": "C.UTF-8"}),
    Key("secrets", "map", "Credentials it is given (systemd-creds(1)): file:PATH or credential:NAME.",
        "environment.parse_secret", example={"token": "credential:token"}),
)  # fmt: skip

NETWORK_KEYS = (
    Key("mode", "text", "What leaves it: with the host's address, the machines' own, nothing.", "networks.parse_mode",
        choices=("nat", "routed", "isolated")),
    Key("subnet", "text", "Its IPv4 subnet; a free one if left out.", "networks.parse_subnet", example="10.1.0.0/24"),
    Key("ipv6", "flag", "Give it an IPv6 subnet."),
    Key("subnet6", "text", "Its IPv6 subnet; a free one if left out.", "networks.parse_subnet6",
        example="fd12:3456:789a:1::/64"),
    Key("dhcp", "flag", "Serve leases on it, where networkd runs."),
    Key("dns", "flag", "Answer the names of machines on it."),
    Key("mtu", "number", "The greatest packet on it, in bytes.", "networks.parse_mtu", example=1400),
    Key("reach", "texts", "Other networks that its machines may reach.", "networks.check_network_name",
        example=["db"]),
)  # fmt: skip

IMAGE_KEYS = (
    Key("stale-after", "number", "How many days old an image may be before it is made anew.", "values.parse_days",
        example=14),
)  # fmt: skip

BY_NAME = {key.name: key for key in KEYS}


@cache
def function(name: str) -> Any:
    """Give the function, or the table of keys, that an entry names: it is loaded where a machine says that key."""
    module, _, word = name.partition(".")
    return getattr(import_module(f"machines.declare.{module}"), word)
