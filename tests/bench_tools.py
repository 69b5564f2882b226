# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who makes one more machine in the bench: machctl, a person by hand, podman and Incus, alike in what they do.

All of them get machctl's own base of debian:trixie, and keep their trees on the pool's file system. For podman and
Incus it is again what its bootstrapper made: what a machine boots without, machctl left out. A machine is up
when its systemd has finished booting: machctl and the one by hand wait for that themselves (NotifyReady= in
systemd.nspawn(5)), for podman and Incus their guest is asked from outside, which is quicker than through them.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import POOL, Failed, sh

STORE = Path("/var/lib/machctl")
PEERS = STORE / "peers"
UP_LIMIT = 60
KIND = subprocess.check_output(["findmnt", "-no", "FSTYPE", "-T", POOL], text=True).strip()
HAND_UIDS = 0x70000000
HAND_SETTINGS = """\
[Exec]
Boot=yes
NotifyReady=yes
PrivateUsers={users}
ResolvConf=off
[Files]
PrivateUsersOwnership={ownership}
{network}
"""
PODMAN_STORAGE = """\
[storage]
driver = "{driver}"
graphroot = "{root}"
runroot = "/run/containers/storage"
"""
# Its guest has a veth on the bridge of machctl's machines: no dnsmasq, no network of its own to make.
INCUS_INIT = """\
storage_pools:
- name: default
  driver: {driver}
  config: {{source: {root}}}
profiles:
- name: default
  devices:
    root: {{type: disk, path: /, pool: default}}
    eth0: {{type: nic, nictype: bridged, parent: {bridge}}}
"""


class Machctl:
    """The tool that is measured."""

    name = "machctl"
    leftovers = "machctl rm --force 'bench-*'"

    def prepare(self) -> None:
        """Have the base that a create copies, and one machine running, with the bridge and the services of all."""
        if not (POOL / "first").exists():
            sh("machctl create debian first")
        sh("machctl create debian base-of-today")
        sh("machctl rm base-of-today")
        sh("machctl start first", check=False)

    def create(self, machine: str) -> float:
        return sh(f"machctl create debian {machine}")

    def launch(self, machine: str) -> float:
        return sh(f"machctl create debian {machine} --start")

    def clone(self, machine: str, copy: str) -> float:
        return sh(f"machctl clone {machine} {copy}")

    def copy_data(self, machine: str, copy: str) -> float:
        return self.clone(machine, copy)

    def stop(self, machine: str) -> None:
        sh(f"machctl stop {machine}")

    def remove(self, *machines: str) -> float:
        return sh(f"machctl rm {' '.join(machines)}")


class Podman:
    """Containers of root with an init, on podman's own network.

    Their guest boots less than the others do: without CAP_NET_ADMIN networkd is left out, without CAP_SYS_ADMIN
    resolved fails.
    """

    name = "podman"
    leftovers = "podman rm --force --all"
    options = ""

    def prepare(self) -> None:
        install("podman crun")
        driver = "btrfs" if KIND == "btrfs" else "overlay"
        Path("/etc/containers/storage.conf").write_text(PODMAN_STORAGE.format(driver=driver, root=PEERS / "podman"))
        # It sets a limit unless told not to, which fails where the host was given no controllers.
        if "pids" not in Path("/sys/fs/cgroup/cgroup.controllers").read_text().split():
            Path("/etc/containers/containers.conf").write_text("[containers]\npids_limit = 0\n")
        self.image = f"localhost/{base().parent.name}-plain"
        if not succeeds(f"podman image exists {self.image}"):
            with tar_of_base() as tar:
                sh(f"podman import --quiet --change 'CMD [\"/sbin/init\"]' {tar} {self.image}")

    def create(self, machine: str) -> float:
        return sh(f"podman create --systemd=always {self.options} --name {machine} {self.image}")

    def launch(self, machine: str) -> float:
        began = time.perf_counter()
        pid = Path(f"/run/{machine}.pid")
        sh(f"podman run --detach --systemd=always {self.options} --pidfile {pid} --name {machine} {self.image}")
        await_boot(pid)
        return time.perf_counter() - began

    def clone(self, machine: str, copy: str) -> float:
        return sh(f"podman container clone {machine} {copy}")

    def copy_data(self, machine: str, copy: str) -> float:
        took = sh(f"podman commit --quiet {machine} localhost/copied")
        return took + sh(f"podman create --systemd=always {self.options} --name {copy} localhost/copied")

    def stop(self, machine: str) -> None:
        sh(f"podman stop --time 0 {machine}")

    def remove(self, *machines: str) -> float:
        return sh(f"podman rm {' '.join(machines)}")


