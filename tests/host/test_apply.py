# SPDX-License-Identifier: LGPL-2.1-or-later
"""plan and apply: what was changed by hand is named exactly and put right; what is right is left alone."""

from __future__ import annotations

import pytest

from throwaway import Host, Road

SETTINGS = "/etc/systemd/nspawn/debian.nspawn"
DROPIN = "/etc/systemd/system/systemd-nspawn@debian.service.d/50-machctl.conf"
SOCKET = "/etc/systemd/system/machctl-port-debian_8080.socket"
DECLARATION = "/etc/machctl/fleet.d/debian.toml"
NETDEV = "/etc/systemd/network/70-machctl-br0.netdev"
GUEST = "/var/lib/machctl/guests/debian/05-machctl-host0.network"

pytestmark = pytest.mark.usefixtures("debian", "unchanged")


def assert_nothing_to_do(host: Host) -> None:
    assert host.machctl("plan", "--detailed-exitcode").stderr == "nothing to do\n"


def test_a_hand_edit_is_named_line_by_line_and_put_right(host: Host) -> None:
    right = host.read(SETTINGS)
    host.sh(f"sed -i s/PrivateUsers=pick/PrivateUsers=no/ {SETTINGS}")
    plan = host.machctl("plan", "--detailed-exitcode", status=10).stdout
    assert SETTINGS in plan
    assert [line.strip() for line in plan.splitlines() if line.strip()[:1] in "+-"] == [
        "-PrivateUsers=no",
        "+PrivateUsers=pick",
    ]
    assert host.machctl("--dry-run", "apply").stdout == plan
    assert "PrivateUsers=no" in host.read(SETTINGS)
    assert SETTINGS in host.machctl("apply").stdout
    assert host.read(SETTINGS) == right
    assert_nothing_to_do(host)


@pytest.mark.parametrize("path", [SETTINGS, DROPIN, SOCKET, NETDEV, GUEST])
def test_a_deleted_file_comes_back(host: Host, path: str) -> None:
    right = host.read(path)
    mode = host.sh(f"stat -c '%a %u %g' {path}")
    host.run("rm", path)
    plan = host.machctl("plan", "debian", "--detailed-exitcode", status=10).stdout
    assert path in plan
    host.machctl("apply", "debian")
    assert host.read(path) == right
    assert host.sh(f"stat -c '%a %u %g' {path}") == mode
    assert_nothing_to_do(host)


def test_a_flushed_nft_table_is_loaded_again(host: Host) -> None:
    before = host.sh("nft list table inet machctl")
    host.sh("nft delete table inet machctl")
    assert "nft" in host.machctl("plan", "--detailed-exitcode", status=10).stdout
    host.machctl("apply")
    assert host.sh("nft list table inet machctl") == before
    assert_nothing_to_do(host)


def test_a_removed_bridge_comes_back(debian: Road) -> None:
    host = debian.host
    before = host.sh("ip -o -4 address show br0 | sed 's/^[0-9]*: //'")
    host.machctl("stop", "debian")
    host.sh("ip link delete br0")
    assert "br0" in host.machctl("plan", "--detailed-exitcode", status=10).stdout
    host.machctl("apply")
    host.machctl("start", "debian", "--wait", "ip")
    assert host.sh("ip -o -4 address show br0 | sed 's/^[0-9]*: //'") == before
    assert "nginx" in host.get("http://127.0.0.1:8080")


def test_other_nft_tables_are_not_touched(host: Host) -> None:
    host.sh("nft add table inet others; nft add chain inet others c; nft add rule inet others c counter")
    try:
        host.sh("nft delete table inet machctl")
        host.machctl("apply")
        assert "counter" in host.sh("nft list table inet others")
    finally:
        host.sh("nft delete table inet others")


def test_an_edited_declaration_is_applied(host: Host) -> None:
    declaration = host.read(DECLARATION)
    try:
        host.write(DECLARATION, declaration + 'memory = "300M"\n')
        plan = host.machctl("plan", "--detailed-exitcode", status=10).stdout
        assert "+MemoryMax=314572800" in plan
        host.machctl("apply")
        assert "MemoryMax=314572800\n" in host.read(DROPIN)
        assert host.read(DECLARATION) == declaration + 'memory = "300M"\n'
    finally:
        host.write(DECLARATION, declaration)
        host.machctl("apply")
    assert_nothing_to_do(host)


def test_a_port_declared_by_hand_answers_after_apply(host: Host) -> None:
    declaration = host.read(DECLARATION)
    try:
        host.write(DECLARATION, declaration.replace('["8080:80"]', '["8080:80", "127.0.0.1:8090:80"]'))
        host.machctl("apply")
        assert "nginx" in host.get("http://127.0.0.1:8090")
        host.run("curl", "-sS", "--max-time", "5", "http://10.0.2.100:8090", status=7)
    finally:
        host.write(DECLARATION, declaration)
        host.machctl("apply")
    host.run("curl", "-sS", "--max-time", "5", "http://127.0.0.1:8090", status=7)


def test_a_foreign_file_in_the_way_is_left_alone(host: Host) -> None:
    right = host.read(SETTINGS)
    foreign = "[Exec]\nBoot=yes\n"
    try:
        host.write(SETTINGS, foreign)
        host.machctl("apply", status=5).says(SETTINGS, "did not write it")
        assert host.read(SETTINGS) == foreign
    finally:
        host.write(SETTINGS, right)
    assert_nothing_to_do(host)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[machines.web]\nsource = "debian"\nmemroy = "1G"\n', "memroy"),
        ('[machines.web]\nsource = "debian"\nmemory = "huge"\n', "huge"),
        ("[machines.web]\n", "source"),
        ("[machines.web\n", ":1:"),
        ('[machines.debian]\nsource = "debian"\n', "debian.toml"),
        ('[machines.Web]\nsource = "debian"\n', "Web"),
    ],
)
def test_a_mistake_in_a_declaration_is_named_with_its_file(host: Host, text: str, says: str) -> None:
    path = "/etc/machctl/fleet.d/zz-mistake.toml"
    try:
        host.write(path, text)
        for verb in ("plan", "apply"):
            host.machctl(verb, status=8).says(path, says)
        # It must not hide the machines that there are.
        assert host.state("debian") == "running"
    finally:
        host.run("rm", path)


def test_an_undeclared_name_is_refused(host: Host) -> None:
    host.machctl("apply", "nosuch", status=4).says("nosuch", "not declared")


def test_plan_is_json_for_programs(host: Host) -> None:
    right = host.read(SETTINGS)
    try:
        host.sh(f"sed -i s/PrivateUsers=pick/PrivateUsers=no/ {SETTINGS}")
        (step,) = host.machctl("plan", "--json").json()
        assert step["machine"] == "debian"
        assert step["difference"] == ["-PrivateUsers=no", "+PrivateUsers=pick"]
        assert step["reason"]
    finally:
        host.write(SETTINGS, right)
    assert host.machctl("plan", "--json").json() == []
