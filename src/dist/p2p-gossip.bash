# bash completion for p2p-gossip, made by `make dist`
_p2p_gossip() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} options
    # bash splits --option=value into three words.
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    COMPREPLY=()
    case $previous in
    --alert | --allow-file | --cert | --control | --deny-file | --key | --network | --network-key | --on-event)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    --state)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$current")
        return
        ;;
    --output)
        mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$current")
        return
        ;;
    --pings | --port-mapping | --relay)
        mapfile -t COMPREPLY < <(compgen -W 'on off' -- "$current")
        return
        ;;
    --advertise | --allow | --bind | --connect | --deny | --discover | --forget-after | --grace | --heartbeat | --http | --join | --join-timeout | --max-peers | --members | --name | --period | --port | --timeout) return ;;
    esac
    case ${COMP_WORDS[1]} in
    keygen) options='--key --cert --network --help' ;;
    id) options='--key --cert --state --help' ;;
    peers) options='--state --output --help' ;;
    forget) options='--state --control --help' ;;
    invite) options='--state --qr --help' ;;
    members) options='--state --control --output --help' ;;
    status) options='--state --control --output --help' ;;
    watch) options='--state --control --output --help' ;;
    why) options='--state --control --output --help' ;;
    ping) options='--state --control --output --help' ;;
    send) options='--state --control --output --help' ;;
    connect) options='--state --control --output --help' ;;
    allow) options='--state --control --output --help' ;;
    deny) options='--state --control --output --help' ;;
    reload) options='--state --control --output --help' ;;
    rotate) options='--state --control --output --grace --help' ;;
    leave) options='--state --control --output --help' ;;
    wait) options='--state --control --output --members --timeout --help' ;;
    doctor) options='--state --connect --network-key --port --output --help' ;;
    *)
        options='--period --port --connect --discover --key --cert --state --allow --allow-file --deny --deny-file --strict --relay --port-mapping --network-key --closed --join --bind --advertise --name --max-peers --heartbeat --timeout --forget-after --output --pings --quiet --stdin --exit-after-stdin --join-timeout --on-event --on-event-pings --alert --http --control --version --help'
        ((COMP_CWORD > 1)) || options+=' keygen id peers forget invite members status watch why ping send connect allow deny reload rotate leave wait doctor'
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
}
complete -F _p2p_gossip p2p-gossip
