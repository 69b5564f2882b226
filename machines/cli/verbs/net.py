# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl net ls, attach, detach, and machctl ip"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from machines.cli import words
from machines.cli.editing import edit_machine
from machines.cli.names import name as name_argument
from machines.cli.names import names as names_argument
from machines.cli.names import one
from machines.cli.output import show_rows
from machines.cli.wire import RealHost
from machines.declare.links import check_links, format_link, parse_bridge, parse_link
from machines.errors import Conflict, InvalidValue, NotFound, raise_all
from machines.model.frozen import replace
from machines.model.link import KINDS, Attachment, inner_names
from machines.model.machine import Machine

LINKS = ("machine", "link", "kind", "target", "vlan", "mac", "state", "addresses")
ADDRESSES = ("machine", "link", "target", "addresses")


def ls(
    context: words.Context,
    names: list[str] = names_argument("The machines, or patterns such as 'web*'; all if left out.", optional=True),
) -> None:
    """List the links of machines: what is declared, and what is there where they run."""
    show_rows(_rows(names), LINKS, context.obj, empty="no machine has a link", named="machine")


def ip(
    context: words.Context,
    names: list[str] = names_argument("The machines, or patterns such as 'web*'; all if left out.", optional=True),
) -> None:
    """Show the addresses of machines by their links; those of a stopped one are those it is going to have."""
    show_rows(_rows(names), ADDRESSES, context.obj, empty="no machine has a link", named="machine")


def attach(
    context: words.Context,
    name: str = name_argument("The machine, running or not."),
    links: list[str] = words.Argument(
        ...,
        metavar="LINK...",
        help="NETWORK[,OPTION=VALUE...], or another kind: veth, zone:Z, macvlan:IF, interface:IF.",
    ),
) -> None:
    """Link a machine to one more network: at once where it runs, and in its declaration."""
    name = one(name)
    found = tuple(_link(text) for text in links)

    def edit(machine: Machine) -> Machine:
        if machine.network != "private" and machine.links == ():
            if machine.network == "host":
                raise Conflict(
                    f"machine {name} has the host's network", hint=f"take network out of {machine.origin}, then apply"
                )
            machine = replace(machine, network="private")
        return replace(machine, links=_kept(machine.links, range(len(machine.links)), found))

    _change(context, name, edit, "attach", f"attached {', '.join(links)} to {name}", f"{name} has these links already")


def detach(
    context: words.Context,
    name: str = name_argument("The machine, running or not."),
    links: list[str] = words.Argument(
        ..., metavar="LINK...", help="What it is called in the machine, as in host1, or where it leads, as in br0."
    ),
) -> None:
    """Take links away from a machine: at once where it runs, and from its declaration."""
    name = one(name)

    def edit(machine: Machine) -> Machine:
        gone = {_find(machine, text) for text in links}
        left = _kept(machine.links, [index for index in range(len(machine.links)) if index not in gone])
        return replace(machine, links=left, network="private" if left else "none")

    _change(context, name, edit, "detach", f"detached {', '.join(links)} from {name}", f"{name} has no such link")


def _kept(
    links: tuple[Attachment, ...], numbers: Sequence[int], more: tuple[Attachment, ...] = ()
) -> tuple[Attachment, ...]:
    """Those of the links that have these numbers, called what they are called now wherever they come to stand."""
    inner = inner_names(links)
    # The first is called host0 without being told so, but for where another has that name.
    plain = tuple(links[number] if number == 0 else _named(links[number], inner[number]) for number in numbers) + more
    if inner_names(plain)[: len(numbers)] == tuple(inner[number] for number in numbers):
        return plain
    return tuple(_named(links[number], inner[number]) for number in numbers) + more


def _named(link: Attachment, inner: str) -> Attachment:
    return link if link.name or link.kind in {"macvlan", "ipvlan", "interface"} else replace(link, name=inner)


def _find(machine: Machine, text: str) -> int:
    """The number of the link that is meant. Raises NotFound, or InvalidValue where it could be several."""
    inner = inner_names(machine.links)
    if text in inner:
        return inner.index(text)
    found = [
        index
        for index, link in enumerate(machine.links)
        if text in {link.target, link.kind, format_link(link), f"{link.kind}:{link.target}"} - {"", "bridge"}
    ]
    if len(found) > 1:
        raise InvalidValue(f"{text!r} is more than one link of {machine.name}", hint=f"say which: {', '.join(inner)}")
    if not found:
        raise NotFound(
            f"machine {machine.name} has no link {text}", hint=f"it has {', '.join(inner) or 'none'}: machctl net ls"
        )
    return found[0]


def _link(text: str) -> Attachment:
    first = text.partition(",")[0]
    return (
        parse_link(text)
        if first == "veth" or (first.partition(":")[0] in KINDS and ":" in first)
        else parse_bridge(text)
    )


def _rows(names: list[str] | None) -> list[dict[str, object]]:
    from machines.operations.inspect import expand, known_names, require
    from machines.operations.links import list_links

    host = RealHost()
    chosen = expand(names, host) if names else sorted(known_names(host))
    require(chosen, host)
    return list_links(chosen, host)


def _change(
    context: words.Context, name: str, edit: Callable[[Machine], Machine], verb: str, done: str, nothing: str
) -> None:
    def checked(machine: Machine) -> Machine:
        edited = edit(machine)
        raise_all(check_links(edited))
        return edited

    what = f"net {verb} {name}"
    edit_machine(name, checked, context.obj, verb=verb, done=done, nothing=nothing, what=what)


VERBS = {"ls": ls, "attach": attach, "detach": detach}
ALIASES = {"list": "ls", "add": "attach", "rm": "detach", "connect": "attach", "disconnect": "detach"}
