# Completion of ljsv(1) and ljexec(1) for fish. No Python is started.
# Made by tools/make-resources from tools/completion/ljsv.fish.in: do not edit.

set -g _ljsv_valued '* --svdir' '* -w' 'status -o' 'list -o' 'ps -o' 'top -d' 'top -n' 'top --sort' 'why -n' 'wait --for' 'logs -n' 'logs --lines' 'logs --since' 'log -n' 'log --lines' 'log --since' 'tail -n' 'tail --lines' 'tail --since' 'events -n' 'events --lines' 'events --since' 'image -o' 'image -t' 'image -f' 'image --target' 'image --build-arg' 'image --net' 'image --type' 'image --compression' 'image --level' 'image --max-size' 'image --max-files' 'image --select' 'image --format' 'deploy --image' 'deploy --settle' 'rollback --to' 'rollback --settle' 'overlay --settle' 'metrics --to' 'new --run' 'new --image' 'new --from' 'new --from-unit' 'new --from-compose' 'new --template' 'new --set' 'new --template-dir' 'enable-boot --init' 'enable-boot --root' 'enable-boot --command' 'enable-boot --svdir' 'scan --log-cap' 'init --svdir' 'init --deadline' 'init --watchdog' 'init --watchdog-timeout'

# Sets __ljsv_verb and __ljsv_dir to the verb and the scan directory that have been typed; empty for none.
function __ljsv_look
    set -g __ljsv_verb
    set -g __ljsv_dir
    set -l option
    for word in (commandline -opc)[2..-1]
        if test -n "$option"
            test "$option" = --svdir; and set -g __ljsv_dir $word
            set option
        else if string match -q -- '--svdir=*' $word
            set -g __ljsv_dir (string replace -- '--svdir=' '' $word)
        else if contains -- "$__ljsv_verb $word" $_ljsv_valued; or contains -- "* $word" $_ljsv_valued
            set option $word
        else if not string match -q -- '-*' $word; and test -z "$__ljsv_verb"
            set -g __ljsv_verb $word
        end
    end
end

function __ljsv_needs_verb
    __ljsv_look
    test -z "$__ljsv_verb"
end

function __ljsv_verb_is
    __ljsv_look
    contains -- "$__ljsv_verb" $argv
end

function __ljsv_services
    __ljsv_look
    set -l dir (string replace -r '^~' $HOME -- $__ljsv_dir)
    test -z "$dir"; and set dir $SVDIR
    if test -z "$dir"
        if test -d sv
            set dir sv
        else if test (id -u) = 0
            set dir /etc/ljsv/sv
        else if test -n "$XDG_CONFIG_HOME"
            set dir $XDG_CONFIG_HOME/ljsv/sv
        else
            set dir $HOME/.config/ljsv/sv
        end
    end
    for entry in $dir/*/
        string replace -r '.*/([^/]+)/$' '$1' -- $entry
    end
end

