# SPDX-License-Identifier: LGPL-2.1-or-later
"""A bootstrapped tree becomes a machine's: an identity of its own, its network, a way in, and a quick boot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from machines.host.interfaces import BootstrapRequest
from machines.model.machine import Machine
from machines.render.paths import LOG_DIRECTORY, bootstrap_log

if TYPE_CHECKING:
    from machines.host.interfaces import Host, Progress

# What a tree needs to boot, to be entered over D-Bus (OpenMachineShell needs dbus and a PAM session), to have names
# and addresses.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "systemd-resolved",
    "libnss-resolve",
    "libnss-myhostname",
    "iproute2",
    "ca-certificates",
)

ENABLED = ("systemd-networkd.service", "systemd-resolved.service")

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

HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


async def make_tree(machine: Machine, guest_files: dict[str, str], host: Host, progress: Progress) -> None:
    """Bootstrap the tree of ``machine`` beside its place, ready to be placed; nothing is left where that fails."""
    bootstrapper = host.bootstrapper(machine.bootstrapper)
    target = host.pool.make_empty(machine.name)
    try:
        Path(LOG_DIRECTORY).mkdir(mode=0o755, parents=True, exist_ok=True)
        await bootstrapper.bootstrap(
            BootstrapRequest(
                distribution=machine.source.distribution,
                suite=machine.source.suite,
                packages=packages(machine),
                target=Path(target),
                log=Path(bootstrap_log(machine.name)),
                variant=machine.variant,
                mirror=machine.mirror,
            ),
            progress,
        )
        progress("making it a machine", 0, None)
        customize(machine, guest_files, target, host)
    except BaseException:
        host.pool.remove_path(target)
        raise


def packages(machine: Machine) -> tuple[str, ...]:
    """Give what is installed into the tree of ``machine``, each once."""
    ssh = ("openssh-server",) if machine.ssh_keys else ()
    # bookworm took systemd-resolved out of systemd; before it, there is no such package.
    base = tuple(name for name in PACKAGES if machine.source.suite != "bullseye" or name != "systemd-resolved")
    return tuple(dict.fromkeys([*base, *ssh, *machine.packages]))


def customize(machine: Machine, guest_files: dict[str, str], target: str, host: Host) -> None:
    """Take the builder's traces out of the tree ``target`` and put the machine's in."""
    guests = host.guests
    # Empty, not missing: without the file systemd takes it for a first boot, and enables all presets (machine-id(5)).
    guests.write_file(target, "/etc/machine-id", "", mode=0o444)
    guests.remove_file(target, "/var/lib/dbus/machine-id")
    # Without it the machine is called what nspawn calls it, and follows when it is renamed.
    guests.remove_file(target, "/etc/hostname")
    if not guests.read_file(target, "/etc/hosts"):
        guests.write_file(target, "/etc/hosts", HOSTS)
    guests.link(target, "/etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    for path, text in guest_files.items():
        guests.write_file(target, path, text)
    if machine.ssh_keys:
        guests.write_file(target, "/root/.ssh/authorized_keys", "\n".join(machine.ssh_keys) + "\n", mode=0o600)
    for unit in MASKED:
        guests.link(target, f"/etc/systemd/system/{unit}", "/dev/null")
    for generator in MASKED_GENERATORS:
        guests.link(target, f"/etc/systemd/system-generators/{generator}", "/dev/null")
    host.tools.run(["systemctl", "--quiet", f"--root={target}", "enable", *ENABLED])
