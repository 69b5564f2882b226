# SPDX-License-Identifier: LGPL-2.1-or-later
"""The package managers of machines: what there is to upgrade, and having it upgraded, by what the machine has."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import TYPE_CHECKING

from machines.errors import CommandFailed, NotRunning, Unsupported
from machines.model.frozen import NamedTuple

if TYPE_CHECKING:
    from machines.host.interfaces import Host, Registered

# What is said of what went wrong.
_SHOWN = 6

# A guest may say anything, for ever: so much of it is kept, and so long it is listened to.
_LINES_MAX, _SIZE_MAX = 20_000, 8 * 2**20
_LOOK_SECONDS, CHANGE_SECONDS = 600.0, 7200.0
# No line of a list of packages is longer.
_LISTED_MAX = 4096
# More is not shown.
MERGES_MAX = 20
_BESIDE = re.compile(
    r"warning: /\S+ (?:installed|created|saved) as (?P<path>/[\w./@+:-]+\.(?:pacnew|pacsave|rpmnew|rpmsave))"
)

_APT = "-o APT::Update::Error-Mode=any -o DPkg::Lock::Timeout=120"
_UPGRADE = "--with-new-pkgs upgrade"

# pacman locks by a file that whoever is killed leaves behind, and has it open for as long as it works. There is no word
# in it of whose it is.
_PACMAN_LOCK = """\
db=$(pacman-conf DBPath)
db=${db%/}
held() {
    for each in /proc/[0-9]*/fd/*; do
        test "$each" -ef "$db/db.lck" && return 0
    done
    return 1
}
stale=
if test -e "$db/db.lck"; then
    if held; then
        echo "another pacman is at work: it has $db/db.lck open" >&2
        exit 1
    fi
    stale=$db/db.lck
fi
"""

# pacman has but one place for what it knows of repositories; with that renewed alone, whoever installs a package next
# would have it beside old libraries. As checkupdates(8) does it.
_PACMAN_LOOK = f"""\
set -e
{_PACMAN_LOCK}
d=$(mktemp -d)
trap 'rm -rf "$d"' EXIT
chmod 755 "$d"
ln -s "$db/local" "$d/local"
pacman -Sy --dbpath "$d" --logfile /dev/null --noconfirm >/dev/null
pacman -Qu --dbpath "$d" || true
"""

# What was signed by a key that is newer than the machine can be checked only once that has come.
_PACMAN_UPGRADE = f"""\
set -e
{_PACMAN_LOCK}
test -z "$stale" || rm -f "$stale"
pacman -Sy --noconfirm
case $(pacman -Qu archlinux-keyring 2>/dev/null) in
    "" | *"[ignored]") ;;
    *) pacman -S --noconfirm archlinux-keyring ;;
esac
pacman -Su --noconfirm
"""


class Manager(NamedTuple):
    """A package manager: the program it is known by, and the shell scripts that refresh, list and upgrade.

    ``line`` has the groups name, old and new in a line of the list; ``some`` is a status that means there are some.
    ``sign`` is there where the machine was made with it: any distribution has the managers of others as packages.
    """

    program: str
    sign: str
    look: str
    line: str
    upgrade: str
    some: int = 0


MANAGERS = (
    Manager(
        "/usr/bin/apt-get",
        "/var/lib/dpkg/info/dpkg.list",
        f"apt-get -q {_APT} update >&2 && apt-get -qq -s -o Debug::NoLocking=1 {_UPGRADE}",
        r"Inst (?P<name>\S+) (?:\[(?P<old>[^]]*)\] )?\((?P<new>\S+) .*",
        # What was configured by hand stays, and what is new is taken.
        f"apt-get -q -y {_APT} -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold {_UPGRADE}",
    ),
    Manager(
        "/usr/bin/pacman",
        "/var/lib/pacman/local/ALPM_DB_VERSION",
        _PACMAN_LOOK,
        r"(?P<name>\S+) (?P<old>\S+) -> (?P<new>\S+)",
        _PACMAN_UPGRADE,
    ),
    Manager(
        "/usr/bin/dnf",
        "/etc/dnf",
        "dnf -q check-update --refresh",
        r"(?P<name>\S+)\.(?:noarch|\w+)(?P<old>)\s+(?P<new>\w\S*)\s+\S+",
        "dnf -y upgrade",
        some=100,
    ),
)

ENVIRONMENT: Mapping[str, str] = {
    "DEBIAN_FRONTEND": "noninteractive",
    "APT_LISTCHANGES_FRONTEND": "none",
    # What has to be restarted machctl finds itself.
    "NEEDRESTART_SUSPEND": "1",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
}


def entry_of(name: str, host: Host) -> Registered:
    """Give what machined knows of a machine that runs. Raises NotRunning: it may end at any time."""
    entry = host.registered().get(name)
    if entry is None:
        raise NotRunning(f"machine {name} does not run any more", hint=f"machctl logs {name}")
    return entry


def manager_of(name: str, host: Host) -> Manager:
    """Give the package manager of a machine that runs. Raises Unsupported for one without."""
    root = f"/proc/{entry_of(name, host).leader}/root"
    found = [manager for manager in MANAGERS if host.guests.exists(root, manager.program)]
    if found:
        return next((manager for manager in found if host.guests.exists(root, manager.sign)), found[0])
    names = ", ".join(each.program.rpartition("/")[2] for each in MANAGERS)
    raise Unsupported(
        f"machine {name} has no package manager that machctl knows: {names}",
        hint=f"make it anew of a newer image: machctl image refresh, then machctl apply --recreate {name}",
    )


async def find_upgrades(name: str, host: Host) -> list[str]:
    """Give what there is to upgrade in a machine, as "NAME OLD -> NEW". Raises CommandFailed, Unsupported."""
    manager = manager_of(name, host)
    lines = await run_script(name, manager.look, host, what="look for upgrades", fine=(0, manager.some))
    return read_upgrades(manager, lines)


def read_upgrades(manager: Manager, lines: list[str]) -> list[str]:
    """Read what a package manager lists as to be upgraded."""
    # dnf lists then what is replaced by what, which reads as upgrades do.
    wanted = takewhile(lambda line: not line.startswith("Obsoleting "), lines)
    found = (re.fullmatch(manager.line, line.strip()) for line in wanted if len(line) <= _LISTED_MAX)
    return [
        f"{match['name']} {match['old'] + ' ' if match['old'] else ''}-> {match['new']}"
        for match in found
        if match is not None
    ]


async def upgrade(name: str, host: Host, progress: Callable[[int], None]) -> list[str]:
    """Have all packages of a machine upgraded; ``progress`` hears how many lines that said. Raises CommandFailed.

    Gives the files that came beside others of their name which had been changed in it: at most MERGES_MAX.
    """
    count = 0
    beside: list[str] = []

    def on_line(line: str) -> None:
        nonlocal count
        count += 1
        if path := beside_of(line):
            beside.append(path)
        progress(count)

    script = manager_of(name, host).upgrade
    # That of a whole release is told of in tens of thousands of lines.
    await run_script(name, script, host, what="upgrade", on_line=on_line, limit=CHANGE_SECONDS, talkative=True)
    return beside[:MERGES_MAX]


def beside_of(line: str) -> str:
    """Give the file that pacman or rpm says to have put beside one that was changed by hand, "" for another line."""
    found = _BESIDE.fullmatch(line) if len(line) <= _LISTED_MAX else None
    return found["path"] if found else ""


async def run_script(
    name: str,
    script: str,
    host: Host,
    *,
    what: str,
    fine: tuple[int, ...] = (0,),
    on_line: Callable[[str], None] = lambda _: None,
    limit: float = _LOOK_SECONDS,
    talkative: bool = False,
) -> list[str]:
    """Run a shell script in a machine and give what it printed. Raises CommandFailed with its last words.

    So does one that takes longer than ``limit`` seconds, or says more than anybody needs. Of one that is
    ``talkative`` nothing is given, and it may say ten times as much.
    """
    await host.upkeep.looped()
    import asyncio

    said, size, over, status, more = 0, 0, False, 0, 10 if talkative else 1
    lines: list[str] = []
    last: deque[str] = deque(maxlen=_SHOWN)

    def take(line: str) -> None:
        nonlocal said, size, over
        if over or clock.expired():
            return
        said += 1
        size += len(line)
        if said > _LINES_MAX * more or size > _SIZE_MAX * more:
            over = True
            # The only way to end it that does not come from here: this is called by the loop.
            clock.reschedule(asyncio.get_running_loop().time())
            return
        shown = "".join(character if character.isprintable() else " " for character in line).rstrip()
        if not talkative:
            lines.append(shown)
        last.append(shown)
        on_line(shown)

    try:
        async with asyncio.timeout(limit) as clock:
            status = await host.upkeep.run_inside(name, ["/bin/sh", "-c", script], env=ENVIRONMENT, on_line=take)
    except TimeoutError:
        if not over:
            raise CommandFailed(
                f"machine {name} could not {what}: it took longer than {limit:.0f} seconds", hint="\n".join(last)
            ) from None
    if over:
        raise CommandFailed(
            f"machine {name} could not {what}: it said more than {_LINES_MAX * more} lines "
            f"or {_SIZE_MAX * more // 2**20} MiB",
            hint="\n".join(last),
        )
    if status not in fine:
        raise CommandFailed(
            f"machine {name} could not {what}: it ended with {status}", hint="\n".join(last) or f"machctl logs {name}"
        )
    return lines
