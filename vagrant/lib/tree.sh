# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash

# What the tests need beside machctl's own needs.
TEST_PACKAGES="systemd-sysv systemd curl procps util-linux less strace python3-pytest openssl zstd pacman-package-manager arch-install-scripts makepkg gnupg"
VM_PACKAGES="linux-image-cloud-amd64 initramfs-tools openssh-server udev kmod libnss-myhostname"

tree_packages() { # KIND
    sh "$HERE/provision.sh" --list-packages
    # shellcheck disable=SC2086
    printf '%s\n' $TEST_PACKAGES
    # shellcheck disable=SC2086
    [[ $1 != vm ]] || printf '%s\n' $VM_PACKAGES
}

# Debian's units that cannot work, or have nothing to do, in a host made of namespaces.
masked_units() { # KIND
    echo systemd-networkd-wait-online.service
    [[ $1 != vm ]] || return 0
    echo systemd-modules-load.service
    echo systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket
    echo systemd-udevd-varlink.socket systemd-udev-trigger.service
    echo console-getty.service getty@tty1.service
    echo apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service man-db.timer fstrim.timer
}

configure_tree() { # KIND TREE
    local kind=$1 tree=$2 unit
    for unit in $(masked_units "$kind"); do
        ln -sf /dev/null "$tree/etc/systemd/system/$unit"
    done
    chroot "$tree" systemctl enable --quiet systemd-networkd.service systemd-resolved.service

    mkdir -p "$tree"/etc/systemd/{network,resolved.conf.d} "$tree/etc/tmpfiles.d"
    # nsswitch.conf asks resolved first and believes it: servers in resolv.conf alone would do nothing.
    printf '[Resolve]\nDNS=10.0.2.3\nDomains=~.\n' >"$tree/etc/systemd/resolved.conf.d/50-uplink.conf"
    "configure_${kind}_tree" "$tree"
    mkdir -p "$tree"/var/lib/{machines,machctl}
    chmod 700 "$tree/var/lib/machines"
    : >"$tree/etc/machine-id"
    rm -f "$tree/var/lib/dbus/machine-id" "$tree"/etc/ssh/ssh_host_*
    ln -sf ../run/systemd/resolve/stub-resolv.conf "$tree/etc/resolv.conf"
    echo host >"$tree/etc/hostname"
    printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$tree/etc/hosts"
}

configure_nspawn_tree() { # TREE
    local n
    # slirp4netns has configured it before networkd looks.
    printf '[Match]\nName=tap0\n\n[Link]\nUnmanaged=yes\n' >"$1/etc/systemd/network/05-uplink.network"
    # A container's /dev has no loop devices; the kernel's minors are shared with the outer machine.
    {
        echo 'c /dev/loop-control 0660 root disk - 10:237'
        for n in {0..31}; do echo "b /dev/loop$n 0660 root disk - 7:$n"; done
    } >"$1/etc/tmpfiles.d/loop.conf"
}

# The second disk carries the pool and what differs from vm to vm.
configure_vm_tree() { # TREE
    printf '[Match]\nName=en* eth*\n\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n' \
        >"$1/etc/systemd/network/05-uplink.network"
    cat >"$1/etc/fstab" <<'FSTAB'
/dev/vda / ext4 defaults 0 1
/dev/vdb /pool auto defaults 0 0
/pool/machines /var/lib/machines none bind,x-systemd.requires-mounts-for=/pool 0 0
/pool/machctl /var/lib/machctl none bind,x-systemd.requires-mounts-for=/pool 0 0
FSTAB
    mkdir -p "$1/pool" "$1/etc/ssh/sshd_config.d"
    cat >"$1/etc/ssh/sshd_config.d/host.conf" <<'SSHD'
HostKey /pool/ssh/host_key
AuthorizedKeysFile /pool/ssh/authorized_keys
PermitRootLogin prohibit-password
PrintLastLog no
MaxSessions 100
MaxStartups 100
SSHD
    # The uplink where networkd is off; qemu's user mode network has these addresses.
    cat >"$1/etc/systemd/system/uplink.service" <<'UPLINK'
[Unit]
ConditionKernelCommandLine=machctl.networkd=no
After=systemd-udev-settle.service
Wants=systemd-udev-settle.service
Before=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'set -- /sys/class/net/e*; ip addr add 10.0.2.15/24 dev $${1##*/} && ip link set $${1##*/} up && ip route add default via 10.0.2.2; rm -f /etc/resolv.conf; echo nameserver 10.0.2.3 >/etc/resolv.conf'

[Install]
WantedBy=multi-user.target
UPLINK
    chroot "$1" systemctl enable --quiet uplink.service ssh.service
}

