#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Installs machctl from a checkout onto this Debian or Arch host.
#
#   provision.sh [CHECKOUT]       CHECKOUT: the directory above this script, unless given
#   provision.sh --list-packages  what it would have apt install, one name per line
#   provision.sh --remove         take machctl away again; what it looks after has to be ejected or removed before
set -eu
umask 022

LIB=/usr/local/lib/machctl
UNITS=/usr/local/lib/systemd/system
LAUNCHER=/usr/local/bin/machctl
SYSCTL=/etc/sysctl.d/70-machctl.conf
# What systemd-nspawn@.service wants of modprobe@.service.
MODULES="tun loop dm_mod"

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
        # -m puts the directory it is called in, which may be a checkout, before all others.
        (cd "$new" && PYTHONPATH=$LIB/vendor PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m machines.render.compiling) ||
            say "the templates could not be compiled"
    fi
    # The byte code is compiled beside its place, so the path written into it has to be the final one.
    if [ -d "$new/machines" ]; then
        python3 -m compileall -q -s "$new" -p "$LIB" "$new/machines" || true
        (cd "$new" && PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m machines.bundled "$new" "$LIB") ||
            say "the modules could not be bundled"
    fi
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

from machines.bundled import install

install("$LIB")

from machines.cli import main

main()
LAUNCHER
    chmod 755 "$LAUNCHER.new"
    mv "$LAUNCHER.new" "$LAUNCHER"
}

# Stops and disables a timer, or all that were made of a template; nothing else that is shipped is enabled by hand.
drop_timers() {
    case $1 in
        *.timer) ;;
        *) return 0 ;;
    esac
    if systemd_runs; then
        for timer in $(systemctl list-units --all --plain --no-legend "${1%.timer}*.timer" | cut -d' ' -f1); do
            systemctl --quiet stop "$timer" || true
        done
    fi
    rm -f /etc/systemd/system/*.wants/"${1%.timer}"*.timer
}

remove_all() {
    kept=""
    for record in /var/lib/machctl/machines/*.json; do
        if [ -e "$record" ] && ! grep -q '"intent": "ejected"' "$record"; then
            name=${record##*/}
            kept="$kept ${name%.json}"
        fi
    done
    [ -z "$kept" ] || die "machctl still looks after$kept: machctl eject or machctl rm them first"
    # Their bridges would stay, with DHCP servers but without their rules.
    for record in /var/lib/machctl/networks/*.json; do
        if [ -e "$record" ] && grep -q '"origin": "/' "$record"; then
            name=${record##*/}
            kept="$kept ${name%.json}"
        fi
    done
    [ -z "$kept" ] || die "machctl still looks after the networks$kept: machctl network rm them first"
    # More than some 24 machines do not start without these.
    for record in /etc/machctl/ejected/*.toml; do
        if [ -e "$record" ]; then SYSCTL=""; fi
    done
    for unit in "$UNITS"/machctl-*; do
        if [ -e "$unit" ]; then
            drop_timers "${unit##*/}"
            rm -f "$unit"
        fi
    done
    # What --schedule said; what people wrote there themselves stays theirs.
    rm -f /etc/systemd/system/machctl-*.d/50-machctl.conf /var/lib/systemd/timers/stamp-machctl-*
    rmdir /etc/systemd/system/machctl-*.d 2>/dev/null || true
    rm -f "$UNITS"/*.wants/machctl-*.service
    rm -f "$UNITS"/modprobe@*.service.d/50-machctl.conf
    rmdir "$UNITS"/*.wants "$UNITS"/modprobe@*.service.d 2>/dev/null || true
    rm -rf "$LIB" "$LIB.old" "$LIB.new" "$LAUNCHER" ${SYSCTL:+"$SYSCTL"}
    if systemd_runs; then systemctl daemon-reload; fi
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
    # systemd-nspawn@.service wants these, and waits for them, at each start of a machine.
    for module in $MODULES; do
        mkdir -p "$UNITS/modprobe@$module.service.d"
        printf '# written by machctl: once in each boot of the host\n[Service]\nRemainAfterExit=yes\n' \
            >"$UNITS/modprobe@$module.service.d/50-machctl.conf"
    done
    mkdir -p "$UNITS/multi-user.target.wants"
    ln -sfn ../machctl-apply.service "$UNITS/multi-user.target.wants/machctl-apply.service"
    # The previous install names what it brought; whatever of that this checkout no longer ships goes.
    for unit in "$LIB.old"/units/* "$UNITS"/machctl-*; do
        name=${unit##*/}
        if [ ! -e "$LIB/units/$name" ] && [ -e "$UNITS/$name" ]; then
            drop_timers "$name"
            rm -f "$UNITS/$name"
        fi
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
if [ "${1-}" = --remove ]; then
    remove_all
    exit 0
fi
checkout=$(cd "${1:-$(dirname "$0")/..}" && pwd) || die "no such directory: ${1-}"

install_packages
install_package_tree
install_launcher
install_units
install_sysctl
