# SPDX-License-Identifier: LGPL-2.1-or-later
"""A fleet of one file on a real host: order, kinds of changes, failures, prune, down, and an apply that was killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from throwaway import Host, Roads, until

FILE = "/etc/machctl/fleet.toml"
MARK = "/var/lib/machctl/applying.json"
BROKEN = "/run/systemd/system/systemd-nspawn@app.service.d/broken.conf"
FLEET = """\
[profiles.of-test]
source = "debian:trixie"
packages = ["nginx-light"]
bridges = ["br0"]
autostart = true
[machines.db]
profiles = ["of-test"]
memory = "512M"
[machines.app]
profiles = ["of-test"]
after = ["db/systemd-networkd.service"]
[machines.web]
profiles = ["of-test"]
after = ["app"]
"""
NAMES = ("db", "app", "web")


@pytest.fixture
def host(roads: Roads) -> Iterator[Host]:
    host = roads.get("trixie").ready().host
    with host.only_debian():
        host.write(FILE, FLEET)
        try:
            yield host
        finally:
            host.sh(f"rm -rf {FILE} {BROKEN.rpartition('/')[0]}; systemctl daemon-reload")


def leaders(host: Host) -> dict[str, str]:
    script = 'for name; do sed -n "s/^LEADER=/$name /p" /run/systemd/machines/$name 2>/dev/null; done; true'
    return dict(line.split() for line in host.sh(script, *NAMES).splitlines())


def edit(host: Host, old: str, new: str) -> None:
    text = host.read(FILE)
    assert old in text
    host.write(FILE, text.replace(old, new, 1))


def kinds(host: Host) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in host.machctl("plan", "--json").json():
        found.setdefault(row["machine"], set()).add(row["kind"])
    return found


def nothing_to_do(host: Host) -> bool:
    return host.machctl("plan", "--detailed-exitcode", status=None).status == 0


def test_a_fleet_lives(host: Host) -> None:
    # From nothing: what comes after a failure is made and not started, the rest goes on.
    host.write(BROKEN, "[Service]\nExecStartPre=/bin/false\n")
    host.sh("systemctl daemon-reload")
    failed = host.machctl("apply", status=9)
    failed.says("machine app did not start", "machine web is made and not started: it comes after app", "db: made")
    assert set(leaders(host)) == {"db"}
    host.sh(f"rm {BROKEN}; systemctl daemon-reload")
    host.machctl("apply").says("app: started", "web: started")
    since = [f"systemctl show --value -p ActiveEnterTimestampMonotonic systemd-nspawn@{name}" for name in NAMES]
    times = [int(host.sh(command)) for command in since]
    assert times == sorted(times)
    assert nothing_to_do(host)
    assert not host.exists(MARK)

    # Each change is planned as what it is, and nobody is restarted that needs not be.
    before = leaders(host)
    edit(host, 'memory = "512M"', 'memory = "300M"')
    edit(host, "[machines.web]", '[machines.web]\nhostname = "www"')
    assert kinds(host) == {"db": {"live"}, "web": {"restart"}}
    assert "Hostname=www" in host.machctl("diff", status=0).stdout
    host.machctl("apply", "--no-restart").says("web: its new settings count from its next start on")
    assert leaders(host) == before
    assert host.sh("systemctl show --value -p MemoryMax systemd-nspawn@db") == str(300 * 2**20)
    # What was left then is still due.
    assert kinds(host) == {"web": {"restart"}}
    host.machctl("apply")
    after = leaders(host)
    assert {name for name in NAMES if after[name] != before[name]} == {"web"}
    assert host.inside("web", "cat /proc/sys/kernel/hostname") == "www"
    assert nothing_to_do(host)

    # What never comes is not waited for.
    edit(host, "db/systemd-networkd.service", "db/nosuch.service")
    host.machctl("apply")
    failed = host.machctl("--timeout", "60", "restart", "app", status=1)
    failed.says("machine app did not start: unit nosuch.service of machine db does not become active: it is not-found")


def test_a_fleet_ends(host: Host) -> None:
    host.machctl("apply")
    # Killed, be it anywhere: the unit of the next boot finishes it.
    edit(host, "[machines.app]", '[machines.new]\nprofiles = ["of-test"]\n[machines.app]\nhostname = "other"')
    host.sh(f"machctl apply >/dev/null 2>&1 & until test -e {MARK}; do :; done; kill -KILL $!; wait $!; true")
    host.sh("systemctl start machctl-apply.service")
    assert not host.exists(MARK)
    assert until(lambda: host.state("new"), lambda state: state == "running") == "running"
    assert until(lambda: nothing_to_do(host), bool)
    assert until(lambda: host.inside("app", "cat /proc/sys/kernel/hostname", None), "other".__eq__) == "other"

    # What the file no longer has goes when somebody says so, and its tree is kept.
    edit(host, '[machines.new]\nprofiles = ["of-test"]\n', "")
    host.machctl("plan").says("new: no longer declared")
    host.machctl("apply", "--prune", status=2).says("there is nobody to ask")
    host.machctl("apply", "--prune", "--yes").says("new: removed")
    assert host.state("new") == ""
    assert [row["machine"] for row in host.machctl("snapshot", "ls", "new", "--json").json()] == ["new"]
    host.machctl("rm", "new")
    assert nothing_to_do(host)

    # Down is the reverse of up.
    said = host.machctl("down", *NAMES).stderr.splitlines()
    assert [line.split(":")[0] for line in said] == ["web", "app", "db"]
    assert host.state("debian") == "running"
    host.sh(f"rm {FILE}")
    host.machctl("rm", *NAMES)
