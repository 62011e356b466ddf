"""`ljexec`: one jail by hand, in the foreground.

Exit codes: the program's own; 128+N when killed by signal N; 125 the jail
could not be built, 126 not executable, 127 not found, 100 usage. Imports as
little as it can: this process is what a user of `bwrap` compares with.
"""

from __future__ import annotations

import gc
import os
import sys

from ljsv import __version__
from ljsv.cli.options import FLAG, Options, parse, usage
from ljsv.cli.show import fault_of, print_fault
from ljsv.cli.standard_files import open_standard_files
from ljsv.errors import EXIT_INTERRUPTED, EXIT_NOT_BUILT, EXIT_OK, EXIT_SYSTEM, Fault, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.jail.launch import Launch
    from ljsv.jail.limits import Setting
    from ljsv.jail.spec import BindMount, JailSpec, TmpfsMount

OPTIONS = {
    "--root": "DIR", "--image": "FILE|NAME", "--exec": "COMMAND", "--rw": FLAG, "--overlay-dir": "DIR", "--writable": "no|tmpfs",
    "--bind": "FROM:TO[:rw]", "--tmpfs": "AT[:SIZE]", "--env": "NAME=VALUE", "--inherit-env": FLAG, "--workdir": "DIR",
    "--hostname": "NAME", "--user": "NAME|UID[:GID]", "--ids": "one|range", "--net": "host|none", "--mem": "MBYTES",
    "--cpu": "PERCENT", "--pids": "NUMBER", "--cap": "+X|-X", "--seccomp": "default|off", "--json-status-fd": "NUMBER",
    "--explain": FLAG, "-h": FLAG, "--help": FLAG, "--version": FLAG,
}
STATUS_MAX_MS = 1000  # how long the descriptor of --json-status-fd may keep us from showing the program
REPEATABLE = frozenset({"--bind", "--tmpfs", "--env", "--cap"})
CHOICES = {"--net": ("host", "none"), "--writable": ("no", "tmpfs"), "--ids": ("one", "range"), "--seccomp": ("default", "off")}
HELP = """usage: ljexec [--root DIR | --image FILE] [OPTION...] [--exec COMMAND | -- COMMAND [ARGUMENT...]]

what it sees
  --root DIR            a root directory, read-only; without --root and --image the host's programs
  --image FILE|NAME     a squashfs image (as root erofs too), or one of the store; what it says of itself (variables, folder,
                        user, command) holds where nothing else is said
  --rw                  with --root: DIR itself is written to
  --overlay-dir DIR     changes are kept in DIR/upper (DIR/work beside it), root or image stay as they are
  --writable tmpfs      changes are possible, and forgotten at the end
  --bind FROM:TO[:rw]   a file or directory of the host, read-only unless rw
  --tmpfs AT[:SIZE]     an empty writable place (64M)
what runs in it
  --exec COMMAND        split like a shell's words, no shell (default /bin/sh)
  --env NAME=VALUE      added to PATH HOME USER LOGNAME SHELL TERM; --inherit-env: the caller's environment instead
  --workdir DIR  --hostname NAME
what it may do
  --user NAME|UID[:GID] as the jail's passwd knows it (default root of the jail)
  --ids one|range       one: the caller's id is that user's; range: his subordinate ids as well (root always has a range)
  --net host|none       the host's network, or only a loopback of its own
  --mem MBYTES  --cpu PERCENT  --pids NUMBER
                        by cgroup v2, below $LJEXEC_CGROOT or where we are; the jail's own pid 1 is one of the NUMBER
  --cap +X|-X           add a capability to the default set, or take one away
  --seccomp default|off
  --json-status-fd N    {"child-pid": ...} when it runs, {"exit-code": ...} at its end
  --explain             print every step, and take none
exit: the program's own; 128+N killed by signal N; 125 not built, 126 not executable, 127 not found, 100 usage
"""


