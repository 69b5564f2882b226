# SPDX-License-Identifier: LGPL-2.1-or-later
"""A fleet file with defaults, a profile, replicas, environment and secrets, made real on systemd 252 and 257."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from throwaway import Host, Roads

FILE = "/etc/machctl/fleet.toml"
FLEET = """\
# The fleet of a test.
[defaults]
source = "debian:trixie"
packages = ["nginx-light"]
memory = "1G"

[profiles.web]
bridges = ["br0"]
publish = ["818{index}:80"]
[profiles.web.environment]
GREETING = "I am {name}: 100% \\"quoted\\" $HOME back\\\\slash"

[machines.many]
replicas = 2
profiles = ["web"]
[machines.many.secrets]
token = "file:/root/to:ken%h"
password = "credential:db"
"""
TYPED, WRITTEN = "sealed-hunter2", "written-hunter2"

# Where a secret could be read by others: command lines, what others may read on the disk, logs and state.
LEAKS = r"""
tr '\0' ' ' </proc/*/cmdline 2>/dev/null | grep -ao 'hunter2[^ ]*' | sort -u
journalctl --no-pager --quiet | grep -o 'hunter2.*'
find /etc /run /var/log /var/lib/machctl /var/lib/systemd -xdev -type f -perm /o+r -size -1M -print0 2>/dev/null |
    xargs -0 grep -ls hunter2
true
"""


@pytest.fixture(params=["trixie", "bookworm"])
def host(request: pytest.FixtureRequest, roads: Roads) -> Iterator[Host]:
    """A host on which the file is and what it names, gone in the end."""
    host = roads.get(request.param).ready().host
    with host.only_debian():
        host.write(FILE, FLEET)
        host.write("/root/to:ken%h", WRITTEN, "600")
        yield host
        host.sh(f"rm -f {FILE} '/root/to:ken%h'; machctl secret rm --force db 2>/dev/null; true")


def test_fleet_of_one_file(host: Host) -> None:
    assert host.machctl("check").stdout.startswith("3 machines and no networks in 2 files: ")
    host.machctl("apply", "many-1", "many-2", status=4).says("secret password of many-1", "machctl secret set db")
    host.machctl("secret", "set", "db", stdin=TYPED).says("keeps secret db, sealed")
    host.machctl("apply", "many-1", "many-2")
    host.machctl("start", "many-2")
    assert host.machine("many-2")["ports"] == ["8182:80"]

    # systemd in the machine has the secrets, hands them to services, and those have the environment as well.
    script = (
        "systemd-run --quiet --wait --pipe -p LoadCredential=password -p LoadCredential=token "
        """sh -c 'cat "$CREDENTIALS_DIRECTORY"/*; echo; echo "$GREETING"'"""
    )
    seen = host.inside("many-2", script).splitlines()
    assert seen == [TYPED + WRITTEN, 'I am many-2: 100% "quoted" $HOME back\\slash']
    assert host.inside("many-2", "cat /proc/1/environ | tr '\\0' '\\n' | grep ^GREETING").endswith("back\\slash")
    assert host.sh(LEAKS) == ""
    shown = host.machctl("show", "many-2", "--json").stdout
    assert json.loads(shown)["declaration"]["secrets"] == {
        "token": "file:/root/to:ken%h", "password": "credential:db",
    }  # fmt: skip
    assert "hunter2" not in shown
    rows = host.machctl("secret", "ls", "--json").json()
    assert [(row["name"], row["state"], row["machines"]) for row in rows] == [("db", "sealed", ["many-1", "many-2"])]
    host.machctl("plan", "many-1", "many-2", "--detailed-exitcode")

    # Who runs has another value after a restart, which apply does; and who does not has it anyway.
    host.machctl("secret", "set", "db", stdin=TYPED)
    host.machctl("plan", "many-1", "many-2", "--detailed-exitcode")
    host.machctl("secret", "set", "db", stdin=f"other-{TYPED}")
    planned = host.machctl("apply", "many-1", "many-2").stdout
    assert "restart many-2  (secret password changed since it started)" in planned
    assert "many-1:" not in planned
    assert host.inside("many-2", "cat /run/credentials/@system/password") == f"other-{TYPED}"
    assert host.sh(LEAKS) == ""
    host.machctl("plan", "many-1", "many-2", "--detailed-exitcode")

    # What several have is changed where it stands.
    host.machctl("set", "many-2", "memory=512M", status=5).says("one of the replicas of many", f"{FILE}:13")
    host.machctl("rm", "many-1", status=5).says("one of the replicas of many")
    host.machctl("secret", "rm", "db", status=5).says("many-1, many-2")

    # What is made by hand has the defaults, and an edit of it says what differs from them.
    host.machctl("create", "debian", "one", "--bridge", "br0", "--env", "A=b c")
    assert "packages" not in host.read("/etc/machctl/fleet.d/one.toml")
    host.machctl("set", "one", "memory=512M")
    assert 'memory = "512M"' in host.read("/etc/machctl/fleet.d/one.toml")
    host.machctl("set", "one", "memory=")
    assert "MemoryMax=1073741824" in host.read("/etc/systemd/system/systemd-nspawn@one.service.d/50-machctl.conf")
    host.machctl("set", "one", "memory=", status=5).says("memory 1G of one is what defaults says", f"{FILE}:5")
    host.machctl("plan", "one", "--detailed-exitcode")


@pytest.mark.parametrize("host", ["trixie"], indirect=True)
def test_a_file_beside(host: Host) -> None:
    mistaken = FLEET.replace("replicas", "replcas").replace('memory = "1G"', "memory = 1")
    host.write("/root/other.toml", mistaken)
    host.machctl("check", "/root/other.toml", status=8).says(
        "/root/other.toml:5: defaults.memory: ",
        "/root/other.toml:14: machines.many.replcas: ",
        "did you mean replicas?",
    )
    host.write("/root/other.toml", "[machines.beside]\nsource = 'debian:trixie'\npackages = ['nginx-light']\n")
    plans = host.machctl("plan", "-f", "/root/other.toml", "beside", "--json").json()
    assert "beside" in json.dumps(plans)
    assert "many-1" not in json.dumps(plans)
    host.write("/root/other.toml", "[machines.many-1]\nsource = 'debian:trixie'\n")
    for verb in ("plan", "apply", "down"):
        host.machctl(verb, "-f", "/root/other.toml", status=5).says(
            f"machine many-1 is declared in {FILE} and in /root/other.toml", "take it out of one of the two"
        )
    host.machctl("plan", "-f", "/root/none.toml", status=4).says("there is no file /root/none.toml")
    network = "[networks.{}]\nsubnet = '10.60.0.0/{}'\n"
    machine = "[machines.{}]\nsource = 'debian'\npublish = ['8084:80']\n"
    clash = network.format("aa", 24) + network.format("bb", 16) + machine.format("one") + machine.format("two")
    host.write("/root/other.toml", clash)
    for verb in ("check", "plan", "diff", "apply"):
        host.machctl(verb, "-f", "/root/other.toml", status=8).says(
            "/root/other.toml:4: networks.bb.subnet: 10.60.0.0/16 overlaps 10.60.0.0/24 of network aa",
            "/root/other.toml:10: machines.two.publish[0]: port 8084:80 of two is one of one",
        )
    host.sh("rm /root/other.toml")
