# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the sandboxes of units have to leave to what runs in them."""

from __future__ import annotations

from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "units"
ALL = frozenset({"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"})

# Trees that are no btrfs subvolumes are copied by a child in namespaces of its own (CONTAINED in host/streaming.py).
COPIES = {"mnt", "pid"}
# Another machine's owners are mapped with a user namespace (X-mount.idmap= in mount(8)).
MAKES = COPIES | {"net", "user"}
NAMESPACES = {
    "machctl-apply.service": MAKES,
    "machctl-apply-later.service": COPIES | {"ipc", "net", "uts"},
    "machctl-apply-scheduled.service": MAKES,
    "machctl-gc.service": COPIES,
    "machctl-prune.service": MAKES,
    "machctl-snapshot@.service": COPIES,
    # Probes and upgrades join all that a machine has.
    "machctl-update@.service": ALL,
}
# cp(1) keeps owners, modes, file capabilities and devices; whiteouts of overlayfs are trusted.* and devices.
CAPABILITIES = {
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_LINUX_IMMUTABLE",
    "CAP_MKNOD", "CAP_SETFCAP", "CAP_SYS_ADMIN",
}  # fmt: skip
PROBING = ["machctl-apply-scheduled.service", "machctl-health@.service", "machctl-update@.service"]


def settings(name: str) -> dict[str, list[str]]:
    """Give what a unit says, setting by setting."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", NAMESPACES)
def test_unit_that_copies_trees_may_do_so(name: str) -> None:
    said = settings(name)
    allowed = set(said["RestrictNamespaces"][0].split()) if "RestrictNamespaces" in said else ALL
    assert allowed >= NAMESPACES[name]
    assert set(said["CapabilityBoundingSet"][0].split()) >= CAPABILITIES
    # Both close the devices that a tree may have.
    assert not {"ProtectClock", "PrivateDevices", "DevicePolicy"} & set(said)
    # A machine is held still by files of its control group while it is copied.
    slices = {"Wants": "machine.slice", "After": "machine.slice", "ReadWritePaths": "-/sys/fs/cgroup/machine.slice"}
    if "ProtectControlGroups" in said:
        assert all(value in said[key][0].split() for key, value in slices.items())


def test_unit_that_runs_a_verb_which_copies_trees_is_known() -> None:
    verbs = {"apply", "gc", "go-on", "snapshot", "update"}
    copying = {
        unit.name
        for unit in UNITS.glob("*.service")
        for command in settings(unit.name).get("ExecStart", [])
        if command.startswith("/usr/local/bin/machctl ") and command.split()[1] in verbs
    }
    assert copying == set(NAMESPACES)


@pytest.mark.parametrize("name", PROBING)
def test_unit_that_probes_machines_reaches_them(name: str) -> None:
    said = settings(name)
    # It counts for the sockets of a process in any network namespace (systemd.resource-control(5)).
    assert not {"IPAddressDeny", "IPAddressAllow"} & set(said)
    assert set(said["RestrictAddressFamilies"][0].split()) >= {"AF_INET", "AF_INET6"}
