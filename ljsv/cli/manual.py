"""What the options, the environment and the exit codes mean, in the words of `--help`, the manual pages and the completions.

The one place for these facts: `ljsv VERB --help` reads them, and
tools/make-resources writes the pages and completions in ljsv/resources from
them and from `VERBS`, the OPTIONS of the verbs and the schema. A test holds
it all complete. Never imported on the way of a verb that does its work.
"""

from __future__ import annotations

# Of every verb, where `OPTION_DOCS` has nothing of its own for it.
COMMON_DOCS = {
    "--svdir": "the scan directory, before $SVDIR, ./sv and the usual places",
    "-w": "how long to wait, in seconds, for what was asked (else $SVWAIT, else 7)",
    "-h": "say what the verb does and what its options are",
    "--help": "the same as -h",
    "--version": "print the version",
    "--all": "every service of the scan directory",
    "--settle": "how long it has to stay ready to be kept, in seconds (0; 1 where its start is all that makes it ready)",
    "--json": "print JSON instead of text",
    "--yes": "do not ask",
    "--now": "do it at once as well, not only from the next start on",
    "-n": "how many lines (100), or all",
    "--lines": "the same as -n",
    "-f": "go on with what is written from now on, until interrupted",
    "--follow": "the same as -f",
    "--since": "only what is newer: 10m, 2h, 1d ago, or a time in UTC",
}
# verb: option: what it means there.
OPTION_DOCS: dict[str, dict[str, str]] = {
    "status": {
        "-o": "print these fields only, tabs between them",
        "-q": "print nothing: the exit code says whether all that were named are up; without a name, all that shall be",
        "--quiet": "the same as -q",
    },
    "top": {
        "-d": "how long between two looks (1)",
        "-n": "end after so many (1 where the output is no terminal)",
        "--sort": "name, cpu, memory, pids or restarts (name)",
    },
    "why": {"-n": "how many deaths (1)"},
    "init": {
        "--explain": "print what it would do, and do nothing",
        "--deadline": "how long all services together may take to stop, in seconds (60)",
        "--watchdog": "a watchdog's device, to be fed",
        "--watchdog-timeout": "seconds, at least 2; it is fed three times in each (30)",
    },
    **{verb: {"-f": "at once, by the kernel, and without stopping anything", "--force": "the same as -f"} for verb in ("poweroff", "reboot", "halt")},
    "image": {
        "-o": "build: write the image into this file, not into the store; export: the file to write",
        "-t": "the name that the image gets, NAME or NAME:TAG",
        "-f": "the Dockerfile, where it is called otherwise or elsewhere",
        "--target": "build this stage of the Dockerfile, not the last one",
        "--build-arg": "a value for an ARG of the Dockerfile",
        "--net": "the network that RUN may use (none)",
        "--no-cache": "run each step anew",
        "--type": "the file system of the image (squashfs)",
        "--compression": "how it is compressed (zstd)",
        "--level": "how hard it is compressed",
        "--max-size": "refuse an input that unpacks to more",
        "--max-files": "refuse an input that has more files",
        "--select": "of an archive with several images the one of this name",
        "--keep-times": "the files' own times, not one for all",
        "--plain": "build: take the directory as it is, whatever a Dockerfile in it says",
        "-q": "no progress",
        "--digests": "the digests in full",
        "--files": "the files of the image as well",
        "--format": "what export writes: a tar of the files, or an OCI layout",
    },
    "metrics": {"--to": "write them into this file, by rename, instead of printing them: for node_exporter's textfile collector (*.prom)"},
    "wait": {"--for": "the state to wait for; ready where it is not said"},
    "new": {
        "--image": "its root is this image, which also says what it runs",
        "--run": "what its run script executes",
        "--down": "make a down file too: it does not start by itself",
        "--from": "take a runit service directory over, and say what was changed and what could not be",
        "--from-unit": "the same of a systemd unit",
        "--from-compose": "the same of a compose file's services, all or those that are named",
        "--template": "copy this service template; NAME is the template's where it is not given",
        "--set": "a setting of the template, several times",
        "--template-dir": "the templates of this directory, not those that come with ljsv",
        "--templates": "print the templates, or all about those that are named",
    },
    "enable-boot": {
        "--print": "write nothing: print the files, and what would be run",
        "--user": "for the services of the caller, with his own systemd",
        "--init": "the init, where it is not found out",
        "--root": "the system in this directory, such as an image that is being built",
        "--command": "the path of ljsv in that system (the one that runs)",
        "--svdir": "the scan directory (/etc/ljsv/sv; with --user ~/.config/ljsv/sv)",
    },
    "deploy": {"--image": "the image: a name of the store, or a file, of which a copy is kept"},
    "rollback": {
        "--to": "the generation to go back to; without it the one before",
        "--keep-overlay": "go back to its image only: the data stay as they are",
    },
    "overlay": {"--live": "snapshot: copy while it runs, each file as it is just then"},
    "scan": {
        "--daemon": "in the background; comes back when it is ready or has failed",
        "--log-cap": "most that all logs together may hold: the oldest rotated ones go first",
    },
}
ENVIRONMENT = {
    "SVDIR": "the scan directory, where --svdir does not name one",
    "SVWAIT": "how many seconds up, down, restart and wait may take (7)",
    "LJSV_CGROOT": "a directory of cgroup v2 below which the jails' control groups are made (docs/limits.md)",
    "LJSV_LOG_CAP": "what scan --log-cap says, for a scanner that is started by another verb; before log_cap in /etc/ljsv/scan",
    "LJSV_SLEEP_AFTER": "how long a supervisor has to be idle before it gives its memory back (5m); 0s: never; before sleep_after in /etc/ljsv/scan",
    "NOTIFY_SOCKET": "where a scanner in the foreground says READY, RELOADING and STOPPING, as sd_notify(3) does",
    "NO_COLOR": "set to anything: no colours on a terminal",
    "LJSV_DEBUG": "1: an error shows where in ljsv it was raised",
    "XDG_RUNTIME_DIR": "where an unprivileged user's status files and FIFOs live; without it in the service directory",
    "XDG_CONFIG_HOME": "ljsv/sv in it is an unprivileged user's scan directory (~/.config)",
    "SOURCE_DATE_EPOCH": "the time that every file of an image gets, in seconds since 1970",
    "LJSV_IMAGES": "the image store, instead of the usual place",
    "XDG_DATA_HOME": "an unprivileged user's images (~/.local/share)",
    "XDG_STATE_HOME": "an unprivileged user's overlays and logs (~/.local/state)",
}
EXITS = {
    "0": "done",
    "1": "a state that was wanted was not reached, a check failed",
    "3": "status: a service that was named is not up",
    "4": "no such service",
    "100": "the command line is wrong",
    "102": "nobody supervises the service",
    "111": "a system call failed, or a lock is held",
    "130": "interrupted",
}
LJEXEC_EXITS = {
    "100": "the command line is wrong",
    "125": "the jail could not be built",
    "126": "the program is not executable",
    "127": "the program was not found",
    "128+N": "it was killed by signal N",
    "other": "the program's own",
}
# What a service directory holds; ljsv.paths.SERVICE_FILES and `supervise`.
SERVICE_FILE_DOCS = {
    "run": "executable, runs inside the jail; its working directory is the service directory, bound read-only at /run/service",
    "rootfs": "what the jail sees: a directory, a symlink to one, an image file, or TOML text",
    "rootfs.toml": "beside a directory or an image: the same keys without base",
    "limits": "TOML: what it may use",
    "policy": "TOML: how it is kept alive",
    "finish": "executable, runs as ./finish CODE STATUS in a jail of its own after every end of run",
    "check": 'executable; with by = "check" under [ready] it is ready once this exits 0',
    "control": "directory of executables named by a control byte (t, d, u and so on), run before that byte's signal",
    "env": "directory, one file a variable, its first line the value; an empty file unsets",
    "down": "its presence means: do not start by itself",
    "log": "directory with a run of its own, the log service, which gets what run writes",
}
LJEXEC_DOCS = {
    "--root": "a root directory, read-only; without --root and --image the host's programs",
    "--image": "a squashfs image (as root erofs too), read-only",
    "--rw": "with --root: the directory itself is written to",
    "--overlay-dir": "changes are kept in upper/ there (work/ beside it), root or image stay as they are",
    "--writable": "tmpfs: changes are possible, and forgotten at the end",
    "--bind": "a file or directory of the host, read-only unless rw",
    "--tmpfs": "an empty writable place (64M)",
    "--exec": "the command, split like a shell's words, without a shell (/bin/sh)",
    "--env": "added to PATH HOME USER LOGNAME SHELL TERM",
    "--inherit-env": "the caller's environment instead",
    "--workdir": "the working directory, in the jail",
    "--hostname": "the jail's host name",
    "--user": "as the jail's passwd knows it (root of the jail)",
    "--ids": "one: the caller's id is that user's; range: his subordinate ids as well",
    "--net": "the host's network, or only a loopback of its own",
    "--mem": "most memory, in megabytes",
    "--cpu": "most processor time; 100 is one processor",
    "--pids": "most processes and threads",
    "--cap": "add a capability to the default set, or take one away",
    "--seccomp": "the system call filter",
    "--json-status-fd": 'the descriptor that gets {"child-pid": ...} when it runs and {"exit-code": ...} at its end',
    "--explain": "print every step, and take none",
    "-h": "the options",
    "--help": "the same as -h",
    "--version": "print the version",
}


def describe_option(verb: str, option: str) -> str:
    """What `option` means to `verb`; "" where nobody has written it down (a test refuses that)."""
    return OPTION_DOCS.get(verb, {}).get(option) or COMMON_DOCS.get(option, "")
