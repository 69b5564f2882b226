# SPDX-License-Identifier: LGPL-2.1-or-later
"""Configs of jailmaker and LXC and compose files, read into keys of a declaration."""

from __future__ import annotations

import json
import sys

import pytest

from machines.declare.foreign.compose import read_compose
from machines.declare.foreign.found import Found, settle
from machines.declare.foreign.jailmaker import is_jail, read_jail
from machines.declare.foreign.lxc import is_container, read_container
from machines.errors import InvalidFile, Unsupported

JAIL = """\
startup=1
gpu_passthrough_intel=1
gpu_passthrough_nvidia=0
# Turning off seccomp filtering improves performance at the expense of security
seccomp=1
systemd_nspawn_user_args=--network-bridge=br1
    --resolv-conf=bind-host
    --system-call-filter='add_key keyctl bpf'
# in between
    --bind='/mnt/tank/my data:/data'
    --bind-ro=/srv
    --capability=CAP_NET_ADMIN,CAP_BPF
pre_start_hook=#!/usr/bin/bash
    echo 1 > /proc/sys/net/ipv4/ip_forward
distro=debian
release=bookworm
initial_setup=
systemd_run_default_args=--property=KillMode=mixed
    --property=TasksMax=infinity
    --property=MemoryMax=2G
    --collect
systemd_nspawn_default_args=--keep-unit
    --quiet
    --boot
    --bind-ro=/sys/module
"""

CONTAINER = """\
# Template used to create this container
lxc.include = /usr/share/lxc/config/debian.common.conf
lxc.arch = linux64
lxc.apparmor.profile = generated
lxc.rootfs.path = dir:/var/lib/lxc/web/rootfs
lxc.uts.name = web
lxc.net.0.type = veth
lxc.net.0.link = lxcbr0
lxc.net.0.flags = up
lxc.net.0.name = eth0
lxc.net.0.hwaddr = 00:16:3e:12:34:56
lxc.net.0.ipv4.address = 10.0.3.5/24
lxc.net.0.ipv4.gateway = 10.0.3.1
lxc.net.1.type = macvlan
lxc.net.1.link = eno1
lxc.net.1.hwaddr = 00:16:3e:xx:xx:xx
lxc.mount.entry = /srv/my\\040www srv/www none bind,ro,create=dir 0 0
lxc.mount.entry = tmpfs tmp tmpfs size=64m 0 0
lxc.mount.entry = /dev/fuse dev/fuse none bind,create=file 0 0
lxc.mount.entry = proc proc proc nodev 0 0
lxc.start.auto = 1
lxc.environment = A=b=c
lxc.cgroup2.memory.max = 512M
lxc.cgroup2.cpu.max = 50000 100000
lxc.cgroup2.pids.max = 200
lxc.cgroup2.devices.allow = c 10:229 rwm
lxc.cap.drop = sys_module sys_time
lxc.idmap = u 0 100000 65536
lxc.idmap = g 0 100000 65536
"""

COMPOSE = {
    "services": {
        "web": {
            "image": "nginx:1.27", "container_name": "x", "hostname": "front", "restart": "unless-stopped",
            "ports": ["8080:80", "127.0.0.1:5353:53/udp", {"target": 443, "published": "8443"}, "9000"],
            "volumes": ["./html:/usr/share/nginx/html:ro", "data:/data", "/dev/fuse:/dev/fuse",
                        {"type": "bind", "source": "/etc/x", "target": "/etc/y", "read_only": True},
                        {"type": "tmpfs", "target": "/run/x"}],
            "environment": ["A=b", "PASSED"],
            "depends_on": {"db": {"condition": "service_healthy"}, "cache": {"condition": "service_started"}},
            "deploy": {"replicas": 2, "resources": {"limits": {"memory": "512m", "cpus": "0.5", "pids": 100}}},
            "networks": ["front", "default"], "cap_add": ["NET_ADMIN"], "cap_drop": ["CAP_MKNOD"],
            "tmpfs": "/tmp:size=64m,mode=1777", "read_only": True, "devices": ["/dev/dri:/dev/dri", "/dev/a:/dev/b"],
            "healthcheck": {"test": ["CMD", "curl", "-f", "http://localhost"], "interval": "30s", "retries": 5},
            "secrets": ["token", "other"], "command": ["nginx", "-g", "x"],
        },
        "db": {"image": "ghcr.io/acme/pg", "network_mode": "host", "environment": {"N": 1, "B": True},
               "healthcheck": {"test": "pg_isready"}, "mem_limit": "1gb", "restart": "on-failure:3"},
        "cache": {"image": "acme/redis", "depends_on": ["db"], "privileged": True},
        "built": {"build": "."},
    },
    "networks": {"front": {"driver": "bridge"}},
    "secrets": {"token": {"file": "./token.txt"}, "other": {"external": True}},
}  # fmt: skip


