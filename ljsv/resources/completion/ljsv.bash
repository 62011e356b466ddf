# Completion of ljsv(1) and ljexec(1) for bash. No Python is started, and no name of a service is ever evaluated.
# Made by tools/make-resources from tools/completion/ljsv.bash.in: do not edit.

_ljsv_verbs='up down once restart reset-failed exit status top why wait logs events enter image deploy rollback overlay explain metrics lint doctor new enable disable enable-boot remove purge scan upgrade init poweroff reboot halt completion help pause cont hup alarm interrupt quit usr1 usr2 term kill start stop list ps reload log tail exec shell'
_ljsv_globals='--svdir -h --help --version -w'
_ljsv_fields='name state want ready ready_by ready_after_s supervised paused term_sent privileged normally pid supervisor_pid log_pid log_state since_s restarts failures next_try_s result end_text end_code end_status run_time why needs waiting status_text jail image image_generation deployment not_deployed overlay_bytes memory_bytes memory_peak_bytes memory_max_bytes swap_bytes rss_bytes cpu_s cpu_max_percent pids pids_max oom_kills not_enforced directory log fault hint problem changed log_fault notes'
_ljexec_options='--root --image --exec --rw --overlay-dir --writable --bind --tmpfs --env --inherit-env --workdir --hostname --user --ids --net --mem --cpu --pids --cap --seccomp --json-status-fd --explain -h --help --version'

_ljsv_options_of() {
    case $1 in
        up|start|down|stop|once|restart|reset-failed|exit|pause|cont|hup|reload|alarm|interrupt|quit|usr1|usr2|term|kill) echo '--all --svdir -h --help --version -w' ;;
        status|list|ps) echo '--json --all -o -q --quiet --svdir -h --help --version -w' ;;
        top) echo '-d -n --sort --all --svdir -h --help --version -w' ;;
        why) echo '-n --json --all --svdir -h --help --version -w' ;;
        wait) echo '--all --for --svdir -h --help --version -w' ;;
        logs|log|tail) echo '-f --follow -n --lines --since --all --svdir -h --help --version -w' ;;
        events) echo '-f --follow -n --lines --since --svdir -h --help --version -w' ;;
        enter|exec|shell|explain|upgrade|completion|help) echo '--svdir -h --help --version -w' ;;
        image) echo '-o -t -f --target --build-arg --net --no-cache --type --compression --level --max-size --max-files --select --keep-times --plain -q --json --digests --files --format --svdir -h --help --version -w' ;;
        deploy) echo '--image --settle --svdir -h --help --version -w' ;;
        rollback) echo '--to --keep-overlay --settle --svdir -h --help --version -w' ;;
        overlay) echo '--yes --json --live --settle --svdir -h --help --version -w' ;;
        metrics) echo '--all --to --svdir -h --help --version -w' ;;
        lint) echo '--all --json --svdir -h --help --version -w' ;;
        doctor) echo '--json --svdir -h --help --version -w' ;;
        new) echo '--run --image --down --from --from-unit --from-compose --template --set --template-dir --templates --json --svdir -h --help --version -w' ;;
        enable|disable) echo '--all --now --svdir -h --help --version -w' ;;
        enable-boot) echo '--print --user --init --root --command --svdir --svdir -h --help --version -w' ;;
        remove|purge) echo '--yes --svdir -h --help --version -w' ;;
        scan) echo '--daemon --log-cap --svdir -h --help --version -w' ;;
        init) echo '--svdir --deadline --watchdog --watchdog-timeout --explain --svdir -h --help --version -w' ;;
        poweroff|reboot|halt) echo '-f --force --svdir -h --help --version -w' ;;
    esac
}

_ljsv_operands_of() {
    case $1 in
        up|start|down|stop|once|restart|reset-failed|exit|status|list|ps|top|why|logs|log|tail|events|deploy|rollback|explain|metrics|new|enable|disable|remove|purge|pause|cont|hup|reload|alarm|interrupt|quit|usr1|usr2|term|kill) echo 'NAME' ;;
        wait) echo 'NAME ready up down' ;;
        enter|exec|shell) echo 'NAME COMMAND' ;;
        image) echo 'build import export ls inspect tag rm gc verify' ;;
        overlay) echo 'diff ls snapshot restore reset NAME' ;;
        lint) echo 'DIR NAME' ;;
        scan) echo 'DIR' ;;
        completion) echo 'bash zsh fish' ;;
    esac
}

