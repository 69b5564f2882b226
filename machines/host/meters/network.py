# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes through the links of a machine (/proc/PID/net/dev in proc_pid_net(5))."""

from __future__ import annotations

from machines.host.meters.cgroup import read_small
from machines.host.registered import shares_network

# What containers within a machine are linked by. What comes through those comes through the machine's own links too,
# and through a bridge and its port once more.
_INNER = (
    "br-", "cali", "cilium", "cni", "docker", "dummy", "flannel", "ifb", "incusbr", "lxcbr", "lxdbr", "machctl",
    "podman", "tap", "tun", "vb-", "ve-", "vz-", "veth", "virbr", "vnet", "wg",
)  # fmt: skip


def traffic(leader: int) -> tuple[int, int] | None:
    """Give the bytes that a machine received and sent; None where it uses the host's network, or has ended."""
    text = read_small(f"/proc/{leader}/net/dev")
    return None if text is None or shares_network(leader) else parse_dev(text)


def parse_dev(text: str) -> tuple[int, int]:
    """Read the file into bytes received and sent, but for loopback and what leads to containers further inside."""
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, _, counts = line.partition(":")
        name, words = name.strip(), counts.split()
        if name != "lo" and len(words) > 8 and not name.startswith(_INNER):
            received += int(words[0])
            sent += int(words[8])
    return received, sent