def left(found: Found) -> list[str]:
    return [each.what for each in found.unmapped]


def declared(name: str, found: Found) -> None:
    """All of it is right in a declaration."""
    before = len(found.unmapped)
    settle(name, found, file=f"/etc/machctl/fleet.d/{name}.toml")
    assert not found.unmapped[before:]


def test_a_jail() -> None:
    assert is_jail(JAIL)
    found = read_jail(JAIL, where="config", rootfs="/mnt/jails/web/rootfs")
    assert found.values == {
        "source": "dir:/mnt/jails/web/rootfs", "autostart": True, "devices": ["/dev/dri"], "bridges": ["br1"],
        "system-call-filter": ["add_key", "keyctl", "bpf"], "binds": ["/mnt/tank/my data:/data", "/srv:/srv:ro"],
        "capabilities": ["net_admin", "bpf"], "memory": "2G",
    }  # fmt: skip
    assert left(found) == ["pre_start_hook=#!/usr/bin/bash...", "ResolvConf=bind-host", "no --private-users"]
    declared("web", found)


def test_a_jail_has_the_hosts_network_and_no_tree_yet() -> None:
    found = read_jail("distro=archlinux\nrelease=current\nsystemd_nspawn_user_args=\n", where="config", rootfs=None)
    assert found.values == {"source": "arch", "network": "host"}
    declared("web", found)
    text = "initial_rootfs_image=debian bookworm\nsystemd_nspawn_user_args=-n -p 8080:80 --private-users=pick -x\n"
    found = read_jail(text, where="config", rootfs=None)
    assert found.values == {"source": "debian:bookworm", "links": ["veth"], "publish": ["8080:80"], "ephemeral": True}
    assert not found.unmapped


def test_what_a_jail_has_no_word_for() -> None:
    text = "seccomp=0\ngpu_passthrough_nvidia=1\nsystemd_nspawn_user_args=--capability=all --overlay=/a:/b --what=x\n"
    found = read_jail(text, where="config", rootfs=None)
    assert left(found) == [
        "seccomp=0", "gpu_passthrough_nvidia=1", "--what=x", "Capability=all", "Overlay=/a:/b", "no --private-users",
    ]  # fmt: skip


def test_a_jails_words_stay_whole() -> None:
    text = (
        "systemd_nspawn_user_args=--setenv=GREETING='hello \"big\" world' -E 'B=$x' --setenv=HOME -n\n"
        "systemd_run_default_args=--property=CPUQuota=\u00b2% --property=TasksMax=many --property=MemoryMax=\n"
    )
    found = read_jail(text, where="config", rootfs=None)
    assert found.values == {
        "source": "debian", "links": ["veth"], "environment": {"GREETING": 'hello "big" world', "B": "$x"},
    }  # fmt: skip
    assert left(found) == ["CPUQuota=\u00b2%", "TasksMax=many", "Environment=HOME", "no --private-users"]
    declared("web", found)


@pytest.mark.parametrize(
    ("value", "cpus"),
    [("", None), ("max", None), ("max 100000", None), ("50000", 0.5), ("1000 0", None), ("a b", None), ("1 2 3", 0.5),
     ("\u00b2 1", None), ("9" * 5000, None), ("-1 1", None)],
)  # fmt: skip
def test_a_containers_processors(value: str, cpus: float | None) -> None:
    found = read_container(f"lxc.cgroup2.cpu.max = {value}\nlxc.cgroup2.pids.max = \u00b2\n", where="config")
    assert found.values.get("cpus") == cpus
    settle("web", found, file="/etc/machctl/fleet.d/web.toml")
    silent = cpus is not None or value.startswith("max") or not value
    assert len(found.unmapped) == (2 if silent else 3)


def test_an_empty_value_takes_back_what_a_container_said() -> None:
    every = (
        "rootfs.path",
        "uts.name",
        "start.auto",
        "environment",
        "cap.drop",
        "mount.entry",
        "cgroup2.memory.max",
        "x",
    )
    text = "lxc.uts.name = a\nlxc.environment = A=b\nlxc.environment = B\n"
    found = read_container(
        text + "".join(f"lxc.{key} =\n" for key in every) + "lxc.net =\nlxc.net. =\n", where="config"
    )
    assert found.values == {"source": "debian", "network": "none"}
    assert left(found) == ["lxc.environment = B", "no lxc.rootfs.path", "a link of type "]