_ljsv_value_of() { # "VERB OPTION": nothing for an option without a value
    case $1 in
        'status -o'|'list -o'|'ps -o') echo 'FIELD' ;;
        'top -d'|'top -n'|'top --sort'|'why -n'|'logs -n'|'logs --lines'|'logs --since'|'log -n'|'log --lines'|'log --since'|'tail -n'|'tail --lines'|'tail --since'|'events -n'|'events --lines'|'events --since'|'image -f'|'image --target'|'image --build-arg'|'image --level'|'image --max-size'|'image --max-files'|'deploy --image'|'deploy --settle'|'rollback --to'|'rollback --settle'|'overlay --settle'|'new --template'|'new --set'|'enable-boot --command'|'scan --log-cap'|'init --deadline'|'init --watchdog'|'init --watchdog-timeout'|*' -w'|'ljexec --bind'|'ljexec --tmpfs'|'ljexec --env'|'ljexec --hostname'|'ljexec --user'|'ljexec --mem'|'ljexec --cpu'|'ljexec --pids'|'ljexec --cap'|'ljexec --json-status-fd') echo 'TEXT' ;;
        'wait --for') echo 'ready up down' ;;
        'image -o'|'metrics --to'|'new --from-unit'|'new --from-compose'|'ljexec --image') echo 'FILE' ;;
        'image -t'|'image --select'|'new --image') echo 'NAME' ;;
        'image --net') echo 'none host' ;;
        'image --type') echo 'squashfs erofs' ;;
        'image --compression') echo 'zstd xz gzip lz4 none' ;;
        'image --format') echo 'tar oci' ;;
        'new --run'|'ljexec --exec') echo 'COMMAND' ;;
        'new --from'|'new --template-dir'|'enable-boot --root'|'enable-boot --svdir'|'init --svdir'|*' --svdir'|'ljexec --root'|'ljexec --overlay-dir'|'ljexec --workdir') echo 'DIR' ;;
        'enable-boot --init') echo 'systemd openrc inittab runit' ;;
        'ljexec --writable') echo 'no tmpfs' ;;
        'ljexec --ids') echo 'one range' ;;
        'ljexec --net') echo 'host none' ;;
        'ljexec --seccomp') echo 'default off' ;;
    esac
}

# Adds those of the words that begin with what has been typed.
_ljsv_words() {
    local word
    for word; do
        [[ $word == "$cur"* ]] && COMPREPLY+=("$word")
    done
}

_ljsv_services() {
    local dir=${1:-$SVDIR} entry
    dir=${dir/#\~/$HOME}
    if [[ -z $dir ]]; then
        if [[ -d sv ]]; then
            dir=sv
        elif ((EUID == 0)); then
            dir=/etc/ljsv/sv
        else
            dir=${XDG_CONFIG_HOME:-$HOME/.config}/ljsv/sv
        fi
    fi
    for entry in "$dir"/*/; do
        [[ -d $entry ]] || continue
        entry=${entry%/} entry=${entry##*/}
        [[ $entry == "$cur"* ]] && COMPREPLY+=("$(printf %q "$entry")")
    done
}

_ljsv_fill() { # kinds of values, or words
    local kind done
    for kind; do
        case $kind in
            NAME) _ljsv_services "$svdir" ;;
            DIR) compopt -o filenames; mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -d -- "$cur") ;;
            FILE) compopt -o filenames; mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- "$cur") ;;
            COMMAND) mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -c -- "$cur") ;;
            FIELD)
                done= ; [[ $cur == *,* ]] && done=${cur%,*},
                compopt -o nospace
                for kind in $_ljsv_fields; do _ljsv_words "$done$kind"; done ;;
            TEXT) ;;
            *) _ljsv_words "$kind" ;;
        esac
    done
}

_ljsv() {
    local cur=${COMP_WORDS[COMP_CWORD]} verb='' svdir='' option='' operands=0 word kinds i
    COMPREPLY=()
    [[ $cur == '=' ]] && cur=
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == '=' ]]; then
            continue
        elif [[ -n $option ]]; then
            [[ $option == --svdir ]] && svdir=$word
            option=
        elif [[ $word == -* ]]; then
            [[ -n $(_ljsv_value_of "$verb $word") ]] && option=$word
        else
            if [[ -z $verb ]]; then verb=$word; else ((operands += 1)); fi
        fi
    done
    if [[ -n $option ]]; then
        _ljsv_fill $(_ljsv_value_of "$verb $option")
    elif [[ $cur == -* ]]; then
        _ljsv_words $([[ -n $verb ]] && _ljsv_options_of "$verb" || echo "$_ljsv_globals")
    elif [[ -z $verb ]]; then
        _ljsv_words $_ljsv_verbs
    else
        kinds=$(_ljsv_operands_of "$verb")
        if [[ $kinds == *NAME*COMMAND* ]]; then
            ((operands == 0)) && kinds=${kinds/COMMAND/} || kinds=${kinds/NAME/}
        fi
        _ljsv_fill $kinds
    fi
}

_ljexec() {
    local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} svdir='' kinds=''
    COMPREPLY=()
    [[ $before == -* ]] && kinds=$(_ljsv_value_of "ljexec $before")
    if [[ -n $kinds ]]; then
        _ljsv_fill $kinds
    elif [[ $cur == -* ]]; then
        _ljsv_words $_ljexec_options
    elif [[ $before == -- ]]; then
        _ljsv_fill COMMAND
    fi
}

complete -F _ljsv ljsv
complete -F _ljexec ljexec
