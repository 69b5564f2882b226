# SPDX-License-Identifier: LGPL-2.1-or-later
"""A .nspawn file (systemd.nspawn(5)) to keys of a declaration."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from machines.declare.foreign.found import Found
from machines.declare.foreign.ini import Assignment, assignments, fields, is_yes, words
from machines.model.base import Payload

_LOST = "machctl has no word for it"

# What machctl has in every machine's settings anyway, or what is the same as saying nothing.
_SAME = {
    ("Exec", "LinkJournal"): {"auto", "try-guest", "no"},
    ("Exec", "ResolvConf"): {"auto", "replace-host"},
    ("Exec", "Timezone"): {"auto"},
    ("Exec", "NotifyReady"): {"yes", "true", "1"},
    ("Exec", "PrivateUsers"): {"pick"},
    ("Exec", "NoNewPrivileges"): {"no", "false", "0"},
    ("Files", "PrivateUsersChown"): {"yes", "true", "1"},
    ("Files", "PrivateUsersOwnership"): {"auto", "off", "map", "chown"},
    ("Files", "Volatile"): {"no", "false", "0"},
}
# What nspawn takes of [Exec] also from a file that came with an image (systemd.nspawn(5), above [Exec]); that file's
# words must not come into a declaration, and so into a file that nspawn trusts, unless they can do no harm.
_HARMLESS = {
    "Boot", "ProcessTwo", "Parameters", "Environment", "User", "WorkingDirectory", "Hostname", "DropCapability",
    "KillSignal",
}  # fmt: skip
_MAPPINGS = {"idmap": "idmap", "rootidmap": "rootidmap", "noidmap": "noidmap", "owneridmap": "owneridmap"}


def read_settings(text: str, *, where: str, trusted: bool = True, own: Collection[str] = ()) -> Found:
    """Read a .nspawn file. What it binds of paths that begin with one in ``own`` machctl binds itself."""
    found = Found(where)
    read_assignments(assignments(text), found, trusted=trusted, own=own)
    return found


def read_assignments(
    every: Iterable[Assignment], found: Found, *, trusted: bool = True, own: Collection[str] = ()
) -> None:
    """Read what .nspawn files assign; nspawn's command line says the same in other words."""
    network: list[Assignment] = []
    execute: dict[str, str] = {}
    every = list(every)
    users = next((each.value for each in reversed(every) if each.key == "PrivateUsers"), "pick")
    for each in every:
        if not trusted and (each.section != "Exec" or each.key not in _HARMLESS):
            found.leave(str(each), "it is not from a file in /etc/systemd/nspawn, which nspawn trusts")
        elif each.section == "Network":
            network.append(each)
        elif each.value.lower() in _SAME.get((each.section, each.key), ()):
            continue
        elif each.section == "Exec":
            _exec(each, found, execute)
        elif each.section == "Files":
            _files(each, found, own=own, private_users=is_yes(users) is not False)
        else:
            found.leave(str(each), _LOST)
    _payload(execute, found)
    _network(network, found)


def _exec(each: Assignment, found: Found, execute: dict[str, str]) -> None:
    key, value = each.key, each.value
    match key:
        case "Boot" | "ProcessTwo" | "Parameters" | "User" | "WorkingDirectory":
            execute[key] = value
        case "Ephemeral":
            found.set("ephemeral", is_yes(value) is True)
        case "Environment":
            for word in words(value):
                name, equals, content = word.partition("=")
                if equals:
                    found.put("environment", name, content)
                else:
                    found.leave(f"{key}={word}", "its value is that of whoever starts the machine")
        case "Capability" | "DropCapability":
            names = [word.lower().removeprefix("cap_") for word in words(value)]
            if "all" in names:
                found.leave(str(each), _LOST)
            else:
                found.add("capabilities" if key == "Capability" else "drop-capabilities", *names)
        case "SystemCallFilter":
            # One ~ in front of several words is for each of them.
            tilde = "~" if value.startswith("~") else ""
            found.add("system-call-filter", *(tilde + word for word in words(value.lstrip("~"))))
        case "Hostname":
            found.set("hostname", value)
        case "PrivateUsers" if is_yes(value) is False:
            found.leave(str(each), "machctl gives every machine user ids of its own")
        case "PrivateUsers":
            found.leave(str(each), "which ids it has is chosen by nspawn, by the owner of its tree")
        case _:
            found.leave(str(each), _LOST)


