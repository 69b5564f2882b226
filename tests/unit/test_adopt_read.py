# SPDX-License-Identifier: LGPL-2.1-or-later
"""What others wrote of machines, read into keys of a declaration; and what a declaration has no word for."""

from __future__ import annotations

import pytest

from machines.declare.foreign.dropins import read_dropins
from machines.declare.foreign.found import Found, declaration, settle
from machines.declare.foreign.ini import assignments, fields, without
from machines.declare.foreign.nspawn import read_settings
from machines.declare.toml import parse_toml

DIRECTORY = "/etc/systemd/system/systemd-nspawn@web.service.d"


def read(text: str, **values: object) -> Found:
    return read_settings(text, where="web.nspawn", **values)  # type: ignore[arg-type]


def left(found: Found) -> list[str]:
    return [each.what for each in found.unmapped]


def test_a_file_is_read_as_systemd_reads_it() -> None:
    text = "# a comment\n[Files]\nBind=/srv:/srv \\\n  x\n;another\n[Network]\nBridge = br0\n"
    one, two = assignments(text)
    assert (one.section, str(one), one.lines) == ("Files", "Bind=/srv:/srv    x", (2, 4))
    assert (two.section, str(two)) == ("Network", "Bridge=br0")
    assert without(text, [one]) == "# a comment\n[Files]\n;another\n[Network]\nBridge = br0\n"
    assert without(text, [one, two]) == ""
    assert fields(r"/a\:b:/c") == ["/a:b", "/c"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {"links": ["veth"]}),
        ("[Network]\nVirtualEthernet=yes\n", {"links": ["veth"]}),
        ("[Network]\nVirtualEthernet=yes\nBridge=br0\n", {"bridges": ["br0"]}),
        ("[Network]\nBridge=br0\nMACVLAN=eth0:lan eth1\n",
         {"links": ["bridge:br0", "macvlan:eth0,name=lan", "macvlan:eth1"]}),
        ("[Network]\nZone=lab\n", {"links": ["zone:lab"]}),
        ("[Network]\nVirtualEthernet=no\n", {"network": "host"}),
        ("[Network]\nPrivate=no\nVirtualEthernet=no\n", {"network": "host"}),
        ("[Network]\nPrivate=yes\n", {"network": "none"}),
        ("[Network]\nPort=8080:80\nPort=udp:53\n", {"links": ["veth"], "publish": ["8080:80", "53:53/udp"]}),
        ("[Exec]\nBoot=yes\nPrivateUsers=pick\nLinkJournal=try-guest\n", {"links": ["veth"]}),
        ("[Exec]\nHostname=box\nEnvironment=A=b \"C=d e\"\n",
         {"links": ["veth"], "hostname": "box", "environment": {"A": "b", "C": "d e"}}),
        ("[Exec]\nCapability=CAP_NET_ADMIN CAP_BPF\nSystemCallFilter=~@mount bpf\n",
         {"links": ["veth"], "capabilities": ["net_admin", "bpf"], "system-call-filter": ["~@mount", "~bpf"]}),
        ("[Files]\nBind=/srv:/data\nBindReadOnly=/etc/hosts\nBind=/srv/w:/w:idmap\nBind=/dev/fuse\n",
         {"links": ["veth"], "binds": ["/srv:/data:noidmap", "/etc/hosts:/etc/hosts:ro,noidmap", "/srv/w:/w:idmap"],
          "devices": ["/dev/fuse"]}),
        ("[Files]\nTemporaryFileSystem=/tmp:size=64m\nTemporaryFileSystem=/x\nReadOnly=yes\nVolatile=state\n",
         {"links": ["veth"], "tmpfs": ["/tmp:64M", "/x"], "read-only": True, "volatile": "state"}),
    ],
)  # fmt: skip
def test_settings(text: str, wanted: dict[str, object]) -> None:
    found = read(text)
    assert found.values == wanted
    assert not found.unmapped


def test_an_empty_setting_publishes_nothing() -> None:
    found = read("[Network]\nVirtualEthernet=yes\nPort=\n[Exec]\nEnvironment=A= B\n")
    assert found.values == {"links": ["veth"], "environment": {"A": ""}}
    assert left(found) == ["Environment=B"]


@pytest.mark.parametrize(
    "line",
    ["[Exec]\nPivotRoot=/a:/b", "[Exec]\nPrivateUsers=no", "[Exec]\nPrivateUsers=524288:65536", "[Exec]\nUser=www",
     "[Files]\nOverlay=/a:/b:/c", "[Files]\nBind=+/a:/b", r"[Files]" "\n" r"Bind=/a\:b:/c", "[Files]\nInaccessible=/x",
     "[Network]\nVirtualEthernetExtra=a:b", "[Exec]\nLimitNOFILE=5", "[Files]\nTemporaryFileSystem=/tmp:mode=700"],
)  # fmt: skip
def test_what_has_no_word_is_listed(line: str) -> None:
    found = read(line + "\n")
    (one,) = found.unmapped
    assert one.where == "web.nspawn"
    assert one.what == line.split("\n")[1]
    assert one.why


def test_without_users_of_its_own_files_of_the_host_were_its_own() -> None:
    found = read("[Exec]\nPrivateUsers=no\n[Files]\nBind=/srv\n")
    assert found.values["binds"] == ["/srv:/srv"]


