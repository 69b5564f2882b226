# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# A host made of namespaces: systemd-nspawn --boot over an overlay of the cached tree.

need_nspawn() {
    need systemd-nspawn=systemd-container slirp4netns=slirp4netns nsenter=util-linux python3=python3 \
        "mkfs.$pool=$([[ $pool == btrfs ]] && echo btrfs-progs || echo e2fsprogs)"
}

prepare_nspawn() {
    local mkfs=(mkfs.ext4 -q -F -E "lazy_itable_init=1,nodiscard")
    [[ $pool == ext4 ]] || mkfs=(mkfs.btrfs -q -f -K)
    mkdir -p "$dir"/{upper/etc,work,root,pool}
    truncate -s "$pool_size" "$dir/pool.img"
    "${mkfs[@]}" "$dir/pool.img" >"$dir/mkfs.log" 2>&1 || die "mkfs of the pool failed (log: $dir/mkfs.log)"

    tr -d - </proc/sys/kernel/random/uuid >"$dir/upper/etc/machine-id"
    echo "$name" >"$dir/upper/etc/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost ip6-loopback\n' "$name" >"$dir/upper/etc/hosts"
    if [[ $networkd == no ]]; then switch_networkd_off "$dir/upper/etc"; fi
}

# As on a host of ifupdown: no networkd, no resolved, a plain resolv.conf.
switch_networkd_off() { # ETC
    local unit
    mkdir -p "$1/systemd/system"
    for unit in $(networkd_units); do
        ln -sf /dev/null "$1/systemd/system/$unit"
    done
    echo "nameserver 10.0.2.3" >"$1/resolv.conf"
}

networkd_units() {
    echo systemd-networkd.{service,socket} systemd-networkd-{varlink,resolve-hook,varlink-metrics}.socket
    echo systemd-network-generator.service systemd-networkd-persistent-storage.service
    echo systemd-resolved.service systemd-resolved-{varlink,monitor}.socket
}

# --- the supervisor's side ---------------------------------------------------------------------------------------

supervise_nspawn() {
    local code=133 started
    if ! mount_file_systems; then
        echo "its file systems could not be mounted; MACHCTL_HOSTS_STATE must be where overlayfs can write" >failed
        return
    fi
    stat -c %Hd:%Ld root pool >devices
    # 133 is nspawn's way to say that the host asked for a reboot.
    while ((code == 133)); do
        started=$(now)
        code=0
        boot_once || code=$?
        echo "the host ended with $code after $((($(now) - started) / 1000)) s"
    done
    [[ -e booted ]] || echo "it ended with code $code while booting" >failed
    rm -f leader ready
    kill_cgroup "$cgroup/host"
    umount pool root || umount -l pool root
}

mount_file_systems() {
    mount -t overlay "machctl-$name" -o "lowerdir=$tree,upperdir=$dir/upper,workdir=$dir/work" root &&
        mount -o loop,noatime pool.img pool &&
        mkdir -p pool/machines pool/machctl &&
        chmod 700 pool/machines
}

