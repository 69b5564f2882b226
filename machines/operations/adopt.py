# SPDX-License-Identifier: LGPL-2.1-or-later
"""adopt: a machine that others made, or described, becomes one of machctl's."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from typing import TYPE_CHECKING

from machines.declare.fleet import own_file, parse_fleet
from machines.declare.foreign.found import Found, Unmapped, declaration, settle
from machines.declare.foreign.ini import Assignment, without
from machines.declare.layers import LITERAL, fill
from machines.errors import Conflict, InvalidFile, MachctlError, NotFound, raise_all
from machines.model.frozen import NamedTuple, replace
from machines.model.machine import Machine
from machines.model.names import check_declared_name, check_known_name, check_new_name, machine_lock
from machines.model.observed import Host as Observed
from machines.operations.declared import declared_machines, wrong_together
from machines.operations.execute import execute
from machines.operations.observe import observe
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.plan import steps
from machines.plan.adopt import foreign_files, plan_adopt
from machines.plan.check import check_machine
from machines.plan.check_host import check_host
from machines.plan.steps import Plan
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host

_SETTINGS = ("/etc/systemd/nspawn", "/run/systemd/nspawn", "/var/lib/machines")
# What set-property writes has a directory of its own (systemd.unit(5)).
_DROPINS = ("/etc/systemd/system", "/etc/systemd/system.control")
# What is gone after the next boot, and what machctl does not touch.
_OTHER_UNITS = (
    "/run/systemd/system/{}.d/*.conf", "/run/systemd/system.control/{}.d/*.conf", "/etc/systemd/system/{}",
)  # fmt: skip
_FORMS = "a config of jailmaker or LXC, a compose file or a .nspawn file"


class Adoption(NamedTuple):
    """What came of it: the plan, the declaration as a table and as text, what it could not say, which files were.

    ``inherited`` are variables of machctl's own environment whose values the declaration has.
    """

    name: str
    plan: Plan
    values: Mapping[str, object]
    text: str
    unmapped: tuple[Unmapped, ...]
    kept: tuple[str, ...] = ()
    inherited: tuple[str, ...] = ()
    restart: bool = False

    def row(self) -> dict[str, object]:
        """Give it under the names that JSON has; those are stable."""
        return {
            "name": self.name,
            "declaration": own_file(self.name),
            "values": dict(self.values),
            "unmapped": [each._asdict() for each in self.unmapped],
            "kept": list(self.kept),
            "inherited": list(self.inherited),
            "needs_restart": self.restart,
            "steps": [{"step": type(step).__name__, "what": str(step), "reason": step.reason} for step in self.plan],
        }


async def adopt(name: str, host: Host, reporter: Reporter, *, dry_run: bool) -> Adoption:
    """Declare a machine that has a tree as its settings and drop-ins have it, and write these as machctl does.

    It runs on if it runs. Raises NotFound for a machine without a tree, Conflict for one that is declared.
    """
    from machines.declare.foreign.dropins import is_said

    check_ready(host, verb="adopt")
    check_known_name(name)
    with host.files.lock(machine_lock(name), what=f"machine {name}"):
        async with host.files.fleet_lock():
            declared = declared_machines(host)
            observed = _with_dropins(name, observe(host), host)
            if name not in observed.trees:
                raise NotFound(f"there is no machine {name} with a tree", hint="machctl list shows those there are")
            if name in declared and not foreign_files(name, observed):
                raise Conflict(
                    f"machine {name} is declared in {declared[name].origin} already",
                    hint=f"machctl plan {name} shows what differs",
                )
            check_declared_name(name)
            if any(machine.group == name for machine in declared.values()):
                raise Conflict(f"{name} is what replicas are declared as", hint=f"machctl rename {name} NEW first")
            back = paths.ejected_file(name) in observed.files and name not in declared
            if back:
                # It was machctl's before.
                before = {own_file(name): observed.files[paths.ejected_file(name)]}
                machines, errors = parse_fleet(before)
                raise_all(errors)
                declared = {**declared, **machines}
                observed = replace(observed, files={**observed.files, **before})
            found, texts, left = _read(name, observed, host)
            found.set("source", f"image:{name}")
            if observed.enabled.get(name):
                found.set("autostart", value=True)
            if name in declared:
                # A run that was killed had come so far, or somebody wrote it by hand: it says what counts.
                machine, values = declared[name], dict[str, object]()
                text = observed.files[machine.origin]
                said = _said(name, text)
            else:
                machine, values = settle(name, found, file=own_file(name))
                text, said = _text(name, values, found), values
            # What a declaration refused stays in its drop-in.
            left = {
                path: [(each, key) for each, key in taken if is_said(each, key, said)] for path, taken in left.items()
            }
            rest = {path: without(texts[path], [each for each, _ in taken]) for path, taken in left.items()}
            changed = {path: text for path, text in texts.items() if rest.get(path) != text}
            if back:
                changed, rest, found.unmapped = {}, {}, []
            observed = _with_dropins(name, observe(host, [machine]), host)
            raise_all(
                check_host(observed, verb="adopt")
                or check_machine(machine, observed, declared)
                or ([] if name in declared else wrong_together({machine.origin: text}, found.where, host))
            )
            plan = plan_adopt(
                machine,
                observed,
                declaration=text,
                originals=changed,
                left=rest,
                payload=found.payload,
                modes={path: host.files.mode_of(path) for path in changed},
            )
            if not dry_run:
                await execute(plan, host, reporter=reporter)
    kept = tuple(paths.adopted_file(name, path) for path in changed)
    return Adoption(name, plan, values, text, tuple(found.unmapped), kept, restart=name in observed.running)


async def adopt_from(names: list[str], file: str, host: Host, reporter: Reporter, *, dry_run: bool) -> list[Adoption]:
    """Declare machines as a file of others describes them, for ``machctl apply`` to make.

    ``names`` choose of several, or name the one. Raises NotFound for a file or a service that is not there, Conflict
    for a name that is taken, InvalidFile for a file of no known kind.
    """
    check_ready(host, verb="adopt")
    described = _described(names, file, host)
    adoptions = []
    # What not all could read there may be a password.
    sources = [path for path in (file, f"{posixpath.dirname(file)}/.env") if host.files.read_text(path) is not None]
    mode = 0o644 if all(host.files.mode_of(path) & 0o004 for path in sources) else 0o600
    async with host.files.fleet_lock():
        declared = declared_machines(host)
        errors: list[MachctlError] = []
        for name, found in described.items():
            check_new_name(name)
            machine, values = settle(name, found, file=own_file(name))
            errors += _taken(name, values.get("replicas"), file, declared, host)
            text = _text(name, values, found)
            why = f"{file} describes it"
            # What was in no file until now may be a password too.
            closed = 0o600 if found.inherited else mode
            plan: Plan = [steps.WriteFile(reason=why, machine=name, path=machine.origin, text=text, mode=closed)]
            inherited = tuple(found.inherited)
            adoptions.append(Adoption(name, plan, values, text, tuple(found.unmapped), inherited=inherited))
        raise_all(errors or wrong_together({own_file(each.name): each.text for each in adoptions}, file, host))
        for adoption in adoptions if not dry_run else ():
            await execute(adoption.plan, host, reporter=reporter)
    return adoptions


def _taken(name: str, replicas: object, file: str, declared: Mapping[str, Machine], host: Host) -> list[MachctlError]:
    """Give what of a machine's name, and of those of its replicas, others have already."""
    trees, groups = host.pool.trees(), {machine.group for machine in declared.values()}
    count = replicas if isinstance(replicas, int) else 0
    errors: list[MachctlError] = []
    for each in (name, *(f"{name}-{index}" for index in range(1, count + 1))):
        if each in {*declared, *groups} or host.files.read_text(own_file(each)) is not None:
            errors.append(Conflict(f"machine {each} is declared already", hint="give it another name"))
        elif each in trees:
            hint = f"leave --from out to adopt that: machctl adopt {each}; or give another name"
            errors.append(Conflict(f"there is a machine {each} already, and {file} describes one", hint=hint))
    # Another name helps all of them.
    return errors[:1]


