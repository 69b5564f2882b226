# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# The supervisor lives in a mount namespace of its own, and it and everything it starts in one cgroup: killing the
# cgroup ends every process of the host, and the kernel then drops the mounts and the loop device with the namespace.

# Sets cgroup to the host's directory in the cgroup2 hierarchy.
find_cgroup() {
    local root
    root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
    if [[ -z $root ]]; then
        root=$STATE/.cgroup2
        mkdir -p "$root"
        mount -t cgroup2 none "$root"
    fi
    cgroup=$root/machctl-hosts/$name
}

start_supervisor() {
    find_cgroup
    # What a killed supervisor has left running.
    kill_cgroup "$cgroup"
    rm -f "$dir"/{ready,leader,failed,supervisor,booted}
    # All descriptors of the caller are let go: up may have been called in a pipe or under a lock.
    setsid unshare --mount --propagation private -- "$HERE/host" __supervise "$name" \
        </dev/null >>"$dir/supervisor.log" 2>&1 8>&- 9>&- &
    disown
    wait_until 30 test -s "$dir/supervisor" || die "the supervisor of $name did not start (log: $dir/supervisor.log)"
}

await_host() {
    local logs="logs: $dir/console.log, $dir/supervisor.log" state
    wait_until "$BOOT_LIMIT" boot_settled || die "$name did not boot in $BOOT_LIMIT s ($logs)"
    [[ -e $dir/ready ]] || die "$name did not boot: $(cat "$dir/failed" 2>/dev/null || echo "its supervisor ended") ($logs)"
    state=$(<"$dir/ready")
    [[ $state == running ]] || say "$name is $state: vagrant/host run --name $name -- systemctl --failed says why"
}

boot_settled() { [[ -e $dir/ready || -e $dir/failed ]] || ! supervisor_alive; }

supervisor_alive() {
    local pid start
    { read -r pid start <"$dir/supervisor"; } 2>/dev/null && [[ $(start_time "$pid") == "$start" ]]
}

# When a living process started, in ticks since boot: a PID alone may long be somebody else's.
start_time() { # PID
    local stat
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    [[ $1 == [ZX] ]] || echo "${20}"
}

supervisor_gone() { ! supervisor_alive; }

# True while the host's PID 1, or the vm's qemu, lives.
host_running() {
    local pid start
    { read -r pid start <"$dir/leader"; } 2>/dev/null && [[ $(start_time "$pid") == "$start" ]]
}

# In the supervisor: what start_supervisor has started.
supervise() {
    find_cgroup
    mkdir -p "$cgroup/supervisor"
    echo 0 >"$cgroup/supervisor/cgroup.procs"
    cd "$dir" || exit 1
    trap '' HUP INT
    trap 'rm -f leader ready' EXIT
    printf '%s %s\n' "$$" "$(start_time "$$")" >supervisor.new
    mv supervisor.new supervisor
    "supervise_$kind"
}

# Ends every process in a cgroup and below, and removes it.
kill_cgroup() { # CGROUP
    local group=$1 sub
    [[ -d $group ]] || return 0
    # cgroup.kill came with Linux 5.14.
    if [[ -e $group/cgroup.kill ]]; then
        echo 1 >"$group/cgroup.kill" || true
    else
        find "$group" -name cgroup.procs -exec xargs -r -a {} kill -KILL ';' 2>/dev/null || true
    fi
    wait_until 10 cgroup_empty "$group" || say "processes in $group do not end"
    remove_cgroup "$group"
    # On a hybrid machine nspawn makes the same group in systemd's own v1 hierarchy.
    while read -r sub; do
        remove_cgroup "$sub/machctl-hosts/${group##*/machctl-hosts/}"
    done < <(awk '$3 == "cgroup" && $4 ~ /name=systemd/ { print $2 }' /proc/mounts)
}

remove_cgroup() { # CGROUP
    [[ -d $1 ]] || return 0
    find "$1" -depth -type d -exec rmdir {} ';' 2>/dev/null || true
    if [[ ! -d $1 ]]; then rmdir "${1%/*}" 2>/dev/null || true; fi
}

cgroup_empty() { grep -qsx 'populated 0' "$1/cgroup.events" || [[ ! -e $1 ]]; }