class PodmanWithNetwork(Podman):
    """The same, its guest allowed to run networkd and resolved, as it is by all others."""

    name = "podman, all services"
    options = "--cap-add=SYS_ADMIN,NET_ADMIN"


class Incus:
    """Unprivileged containers on a btrfs pool, or else on Incus' directories: it has no overlay."""

    name = "incus"
    leftovers = "incus list --format csv --columns n | xargs -r incus delete --force"

    def prepare(self) -> None:
        install("incus-base")
        sh("systemctl start incus.service")
        sh("incus admin waitready --timeout 60")
        if not succeeds("incus storage show default"):
            driver = "btrfs" if KIND == "btrfs" else "dir"
            bridge = network().partition("Bridge=")[2].split()[0]
            source = PEERS / "incus"
            # Its btrfs driver makes a subvolume there, the other wants a directory.
            (source.parent if driver == "btrfs" else source).mkdir(parents=True, exist_ok=True)
            feed("incus admin init --preseed", INCUS_INIT.format(driver=driver, root=source, bridge=bridge))
        self.image = f"{base().parent.name}-plain"
        if not succeeds(f"incus image show {self.image}"):
            with tar_of_base() as tar:
                about = tar.with_name("metadata.yaml")
                about.write_text(f"architecture: {os.uname().machine}\ncreation_date: 1\n")
                sh(f"tar -C {about.parent} -cf {about}.tar {about.name}")
                sh(f"incus image import {about}.tar {tar} --alias {self.image}")

    def create(self, machine: str) -> float:
        return sh(f"incus create {self.image} {machine}")

    def launch(self, machine: str) -> float:
        began = time.perf_counter()
        sh(f"incus launch {self.image} {machine}")
        await_boot(Path(f"/sys/fs/cgroup/lxc.payload.{machine}/init.scope/cgroup.procs"))
        return time.perf_counter() - began

    def clone(self, machine: str, copy: str) -> float:
        return sh(f"incus copy {machine} {copy}")

    def copy_data(self, machine: str, copy: str) -> float:
        return self.clone(machine, copy)

    def stop(self, machine: str) -> None:
        sh(f"incus stop --force {machine}")

    def remove(self, *machines: str) -> float:
        return sh(f"incus delete {' '.join(machines)}")


Tool = Machctl | Podman | Incus
MACHCTL = Machctl()


