# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash

CACHE=${MACHCTL_HOSTS_CACHE:-/var/cache/machctl-hosts}
STATE=${MACHCTL_HOSTS_STATE:-/var/lib/machctl-hosts}
BOOT_LIMIT=300 # seconds until a booting host is given up: an emulated one takes 30 on an idle machine
STOP_LIMIT=10  # seconds an orderly poweroff may take

say() { printf 'host: %s\n' "$*" >&2; }

die() {
    printf 'vagrant/host: %s\n' "$*" >&2
    exit 1
}

usage_error() {
    printf 'vagrant/host: %s\n' "$*" >&2
    exit 2
}

# Milliseconds since boot.
now() {
    local seconds
    read -r seconds _ </proc/uptime
    printf '%s' "$((10#${seconds/./} * 10))"
}

# wait_until SECONDS COMMAND...: true as soon as COMMAND is, false after SECONDS.
wait_until() {
    local end=$(($(now) + $1 * 1000))
    shift
    until "$@"; do
        (($(now) < end)) || return 1
        sleep 0.03
    done
}

# need PROGRAM=PACKAGE...: has apt install what is missing where that works, else names it.
need() {
    missing_of "$@"
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null ||
        die "missing here: the programs of Debian's packages ${missing[*]}; install them and try again"
    # apt-get update gives up at once when another one runs, whatever DPkg::Lock::Timeout says. No host has such a name.
    exec 6>"$STATE/.apt.packages.lock"
    flock 6
    missing_of "$@"
    if ((${#missing[@]})); then
        say "installing ${missing[*]}"
        install_missing >"$STATE/apt.log" 2>&1 </dev/null 6>&- ||
            die "could not install ${missing[*]} (log: $STATE/apt.log); try: apt-get install ${missing[*]}"
    fi
    exec 6>&-
}

# Sets missing: the packages of the PROGRAM=PACKAGE... that are not there.
missing_of() {
    local pair
    missing=()
    for pair; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
}

install_missing() {
    apt-get -q update &&
        DEBIAN_FRONTEND=noninteractive \
            apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=600 install "${missing[@]}"
}

# These limits are of the one kernel below all hosts: nothing inside a host can raise them.
raise_kernel_limits() {
    local key least file value
    while read -r key least; do
        file=/proc/sys/${key//.//}
        [[ -r $file ]] || continue
        value=$(<"$file")
        ((value < least)) || continue
        if { echo "$least" >"$file"; } 2>/dev/null; then
            say "raised $key from $value to $least"
        else
            say "$key is $value: few machines will start; set it to $least"
        fi
    done <<'EOT'
fs.inotify.max_user_instances 8192
fs.inotify.max_user_watches 524288
kernel.keys.maxkeys 20000
kernel.keys.maxbytes 2000000
EOT
}

check_name() {
    [[ $1 =~ ^[a-z][a-z0-9-]{0,31}$ ]] ||
        usage_error "not a host name: '$1' (lower case letters, digits and -, beginning with a letter)"
}

host_exists() { [[ -e $STATE/$1/conf ]]; }

# Sets name, dir, kind, suite, pool, networkd, network, pool_size and tree of an existing host.
load_host() {
    name=$1
    dir=$STATE/$1
    # shellcheck source=/dev/null
    . "$dir/conf"
}

save_host() {
    local key
    for key in kind suite pool networkd network pool_size tree; do
        printf '%s=%q\n' "$key" "${!key}"
    done >"$dir/conf.new"
    mv "$dir/conf.new" "$dir/conf"
}

# lock_host NAME: held until this process ends.
lock_host() {
    exec 9>"$STATE/.$1.lock"
    flock -w "$BOOT_LIMIT" 9 || die "another vagrant/host has been working on $1 for $BOOT_LIMIT s"
}