def _described(names: list[str], file: str, host: Host) -> dict[str, Found]:
    """Read a file of whichever kind it is."""
    from machines.declare.foreign import compose, jailmaker, lxc, nspawn

    text = host.files.read_text(file)
    if text is None:
        raise NotFound(f"there is no file {file} to read")
    directory, stem = posixpath.split(file)
    if file.endswith((".yml", ".yaml", ".json")):
        services = compose.read_compose(text, where=file, variables=_variables(directory, host), own=os.environ)
        names = [compose.machine_name(name) for name in names]
        unknown = [name for name in names if name not in services]
        hint = f"it has {', '.join(services)}"
        raise_all([NotFound(f"{file} has no service {name}", hint=hint) for name in unknown])
        return {name: services[name] for name in names or services}
    if jailmaker.is_jail(text):
        rootfs = f"{directory}/rootfs"
        found = jailmaker.read_jail(text, where=file, rootfs=rootfs if os.path.isdir(rootfs) else None)
    elif lxc.is_container(text):
        found = lxc.read_container(text, where=file)
    elif file.endswith(".nspawn"):
        found = nspawn.read_settings(text, where=file)
        found.set("source", "debian")
        found.leave("it says nothing of a tree", "a new one of Debian is made for it")
    else:
        raise InvalidFile(f"{file} is nothing that machctl reads", hint=f"give {_FORMS}")
    if len(names) > 1:
        raise Conflict(f"{file} describes one machine, and {len(names)} are named", hint="name one")
    default = stem.partition(".")[0] if file.endswith(".nspawn") else posixpath.basename(directory)
    return {names[0] if names else default: found}