boot_once() {
    local nspawn leader="" slirp="" attached code=0
    rm -f leader ready
    kill_cgroup "$cgroup/host"
    mkdir -p "$cgroup/host"
    (
        echo 0 >"$cgroup/host/cgroup.procs"
        # Without this the host would fall back to cgroup v1 where the outer machine uses it, which systemd 257 refuses.
        # /proc/sys/net is the host's own (IP forwarding); the rest of /proc/sys is the outer kernel's and stays read-only.
        export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
        exec systemd-nspawn --quiet --register=no --keep-unit --machine="$name" --directory="$dir/root" --boot \
            --capability=all --system-call-filter=@known --system-call-filter='add_key keyctl bpf' \
            --private-network --resolv-conf=off --timezone=off --link-journal=no --notify-ready=yes \
            --bind=/dev/net/tun --bind=/dev/fuse \
            --bind="$dir/pool/machines:/var/lib/machines" --bind="$dir/pool/machctl:/var/lib/machctl"
    ) </dev/null >>console.log 2>&1 &
    nspawn=$!

    while [[ -z $leader ]] && kill -0 "$nspawn" 2>/dev/null; do
        leader=$(find_leader "$nspawn") || sleep 0.02
    done
    if [[ -n $leader ]]; then
        printf '%s %s\n' "$leader" "$(start_time "$leader")" >leader
        if [[ $network == yes ]]; then
            slirp4netns --configure --mtu=65520 --disable-host-loopback "$leader" tap0 >>slirp.log 2>&1 &
            slirp=$!
        fi
        await_boot "$leader" "$nspawn" &
        attached=$!
    fi

    wait "$nspawn" || code=$?
    rm -f leader ready
    # slirp4netns keeps the dead host's network namespace, and with it its interfaces.
    if [[ -n $slirp ]]; then kill "$slirp" 2>/dev/null || true; fi
    if [[ -n ${attached-} ]]; then kill "$attached" 2>/dev/null || true; fi
    wait
    return "$code"
}

# nspawn has a helper child for a moment; the leader is the one that is PID 1 in its namespace.
find_leader() { # PID of nspawn
    local child
    # shellcheck disable=SC2013 # one line of PIDs
    for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do
        if grep -qsE '^NSpid:.*[[:space:]]1$' "/proc/$child/status"; then
            echo "$child"
            return
        fi
    done
    return 1
}

await_boot() { # LEADER NSPAWN
    local state=""
    while kill -0 "$2" 2>/dev/null; do
        # It fails at once as long as the host's systemd does not listen yet.
        state=$(nsenter -t "$1" -m -p -- systemctl is-system-running --wait 2>/dev/null) || true
        case $state in
            running | degraded | maintenance)
                echo "$state" >ready.new
                mv ready.new ready
                : >booted
                return
                ;;
        esac
        sleep 0.05
    done
}

# --- entering and ending it --------------------------------------------------------------------------------------

# Waits for a host that reboots; replaces this process by COMMAND.
enter_nspawn() { # COMMAND...
    local leader start
    while :; do
        if { read -r leader start <"$dir/leader"; } 2>/dev/null && [[ -e $dir/ready && $(start_time "$leader") == "$start" ]]; then
            break
        fi
        supervisor_alive || die "$name is not running: start it with vagrant/host up --name $name"
        wait_until "$BOOT_LIMIT" nspawn_ready_or_dead || die "$name did not boot in $BOOT_LIMIT s (log: $dir/console.log)"
    done
    find_cgroup
    exec python3 -I -S "$HERE/lib/enter.py" "$dir" "$leader" "$cgroup/host/payload" "$@"
}

nspawn_ready_or_dead() { [[ -e $dir/ready && -e $dir/leader ]] || ! supervisor_alive; }

stop_nspawn() {
    local leader start
    find_cgroup
    if supervisor_alive && { read -r leader start <"$dir/leader"; } 2>/dev/null && [[ $(start_time "$leader") == "$start" ]]; then
        # What systemd in a container takes for "power off".
        kill -RTMIN+4 "$leader" 2>/dev/null || true
        # A run that somebody has stopped would not reap its command, and the PID namespace would not end before that.
        pgrep -f "enter.py $dir $leader " | xargs -r kill -CONT 2>/dev/null || true
        wait_until "$STOP_LIMIT" supervisor_gone || true
    fi
    kill_cgroup "$cgroup"
    detach_loops
    wait_until 5 loop_gone "$dir/pool.img" || say "a loop device still holds $dir/pool.img: losetup -j $dir/pool.img"
}

loop_gone() { [[ -z $(losetup -j "$1" 2>/dev/null) ]]; }

# Loop devices that were made inside the host and not given back: their files lie on the host's file systems.
detach_loops() {
    local device number
    [[ -e $dir/devices ]] || return 0
    losetup --noheadings --output NAME,BACK-MAJ:MIN | while read -r device number; do
        if grep -qxF "$number" "$dir/devices"; then losetup -d "$device" || true; fi
    done
}
