#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Installs machctl from a checkout onto this Debian or Arch host.
#
#   provision.sh [CHECKOUT]       CHECKOUT: the directory above this script, unless given
#   provision.sh --list-packages  what it would have apt install, one name per line
set -eu
umask 022

LIB=/usr/local/lib/machctl
UNITS=/usr/local/lib/systemd/system
LAUNCHER=/usr/local/bin/machctl
SYSCTL=/etc/sysctl.d/70-machctl.conf

DEBIAN_PACKAGES="
    systemd-container dbus polkitd libnss-mymachines iproute2 nftables
    debootstrap mmdebstrap ca-certificates debian-archive-keyring btrfs-progs zstd xz-utils
    python3 python3-dbus-next python3-pystemd python3-pyroute2 python3-typer python3-jinja2 python3-tomlkit
"
# Installing systemd-resolved turns /etc/resolv.conf into a link to its stub: only where networkd feeds it servers.
DEBIAN_NETWORKD_PACKAGES="systemd-resolved libnss-resolve"

ARCH_PACKAGES="
    polkit iproute2 nftables debootstrap arch-install-scripts ca-certificates debian-archive-keyring btrfs-progs zstd xz
    python python-dbus-next python-pyroute2 python-typer python-jinja python-tomlkit
"
# pystemd has no Arch package; building it takes a compiler and the headers that Arch ships with systemd itself.
ARCH_BUILD_PACKAGES="python-pip gcc pkgconf"

say() { printf 'provision: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

systemd_runs() { [ -d /run/systemd/system ]; }

networkd_enabled() {
    systemctl is-enabled --quiet systemd-networkd.service 2>/dev/null
}

install_debian_packages() {
    wanted=$DEBIAN_PACKAGES
    if networkd_enabled; then wanted="$wanted $DEBIAN_NETWORKD_PACKAGES"; fi
    missing=""
    for package in $wanted; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=""
        [ "$status" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0

    say "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    # shellcheck disable=SC2086 # a list of names
    apt-get -qq -y --no-install-recommends install $missing >&2
}

install_arch_packages() {
    # shellcheck disable=SC2086 # a list of names
    missing=$(pacman -T $ARCH_PACKAGES) || true
    if [ -n "$missing" ]; then
        # Arch supports no partial upgrade: new packages come with an upgraded system or not at all.
        # shellcheck disable=SC2086
        pacman -Syu --needed --noconfirm $missing >&2
    fi
    if [ -d "$LIB/vendor/pystemd" ] || python3 -c 'import pystemd' 2>/dev/null; then return 0; fi
    # shellcheck disable=SC2086
    pacman -S --needed --noconfirm $ARCH_BUILD_PACKAGES >&2
    mkdir -p "$LIB/vendor"
    python3 -m pip install --quiet --no-deps --target "$LIB/vendor" pystemd >&2
}

install_packages() {
    if command -v apt-get >/dev/null; then
        install_debian_packages
    elif command -v pacman >/dev/null; then
        install_arch_packages
    else
        die "neither apt-get nor pacman here: machctl is provisioned on Debian and Arch only"
    fi
}

install_package_tree() {
    new=$LIB.new
    old=$LIB.old
    rm -rf "$new" "$old"
    mkdir -p "$new"
    for room in machines templates units; do
        if [ -d "$checkout/$room" ]; then
            cp -R "$checkout/$room" "$new/$room"
        else
            say "$checkout has no $room/ yet"
        fi
    done
    find "$new" -name __pycache__ -type d -prune -exec rm -rf {} +
    # Without compiled templates jinja2 reads them at each run, which works as well.
    rm -f "$new/machines/render/compiled.py"
    if [ -d "$new/machines/render" ]; then
        PYTHONPATH=$new:$LIB/vendor PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m machines.render.compiling ||
            say "the templates could not be compiled"
    fi
    # The byte code is compiled beside its place, so the path written into it has to be the final one.
    if [ -d "$new/machines" ]; then python3 -m compileall -q -s "$new" -p "$LIB" "$new/machines" || true; fi
    if [ -d "$LIB/vendor" ]; then cp -R "$LIB/vendor" "$new/vendor"; fi
    if [ -d "$LIB" ]; then mv "$LIB" "$old"; fi
    mv "$new" "$LIB"
}

# Without the site module, whose search for .pth files takes a quarter of an interpreter's start, the launcher has to
# name the distribution's folders itself.
install_launcher() {
    packages=$(/usr/bin/python3 -c 'import os, site; print([p for p in site.getsitepackages() if os.path.isdir(p)])')
    mkdir -p "${LAUNCHER%/*}"
    cat >"$LAUNCHER.new" <<LAUNCHER
#!/usr/bin/python3 -IS
import sys

sys.path[0:0] = ["$LIB", "$LIB/vendor"]
sys.path += $packages

from machines.cli import main

main()
LAUNCHER
    chmod 755 "$LAUNCHER.new"
    mv "$LAUNCHER.new" "$LAUNCHER"
}

install_units() {
    mkdir -p "$UNITS"
    for unit in "$LIB"/units/*; do
        case $unit in
            *.service | *.timer | *.target | *.socket | *.path | *.slice)
                cp "$unit" "$UNITS/.${unit##*/}.new"
                mv "$UNITS/.${unit##*/}.new" "$UNITS/${unit##*/}"
                ;;
        esac
    done
    # What flushes or drops what machctl loaded pulls in what loads it again.
    for pair in nftables:nat-again docker:firewall firewalld:firewall; do
        mkdir -p "$UNITS/${pair%:*}.service.wants"
        ln -sfn "../machctl-${pair#*:}.service" "$UNITS/${pair%:*}.service.wants/machctl-${pair#*:}.service"
    done
    # The previous install names what it brought; whatever of that this checkout no longer ships goes.
    for unit in "$LIB.old"/units/* "$UNITS"/machctl-*; do
        name=${unit##*/}
        if [ ! -e "$LIB/units/$name" ]; then rm -f "$UNITS/$name"; fi
    done
    rm -rf "$LIB.old"
    if systemd_runs; then systemctl daemon-reload; fi
}

install_sysctl() {
    # Each machine's systemd takes inotify instances and keyrings of the one kernel: the defaults end at about 24 machines.
    cat >"$SYSCTL.new" <<'SYSCTL'
# written by machctl's provision.sh
fs.inotify.max_user_instances = 8192
fs.inotify.max_user_watches = 524288
kernel.keys.maxkeys = 20000
kernel.keys.maxbytes = 2000000
SYSCTL
    mv "$SYSCTL.new" "$SYSCTL"
    # In a container /proc/sys is read-only; whoever started it has to raise the limits.
    while IFS=' =' read -r key value; do
        file=/proc/sys/$(printf %s "$key" | tr . /)
        if [ -w "$file" ] && [ "$(cat "$file")" -lt "$value" ]; then
            { printf '%s\n' "$value" >"$file"; } 2>/dev/null || true
        fi
    done <<SYSCTL
$(grep -v '^#' "$SYSCTL")
SYSCTL
}

if [ "${1-}" = --list-packages ]; then
    # shellcheck disable=SC2086
    printf '%s\n' $DEBIAN_PACKAGES $DEBIAN_NETWORKD_PACKAGES
    exit 0
fi

[ "$(id -u)" = 0 ] || die "needs root: run it with sudo"
checkout=$(cd "${1:-$(dirname "$0")/..}" && pwd) || die "no such directory: ${1-}"

install_packages
install_package_tree
install_launcher
install_units
install_sysctl
