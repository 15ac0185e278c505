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
    --allow-file | --cert | --deny-file | --key | --network | --network-key | --on-event)
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
    --pings | --relay)
        mapfile -t COMPREPLY < <(compgen -W 'on off' -- "$current")
        return
        ;;
    --advertise | --allow | --bind | --connect | --deny | --forget-after | --heartbeat | --http | --join | --join-timeout | --max-peers | --name | --period | --port | --timeout) return ;;
    esac
    case ${COMP_WORDS[1]} in
    keygen) options='--key --cert --network --help' ;;
    id) options='--key --cert --state --help' ;;
    peers) options='--state --output --help' ;;
    forget) options='--state --help' ;;
    invite) options='--state --qr --help' ;;
    *)
        options='--period --port --connect --key --cert --state --allow --allow-file --deny --deny-file --strict --relay --network-key --closed --join --bind --advertise --name --max-peers --heartbeat --timeout --forget-after --output --pings --quiet --stdin --exit-after-stdin --join-timeout --on-event --on-event-pings --http --version --help'
        ((COMP_CWORD > 1)) || options+=' keygen id peers forget invite'
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
}
complete -F _p2p_gossip p2p-gossip