class ByHand:
    """What a person types who has the tree and no tool."""

    name = "by hand"
    tree = POOL / "by-hand"
    unit = "systemd-nspawn@by-hand"
    layer = STORE / "by-hand"

    def prepare(self) -> None:
        self.clean()
        mapped = KIND != "btrfs"
        settings = Path("/etc/systemd/nspawn/by-hand.nspawn")
        settings.parent.mkdir(exist_ok=True)
        # Without a map on the layer below, nspawn would copy the whole tree to change its owners.
        settings.write_text(
            HAND_SETTINGS.format(
                network=network(),
                users=f"{HAND_UIDS}:65536" if mapped else "pick",
                ownership="off" if mapped else "auto",
            )
        )

    def launch(self) -> float:
        if KIND == "btrfs":
            return self.copy() + sh(f"systemctl start {self.unit}")
        took = sh(f"mkdir -p {self.tree} {self.layer}/upper {self.layer}/work {self.layer}/lower")
        os.chown(self.layer / "upper", HAND_UIDS, HAND_UIDS)
        took += sh(f"mount --bind -o ro,X-mount.idmap=b:0:{HAND_UIDS}:65536 {base()} {self.layer}/lower")
        took += sh(self._overlay(self.layer / "lower"))
        return took + sh(f"systemctl start {self.unit}")

    def copy(self) -> float:
        """Do no more than what gives a tree: the snapshot, or the mount of an overlay."""
        if KIND == "btrfs":
            return sh(f"btrfs subvolume snapshot {base()} {self.tree}")
        for path in (self.tree, self.layer / "upper", self.layer / "work"):
            path.mkdir(parents=True, exist_ok=True)
        return sh(self._overlay(base()))

    def clean(self) -> None:
        sh(f"systemctl stop {self.unit}", check=False)
        if KIND == "btrfs":
            sh(f"btrfs subvolume delete --recursive {self.tree}", check=False)
            return
        sh(f"umount {self.tree}", check=False)
        sh(f"umount {self.layer}/lower", check=False)
        for path in (self.tree, self.layer):
            # A mount that is left must not be emptied with it.
            sh(f"rm -rf --one-file-system {path}")

    def _overlay(self, lower: Path) -> str:
        where = f"lowerdir={lower},upperdir={self.layer}/upper,workdir={self.layer}/work"
        return f"mount -t overlay -o {where} by-hand {self.tree}"


def base() -> Path:
    """Give the tree that machctl copies: that of its youngest base."""
    notes = STORE.glob("store/bases/*/base.json")
    return max(notes, key=lambda note: float(json.loads(note.read_text())["created"])).parent / "tree"


def network() -> str:
    """Give the section that machctl writes for the network of a machine."""
    settings = Path("/etc/systemd/nspawn/first.nspawn").read_text()
    return "[Network]" + settings.partition("[Network]")[2].partition("\n[")[0].rstrip()


def install(packages: str) -> None:
    """Have Debian's packages. Raises Failed."""
    if not succeeds(f"dpkg-query -W {packages}"):
        sh("apt-get -qq update")
        sh(f"env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install {packages}")


def succeeds(command: str) -> bool:
    try:
        sh(command)
    except Failed:
        return False
    return True


def feed(command: str, text: str) -> None:
    """Run a command with ``text`` as its input. Raises Failed."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        sh(f"{command} <{file.name}")


@contextmanager
def tar_of_base() -> Iterator[Path]:
    """Give machctl's base as a tar in a directory that is gone afterwards, with all that its packages start at boot."""
    with tempfile.TemporaryDirectory(dir=STORE) as directory:
        tar, left_out = Path(directory) / "tree.tar", Path(directory) / "left-out"
        units = (base() / "etc/systemd").glob("system*/**/*")
        masked = [path for path in units if os.path.realpath(path) == "/dev/null"]
        updated = [base() / "etc/.updated", base() / "var/.updated"]
        left_out.write_text("".join(f"./{path.relative_to(base())}\n" for path in (*masked, *updated)))
        sh(f"tar -C {base()} --numeric-owner --xattrs --xattrs-include='*' -X {left_out} -cf {tar} .")
        yield tar


def await_boot(pids: Path) -> None:
    """Wait until the guest of the first process that ``pids`` names has booted. Raises Failed."""
    end = time.monotonic() + UP_LIMIT
    while time.monotonic() < end:
        pid = pids.read_text().split() if pids.exists() else []
        # Its systemctl gives up at once where there is no bus yet.
        if pid and Path(f"/proc/{pid[0]}/root/run/dbus/system_bus_socket").exists():
            # A unit that failed makes its exit status 1.
            sh(f"nsenter -t {pid[0]} -U -m -p -S 0 -G 0 systemctl is-system-running --wait", check=False)
            return
        time.sleep(0.002)
    raise Failed(f"its guest has not booted after {UP_LIMIT} s")