def _payload(execute: dict[str, str], found: Found) -> None:
    """What runs in place of an init; with one, the rest of it means nothing."""
    command, boot = tuple(words(execute.get("Parameters", ""))), is_yes(execute.get("Boot", "yes"))
    if boot is not False:
        given = [f"{key}={execute[key]}" for key in ("Parameters", "User", "WorkingDirectory") if execute.get(key)]
        for text in given:
            found.leave(text, "it boots an init, which machctl gives no parameters")
        return
    if not command:
        found.leave("Boot=no", "nothing says what it runs in place of an init")
        return
    environment = found.values.pop("environment", {})
    assert isinstance(environment, dict)
    found.payload = Payload(
        command,
        tuple(f"{name}={value}" for name, value in environment.items()),
        execute.get("User", ""),
        execute.get("WorkingDirectory", ""),
    )


def _files(each: Assignment, found: Found, *, own: Collection[str], private_users: bool) -> None:
    match each.key:
        case "ReadOnly":
            found.set("read-only", is_yes(each.value) is True)
        case "Volatile":
            found.set("volatile", "yes" if is_yes(each.value) else each.value)
        case "Bind" | "BindReadOnly":
            _bind(each, found, own=own, private_users=private_users)
        case "TemporaryFileSystem":
            _tmpfs(each, found)
        case _:
            found.leave(str(each), _LOST)


def _bind(each: Assignment, found: Found, *, own: Collection[str], private_users: bool) -> None:
    source, *rest = fields(each.value)
    target = rest[0] if rest and rest[0] else source
    options = [option for option in (rest[1].split(",") if len(rest) > 1 else []) if option not in {"", "rbind"}]
    if source.startswith(tuple(own)) and own:
        return
    if ":" in source + target:
        found.leave(str(each), "a declaration has no way to write a colon in a path")
        return
    if not source.startswith("/") or [option for option in options if option not in _MAPPINGS] or len(options) > 1:
        found.leave(str(each), _LOST)
        return
    if source.startswith("/dev/") and source == target and each.key == "Bind":
        found.add("devices", source)
        return
    # Where nothing is said nspawn shows the files as they are, and those of a machine with ids of its own are nobody's.
    mapping = _MAPPINGS[options[0]] if options else "noidmap" if private_users else ""
    said = [*(["ro"] if each.key == "BindReadOnly" else []), *([mapping] if mapping else [])]
    found.add("binds", f"{source}:{target}" + (f":{','.join(said)}" if said else ""))


def _tmpfs(each: Assignment, found: Found) -> None:
    path, *rest = fields(each.value)
    options = [option for option in (rest[0].split(",") if rest else []) if option]
    sizes = [option.removeprefix("size=") for option in options if option.startswith("size=")]
    if len(sizes) < len(options) or not path.startswith("/") or (sizes and sizes[-1].endswith("%")):
        found.leave(str(each), "of what a tmpfs can be given, machctl has a word for its size")
        return
    found.add("tmpfs", f"{path}:{sizes[-1].upper()}" if sizes else path)


def _network(every: list[Assignment], found: Found) -> None:
    """Its links as nspawn makes them: what is said of them takes the place of all that the unit says."""
    said: dict[str, str] = {}
    links: list[str] = []
    for each in every:
        match each.key:
            case "Private" | "VirtualEthernet" | "Bridge" | "Zone":
                said[each.key] = each.value
            case "MACVLAN" | "IPVLAN" | "Interface":
                for word in words(each.value):
                    parent, _, name = word.partition(":")
                    links.append(f"{each.key.lower()}:{parent}" + (f",name={name}" if name else ""))
            # Nothing at all is no port to nspawn.
            case "Port" if each.value:
                found.add("publish", _port(each.value))
            case "Port":
                pass
            case "VirtualEthernetExtra":
                found.leave(str(each), "machctl puts every veth into a bridge, or makes one only")
            case _:
                found.leave(str(each), _LOST)
    found.values |= links_of(said, links, given=any(each.key != "Port" for each in every))


def _port(value: str) -> str:
    """``[PROTOCOL:]HOST[:GUEST]`` as docker writes it."""
    protocol, _, rest = value.partition(":")
    if protocol not in {"tcp", "udp"}:
        protocol, rest = "tcp", value
    host, _, guest = rest.partition(":")
    return f"{host}:{guest or host}" + ("/udp" if protocol == "udp" else "")


def links_of(said: dict[str, str], links: list[str], *, given: bool) -> dict[str, object]:
    """Give the keys network, bridges and links. Without anything ``given`` the unit's --network-veth counts.

    That is settings_network_veth() and settings_private_network() in systemd's nspawn-settings.c.
    """
    first: list[str] = []
    if said.get("Zone"):
        first = [f"zone:{said['Zone']}"]
    elif said.get("Bridge") and not links:
        return {"bridges": [said["Bridge"]]}
    elif said.get("Bridge"):
        first = [f"bridge:{said['Bridge']}"]
    elif not given or is_yes(said.get("VirtualEthernet", "")):
        first = ["veth"]
    if first or links:
        return {"links": [*first, *links]}
    return {"network": "none" if is_yes(said.get("Private", "")) else "host"}
