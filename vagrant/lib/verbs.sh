# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash

declare -A OPTIONS=([suite]="trixie bookworm forky" [pool]="btrfs ext4" [kind]="nspawn vm" [networkd]="yes no")

# Sets wanted_name, wanted (what was given of the host's properties), all and command.
parse_options() { # VERB ARGUMENTS...
    local verb=$1 option value
    shift
    wanted_name=host
    declare -gA wanted=()
    all=no
    command=()
    while (($#)); do
        option=$1
        value=${2-}
        case $option in
            --*=*)
                value=${option#*=}
                option=${option%%=*}
                shift
                set -- "$option" "$value" "$@"
                ;;
        esac
        case $verb:$option in
            *:--name)
                check_name "$value"
                wanted_name=$value
                shift 2
                ;;
            up:--suite | up:--pool | up:--kind | up:--networkd)
                [[ " ${OPTIONS[${option#--}]} " == *" $value "* && -n $value ]] ||
                    usage_error "$option is one of ${OPTIONS[${option#--}]}, not '$value'"
                wanted[${option#--}]=$value
                shift 2
                ;;
            up:--pool-size)
                [[ $value =~ ^[1-9][0-9]*[MGT]$ ]] || usage_error "--pool-size is a number and M, G or T, not '$value'"
                wanted[pool_size]=$value
                shift 2
                ;;
            up:--no-network)
                wanted[network]=no
                shift
                ;;
            down:--all)
                all=yes
                shift
                ;;
            run:--)
                shift
                command=("$@")
                break
                ;;
            run:-*) usage_error "unknown option '$option' of run; the command goes after --" ;;
            run:*)
                command=("$@")
                break
                ;;
            *) usage_error "unknown argument '$option' of $verb; see vagrant/host --help" ;;
        esac
    done
    [[ $verb != run || ${#command[@]} -gt 0 ]] || usage_error "run what? vagrant/host run [--name N] -- COMMAND ..."
}

verb_up() {
    lock_host "$wanted_name"
    if host_exists "$wanted_name"; then
        load_host "$wanted_name"
        refuse_other_properties
    else
        create_host
    fi
    # It may be booting still, or again, or on its way down.
    if supervisor_alive; then wait_until "$BOOT_LIMIT" boot_settled || true; fi
    if ! supervisor_alive; then
        raise_kernel_limits
        "need_$kind"
        start_supervisor
    fi
    await_host
    provision_host
}

create_host() {
    name=$wanted_name
    dir=$STATE/$name
    suite=${wanted[suite]-trixie} pool=${wanted[pool]-btrfs} kind=${wanted[kind]-nspawn}
    networkd=${wanted[networkd]-yes} network=${wanted[network]-yes} pool_size=${wanted[pool_size]-20G}
    "need_$kind"
    ensure_tree "$kind" "$suite"
    rm -rf --one-file-system "$dir"
    mkdir -p "$dir"
    chmod 700 "$dir"
    "prepare_$kind"
    save_host
}

refuse_other_properties() {
    local key
    for key in "${!wanted[@]}"; do
        [[ ${wanted[$key]} == "${!key}" ]] ||
            die "$name exists with $key ${!key}, not ${wanted[$key]}: take another --name, or vagrant/host down --name $name first"
    done
}

# Installs the checkout into the host unless it holds this very content.
provision_host() {
    local checkout=${HERE%/*} parts=() part hash
    for part in machines templates units vagrant/provision.sh; do
        [[ ! -e $checkout/$part ]] || parts+=("$part")
    done
    hash=$(cd "$checkout" && find "${parts[@]}" -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | sha256sum)
    [[ ! -e $dir/provisioned || $(<"$dir/provisioned") != "$hash" ]] || return 0

    # shellcheck disable=SC2016 # the host's shell expands them
    tar -C "$checkout" --exclude=__pycache__ -cf - "${parts[@]}" |
        ("enter_$kind" sh -c 'src=$(mktemp -d) && tar -xf - --no-same-owner -C "$src" &&
            sh "$src/vagrant/provision.sh" "$src"; code=$?; rm -rf "$src"; exit $code') >"$dir/provision.log" 2>&1 ||
        die "installing the checkout into $name failed: $(tail -n 1 "$dir/provision.log") (log: $dir/provision.log)"
    echo "$hash" >"$dir/provisioned"
}

load_wanted() {
    host_exists "$wanted_name" || die "no host $wanted_name: start it with vagrant/host up --name $wanted_name"
    load_host "$wanted_name"
}

verb_run() {
    load_wanted
    "enter_$kind" "${command[@]}"
}

verb_shell() {
    load_wanted
    "enter_$kind" /bin/bash -l
}

verb_list() {
    local conf state row='%-16s %-7s %-9s %-6s %-9s %s\n'
    # shellcheck disable=SC2059 # one format for the head and the rows
    printf "$row" NAME KIND SUITE POOL NETWORKD STATE
    for conf in "$STATE"/*/conf; do
        [[ -e $conf ]] || continue
        conf=${conf%/conf}
        load_host "${conf##*/}"
        state=stopped
        if host_running; then
            state=$(cat "$dir/ready" 2>/dev/null || echo booting)
        fi
        # shellcheck disable=SC2059
        printf "$row" "$name" "$kind" "$suite" "$pool" "$networkd" "$state"
    done
}

verb_down() {
    local conf names=("$wanted_name")
    if [[ $all == yes ]]; then
        names=()
        for conf in "$STATE"/*/conf; do
            conf=${conf%/conf}
            [[ ! -e $conf ]] || names+=("${conf##*/}")
        done
    fi
    for name in "${names[@]}"; do take_down "$name"; done
}

take_down() { # NAME
    lock_host "$1"
    if host_exists "$1"; then
        load_host "$1"
        "stop_$kind"
    elif [[ ! -d $STATE/$1 ]]; then
        say "there is no host $1"
    fi
    # One file system: should anything still be mounted there, its content is not for us to delete.
    rm -rf --one-file-system "${STATE:?}/$1" || die "could not remove $STATE/$1: something is still mounted or busy there"
    rm -f "$STATE/.$1.lock"
    exec 9>&-
}

verb_try() {
    local me name_option=""
    verb_up
    inside machctl show debian >/dev/null 2>&1 ||
        inside machctl create debian --bridge br0 -p 8080:80 --package nginx-light --start --wait ip
    echo
    inside machctl list
    echo
    echo "http://127.0.0.1:8080 in the host answers:"
    inside curl -sS --max-time 20 -I http://127.0.0.1:8080

    me=${SUDO_USER:+sudo }$0
    [[ $name == host ]] || name_option=" --name $name"
    cat <<EOT

What to type next:
    $me run$name_option -- machctl shell debian
    $me run$name_option -- machctl logs debian
    $me run$name_option -- machctl stop debian
    $me run$name_option -- machctl rm debian
    $me shell$name_option
    $me down$name_option
EOT
}

inside() { ("enter_$kind" "$@"); }