def test_links_of_a_container_are_in_the_order_of_their_numbers() -> None:
    text = "".join(f"lxc.net.{index}.type = macvlan\nlxc.net.{index}.link = eth{index}\n" for index in (10, 2, 0))
    assert read_container(text, where="config").values["links"] == ["macvlan:eth0", "macvlan:eth2", "macvlan:eth10"]


def test_a_container() -> None:
    assert is_container(CONTAINER)
    found = read_container(CONTAINER, where="config")
    assert found.values == {
        "source": "dir:/var/lib/lxc/web/rootfs", "hostname": "web", "autostart": True, "environment": {"A": "b=c"},
        "links": ["bridge:lxcbr0,ip=10.0.3.5/24,gw=10.0.3.1,mac=00:16:3e:12:34:56,name=eth0", "macvlan:eno1"],
        "binds": ["/srv/my www:/srv/www:ro"], "tmpfs": ["/tmp:64M"], "devices": ["/dev/fuse"],
        "memory": "512M", "cpus": 0.5, "tasks": 200, "drop-capabilities": ["sys_module", "sys_time"],
    }  # fmt: skip
    assert left(found) == [
        "lxc.apparmor.profile = generated", "lxc.mount.entry = proc proc proc nodev 0 0",
        "lxc.cgroup2.devices.allow = c 10:229 rwm", "lxc.idmap = u 0 100000 65536",
    ]  # fmt: skip
    declared("web", found)


def test_a_container_of_an_old_lxc() -> None:
    text = "lxc.utsname = web\nlxc.rootfs = /srv/web\nlxc.network.type = veth\nlxc.network.link = br0\n"
    found = read_container(text + "lxc.network.type = phys\nlxc.network.link = eth1\n", where="config")
    assert found.values == {
        "hostname": "web", "source": "dir:/srv/web", "links": ["bridge:br0", "interface:eth1"],
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "network"), [("none", "host"), ("empty", "none"), ("", "none")])
def test_a_container_without_links(kind: str, network: str) -> None:
    text = "lxc.rootfs.path = overlay:/a:/b\n" + (f"lxc.net.0.type = {kind}\n" if kind else "")
    found = read_container(text, where="config")
    assert found.values == {"source": "debian", "network": network}
    assert len(found.unmapped) == 2


def test_services() -> None:
    found = read_compose(json.dumps(COMPOSE), where="/srv/app/compose.yaml")
    assert found["web"].values == {
        "source": "oci:nginx:1.27", "hostname": "front", "restart": "always", "autostart": True,
        "publish": ["8080:80", "127.0.0.1:5353:53/udp", "8443:443", "9000:9000"],
        "binds": ["/srv/app/html:/usr/share/nginx/html:ro", "/etc/x:/etc/y:ro"],
        "devices": ["/dev/fuse", "/dev/dri"], "tmpfs": ["/run/x", "/tmp:64M"], "environment": {"A": "b"},
        "after": ["db:healthy", "cache"], "replicas": 2, "memory": "512M", "cpus": 0.5, "tasks": 100,
        "bridges": ["front"], "capabilities": ["net_admin"], "drop-capabilities": ["mknod"], "read-only": True,
        "health": {"exec": ["curl", "-f", "http://localhost"], "interval": "30s", "retries": 5},
        "secrets": {"token": "file:/srv/app/token.txt"},
    }  # fmt: skip
    assert left(found["web"]) == [
        "port 9000", "volume data", "services.web.environment.PASSED", "networks.front", "device /dev/a:/dev/b",
        "secret token", "secret other", "services.web.command",
    ]  # fmt: skip
    assert found["db"].values == {
        "source": "oci:ghcr.io/acme/pg", "network": "host", "environment": {"N": "1", "B": "true"},
        "health": {"exec": ["sh", "-c", "pg_isready"]}, "memory": "1G", "restart": "on-failure",
    }  # fmt: skip
    assert found["cache"].values == {"source": "oci:acme/redis", "after": ["db"], "nesting": True}
    assert found["built"].values == {"source": "debian"}
    assert left(found["built"]) == ["services.built.build", "services.built"]
    for name in ("db", "cache", "built"):
        declared(name, found[name])


def test_yaml_is_read_where_something_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(Unsupported, match="YAML"):
        read_compose("services:\n  web:\n    image: nginx\n", where="/x/compose.yml")


@pytest.mark.parametrize("text", ["[]", "3", '{"services": []}', '{"services": {"web": 3}}'])
def test_what_is_no_compose_file(text: str) -> None:
    with pytest.raises(InvalidFile):
        read_compose(text, where="/x/compose.json")