bootstrap_tree() { # SUITE TREE PACKAGES(comma separated) VALID_UNTIL(yes|no)
    local check='Acquire::Check-Valid-Until "false";' options=()
    if command -v mmdebstrap >/dev/null; then
        [[ $4 == yes ]] || options=(--aptopt="$check")
        mmdebstrap --variant=important --include="$3" "${options[@]}" "$1" "$2"
    else
        # debootstrap does not weigh alternatives: the packages come with the tree's own apt.
        # shellcheck disable=SC2086 # a list of names
        debootstrap "$1" "$2" &&
            { [[ $4 == yes ]] || echo "$check" >"$2/etc/apt/apt.conf.d/99valid-until"; } &&
            chroot "$2" apt-get -q update &&
            DEBIAN_FRONTEND=noninteractive chroot "$2" apt-get -q -y --no-install-recommends install ${3//,/ } &&
            chroot "$2" apt-get clean
    fi
}

# Sets tree to the cached tree of KIND and SUITE, which it builds when there is none of this recipe.
ensure_tree() { # KIND SUITE
    local kind=$1 suite=$2 packages hash log started
    packages=$(tree_packages "$kind" | sort -u | paste -sd,)
    hash=$({ echo "$packages" && declare -f bootstrap_tree masked_units configure_tree "configure_${kind}_tree"; } | sha256sum)
    tree=$CACHE/$kind-$suite-${hash:0:12}
    [[ ! -d $tree ]] || return 0

    mkdir -p "$CACHE"
    exec 8>"$CACHE/.$kind-$suite.lock"
    flock -n 8 || {
        say "waiting for another vagrant/host that builds the $suite tree"
        flock 8
    }
    [[ ! -d $tree ]] || {
        exec 8>&-
        return 0
    }
    command -v mmdebstrap >/dev/null || (need mmdebstrap=mmdebstrap) || need debootstrap=debootstrap

    say "building the $suite host tree (about a minute, once)"
    started=$(now)
    log=$CACHE/$kind-$suite.log
    rm -rf --one-file-system "$CACHE/.$kind-$suite".new.*
    local new=$CACHE/.$kind-$suite.new.$$
    if ! build_tree "$kind" "$suite" "$new" "$packages" yes; then
        # Testing's Release files run out within a week: a frozen mirror, or a clock ahead of it, is enough.
        grep -q '^E: .* is expired' "$log" || die_of_tree
        say "the mirror's $suite Release file has run out: building without the Valid-Until check"
        build_tree "$kind" "$suite" "$new" "$packages" no || die_of_tree
    fi
    [[ $kind != vm ]] || make_vm_image "$new" >>"$log" 2>&1 || die "making the $suite disk image failed (log: $log)"
    mv "$new" "$tree"
    say "built it in $((($(now) - started) / 1000)) s"
    drop_old_trees "$kind" "$suite"
    exec 8>&-
}

# Ends with this process, and in a PID namespace, so that it leaves neither a package script nor a mount behind.
build_tree() { # KIND SUITE TREE PACKAGES VALID_UNTIL
    rm -rf --one-file-system "$3"
    # shellcheck disable=SC2016 # the inner shell expands them
    setpriv --pdeathsig KILL -- unshare --mount --pid --fork --kill-child=KILL --mount-proc -- \
        env LC_ALL=C bash -c '
            . "$1/lib/tree.sh"
            set -eu
            umask 022
            bootstrap_tree "$3" "$4" "$5" "$6"
            configure_tree "$2" "$4"
        ' - "$HERE" "$@" >"$log" 2>&1 </dev/null 8>&- 9>&-
}

die_of_tree() {
    rm -rf --one-file-system "$new"
    die "building the $suite host tree failed: $(grep '^E: ' "$log" | head -n 1) (log: $log)"
}

# Trees of earlier recipes that no host stands on.
drop_old_trees() { # KIND SUITE
    local old
    for old in "$CACHE/$1-$2"-*/; do
        old=${old%/}
        [[ $old == "$tree" ]] || grep -qsF "$old" "$STATE"/*/conf || rm -rf --one-file-system "$old"
    done
}