complete -c ljsv -f
complete -c ljsv -n __ljsv_needs_verb -a up -d 'start, and wait until it is ready; starts a scanner where none runs'
complete -c ljsv -n __ljsv_needs_verb -a down -d 'stop, and wait until it is down'
complete -c ljsv -n __ljsv_needs_verb -a once -d 'start, and do not restart when it ends'
complete -c ljsv -n __ljsv_needs_verb -a restart -d 'stop and start with the files as they are now'
complete -c ljsv -n __ljsv_needs_verb -a reset-failed -d 'let those that have failed for good be down: nothing is started'
complete -c ljsv -n __ljsv_needs_verb -a exit -d 'stop, and end the supervisor; with --all the scanner too'
complete -c ljsv -n __ljsv_needs_verb -a status -d 'what runs; with one NAME all about it'
complete -c ljsv -n __ljsv_needs_verb -a top -d 'what each uses of its limits, again and again; keys to sort, restart, follow a log'
complete -c ljsv -n __ljsv_needs_verb -a why -d 'how it last ended, its last words, and what comes next'
complete -c ljsv -n __ljsv_needs_verb -a wait -d 'wait until it is that; nothing is sent'
complete -c ljsv -n __ljsv_needs_verb -a logs -d 'what services wrote, by time'
complete -c ljsv -n __ljsv_needs_verb -a events -d 'what ljsv did, a line of JSON an event'
complete -c ljsv -n __ljsv_needs_verb -a enter -d 'run a command in its jail, without one a shell'
complete -c ljsv -n __ljsv_needs_verb -a image -d 'make images of what you have, and the store that keeps them: ljsv image help'
complete -c ljsv -n __ljsv_needs_verb -a deploy -d 'run it with another image; what was comes back if that is not ready in its time'
complete -c ljsv -n __ljsv_needs_verb -a rollback -d 'back to the generation before, image and overlay; the one that is left is kept'
complete -c ljsv -n __ljsv_needs_verb -a overlay -d 'what it has written: against its image; copies of it; back to one; moved aside'
complete -c ljsv -n __ljsv_needs_verb -a explain -d 'every step of its jail, before it is taken'
complete -c ljsv -n __ljsv_needs_verb -a metrics -d 'states, restarts, memory, processor and so on, as Prometheus reads them'
complete -c ljsv -n __ljsv_needs_verb -a lint -d 'check service directories without starting anything'
complete -c ljsv -n __ljsv_needs_verb -a doctor -d 'try what ljsv needs of this machine, and say what is missing'
complete -c ljsv -n __ljsv_needs_verb -a new -d 'make a service directory that runs COMMAND, from a template, or from what another supervisor has'
complete -c ljsv -n __ljsv_needs_verb -a enable -d 'let it start by itself (remove the down file)'
complete -c ljsv -n __ljsv_needs_verb -a disable -d 'do not let it start by itself (make the down file)'
complete -c ljsv -n __ljsv_needs_verb -a enable-boot -d 'have the machine\'s init, or with --user your systemd, start a scanner'
complete -c ljsv -n __ljsv_needs_verb -a remove -d 'stop it, and delete its service directory; --yes off a terminal'
complete -c ljsv -n __ljsv_needs_verb -a purge -d 'delete its state and logs; --yes off a terminal'
complete -c ljsv -n __ljsv_needs_verb -a scan -d 'run a scanner, in the foreground or in the background'
complete -c ljsv -n __ljsv_needs_verb -a upgrade -d 'replace scanner and supervisors by the installed code; services are not touched'
complete -c ljsv -n __ljsv_needs_verb -a init -d 'be process 1 of a machine or a container'
complete -c ljsv -n __ljsv_needs_verb -a poweroff -d 'stop all services, and power off; asks `ljsv init`'
complete -c ljsv -n __ljsv_needs_verb -a reboot -d 'the same, and start again'
complete -c ljsv -n __ljsv_needs_verb -a halt -d 'the same, and stay off until somebody comes'
complete -c ljsv -n __ljsv_needs_verb -a completion -d 'print the completion for that shell'
complete -c ljsv -n __ljsv_needs_verb -a help -d 'this text, or that of one verb'
complete -c ljsv -n __ljsv_needs_verb -a pause -d 'send STOP'
complete -c ljsv -n __ljsv_needs_verb -a cont -d 'send CONT'
complete -c ljsv -n __ljsv_needs_verb -a hup -d 'send HUP'
complete -c ljsv -n __ljsv_needs_verb -a alarm -d 'send ALRM'
complete -c ljsv -n __ljsv_needs_verb -a interrupt -d 'send INT'
complete -c ljsv -n __ljsv_needs_verb -a quit -d 'send QUIT'
complete -c ljsv -n __ljsv_needs_verb -a usr1 -d 'send USR1'
complete -c ljsv -n __ljsv_needs_verb -a usr2 -d 'send USR2'
complete -c ljsv -n __ljsv_needs_verb -a term -d 'send TERM'
complete -c ljsv -n __ljsv_needs_verb -a kill -d 'send KILL'
complete -c ljsv -n __ljsv_needs_verb -a start -d 'the same as up'
complete -c ljsv -n __ljsv_needs_verb -a stop -d 'the same as down'
complete -c ljsv -n __ljsv_needs_verb -a list -d 'the same as status'
complete -c ljsv -n __ljsv_needs_verb -a ps -d 'the same as status'
complete -c ljsv -n __ljsv_needs_verb -a reload -d 'the same as hup'
complete -c ljsv -n __ljsv_needs_verb -a log -d 'the same as logs'
complete -c ljsv -n __ljsv_needs_verb -a tail -d 'the same as logs'
complete -c ljsv -n __ljsv_needs_verb -a exec -d 'the same as enter'
complete -c ljsv -n __ljsv_needs_verb -a shell -d 'the same as enter'
complete -c ljsv -l svdir -r -F -d 'the scan directory, before $SVDIR, ./sv and the usual places'
complete -c ljsv -s h -d 'say what the verb does and what its options are'
complete -c ljsv -l help -d 'the same as -h'
complete -c ljsv -l version -d 'print the version'
complete -c ljsv -s w -x -d 'how long to wait, in seconds, for what was asked (else $SVWAIT, else 7)'
complete -c ljsv -n '__ljsv_verb_is up start' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is up start' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is down stop' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is down stop' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is once' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is once' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is restart' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is restart' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is reset-failed' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is reset-failed' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is exit' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is exit' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is status list ps' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is status list ps' -l json -d 'print JSON instead of text'
complete -c ljsv -n '__ljsv_verb_is status list ps' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is status list ps' -s o -x -a 'name state want ready ready_by ready_after_s supervised paused term_sent privileged normally pid supervisor_pid log_pid log_state since_s restarts failures next_try_s result end_text end_code end_status run_time why needs waiting status_text jail image image_generation deployment not_deployed overlay_bytes memory_bytes memory_peak_bytes memory_max_bytes swap_bytes rss_bytes cpu_s cpu_max_percent pids pids_max oom_kills not_enforced directory log fault hint problem changed log_fault notes' -d 'print these fields only, tabs between them'
complete -c ljsv -n '__ljsv_verb_is status list ps' -s q -d 'print nothing: the exit code says whether all that were named are up; without a name, all that shall be'
complete -c ljsv -n '__ljsv_verb_is status list ps' -l quiet -d 'the same as -q'
complete -c ljsv -n '__ljsv_verb_is top' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is top' -s d -x -d 'how long between two looks (1)'
complete -c ljsv -n '__ljsv_verb_is top' -s n -x -d 'end after so many (1 where the output is no terminal)'
complete -c ljsv -n '__ljsv_verb_is top' -l sort -x -d 'name, cpu, memory, pids or restarts (name)'
complete -c ljsv -n '__ljsv_verb_is top' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is why' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is why' -s n -x -d 'how many deaths (1)'
complete -c ljsv -n '__ljsv_verb_is why' -l json -d 'print JSON instead of text'
complete -c ljsv -n '__ljsv_verb_is why' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is wait' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is wait' -a ready
complete -c ljsv -n '__ljsv_verb_is wait' -a up
complete -c ljsv -n '__ljsv_verb_is wait' -a down
complete -c ljsv -n '__ljsv_verb_is wait' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is wait' -l for -x -a 'ready up down' -d 'the state to wait for; ready where it is not said'
complete -c ljsv -n '__ljsv_verb_is logs log tail' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is logs log tail' -s f -d 'go on with what is written from now on, until interrupted'
complete -c ljsv -n '__ljsv_verb_is logs log tail' -l follow -d 'the same as -f'
complete -c ljsv -n '__ljsv_verb_is logs log tail' -s n -x -d 'how many lines (100), or all'
complete -c ljsv -n '__ljsv_verb_is logs log tail' -l lines -x -d 'the same as -n'
complete -c ljsv -n '__ljsv_verb_is logs log tail' -l since -x -d 'only what is newer: 10m, 2h, 1d ago, or a time in UTC'
complete -c ljsv -n '__ljsv_verb_is logs log tail' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is events' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is events' -s f -d 'go on with what is written from now on, until interrupted'
complete -c ljsv -n '__ljsv_verb_is events' -l follow -d 'the same as -f'
complete -c ljsv -n '__ljsv_verb_is events' -s n -x -d 'how many lines (100), or all'
complete -c ljsv -n '__ljsv_verb_is events' -l lines -x -d 'the same as -n'
complete -c ljsv -n '__ljsv_verb_is events' -l since -x -d 'only what is newer: 10m, 2h, 1d ago, or a time in UTC'
complete -c ljsv -n '__ljsv_verb_is enter exec shell' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is enter exec shell' -a '(__fish_complete_command)'
complete -c ljsv -n '__ljsv_verb_is image' -a build
complete -c ljsv -n '__ljsv_verb_is image' -a import
complete -c ljsv -n '__ljsv_verb_is image' -a export
complete -c ljsv -n '__ljsv_verb_is image' -a ls
complete -c ljsv -n '__ljsv_verb_is image' -a inspect
complete -c ljsv -n '__ljsv_verb_is image' -a tag
complete -c ljsv -n '__ljsv_verb_is image' -a rm
complete -c ljsv -n '__ljsv_verb_is image' -a gc
complete -c ljsv -n '__ljsv_verb_is image' -a verify
complete -c ljsv -n '__ljsv_verb_is image' -s o -r -F -d 'build: write the image into this file, not into the store; export: the file to write'
complete -c ljsv -n '__ljsv_verb_is image' -s t -x -d 'the name that the image gets, NAME or NAME:TAG'
complete -c ljsv -n '__ljsv_verb_is image' -s f -x -d 'the Dockerfile, where it is called otherwise or elsewhere'
complete -c ljsv -n '__ljsv_verb_is image' -l target -x -d 'build this stage of the Dockerfile, not the last one'
complete -c ljsv -n '__ljsv_verb_is image' -l build-arg -x -d 'a value for an ARG of the Dockerfile'
complete -c ljsv -n '__ljsv_verb_is image' -l net -x -a 'none host' -d 'the network that RUN may use (none)'
complete -c ljsv -n '__ljsv_verb_is image' -l no-cache -d 'run each step anew'
complete -c ljsv -n '__ljsv_verb_is image' -l type -x -a 'squashfs erofs' -d 'the file system of the image (squashfs)'
complete -c ljsv -n '__ljsv_verb_is image' -l compression -x -a 'zstd xz gzip lz4 none' -d 'how it is compressed (zstd)'
complete -c ljsv -n '__ljsv_verb_is image' -l level -x -d 'how hard it is compressed'
complete -c ljsv -n '__ljsv_verb_is image' -l max-size -x -d 'refuse an input that unpacks to more'
complete -c ljsv -n '__ljsv_verb_is image' -l max-files -x -d 'refuse an input that has more files'
complete -c ljsv -n '__ljsv_verb_is image' -l select -x -d 'of an archive with several images the one of this name'
complete -c ljsv -n '__ljsv_verb_is image' -l keep-times -d 'the files\' own times, not one for all'
complete -c ljsv -n '__ljsv_verb_is image' -l plain -d 'build: take the directory as it is, whatever a Dockerfile in it says'
complete -c ljsv -n '__ljsv_verb_is image' -s q -d 'no progress'
complete -c ljsv -n '__ljsv_verb_is image' -l json -d 'print JSON instead of text'
complete -c ljsv -n '__ljsv_verb_is image' -l digests -d 'the digests in full'
complete -c ljsv -n '__ljsv_verb_is image' -l files -d 'the files of the image as well'
complete -c ljsv -n '__ljsv_verb_is image' -l format -x -a 'tar oci' -d 'what export writes: a tar of the files, or an OCI layout'
complete -c ljsv -n '__ljsv_verb_is deploy' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is deploy' -l image -x -d 'the image: a name of the store, or a file, of which a copy is kept'
complete -c ljsv -n '__ljsv_verb_is deploy' -l settle -x -d 'how long it has to stay ready to be kept, in seconds (0; 1 where its start is all that makes it ready)'
complete -c ljsv -n '__ljsv_verb_is rollback' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is rollback' -l to -x -d 'the generation to go back to; without it the one before'
complete -c ljsv -n '__ljsv_verb_is rollback' -l keep-overlay -d 'go back to its image only: the data stay as they are'
complete -c ljsv -n '__ljsv_verb_is rollback' -l settle -x -d 'how long it has to stay ready to be kept, in seconds (0; 1 where its start is all that makes it ready)'
complete -c ljsv -n '__ljsv_verb_is overlay' -a diff
complete -c ljsv -n '__ljsv_verb_is overlay' -a ls
complete -c ljsv -n '__ljsv_verb_is overlay' -a snapshot
complete -c ljsv -n '__ljsv_verb_is overlay' -a restore
complete -c ljsv -n '__ljsv_verb_is overlay' -a reset
complete -c ljsv -n '__ljsv_verb_is overlay' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is overlay' -l yes -d 'do not ask'
complete -c ljsv -n '__ljsv_verb_is overlay' -l json -d 'print JSON instead of text'
complete -c ljsv -n '__ljsv_verb_is overlay' -l live -d 'snapshot: copy while it runs, each file as it is just then'
complete -c ljsv -n '__ljsv_verb_is overlay' -l settle -x -d 'how long it has to stay ready to be kept, in seconds (0; 1 where its start is all that makes it ready)'
complete -c ljsv -n '__ljsv_verb_is explain' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is metrics' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is metrics' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is metrics' -l to -r -F -d 'write them into this file, by rename, instead of printing them: for node_exporter\'s textfile collector (*.prom)'
complete -c ljsv -n '__ljsv_verb_is lint' -F
complete -c ljsv -n '__ljsv_verb_is lint' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is lint' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is lint' -l json -d 'print JSON instead of text'
complete -c ljsv -n '__ljsv_verb_is doctor' -l json -d 'print JSON instead of text'
complete -c ljsv -n '__ljsv_verb_is new' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is new' -l run -x -d 'what its run script executes'
complete -c ljsv -n '__ljsv_verb_is new' -l image -x -d 'its root is this image, which also says what it runs'
complete -c ljsv -n '__ljsv_verb_is new' -l down -d 'make a down file too: it does not start by itself'
complete -c ljsv -n '__ljsv_verb_is new' -l from -r -F -d 'take a runit service directory over, and say what was changed and what could not be'
complete -c ljsv -n '__ljsv_verb_is new' -l from-unit -r -F -d 'the same of a systemd unit'
complete -c ljsv -n '__ljsv_verb_is new' -l from-compose -r -F -d 'the same of a compose file\'s services, all or those that are named'
complete -c ljsv -n '__ljsv_verb_is new' -l template -x -d 'copy this service template; NAME is the template\'s where it is not given'
complete -c ljsv -n '__ljsv_verb_is new' -l set -x -d 'a setting of the template, several times'
complete -c ljsv -n '__ljsv_verb_is new' -l template-dir -r -F -d 'the templates of this directory, not those that come with ljsv'
complete -c ljsv -n '__ljsv_verb_is new' -l templates -d 'print the templates, or all about those that are named'
complete -c ljsv -n '__ljsv_verb_is new' -l json -d 'print JSON instead of text'
complete -c ljsv -n '__ljsv_verb_is enable' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is enable' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is enable' -l now -d 'do it at once as well, not only from the next start on'
complete -c ljsv -n '__ljsv_verb_is disable' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is disable' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is disable' -l now -d 'do it at once as well, not only from the next start on'
complete -c ljsv -n '__ljsv_verb_is enable-boot' -l print -d 'write nothing: print the files, and what would be run'
complete -c ljsv -n '__ljsv_verb_is enable-boot' -l user -d 'for the services of the caller, with his own systemd'
complete -c ljsv -n '__ljsv_verb_is enable-boot' -l init -x -a 'systemd openrc inittab runit' -d 'the init, where it is not found out'
complete -c ljsv -n '__ljsv_verb_is enable-boot' -l root -r -F -d 'the system in this directory, such as an image that is being built'
complete -c ljsv -n '__ljsv_verb_is enable-boot' -l command -x -d 'the path of ljsv in that system (the one that runs)'
complete -c ljsv -n '__ljsv_verb_is enable-boot' -l svdir -r -F -d 'the scan directory (/etc/ljsv/sv; with --user ~/.config/ljsv/sv)'
complete -c ljsv -n '__ljsv_verb_is remove' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is remove' -l yes -d 'do not ask'
complete -c ljsv -n '__ljsv_verb_is purge' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is purge' -l yes -d 'do not ask'
complete -c ljsv -n '__ljsv_verb_is scan' -F
complete -c ljsv -n '__ljsv_verb_is scan' -l daemon -d 'in the background; comes back when it is ready or has failed'
complete -c ljsv -n '__ljsv_verb_is scan' -l log-cap -x -d 'most that all logs together may hold: the oldest rotated ones go first'
complete -c ljsv -n '__ljsv_verb_is init' -l svdir -r -F -d 'the scan directory, before $SVDIR, ./sv and the usual places'
complete -c ljsv -n '__ljsv_verb_is init' -l deadline -x -d 'how long all services together may take to stop, in seconds (60)'
complete -c ljsv -n '__ljsv_verb_is init' -l watchdog -x -d 'a watchdog\'s device, to be fed'
complete -c ljsv -n '__ljsv_verb_is init' -l watchdog-timeout -x -d 'seconds, at least 2; it is fed three times in each (30)'
complete -c ljsv -n '__ljsv_verb_is init' -l explain -d 'print what it would do, and do nothing'
complete -c ljsv -n '__ljsv_verb_is poweroff' -s f -d 'at once, by the kernel, and without stopping anything'
complete -c ljsv -n '__ljsv_verb_is poweroff' -l force -d 'the same as -f'
complete -c ljsv -n '__ljsv_verb_is reboot' -s f -d 'at once, by the kernel, and without stopping anything'
complete -c ljsv -n '__ljsv_verb_is reboot' -l force -d 'the same as -f'
complete -c ljsv -n '__ljsv_verb_is halt' -s f -d 'at once, by the kernel, and without stopping anything'
complete -c ljsv -n '__ljsv_verb_is halt' -l force -d 'the same as -f'
complete -c ljsv -n '__ljsv_verb_is completion' -a bash
complete -c ljsv -n '__ljsv_verb_is completion' -a zsh
complete -c ljsv -n '__ljsv_verb_is completion' -a fish
complete -c ljsv -n '__ljsv_verb_is pause' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is pause' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is cont' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is cont' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is hup reload' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is hup reload' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is alarm' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is alarm' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is interrupt' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is interrupt' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is quit' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is quit' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is usr1' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is usr1' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is usr2' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is usr2' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is term' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is term' -l all -d 'every service of the scan directory'
complete -c ljsv -n '__ljsv_verb_is kill' -a '(__ljsv_services)'
complete -c ljsv -n '__ljsv_verb_is kill' -l all -d 'every service of the scan directory'
complete -c ljexec -l root -r -F -d 'a root directory, read-only; without --root and --image the host\'s programs'
complete -c ljexec -l image -r -F -d 'a squashfs image (as root erofs too), read-only'
complete -c ljexec -l exec -x -d 'the command, split like a shell\'s words, without a shell (/bin/sh)'
complete -c ljexec -l rw -d 'with --root: the directory itself is written to'
complete -c ljexec -l overlay-dir -r -F -d 'changes are kept in upper/ there (work/ beside it), root or image stay as they are'
complete -c ljexec -l writable -x -a 'no tmpfs' -d 'tmpfs: changes are possible, and forgotten at the end'
complete -c ljexec -l bind -x -d 'a file or directory of the host, read-only unless rw'
complete -c ljexec -l tmpfs -x -d 'an empty writable place (64M)'
complete -c ljexec -l env -x -d 'added to PATH HOME USER LOGNAME SHELL TERM'
complete -c ljexec -l inherit-env -d 'the caller\'s environment instead'
complete -c ljexec -l workdir -r -F -d 'the working directory, in the jail'
complete -c ljexec -l hostname -x -d 'the jail\'s host name'
complete -c ljexec -l user -x -d 'as the jail\'s passwd knows it (root of the jail)'
complete -c ljexec -l ids -x -a 'one range' -d 'one: the caller\'s id is that user\'s; range: his subordinate ids as well'
complete -c ljexec -l net -x -a 'host none' -d 'the host\'s network, or only a loopback of its own'
complete -c ljexec -l mem -x -d 'most memory, in megabytes'
complete -c ljexec -l cpu -x -d 'most processor time; 100 is one processor'
complete -c ljexec -l pids -x -d 'most processes and threads'
complete -c ljexec -l cap -x -d 'add a capability to the default set, or take one away'
complete -c ljexec -l seccomp -x -a 'default off' -d 'the system call filter'
complete -c ljexec -l json-status-fd -x -d 'the descriptor that gets {"child-pid": ...} when it runs and {"exit-code": ...} at its end'
complete -c ljexec -l explain -d 'print every step, and take none'
complete -c ljexec -s h -d 'the options'
complete -c ljexec -l help -d 'the same as -h'
complete -c ljexec -l version -d 'print the version'