def test_a_machine_without_an_init_keeps_what_it_runs() -> None:
    found = read('[Exec]\nBoot=no\nParameters=/bin/server "a b"\nEnvironment=A=b\nUser=www\nWorkingDirectory=/srv\n')
    assert found.payload is not None
    assert found.payload.command == ("/bin/server", "a b")
    assert (found.payload.environment, found.payload.user, found.payload.directory) == (("A=b",), "www", "/srv")
    assert "environment" not in found.values


def test_nspawn_does_not_take_everything_from_a_file_beside_the_tree() -> None:
    found = read("[Exec]\nHostname=box\nCapability=all\n[Files]\nBind=/srv\n[Network]\nBridge=br0\n", trusted=False)
    assert found.values == {"hostname": "box", "links": ["veth"]}
    assert left(found) == ["Capability=all", "Bind=/srv", "Bridge=br0"]


def test_dropins_are_read_in_the_order_of_their_names() -> None:
    texts = {
        f"{DIRECTORY}/override.conf": "[Service]\nMemoryMax=1G\nExecStartPre=/bin/x\n[Unit]\nAfter=nfs.target\n",
        "/etc/systemd/system.control/systemd-nspawn@web.service.d/50-CPUQuota.conf": "[Service]\nCPUQuota=150%\n",
        f"{DIRECTORY}/10-a.conf": "[Service]\nMemoryMax=512M\nTasksMax=100\nRestart=always\nRestartSec=5\n",
    }
    found = Found("web.nspawn")
    taken = read_dropins(texts, found)
    assert found.values == {"memory": "1G", "cpus": 1.5, "tasks": 100, "restart": "always", "restart-delay": "5s"}
    assert [(each.where.rpartition("/")[2], each.what) for each in found.unmapped] == [
        ("override.conf", "ExecStartPre=/bin/x"), ("override.conf", "After=nfs.target"),
    ]  # fmt: skip
    rest = {path: without(texts[path], [each for each, _ in found]) for path, found in taken.items()}
    assert rest[f"{DIRECTORY}/override.conf"] == "[Service]\nExecStartPre=/bin/x\n[Unit]\nAfter=nfs.target\n"
    assert [path for path, text in rest.items() if not text] == [path for path in texts if "override" not in path]


def test_dropins_name_machines_and_devices() -> None:
    found = Found("")
    found.add("devices", "/dev/fuse")
    text = "[Unit]\nAfter=systemd-nspawn@db.service\nWants=systemd-nspawn@db.service\n"
    taken = read_dropins({"a.conf": text + "[Service]\nDeviceAllow=/dev/fuse rwm\nDeviceAllow=char-pts rw\n"}, found)
    assert found.values == {"devices": ["/dev/fuse:rwm"], "after": ["db"]}
    assert left(found) == ["DeviceAllow=char-pts rw"]
    assert len(taken["a.conf"]) == 3


@pytest.mark.parametrize(("said", "wanted"), [("1073741824", "1G"), ("1000000", "1000000"), ("512M", "512M")])
def test_sizes_are_as_people_write_them(said: str, wanted: str) -> None:
    found = Found("")
    read_dropins({"a.conf": f"[Service]\nMemoryMax={said}\n"}, found)
    assert found.values == {"memory": wanted}


def test_a_limit_that_is_taken_back_is_none() -> None:
    found = Found("")
    text = "[Service]\nMemoryMax=1G\nMemoryMax=infinity\nMemoryHigh=80%\n"
    read_dropins({"a.conf": text}, found)
    assert found.values == {}
    assert left(found) == ["MemoryHigh=80%"]


def test_as_much_is_declared_as_a_declaration_takes() -> None:
    found = Found("x")
    found.values = {
        "source": "image:web", "bridges": ["br0"], "publish": ["8080:80", "nonsense"], "memory": "1M",
        "environment": {"A": "b"}, "colour": "red",
    }  # fmt: skip
    machine, values = settle("web", found, file="/etc/machctl/fleet.d/web.toml")
    assert values == {
        "source": "image:web", "bridges": ["br0"], "publish": ["8080:80"], "environment": {"A": "b"},
    }  # fmt: skip
    assert str(machine.publish[0]) == "8080:80"
    assert machine.origin == "/etc/machctl/fleet.d/web.toml"
    assert left(found) == ["memory = 1M", "publish = nonsense", "colour = red"]
    assert all("machines." not in each.why for each in found.unmapped), found.unmapped


def test_a_declaration_reads_as_what_went_in() -> None:
    values: dict[str, object] = {
        "source": "image:a.b", "binds": ['/s r/"q":/x'], "cpus": 0.5, "environment": {"A": "ü\\", "b.c": ""},
    }  # fmt: skip
    text = declaration("a.b", values, comments=("one\ntwo", "three\x07\x7f"))
    assert text.startswith("# one\n# two\n")
    assert parse_toml(text) == {"machines": {"a.b": values}}


def test_words_of_an_image_do_not_become_the_hosts() -> None:
    text = (
        "[Exec]\nHostname=box\nSystemCallFilter=@raw-io bpf\nNoNewPrivileges=no\nOOMScoreAdjust=-900\nCPUAffinity=0\n"
    )
    found = read(text, trusted=False)
    assert {**found.values, "links": 0} == {"hostname": "box", "links": 0}
