# SPDX-License-Identifier: LGPL-2.1-or-later
"""A repository of Debian packages in a folder of a throwaway host: the package thing, in versions good and bad."""

from __future__ import annotations

from throwaway import Host

FOLDER = "/srv/repository"
SOURCE = "deb [trusted=yes] file:/repository ./\n"

# A program of its own that runs a script of its own; nothing in the package itself restarts it.
_BUILD = r"""
set -e
version=$1 script=$2 postinst=$3
d=$(mktemp -d)
mkdir -p "$d/DEBIAN" "$d/usr/lib/thing" "$d/usr/lib/systemd/system"
chmod -R go+rX "$d"
cp /bin/dash "$d/usr/lib/thing/keeper"
printf '%s\n' "$script" >"$d/usr/lib/thing/script"
cat >"$d/usr/lib/systemd/system/thing.service" <<UNIT
[Service]
ExecStart=/usr/lib/thing/keeper /usr/lib/thing/script
[Install]
WantedBy=multi-user.target
UNIT
cat >"$d/DEBIAN/control" <<CONTROL
Package: thing
Version: $version
Architecture: all
Maintainer: a <a@b>
Description: d
CONTROL
printf '#!/bin/sh\nset -e\n%s\n' "$postinst" >"$d/DEBIAN/postinst"
chmod 755 "$d/DEBIAN/postinst"
mkdir -p "$4"
rm -f "$4"/*.deb
dpkg-deb --build --root-owner-group "$d" "$4/thing_$version.deb" >/dev/null
{
    cat "$d/DEBIAN/control"
    printf 'Filename: ./thing_%s.deb\nSize: %s\nSHA256: %s\n' "$version" \
        "$(stat -c %s "$4/thing_$version.deb")" "$(sha256sum "$4/thing_$version.deb" | cut -d' ' -f1)"
} >"$4/Packages"
rm -rf "$d"
"""


def offer(host: Host, version: str, script: str, *, postinst: str = ":") -> None:
    """Have the repository offer a version of thing, whose service runs ``script``, and no other."""
    host.sh(_BUILD, version, script, postinst, FOLDER)
