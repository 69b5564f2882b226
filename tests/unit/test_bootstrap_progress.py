# SPDX-License-Identifier: LGPL-2.1-or-later
"""The progress parsers, fed with excerpts of what the tools really print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.host.bootstrap.follow import Parser
from machines.host.bootstrap.progress import AptProgress, DebootstrapProgress, DnfProgress, PacmanProgress, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

# mmdebstrap 1.3.5 --verbose on Debian 12, shortened to two packages a round.
MMDEBSTRAP = """\
I: chroot architecture amd64 is equal to the host's architecture
I: running apt-get update...
Get:1 http://mirror.example/debian trixie InRelease [140 kB]
Get:2 http://mirror.example/debian trixie/main amd64 Packages [9678 kB]
Fetched 10.2 MB in 2s (5996 kB/s)
Reading package lists...
I: downloading packages with apt...
Reading package lists...
Building dependency tree...
The following NEW packages will be installed:
  base-files mawk
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Need to get 25.4 MB of archives.
Get:1 http://mirror.example/debian trixie/main amd64 mawk amd64 1.3.4.20250131-1 [141 kB]
Get:2 http://mirror.example/debian trixie/main amd64 base-files amd64 13.8+deb13u7 [88.3 kB]
/usr/bin/dpkg --status-fd 11 --no-triggers --configure mawk:amd64
I: extracting archives...
I: installing essential packages...
Selecting previously unselected package mawk.
Preparing to unpack .../mawk_1.3.4.20250131-1_amd64.deb ...
Unpacking mawk (1.3.4.20250131-1) ...
Unpacking base-files (13.8+deb13u7) ...
Setting up mawk (1.3.4.20250131-1) ...
Setting up base-files (13.8+deb13u7) ...
Processing triggers for libc-bin (2.41-12+deb13u4) ...
I: installing remaining packages inside the chroot...
0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.
Get:1 http://mirror.example/debian trixie/main amd64 dbus amd64 1.16.2-2 [71.6 kB]
Unpacking dbus (1.16.2-2) ...
Setting up dbus (1.16.2-2) ...
I: cleaning package lists and apt cache...
I: success in 13.9150 seconds
""".splitlines()

# debootstrap 1.0.128 on Debian 12, shortened.
DEBOOTSTRAP = """\
I: Retrieving InRelease
I: Checking Release signature
I: Valid Release signature (key id 41587F7DB8C774BCCF131416762F67A0B2C39DE4)
I: Retrieving Packages
I: Validating Packages
I: Resolving dependencies of required packages...
I: Checking component main on http://mirror.example/debian...
I: Retrieving libc-bin 2.41-12
I: Validating libc-bin 2.41-12
I: Retrieving dbus 1.16.2-2
I: Validating dbus 1.16.2-2
I: Chosen extractor for .deb packages: dpkg-deb
I: Extracting libc-bin...
I: Installing core packages...
I: Unpacking required packages...
I: Unpacking libc-bin...
I: Configuring required packages...
I: Configuring libc-bin...
I: Unpacking the base system...
I: Unpacking dbus...
I: Configuring the base system...
I: Configuring dbus...
I: Configuring libc-bin...
I: Base system installed successfully.
""".splitlines()


def stages(parser: Parser, lines: Iterable[str]) -> list[Stage]:
    return [stage for line in lines if (stage := parser.feed(line))]


def test_mmdebstrap_counts_through_both_rounds() -> None:
    assert stages(AptProgress(), MMDEBSTRAP) == [
        ("reading package lists", 0, None),
        ("resolving dependencies", 0, None),
        ("fetching", 0, 2),
        ("fetching", 1, 2),
        ("fetching", 2, 2),
        ("extracting", 0, None),
        ("unpacking", 1, 2),
        ("unpacking", 2, 2),
        ("configuring", 1, 2),
        ("configuring", 2, 2),
        ("fetching", 2, 3),
        ("fetching", 3, 3),
        ("unpacking", 3, 3),
        ("configuring", 3, 3),
        ("cleaning up", 0, None),
    ]


def test_mmdebstrap_package_lists_are_not_counted_as_packages() -> None:
    assert AptProgress().feed("Get:2 http://mirror.example/debian trixie/main amd64 Packages [9678 kB]") is None


def test_debootstrap_knows_the_total_once_all_is_fetched() -> None:
    assert stages(DebootstrapProgress(), DEBOOTSTRAP) == [
        ("reading package lists", 0, None),
        ("reading package lists", 0, None),
        ("resolving dependencies", 0, None),
        ("fetching", 1, None),
        ("fetching", 2, None),
        ("extracting", 1, None),
        ("unpacking", 1, 2),
        ("configuring", 1, 2),
        ("unpacking", 2, 2),
        ("configuring", 2, 2),
        ("configuring", 2, 2),
    ]


def test_debootstrap_headings_are_not_packages() -> None:
    parser = DebootstrapProgress()
    assert parser.feed("I: Unpacking required packages...") is None
    assert parser.feed("I: Configuring the base system...") is None


# pacman 7.0 and dnf 4.23 on Debian 13, dnf5 on testing; shortened.
PACMAN = """\
:: Synchronizing package databases...
 core downloading...
resolving dependencies...
Packages (2) bash-1-1  base-1-1
 bash-1-1-any downloading...
 bash-1-1-any.sig downloading...
 base-1-1-any downloading...
checking package integrity...
installing bash...
installing base...
""".splitlines()

DNF = """\
Dependencies resolved.
(1/2): hello-1-1.noarch.rpm                      1.0 MB/s | 5.9 kB     00:00
  Installing       : hello-1-1.noarch                                       1/2
Updating and loading repositories:
[ 1/12] hello-0:1-1.noarch                100% |   5.7 MiB/s |   5.9 KiB |  00m00s
[ 3/12] Installing hello-0:1-1.noarch     100% |   4.5 KiB/s | 256.0   B |  00m00s
""".splitlines()


def test_pacman_counts_packages() -> None:
    assert [tuple(stage) for stage in stages(PacmanProgress(), PACMAN)] == [
        ("reading package lists", 0, None),
        ("resolving dependencies", 0, None),
        ("fetching", 0, 2),
        ("fetching", 1, 2),
        ("fetching", 2, 2),
        ("fetching", 2, 2),
        ("checking packages", 0, None),
        ("installing", 1, 2),
        ("installing", 2, 2),
    ]


def test_dnf_and_dnf5_count_packages() -> None:
    assert [tuple(stage) for stage in stages(DnfProgress(), DNF)] == [
        ("resolving dependencies", 0, None),
        ("fetching", 1, 2),
        ("installing", 1, 2),
        ("reading package lists", 0, None),
        ("fetching", 1, 12),
        ("installing", 3, 12),
    ]