def _variables(directory: str, host: Host) -> dict[str, str]:
    """Give what a compose file may use: the .env beside it, and before that what is in our own environment."""
    from machines.declare.foreign.compose_text import read_variables

    return read_variables(host.files.read_text(f"{directory}/.env") or "") | dict(os.environ)


def _with_dropins(name: str, observed: Observed, host: Host) -> Observed:
    """The host with the drop-ins of others, which no other plan looks at."""
    patterns = [f"{directory}/systemd-nspawn@{name}.service.d/*.conf" for directory in _DROPINS]
    others = {path: text for path, text in observed.files.items() if not path.startswith(paths.CONTROL_DIRECTORIES)}
    return replace(observed, files={**others, **host.files.read_files(patterns)})


def _read(
    name: str, observed: Observed, host: Host
) -> tuple[Found, dict[str, str], dict[str, list[tuple[Assignment, str]]]]:
    """Read what others wrote of a machine: what is declared of it, those files, and what of drop-ins that says."""
    from machines.declare.foreign.dropins import read_dropins
    from machines.declare.foreign.nspawn import read_settings

    prefix = f"{paths.adopted_directory(name)}/"
    kept = {
        "/" + path.removeprefix(prefix).replace(":", "/"): text
        for path, text in observed.files.items()
        if path.startswith(prefix)
    }
    unit = f"systemd-nspawn@{name}.service"
    candidates = [f"{directory}/{name}.nspawn" for directory in _SETTINGS]
    files = host.files.read_files(candidates) | kept
    settings = next((path for path in candidates if path in files and _is_theirs(path, files[path])), None)
    found = Found(settings or unit)
    texts = {}
    if settings is not None:
        trusted = not settings.startswith("/var/lib")
        own = [paths.guest_directory(name)]
        found = read_settings(files[settings], where=settings, trusted=trusted, own=own)
        # There are no drop-ins of settings that it could stay in.
        lost = "; from its next start on it no longer counts"
        found.unmapped = [each._replace(why=each.why + lost) for each in found.unmapped]
        texts = {settings: files[settings]} if settings == candidates[0] else {}
        for path in candidates[candidates.index(settings) + 1 :]:
            if path in files:
                found.leave("all of it", f"nspawn reads {settings} and not this", where=path)
    else:
        found.set("links", ["veth"])
    dropins = {path: text for path, text in observed.files.items() if f"/{unit}.d/" in path and path not in kept}
    dropins |= {path: text for path, text in kept.items() if f"/{unit}.d/" in path}
    dropins = {path: text for path, text in dropins.items() if _is_theirs(path, text)}
    left = read_dropins(dropins, found)
    for pattern in _OTHER_UNITS:
        for path in host.files.read_files([pattern.format(unit)]):
            why = "until the next boot" if path.startswith("/run/") else "it takes the place of the template unit"
            found.leave("all of it", f"it stays, and counts: {why}", where=path)
    return found, texts | dropins, left


def _is_theirs(path: str, text: str) -> bool:
    return paths.owner(path, text) is None


def _said(name: str, text: str) -> dict[str, object]:
    """Give what a file that declares a machine says of it."""
    from machines.declare.toml import parse_toml

    machines = parse_toml(text).get("machines")
    said = machines.get(name) if isinstance(machines, dict) else None
    said = said if isinstance(said, dict) else {}
    return {key: value if key in LITERAL else fill(value, {"name": name}) for key, value in said.items()}


def _text(name: str, values: Mapping[str, object], found: Found) -> str:
    comments = [f"Written by machctl adopt of {found.where}. Edit it as you like, then run: machctl apply"]
    if found.inherited:
        comments.append(f"The values of {', '.join(found.inherited)} are of the environment that it was run in.")
    if found.unmapped:
        comments += ["", "What it does not say:", *(f"  {each}" for each in found.unmapped)]
    return declaration(name, values, comments=tuple(comments))
