# SPDX-License-Identifier: LGPL-2.1-or-later
"""A tree that a source produced becomes a base: nobody's identity in it, its network on, and a quick boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.model.source import Source
from machines.operations.identity import forget
from machines.operations.places import PLACE
from machines.render.paths import GUEST_MANAGER_FILE, GUEST_NETWORK_DIRECTORY, RESOLVER_FILE

if TYPE_CHECKING:
    from machines.host.interfaces import Host

# What a machine on this host does without: each costs boot time or waits for hardware that no container has.
# systemctl unmask UNIT inside brings it back.
MASKED = (
    "console-getty.service",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "getty@.service",
    "ldconfig.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-network-generator.service",
    "systemd-networkd-persistent-storage.service",
    "systemd-networkd-wait-online.service",
    "systemd-pcrphase.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-remount-fs.service",
    "systemd-timesyncd.service",
    "systemd-tmpfiles-setup-dev-early.service",
    "systemd-tmpfiles-setup-dev.service",
)

# Programs that systemd runs at every boot to find disks, boot loaders and kernel command lines
# (systemd.generator(7)): 100 ms of processor time for things no container has.
MASKED_GENERATORS = (
    "systemd-bless-boot-generator",
    "systemd-cryptsetup-generator",
    "systemd-debug-generator",
    "systemd-getty-generator",
    "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator",
    "systemd-integritysetup-generator",
    "systemd-run-generator",
    "systemd-system-update-generator",
    "systemd-tpm2-generator",
    "systemd-veritysetup-generator",
)

# Their time says that /etc and /var are as new as /usr (systemd-update-done.service(8)): the packages' own scripts have
# made users and caches, and a first boot need not make them again, 200 ms of processor time.
UPDATED = ("/etc/.updated", "/var/.updated")

# systemd starts logind when its name on the bus is asked for, as pam_systemd(8) does when somebody logs in. At boot,
# where its package has it wanted, nobody has: it would be a tenth of the boot's processor time, and one more process.
LOGIND = "systemd-logind.service"
_ACTIVATES_LOGIND = "/usr/share/dbus-1/system-services/org.freedesktop.login1.service"
# Only logind starts what lingers (loginctl(1), enable-linger).
LINGER_UNIT = "machctl-linger.service"
LINGER = f"""\
# written by machctl
[Unit]
Description=Have logind start what lingers
Documentation=man:loginctl(1)
ConditionDirectoryNotEmpty=/var/lib/systemd/linger

[Service]
Type=oneshot
ExecStart=systemctl start --no-block {LOGIND}
"""

RESOLVER = """\
# written by machctl
[Resolve]
# A machine that was asked for before it was there would stay unknown; the host's resolved caches all else.
Cache=no-negative
"""

HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"

# As "systemctl enable" does with them: where they are wanted, and by which names else they are called.
_ENABLED = {
    "systemd-networkd.service": (
        "multi-user.target.wants/systemd-networkd.service",
        "dbus-org.freedesktop.network1.service",
    ),
    "systemd-networkd.socket": ("sockets.target.wants/systemd-networkd.socket",),
    "systemd-resolved.service": (
        "sysinit.target.wants/systemd-resolved.service",
        "dbus-org.freedesktop.resolve1.service",
    ),
}
_UNITS = "/etc/systemd/system"
_STUB = "../run/systemd/resolve/stub-resolv.conf"


def prepare(tree: str, source: Source, host: Host, *, init: bool) -> None:
    """Make ``tree`` a base. What came as it is keeps its units; only what it has to have an address is turned on.

    Without an ``init`` nothing in it would read any of this.
    """
    guests = host.guests
    forget(tree, host)
    if not guests.read_file(tree, "/etc/hosts"):
        guests.write_file(tree, "/etc/hosts", HOSTS)
    if not init:
        return
    enabled = [unit for unit in _ENABLED if (directory := _directory_of(unit, tree, host))]
    for unit in enabled:
        directory = _directory_of(unit, tree, host)
        for link in _ENABLED[unit]:
            guests.link(tree, f"{_UNITS}/{link}", f"{directory}/{unit}")
    if "systemd-resolved.service" in enabled:
        guests.link(tree, "/etc/resolv.conf", _STUB)
        guests.write_file(tree, RESOLVER_FILE, RESOLVER)
    guests.write_file(
        tree, f"{GUEST_NETWORK_DIRECTORY}/README", "# machctl shows a machine the settings of its links here.\n"
    )
    # A tree that nothing can be written to needs these places before anything is mounted there.
    guests.write_file(tree, GUEST_MANAGER_FILE, PLACE)
    if source.bootstrapped:
        for path in UPDATED:
            guests.write_file(tree, path, "# written by machctl: what systemd-update-done.service(8) would do\n")
        for unit in MASKED:
            guests.link(tree, f"{_UNITS}/{unit}", "/dev/null")
        for generator in MASKED_GENERATORS:
            guests.link(tree, f"/etc/systemd/system-generators/{generator}", "/dev/null")
        if guests.exists(tree, _ACTIVATES_LOGIND):
            # In a .wants/ directory, too, what is in /etc overrides what is in /usr (systemd.unit(5)).
            guests.link(tree, f"{_UNITS}/multi-user.target.wants/{LOGIND}", "/dev/null")
            guests.write_file(tree, f"{_UNITS}/{LINGER_UNIT}", LINGER)
            guests.link(tree, f"{_UNITS}/multi-user.target.wants/{LINGER_UNIT}", f"{_UNITS}/{LINGER_UNIT}")


def _directory_of(unit: str, tree: str, host: Host) -> str:
    """Give where the distribution keeps a unit, "" if the tree does not have it."""
    return next(
        (
            path
            for path in ("/usr/lib/systemd/system", "/lib/systemd/system")
            if host.guests.exists(tree, f"{path}/{unit}")
        ),
        "",
    )
