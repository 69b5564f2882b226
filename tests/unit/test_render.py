# SPDX-License-Identifier: LGPL-2.1-or-later
"""A value never becomes syntax: rendered files parse back to the values that went in."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from machines.declare.values import parse_cpus
from machines.errors import InvalidValue
from machines.model.base import Payload
from machines.model.machine import Bind, Machine, Publish
from machines.model.network import Network
from machines.render import paths
from machines.render.environment import render
from machines.render.machine import render_machine
from machines.render.networks import render_bridge
from machines.render.placement import Placement
from samples import NETWORK, PAYLOAD, machine, placed
from unitfiles import settings, shell_words, values, words

# Whatever is printable, and often what means something to one parser or another.
path_texts = st.text(
    st.one_of(st.sampled_from(":\\ %\"'#;=[]$,+-/"), st.characters(exclude_categories=["C", "Z"])), max_size=20
).map(lambda text: f"/{text}".rstrip())


@given(source=path_texts, destination=path_texts, read_only=st.booleans(), idmap=st.booleans())
@example(source="/a\\", destination="/b\\", read_only=False, idmap=False)
@example(source="/a:b", destination="/c:ro", read_only=True, idmap=True)
@example(source="/ #", destination="/%n", read_only=False, idmap=True)
def test_bind_parses_back(source: str, destination: str, *, read_only: bool, idmap: bool) -> None:
    bind = Bind(source, destination, read_only)
    place = placed(idmap_paths=frozenset({source} if idmap else ()))
    found = render_machine(machine(binds=(bind,)), place)[paths.settings_file("web")]
    _, line = [(key, value) for section, key, value in settings(found) if section == "Files" and key.startswith("Bind")]
    assert line[0] == ("BindReadOnly" if read_only else "Bind")
    assert list(words(line[1])) == [source, destination, *(["idmap"] if idmap else [])]


argument_texts = st.text(
    st.one_of(st.sampled_from(" \"'\\%$#;=\u00a0"), st.characters(exclude_categories=["C", "Z"])), max_size=20
).filter(str.isprintable)


@given(command=st.lists(argument_texts, min_size=1, max_size=4), environment=st.lists(argument_texts, max_size=2))
@example(command=["/bin/sh", "-c", "echo \"$HOME\"; echo 'x'"], environment=['A="b" c'])
@example(command=["", '"', "\\", " ", "a\\"], environment=["A=\\"])
def test_payload_parses_back(command: list[str], environment: list[str]) -> None:
    payload = Payload(tuple(command), tuple(environment), directory="/srv")
    files = render_machine(machine(), placed(payload=payload))
    path = paths.settings_file("web")
    (line,) = values(files, path, "Exec", "Parameters")
    assert shell_words(line) == command
    assert [word for line in values(files, path, "Exec", "Environment") for word in shell_words(line)] == environment
    assert values(files, path, "Exec", "PrivateUsers") == ["pick"]


@pytest.mark.parametrize("payload", [
    Payload(("/x",), directory="/a\\"),
    Payload(("/x",), user="x\\\\\\"),
    Payload(("/x",), directory="/a\nBoot=yes"),
    Payload(("/x", "a\nb")),
    Payload(("/x",), ("A=b\nPrivateUsers=no",)),
    Payload(("/x",), user="x\r"),
])  # fmt: skip
def test_payload_that_would_go_on_in_the_next_line_is_refused(payload: Payload) -> None:
    with pytest.raises(InvalidValue, match="cannot stand in a line"):
        render_machine(machine(), placed(payload=payload))


@pytest.mark.parametrize(
    ("user", "line"), [("", []), ("root", []), ("0", []), ("www-data", ["www-data"]), ("33", ["33"])]
)
def test_payload_runs_as_its_user(user: str, line: list[str]) -> None:
    files = render_machine(machine(), placed(payload=Payload(("/x",), user=user)))
    assert values(files, paths.settings_file("web"), "Exec", "User") == line


def test_machine_with_an_init_has_nothing_of_a_payload() -> None:
    files = render_machine(machine(), placed())
    assert values(files, paths.settings_file("web"), "Exec", "Boot") == ["yes"]
    for key in ("Parameters", "ProcessTwo", "Environment", "User", "WorkingDirectory"):
        assert values(files, paths.settings_file("web"), "Exec", key) == []
    assert not [
        value for value in values(files, paths.dropin_file("web"), "Service", "ExecStartPost") if "nsenter" in value
    ]


def inside(declared: Machine, place: Placement) -> list[str]:
    """What ip(8) is asked to do in a machine, as sh sees it."""
    found = values(render_machine(declared, place), paths.dropin_file("web"), "Service", "ExecStartPost")
    (line,) = [value for value in found if value.startswith("/bin/sh")]
    # What stands between single quotes is one word to systemd, and two dollars are one.
    argv = shell_words(line.replace("$$", "$"))
    assert argv[:2] == ["/bin/sh", "-ec"]
    leader, *commands = argv[2].split("; ")
    assert leader == "leader=$(sed -n s/^LEADER=//p /run/systemd/machines/web)"
    prefix = 'nsenter --target "$leader" --net ip '
    assert all(command.startswith(prefix) for command in commands)
    return [command.removeprefix(prefix) for command in commands]


def test_links_of_a_payload_are_set_up_from_outside() -> None:
    two = placed(
        networks={"br0": NETWORK, "br1": Network("br1", ipaddress.IPv4Network("10.64.8.0/28"))},
        addresses={"br0": "10.64.7.2", "br1": "10.64.8.2"},
        payload=PAYLOAD,
    )
    assert inside(machine(bridges=("br0", "lan0", "br1")), two) == [
        "link set host0 address 02:6d:0a:40:07:02",
        "addr replace 10.64.7.2/24 dev host0",
        "link set host0 up",
        "route replace default via 10.64.7.1",
        "link set host2 address 02:6d:0a:40:08:02",
        "addr replace 10.64.8.2/28 dev host2",
        "link set host2 up",
    ]
    # Whose bridge it is gives the addresses; nothing inside would ask for one.
    files = render_machine(machine(bridges=("lan0",)), placed(networks={}, addresses={}, payload=PAYLOAD))
    assert "nsenter" not in files[paths.dropin_file("web")]


def test_payload_asks_the_hosts_servers_for_names() -> None:
    servers = ("192.0.2.53", "2001:db8::53")
    found = render_machine(machine(bridges=("br0", "lan0")), placed(payload=PAYLOAD, dns=servers))
    assert [path for path in found if path.startswith(paths.GUEST_DIRECTORY)] == [paths.guest_resolv_conf("web")]
    text = found[paths.guest_resolv_conf("web")]
    assert text.splitlines()[1:] == ["nameserver 192.0.2.53", "nameserver 2001:db8::53"]


@pytest.mark.parametrize(
    ("ephemeral", "storage", "wanted"),
    [
        (False, "btrfs", [[], []]),
        (True, "btrfs", [["yes"], []]),
        (True, "overlay", [[], ["overlay"]]),
        (True, "copy", [[], ["overlay"]]),
        (True, "", [[], ["overlay"]]),
    ],
)
def test_what_an_ephemeral_machine_forgets(storage: str, wanted: list[list[str]], *, ephemeral: bool) -> None:
    files = render_machine(machine(ephemeral=ephemeral), placed(storage=storage))
    path = paths.settings_file("web")
    assert [values(files, path, "Exec", "Ephemeral"), values(files, path, "Files", "Volatile")] == wanted


@pytest.mark.parametrize("name", ["web", "db-1", "a.example.org", "x" * 64])
def test_tree_of_a_layer_is_mounted_of_two(name: str) -> None:
    files = render_machine(machine(name), placed(storage="overlay", uid=0x90000))
    lower, tree = (f"{paths.UNIT_DIRECTORY}/{unit}" for unit in paths.mount_units(name))
    layer = f"/var/lib/machctl/store/layers/{name}"
    assert values(files, lower, "Mount", "Where") == [f"{layer}/lower"]
    assert values(files, lower, "Mount", "What") == [f"{layer}/base"]
    assert {"ro", "X-mount.idmap=b:0:589824:65536"} <= set(values(files, lower, "Mount", "Options")[0].split(","))
    assert values(files, tree, "Mount", "Where") == [f"/var/lib/machines/{name}"]
    options = dict(option.partition("=")[::2] for option in values(files, tree, "Mount", "Options")[0].split(","))
    assert {key: options[key] for key in ("lowerdir", "upperdir", "workdir")} == {
        "lowerdir": f"{layer}/lower",
        "upperdir": f"{layer}/upper",
        "workdir": f"{layer}/work",
    }
    for key in ("Requires", "After"):
        assert values(files, tree, "Unit", key) == [lower.rsplit("/", 1)[1]]
    # nspawn maps nothing more, nor does it hand the tree to somebody else.
    settings_file = paths.settings_file(name)
    assert values(files, settings_file, "Exec", "PrivateUsers") == ["589824:65536"]
    assert values(files, settings_file, "Files", "PrivateUsersOwnership") == ["off"]


def test_tree_that_is_no_layer_is_not_mounted() -> None:
    files = render_machine(machine(), placed(storage="btrfs"))
    assert not [path for path in files if path.endswith(".mount")]
    assert values(files, paths.settings_file("web"), "Exec", "PrivateUsers") == ["pick"]


@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\x0b", "\x1b", "\x85", "\u2028", "\u2029", "\udc80"])
def test_value_of_several_lines_is_refused(character: str) -> None:
    bad = f"/a{character}[Exec]"
    machines = [
        machine(binds=(Bind(bad, "/x"),)),
        machine(binds=(Bind("/x", bad),)),
        machine(hostname=bad),
        machine(origin=bad),
    ]
    for each in machines:
        with pytest.raises(InvalidValue, match="cannot stand in a line"):
            render_machine(each, placed())


def test_value_that_no_template_knows_is_an_error() -> None:
    with pytest.raises(Exception, match="undefined"):
        render("bridge.netdev", header="# x")


@pytest.mark.parametrize("networkd", [True, False])
def test_every_file_says_whose_it_is(*, networkd: bool) -> None:
    declared = machine(bridges=("br0", "lan0"), publish=(Publish(8080, 80),), binds=(Bind("/srv", "/srv"),))
    places = [placed(), placed(storage="overlay", uid=0x80000), placed(payload=PAYLOAD)]
    for files in [render_machine(declared, place) for place in places]:
        assert files
        assert {paths.owner(path, text) for path, text in files.items()} == {("machine", "web")}
    bridge = render_bridge(NETWORK, networkd=networkd, dns=())
    assert {paths.owner(path, text) for path, text in bridge.items() if path != paths.NAT_FILE} == {("bridge", "br0")}
    assert paths.owner(paths.NAT_FILE, bridge[paths.NAT_FILE]) == ("fleet", "nat")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[Exec]\nBoot=yes\n",
        "\n# machctl: machine web, x",
        "# machctl",
        "# machctl: machine",
        " # machctl: machine a",
    ],
)
def test_file_of_somebody_else(text: str) -> None:
    assert paths.owner(paths.settings_file("web"), text) is None
    assert paths.owner(paths.settings_file("a"), text) is None


def test_settings_that_were_copied_to_another_machine_belong_to_nobody() -> None:
    # machinectl clone web copy: the first line is still that of web.
    text = render_machine(machine(), placed())[paths.settings_file("web")]
    assert paths.owner(paths.settings_file("web"), text) == ("machine", "web")
    assert paths.owner(paths.settings_file("copy"), text) is None


@pytest.mark.parametrize(("path", "of"), [
    (paths.settings_file("web"), "machine web"),
    (paths.dropin_file("web"), "machine web"),
    (f"{paths.NAT_DIRECTORY}/machine-web.nft", "machine web"),
    (f"{paths.UNIT_DIRECTORY}/machctl-port-web_8080.socket", "machine web"),
    (f"{paths.UNIT_DIRECTORY}/machctl-port-web_8080-..1.service", "machine web"),
    *((f"{paths.UNIT_DIRECTORY}/{unit}", "machine web") for unit in paths.mount_units("web")),
    (paths.guest_network_file("web", "host1"), "machine web"),
    (paths.guest_resolv_conf("web"), "machine web"),
    (f"{paths.NETWORK_DIRECTORY}/70-machctl-br0.netdev", "bridge br0"),
    (f"{paths.NETWORK_DIRECTORY}/70-machctl-br0.network", "bridge br0"),
    (f"{paths.NAT_DIRECTORY}/bridge-br0.nft", "bridge br0"),
    (paths.NAT_FILE, "fleet nat"),
])  # fmt: skip
def test_file_is_whose_both_its_path_and_its_first_line_say(path: str, of: str) -> None:
    kind, name = of.split()
    owners = {
        first: paths.owner(path, f"# machctl: {first}, made for the test\n")
        for first in ("machine web", "machine db", "bridge br0", "bridge br1", "fleet nat")
    }
    assert owners == {first: (kind, name) if first == of else None for first in owners}


def test_the_same_goes_in_and_the_same_comes_out() -> None:
    assert render_machine(machine(), placed()) == render_machine(machine(), placed())


@pytest.mark.parametrize(("memory", "cpus", "wanted"), [
    (None, None, []),
    (512 * 2**20, None, [("MemoryMax", "536870912")]),
    (None, 1.5, [("CPUQuota", "150%")]),
    (None, 0.02, [("CPUQuota", "2%")]),
    (None, 8192.0, [("CPUQuota", "819200%")]),
])  # fmt: skip
def test_limits(memory: int | None, cpus: float | None, wanted: list[tuple[str, str]]) -> None:
    files = render_machine(machine(memory=memory, cpus=cpus), placed())
    found = settings(files[paths.dropin_file("web")])
    assert [(key, value) for _, key, value in found if key in {"MemoryMax", "CPUQuota"}] == wanted


def test_quota_is_what_systemd_can_read() -> None:
    # parse_permyriad(): digits, a point and two digits at most, never an exponent.
    for cpus in (0.01, 0.07, 0.3333, 1.2345, 1234.56, 8192.0, parse_cpus("0.33333333")):
        (quota,) = values(render_machine(machine(cpus=cpus), placed()), paths.dropin_file("web"), "Service", "CPUQuota")
        number = quota.removesuffix("%")
        assert number.replace(".", "", 1).isdigit()
        assert len(number.partition(".")[2]) <= 2


def test_second_bridge_has_a_link_of_its_own() -> None:
    files = render_machine(machine(bridges=("br0", "lan0")), placed())
    assert values(files, paths.settings_file("web"), "Network", "Bridge") == ["br0"]
    assert values(files, paths.settings_file("web"), "Network", "VirtualEthernetExtra") == ["vb1-web:host1"]
    assert (
        values(files, paths.dropin_file("web"), "Service", "ExecStartPost")[0] == "ip link set vb1-web master lan0 up"
    )
