# SPDX-License-Identifier: LGPL-2.1-or-later
"""Services of a compose file (compose-spec, 05-services.md) to keys of declarations."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Mapping
from typing import Any

from machines.declare.foreign import compose_values as values
from machines.declare.foreign.compose_text import Variables, load
from machines.declare.foreign.found import Found
from machines.errors import InvalidFile

_WORD = "machctl has no word for it"
# What says how the containers are called or shown, or what a machine is anyway.
_SILENT = {"container_name", "labels", "stdin_open", "tty", "init", "pull_policy", "logging", "stop_grace_period"}
# What compose reads from other places first.
_ELSEWHERE = {"extends", "env_file", "include"}
_RESOLVED = "it is in another place: give what docker compose config --format json makes of the file"
# What Python makes of a number for a table, of a word for a number, of a list that is too short.
_ODD = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)


def read_compose(
    text: str, *, where: str, variables: Mapping[str, str] | None = None, own: Collection[str] = ()
) -> dict[str, Found]:
    """Read the services of a compose file, YAML or JSON, by the names that their machines have.

    ``variables`` are those that it may use, ``own`` those of them that stand in no file. What a service
    says that compose has no such thing for is noted. Raises InvalidFile, Unsupported without PyYAML.
    """
    content = load(text, where)
    services = content.get("services") if isinstance(content, dict) else None
    if not isinstance(services, dict) or not all(isinstance(each, dict) for each in services.values()):
        raise InvalidFile(f"{where} has no services", hint="it has to be a compose file: docker compose config")
    filled = Variables(where, variables or {}, own)
    found: dict[str, Found] = {}
    for name, service in services.items():
        own = machine_name(str(name))
        if own in found:
            raise InvalidFile(f"{where} has two services that are machine {own}", hint="call one of them otherwise")
        found[own] = one = Found(where)
        if own != name:
            one.leave(
                f"services.{name}",
                f"it is machine {own}, which is how others reach it: machines are called as hosts are",
            )
        for key in sorted(_ELSEWHERE & content.keys()):
            one.leave(key, _RESOLVED)
        around = _Around(f"services.{name}", posixpath.dirname(where), content, filled)
        for key, value in filled.fill(service, around.place, one).items():
            if value is not None and key not in _SILENT:
                _run(_READERS.get(key, _unknown), value, one, around.at(key))
        if "source" not in one.values:
            one.set("source", "debian")
            one.leave(f"services.{name}", "it has no image; a tree of Debian is made for it")
    return found


def machine_name(service: str) -> str:
    """Give the name of the machine that is made of a service: my_db is my-db."""
    return service.lower().replace("_", "-").strip("-.")


class _Around:
    """Where something stands."""

    def __init__(self, place: str, directory: str, content: Mapping[str, Any], variables: Variables) -> None:
        self.place = place
        self.variables = variables
        self._directory = directory
        self._content = content

    def at(self, key: object) -> _Around:
        """Give what stands in it."""
        return _Around(f"{self.place}.{key}", self._directory, self._content, self.variables)

    def path(self, text: str) -> str:
        """Give a path of the host, which is relative to the file."""
        return posixpath.normpath(posixpath.join(self._directory, posixpath.expanduser(text)))

    def declared(self, section: str, name: str, found: Found) -> dict[str, Any]:
        """Give what the file says of a network or a secret."""
        section_values = self._content.get(section)
        value = section_values.get(name) if isinstance(section_values, dict) else None
        return values.table(self.variables.fill(value, f"{section}.{name}", found)) if value is not None else {}


_Read = Callable[[Any, Found, _Around], None]


def _run(read: _Read, value: Any, found: Found, around: _Around) -> None:
    """Read a value; one that compose would not take is noted."""
    try:
        read(value, found, around)
    except _ODD:
        found.leave(around.place, f"compose has nothing like that there: {_shown(value)}")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "a number without end"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _each(read: _Read) -> _Read:
    """Read each of a list by itself."""

    def read_all(value: Any, found: Found, around: _Around) -> None:
        for each in values.items(value):
            _run(read, each, found, around)

    return read_all


def _unknown(_: Any, found: Found, around: _Around) -> None:
    found.leave(around.place, _RESOLVED if around.place.rpartition(".")[2] in _ELSEWHERE else _WORD)


def _image(value: Any, found: Found, _: _Around) -> None:
    # A name without a registry skopeo completes as compose does.
    found.set("source", f"oci:{values.text(value)}")


def _port(value: Any, found: Found, _: _Around) -> None:
    text, why = values.port(value)
    if why:
        found.leave(f"port {value if isinstance(value, str) else text.rpartition(':')[2]}", why)
    found.add("publish", text)


def _volume(value: Any, found: Found, around: _Around) -> None:
    kind = "bind"
    if isinstance(value, dict):
        source, target, kind = (values.text(value.get(key, "")) for key in ("source", "target", "type"))
        if kind == "tmpfs":
            size = values.table(value.get("tmpfs") or {}).get("size")
            return found.add("tmpfs", f"{target}:{values.size(size)}" if size else target)
        mode = "ro" if values.flag(value.get("read_only", False)) else ""
        source = f"./{source}" if kind == "bind" and source[:1] not in {"", ".", "/", "~"} else source
    else:
        source, target, mode = [*values.text(value).split(":"), "", ""][:3]
    if kind != "bind" or not source.startswith((".", "/", "~")) or not target:
        found.leave(f"volume {source or target}", "machctl has no named volumes: bind a directory of the host")
    elif source.startswith("/dev/"):
        found.add("devices", source)
    else:
        # An image's users are its own; what it is to read or write belongs to them.
        found.add("binds", f"{around.path(source)}:{target}" + (":ro" if "ro" in mode.split(",") else ""))
    return None


def _environment(value: Any, found: Found, around: _Around) -> None:
    for name, content in values.pairs(value).items():
        content = around.variables.value(name, found) if content is None else content
        if content is None:
            found.leave(f"{around.place}.{name}", "its value is that of whoever runs compose")
        else:
            found.put("environment", name, content)


def _after(value: Any, found: Found, _: _Around) -> None:
    for name in value if isinstance(value, dict) else values.items(value):
        condition = values.table(value[name] or {}).get("condition", "") if isinstance(value, dict) else ""
        own = machine_name(values.text(name))
        found.add("after", f"{own}:healthy" if condition == "service_healthy" else own)
        if condition == "service_completed_successfully":
            why = "a machine is waited for until it is ready, not until it ends"
            found.leave(f"depends_on {name}: {condition}", why)


def _restart(value: Any, found: Found, _: _Around) -> None:
    text = values.text(value)
    word = {"unless-stopped": "always", "false": "no"}.get(text, text.partition(":")[0])
    found.set("restart", word)
    if word == "always":
        # Docker starts these with the host.
        found.set("autostart", value=True)


def _deploy(value: Any, found: Found, around: _Around) -> None:
    for key, each in values.table(value).items():
        if each is not None:
            _run(_DEPLOY.get(key, _unknown), each, found, around.at(key))


def _replicas(value: Any, found: Found, around: _Around) -> None:
    if values.number(value) == 0:
        found.leave(f"{around.place} 0", "what is declared is there: one is")
    elif values.number(value) != 1:
        found.set("replicas", values.number(value))


def _resources(value: Any, found: Found, around: _Around) -> None:
    for key, each in values.table(value).items():
        if key != "limits":
            _unknown(each, found, around.at(key))
            continue
        for limit, amount in values.table(each or {}).items():
            _run(_LIMITS.get(limit, _unknown), amount, found, around.at(key).at(limit))


def _restart_policy(value: Any, found: Found, around: _Around) -> None:
    condition = values.text(values.table(value).get("condition", "any"))
    if condition not in {"none", "on-failure", "any"}:
        return _unknown(value, found, around)
    return found.set("restart", {"none": "no", "any": "always"}.get(condition, condition))


def _networks(value: Any, found: Found, around: _Around) -> None:
    for name in map(values.text, value if isinstance(value, dict) else values.items(value)):
        if name == "default":
            continue
        own = values.table(value[name] or {}) if isinstance(value, dict) else {}
        address = f",ip={values.text(own['ipv4_address'])}" if own.get("ipv4_address") else ""
        found.add("bridges", f"{name}{address}")
        if around.declared("networks", name, found):
            found.leave(f"networks.{name}", f"what is said of it: machctl network create {name}, or [networks.{name}]")


def _network_mode(value: Any, found: Found, around: _Around) -> None:
    if value in {"host", "none"}:
        found.set("network", value)
    elif value != "bridge":
        found.leave(f"{around.place} {values.text(value)}", _WORD)


def _healthcheck(value: Any, found: Found, around: _Around) -> None:
    table = values.table(value)
    test = table.get("test")
    if values.flag(table.get("disable", False)) or test == ["NONE"]:
        return
    health: dict[str, object] = {}
    if isinstance(test, list) and test[:1] == ["CMD"]:
        health["exec"] = [values.text(word) for word in test[1:]]
    elif isinstance(test, list) and test[:1] == ["CMD-SHELL"]:
        health["exec"] = ["sh", "-c", values.text(test[1])]
    elif isinstance(test, str):
        health["exec"] = ["sh", "-c", test]
    else:
        found.leave(f"{around.place}.test", _WORD)
        return
    found.set("health", health)
    for key, each in table.items():
        if each is not None and key not in {"test", "disable"}:
            _run(_health_value(key, health), each, found, around.at(key))


def _health_value(key: str, health: dict[str, object]) -> _Read:
    def read(value: Any, found: Found, around: _Around) -> None:
        if key == "retries":
            health[key] = values.number(value)
        elif key not in {"start_period", "interval", "timeout"}:
            _unknown(value, found, around)
        elif seconds := values.seconds(value):
            # None at all is what compose has where nothing is said.
            health[key.replace("_", "-")] = f"{seconds}s"

    return read


def _secret(value: Any, found: Found, around: _Around) -> None:
    name = values.text(value["source"] if isinstance(value, dict) else value)
    file = around.declared("secrets", name, found).get("file")
    if file:
        found.put("secrets", name, f"file:{around.path(values.text(file))}")
        found.leave(f"secret {name}", "in the machine it is a credential, not a file in /run/secrets")
    else:
        found.leave(f"secret {name}", f"machctl secret set {name}, then secrets: credential:{name}")


def _capability(key: str) -> _Read:
    return _each(lambda value, found, _: found.add(key, values.text(value).lower().removeprefix("cap_")))


def _device(value: Any, found: Found, _: _Around) -> None:
    path, inside, access = [*values.text(value).split(":"), "", ""][:3]
    if inside in {"", path}:
        found.add("devices", f"{path}:{access}" if access and access != "rwm" else path)
    else:
        found.leave(f"device {value}", "a device has the same path in the machine")


def _tmpfs(value: Any, found: Found, _: _Around) -> None:
    for each in value if isinstance(value, list) else [value]:
        path, options = [*values.text(each).split(":", 1), ""][:2]
        sizes = [word.removeprefix("size=") for word in options.split(",") if word.startswith("size=")]
        found.add("tmpfs", f"{path}:{values.size(sizes[-1])}" if sizes else path)


def _plain(key: str, convert: Callable[[Any], object]) -> _Read:
    return lambda value, found, _: found.set(key, convert(value))


def _privileged(value: Any, found: Found, around: _Around) -> None:
    if values.flag(value):
        found.set("nesting", value=True)
        found.leave(around.place, "nesting is as near as it comes; name what else it needs")


_LIMITS: dict[str, _Read] = {
    "memory": _plain("memory", values.size),
    "cpus": _plain("cpus", values.fraction),
    "pids": _plain("tasks", values.number),
}
_DEPLOY: dict[str, _Read] = {"replicas": _replicas, "resources": _resources, "restart_policy": _restart_policy}
_READERS: dict[str, _Read] = {
    "image": _image,
    "ports": _each(_port),
    "volumes": _each(_volume),
    "environment": _environment,
    "depends_on": _after,
    "restart": _restart,
    "deploy": _deploy,
    "scale": _replicas,
    "networks": _networks,
    "network_mode": _network_mode,
    "healthcheck": _healthcheck,
    "secrets": _each(_secret),
    "hostname": _plain("hostname", values.text),
    "mem_limit": _LIMITS["memory"],
    "cpus": _LIMITS["cpus"],
    "pids_limit": _LIMITS["pids"],
    "cap_add": _capability("capabilities"),
    "cap_drop": _capability("drop-capabilities"),
    "devices": _each(_device),
    "tmpfs": _tmpfs,
    "read_only": _plain("read-only", values.flag),
    "privileged": _privileged,
}
