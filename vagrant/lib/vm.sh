# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# A host that is a virtual machine: qemu with software emulation, entered through ssh on a port of 127.0.0.1.

VM_MEMORY=4096

need_vm() {
    need qemu-system-x86_64=qemu-system-x86 qemu-img=qemu-utils ssh=openssh-client python3=python3 \
        mkfs.ext4=e2fsprogs "mkfs.$pool=$([[ $pool == btrfs ]] && echo btrfs-progs || echo e2fsprogs)"
}

# Turns a tree into what qemu takes: kernel, initrd and the image of a root file system.
make_vm_image() { # TREE
    local image=$1.image
    rm -rf "$image"
    mkdir "$image" &&
        cp -L "$1/vmlinuz" "$image/vmlinuz" &&
        cp -L "$1/initrd.img" "$image/initrd" &&
        mkfs.ext4 -q -E lazy_itable_init=1,nodiscard -d "$1" "$image/root.img" 20G &&
        rm -rf --one-file-system "$1" &&
        mv "$image" "$1"
}

prepare_vm() {
    local content=$dir/pool.d mkfs=(mkfs.ext4 -q -F -E "lazy_itable_init=1,nodiscard" -d)
    [[ $pool == ext4 ]] || mkfs=(mkfs.btrfs -q -f --rootdir)
    qemu-img create -q -f qcow2 -F raw -b "$tree/root.img" "$dir/root.qcow2"

    mkdir -p "$content"/{machines,machctl,ssh}
    chmod 700 "$content/machines"
    ssh-keygen -q -t ed25519 -N '' -C "vagrant/host $name" -f "$dir/key"
    ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$content/ssh/host_key"
    cp "$dir/key.pub" "$content/ssh/authorized_keys"
    printf '%s %s\n' "$name" "$(<"$content/ssh/host_key.pub")" >"$dir/known_hosts"
    chown -R 0:0 "$content"
    truncate -s "$pool_size" "$dir/pool.img"
    "${mkfs[@]}" "$content" "$dir/pool.img" >"$dir/mkfs.log" 2>&1 || die "mkfs of the pool failed (log: $dir/mkfs.log)"
    rm -rf "$content"
    tr -d - </proc/sys/kernel/random/uuid >"$dir/machine-id"
    cat >"$dir/ssh_config" <<EOT
Host $name
    HostName 127.0.0.1
    HostKeyAlias $name
    User root
    IdentityFile $dir/key
    IdentitiesOnly yes
    UserKnownHostsFile $dir/known_hosts
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
    ControlPath $dir/ssh.sock
    ConnectTimeout 20
    ServerAliveInterval 10
    ServerAliveCountMax 18
EOT
}

# --- the supervisor's side ---------------------------------------------------------------------------------------

supervise_vm() {
    local unit port qemu code=0 restrict=off append
    rm -f console.log
    port=$(python3 -I -S -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    echo "$port" >port
    append="root=/dev/vda rw console=ttyS0 quiet panic=1 systemd.hostname=$name systemd.machine_id=$(<machine-id)"
    append+=" machctl.networkd=$networkd"
    if [[ $networkd == no ]]; then
        for unit in $(networkd_units); do append+=" systemd.mask=$unit"; done
    fi
    [[ $network == yes ]] || restrict=on

    mkdir -p "$cgroup/host"
    (
        echo 0 >"$cgroup/host/cgroup.procs"
        # cmpxchg16b: qemu 7.2 corrupts the flags emulating it, and the kernel panics within seconds. One processor:
        # with two, one emulates code that the kernel patches from the other, and now and then that ends in a panic,
        # "Oops: int3" (https://bugzilla.redhat.com/show_bug.cgi?id=2216496).
        exec qemu-system-x86_64 -accel tcg -cpu max,-cx16 -smp 1 -m "$VM_MEMORY" \
            -nographic -monitor none -serial "file:$dir/console.log" -nodefaults \
            -kernel "$tree/vmlinuz" -initrd "$tree/initrd" -append "$append" \
            -drive "file=$dir/root.qcow2,if=virtio,format=qcow2,cache=unsafe,discard=unmap" \
            -drive "file=$dir/pool.img,if=virtio,format=raw,cache=unsafe,discard=unmap" \
            -netdev "user,id=uplink,ipv6=off,restrict=$restrict,hostfwd=tcp:127.0.0.1:$port-:22" \
            -device virtio-net-pci,netdev=uplink -device virtio-rng-pci
    ) </dev/null >>qemu.log 2>&1 &
    qemu=$!
    printf '%s %s\n' "$qemu" "$(start_time "$qemu")" >leader
    connect_vm >/dev/null && echo "$vm_state" >ready.new && mv ready.new ready &
    wait "$qemu" || code=$?
    kill "$!" 2>/dev/null || true
    vm_ssh -O exit 2>/dev/null || true
    [[ -e ready ]] || echo "qemu ended with code $code while it booted" >failed
}

vm_ssh() { ssh -F "$dir/ssh_config" -p "$(<"$dir/port")" "$@" "$name"; }

# How often the machine has come out of reset: a connection from before one is dead, though ssh may not know yet.
vm_boots() { grep -ac SeaBIOS "$dir/console.log" 2>/dev/null || true; }

# Makes the shared connection to a booted vm unless there is one, and sets vm_state.
connect_vm() {
    local end=$(($(now) + BOOT_LIMIT * 1000)) boots
    exec 7>"$dir/.connect.lock"
    flock 7
    while :; do
        boots=$(vm_boots)
        if [[ -e $dir/connected && $(<"$dir/connected") == "$boots" ]] && vm_ssh -O check 2>/dev/null; then
            vm_state=$(<"$dir/ready.state")
            break
        fi
        vm_ssh -O exit 2>/dev/null || true
        if vm_ssh -f -N -M 2>/dev/null 7>&- 9>&- </dev/null >/dev/null; then
            vm_state=$(ssh -F "$dir/ssh_config" "$name" systemctl is-system-running --wait 2>/dev/null 7>&- </dev/null) || true
            if [[ $vm_state == running || $vm_state == degraded ]]; then
                echo "$vm_state" >"$dir/ready.state"
                echo "$boots" >"$dir/connected"
                continue
            fi
        fi
        host_running || return 1
        (($(now) < end)) || return 1
        sleep 0.3
    done
    exec 7>&-
}

# --- entering and ending it --------------------------------------------------------------------------------------

enter_vm() { # COMMAND...
    local vm_state
    host_running || die "$name is not running: start it with vagrant/host up --name $name"
    connect_vm || die "$name does not answer (log: $dir/console.log)"
    exec python3 -I "$HERE/lib/enter_vm.py" "$dir" "$name" "$@"
}

stop_vm() {
    find_cgroup
    if host_running && [[ -e $dir/ready ]]; then
        timeout 5 ssh -F "$dir/ssh_config" -o ConnectTimeout=3 -p "$(<"$dir/port")" "$name" systemctl poweroff --no-block </dev/null >/dev/null 2>&1 || true
        wait_until "$STOP_LIMIT" supervisor_gone || true
    fi
    if [[ -e $dir/port ]]; then vm_ssh -O exit 2>/dev/null || true; fi
    kill_cgroup "$cgroup"
}