def main() -> None:
    """The command. Ends the process, without the interpreter's own clearing up: 2 ms that nobody needs."""
    gc.disable()
    open_standard_files()
    code = _main(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or EXIT_SYSTEM  # nobody takes it any more
    os._exit(code)


def _main(arguments: list[str]) -> int:
    try:
        return _run(arguments)
    except Fault as fault:
        if os.environ.get("LJSV_DEBUG") == "1":
            raise
        if fault.hint == "ljsv help":
            fault.hint = "ljexec --help"
        print_fault(fault, "ljexec")
        return EXIT_NOT_BUILT if fault.exit_code == EXIT_SYSTEM else fault.exit_code
    except OSError as error:
        if os.environ.get("LJSV_DEBUG") == "1":
            raise
        print_fault(fault_of(error, "LJSV_DEBUG=1 shows where"), "ljexec")
        return EXIT_NOT_BUILT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _run(arguments: list[str]) -> int:
    options, command = _split(arguments)
    if options.has("--version"):
        return _print(f"ljexec {__version__}\n")
    if options.has("-h") or options.has("--help"):
        return _print(HELP)
    _check(options)
    settings = _settings(options)
    status_fd = _status_fd(options)
    spec = _spec(options, command).replace(settings=settings)
    if options.has("--explain"):
        return _explain(spec)
    if not spec.settings:
        return _show(spec, status_fd)
    from ljsv.jail.hand import OwnGroup

    group = OwnGroup(spec.settings)
    for note in group.notes:
        print(f"ljexec: {note}", file=sys.stderr)
    try:
        return _show(spec, status_fd, group.fd)
    finally:
        reason = group.end()
        if reason:
            print(f"ljexec: {reason}", file=sys.stderr)


def _show(spec: JailSpec, status_fd: int, cgroup_fd: int = -1) -> int:
    from ljsv.jail.foreground import Foreground

    shown = Foreground(spec, (lambda jail: _tell(status_fd, _started(jail))) if status_fd >= 0 else None, cgroup_fd=cgroup_fd)
    for note in shown.jail.facts.notes:
        print(f"ljexec: {note}", file=sys.stderr)
    code = shown.run()
    if shown.is_server_gone:
        print(f"ljexec: the program that served the image has ended, and its jail with it: {spec.base_path}", file=sys.stderr)
    if status_fd >= 0:
        _tell(status_fd, f'{{"exit-code": {code}}}')
    return code


def _split(arguments: list[str]) -> tuple[Options, list[str]]:
    options, unexpected = parse(arguments, OPTIONS, stop_at_operand=True)
    if unexpected:
        given = arguments[: len(arguments) - len(unexpected)]
        before, after = (" ".join(quote(word) for word in words if word != "--") for words in (["ljexec", *given], unexpected))
        raise usage(f"unexpected word {unexpected[0]!r}", f"{before} -- {after}")
    command = options.operands
    if command and options.has("--exec"):
        raise usage("either --exec or -- COMMAND, not both", "ljexec --help")
    if command:
        return options, command
    if options.has("--image") and not options.has("--exec"):
        return options, []  # what the image starts
    text = options.get("--exec", "/bin/sh")
    command = text.split()
    if any(mark in text for mark in "'\"\\"):
        import shlex  # and with it re: only when there is something to unquote

        try:
            command = shlex.split(text)
        except ValueError as error:
            raise usage(f"--exec cannot be split into words: {error}", "ljexec --help") from None
    if not command or not command[0]:
        raise usage("--exec names no program", "ljexec --help")
    return options, command


def _check(options: Options) -> None:
    """Combinations that make no sense, and values that are none of those allowed."""
    for name, value in OPTIONS.items():
        if value and name not in REPEATABLE and len(options.every(name)) > 1:
            raise usage(f"{name} is given twice", "ljexec --help")
    for name, allowed in CHOICES.items():
        if options.get(name, allowed[0]) not in allowed:
            raise usage(f"{name} wants {' or '.join(allowed)}: found {options.get(name)!r}", "ljexec --help")
    for name in ("--root", "--image", "--overlay-dir", "--workdir", "--hostname", "--user"):
        if options.has(name) and not options.get(name):
            raise usage(f"{name} wants {OPTIONS[name]}: found nothing", "ljexec --help")
    has_base = options.has("--root") or options.has("--image")
    for is_wrong, message, hint in (
        (options.has("--root") and options.has("--image"), "either --root or --image, not both", "ljexec --help"),
        (options.has("--rw") and options.has("--image"), "--rw goes only with --root: an image is never written", "--overlay-dir DIR keeps changes beside it"),
        (options.has("--rw") and not options.has("--root"), "--rw goes only with --root", "ljexec --root DIR --rw"),
        (options.has("--rw") and options.has("--overlay-dir"), "either --rw or --overlay-dir, not both", "with --overlay-dir it is writable already"),
        (options.has("--overlay-dir") and not has_base, "--overlay-dir goes with --root or --image", "ljexec --root DIR --overlay-dir DIR"),
        (options.has("--writable") and (options.has("--rw") or options.has("--overlay-dir")), "--writable goes without --rw and --overlay-dir", "ljexec --help"),
        (options.get("--ids") == "one" and os.geteuid() == 0, "--ids one is not possible as root: a jail is never the real root", "take it out"),
    ):
        if is_wrong:
            raise usage(message, hint)


def _settings(options: Options) -> tuple[Setting, ...]:
    """What --mem, --cpu and --pids ask for, checked."""
    numbers: dict[str, float] = {}
    for name, highest in (("--mem", 1 << 40), ("--cpu", 100_000), ("--pids", 4_194_304)):
        if not options.has(name):
            continue
        text = options.get(name)
        number = float(text) if text.isascii() and text.replace(".", "", name == "--cpu").isdigit() else 0.0
        if not 0 < number <= highest:
            raise usage(f"{name} wants {OPTIONS[name]}, a number above 0: found {text!r}", "ljexec --mem 512 --cpu 25 --pids 100")
        numbers[name] = number
    if not numbers:
        return ()
    from ljsv.jail.hand import settings_by_hand

    return settings_by_hand(numbers.get("--mem"), numbers.get("--cpu"), numbers.get("--pids"))


def _status_fd(options: Options) -> int:
    if not options.has("--json-status-fd"):
        return -1
    text = options.get("--json-status-fd")
    try:
        fd = int(text)
        os.fstat(fd)
    except (ValueError, OSError, OverflowError):
        raise usage(f"--json-status-fd wants an open descriptor's number: found {text!r}", "ljexec --json-status-fd 3 3>status") from None
    return fd


def _spec(options: Options, command: list[str]) -> JailSpec:
    from ljsv.jail.spec import DIRECT, DIRECTORY, HOST, IMAGE, NO, OVERLAY, JailSpec, resolve_capabilities
    from ljsv.service.images import check_image
    from ljsv.service.stored import Defaults, read_manifest

    kind, path, image_type, defaults, named = HOST, "/", "", Defaults(), ""
    if options.has("--root"):
        kind, path, named = DIRECTORY, os.path.realpath(options.get("--root")), os.path.abspath(options.get("--root"))
        _require_directory(path)
    elif options.has("--image"):
        kind, (path, named) = IMAGE, _find_image(options.get("--image"))
        image_type = check_image(path)
        defaults = read_manifest(path).defaults
    writable = DIRECT if options.has("--rw") else OVERLAY if options.has("--overlay-dir") else options.get("--writable", NO)
    workdir = options.get("--workdir")
    if workdir and not workdir.startswith("/"):
        raise usage(f"--workdir wants an absolute path in the jail: found {workdir!r}", f"--workdir {quote(f'/{workdir}')}")
    try:
        kept = resolve_capabilities(tuple(options.every("--cap")))
    except ValueError as error:
        raise usage(f"--cap wants {error}: found {' '.join(options.every('--cap'))}", "ljexec --cap +NET_RAW --cap -CHOWN") from None
    binds, tmpfs = tuple(map(_bind, options.every("--bind"))), tuple(map(_tmpfs, options.every("--tmpfs")))
    places = [bind.to for bind in binds] + [mount.at for mount in tmpfs]
    twice = next((place for place in places if places.count(place) > 1), "")
    if twice:
        raise usage(f"two of --bind and --tmpfs at one place: {twice}", "ljexec --help")
    hostname = options.get("--hostname", "jail")
    if len(hostname) > 64 or not all(c.isascii() and (c.isalnum() or c in "-.") for c in hostname):
        raise usage(f"--hostname wants at most 64 letters, digits, dots and hyphens: found {hostname!r}", "ljexec --hostname box")
    return JailSpec(
        name="ljexec",
        base_kind=kind,
        base_path=path,
        base_named=named,
        argv=tuple(command) or defaults.argv or ("/bin/sh",),
        image_type=image_type,
        writable=writable,
        overlay=os.path.abspath(options.get("--overlay-dir")) if writable == OVERLAY else "",
        hostname=hostname,
        user=options.get("--user") or defaults.user,
        is_range=options.get("--ids") == "range",
        network=options.get("--net", "host"),
        binds=binds,
        tmpfs=tmpfs,
        capabilities=kept,
        has_filter=options.get("--seccomp", "default") == "default",
        env=(*defaults.env, *_env(options)),
        workdir=workdir or defaults.workdir,
        origin="the command line",
    )


def _find_image(text: str) -> tuple[str, str]:
    """(its real path, the path as it was named): a file that is there, or an image of the store, which has no path that was named ("")."""
    if ("/" in text and text[0] in "./") or os.path.exists(text):
        return os.path.realpath(text), os.path.abspath(text)
    from ljsv.service.stored import resolve

    return resolve(text).path, ""


def _require_directory(path: str) -> None:
    try:
        os.stat(f"{path}/.")
    except OSError as error:
        raise Fault.from_os("cannot open the root", error, path, hint=f"ls -ld {quote(path)}  # --image FILE is for images") from None


def _bind(text: str) -> BindMount:
    from ljsv.jail.spec import BindMount

    source, _, rest = text.partition(":")
    to, _, mode = rest.partition(":")
    place = _require_place("--bind", text, to)
    if not source or mode not in {"", "rw", "ro"}:
        raise usage(f"--bind wants {OPTIONS['--bind']}: found {text!r}", "ljexec --bind /srv/www:/var/www:rw")
    return BindMount(os.path.abspath(source), place, mode == "rw")


def _tmpfs(text: str) -> TmpfsMount:
    from ljsv.jail.spec import TmpfsMount

    at, _, size = text.partition(":")
    at = _require_place("--tmpfs", text, at)
    if not size:
        return TmpfsMount(at)
    from ljsv.service.units import parse_size

    try:
        return TmpfsMount(at, parse_size(size))
    except ValueError as error:
        raise usage(f"--tmpfs wants {error}: found {size!r}", "ljexec --tmpfs /var/cache:64M") from None


def _require_place(name: str, text: str, path: str) -> str:
    """Without doubled and trailing slashes."""
    from ljsv.paths import clean_place

    place = clean_place(path)
    if not path.startswith("/") or place == "/" or ".." in path.split("/"):
        raise usage(f"{name} wants {OPTIONS[name]}, an absolute path in the jail without .., not / itself: found {text!r}", "ljexec --help")
    return place


def _env(options: Options) -> tuple[tuple[str, str | None], ...]:
    env: dict[str, str | None] = {}
    if options.has("--inherit-env"):
        with open("/proc/self/environ", "rb") as file:  # os.environ has what Python has added for its own locale
            pairs = [entry.partition(b"=") for entry in file.read().split(b"\0")]
        env.update({os.fsdecode(name): os.fsdecode(value) for name, has_value, value in pairs if name and has_value})
    elif "TERM" in os.environ:
        env["TERM"] = os.environ["TERM"]
    for text in options.every("--env"):
        name, has_value, value = text.partition("=")
        if not name or not has_value:
            raise usage(f"--env wants {OPTIONS['--env']}: found {text!r}", f"--env {name or 'NAME'}=value; --inherit-env passes all of them on")
        env[name] = value
    return tuple(env.items())


def _explain(spec: JailSpec) -> int:
    from ljsv.jail.launch import explain_jail

    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    return _print("\n".join(explain_jail(spec)) + "\n")


def _print(text: str) -> int:
    """What this program itself says; the exit code. A reader who has had enough (`| head`) is no failure."""
    try:
        print(text, end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)  # not again at the end
        if not isinstance(error, BrokenPipeError):
            print_fault(Fault.from_os("cannot write", error, "standard output", hint="where does it go? df has what is full"), "ljexec")
            return EXIT_SYSTEM
    return EXIT_OK


def _started(jail: Launch) -> str:
    """As bwrap writes it: the program's pid on the host, and its namespaces."""
    parts = [f'"child-pid": {jail.service_pid}']
    for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
        try:
            inode = os.stat(f"/proc/{jail.service_pid}/ns/{name}").st_ino
        except OSError:
            continue
        parts.append(f'"{name}-namespace": {inode}')
    return "{" + ", ".join(parts) + "}"


def _tell(fd: int, text: str) -> None:
    """Less than a pipe takes at once (4,096 bytes), so that room for it is found before it is written."""
    from select import POLLOUT, poll

    room = poll()
    try:
        room.register(fd, POLLOUT)
        if room.poll(STATUS_MAX_MS):
            os.write(fd, f"{text}\n".encode())
            return
        cause = f"it is full, and nobody has read it for {STATUS_MAX_MS // 1000} s"
    except BrokenPipeError:
        return  # nobody reads it any more
    except OSError as error:
        cause = error.strerror or str(error)
    print_fault(Fault("cannot write the status", f"descriptor {fd}", cause, hint="read what --json-status-fd writes while the program runs"), "ljexec")
