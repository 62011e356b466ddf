"""The scenarios, as data: the same service directories and the same steps for both peers."""

from __future__ import annotations

import os
import signal
import subprocess

from tests.integration.contract.speaker import FAILS_FIRST, speaker
from tests.integration.contract.steps import (
    STATUS,
    Aged,
    Await,
    Case,
    Client,
    Gone,
    Hit,
    Hold,
    Look,
    Make,
    Note,
    Process,
    Release,
    Remove,
    Rename,
    Says,
    Scenario,
    Stat,
    Step,
    Write,
    describe_process,
    describe_status,
)

RUN, DEAF = {"run": speaker()}, {"run": speaker(is_deaf=True)}
FINISHED = RUN | {"finish": speaker("finish")}
DOWN = {"down": ""}
STARTED = (Says("run: started"), Stat("run"))
SINGLE = [bytes((byte,)) for byte in b"udoxtpckhaiq12"]
UNKNOWN = [b"?", b"\n", b"\0", b"U", b"3", b"\xff"]
SEVERAL = [b"tcu", b"du", b"ud", b"uo", b"ou", b"pc", b"h1", b"?u\n", b"dx", b"ku", b"od", b"po"]
LONG_BACKOFF = '[restart]\ndelay = "1000s"\nmax_delay = "1000s"\n[stop]\ntimeout = "1000s"\n'

# A state: the files, and the steps that lead there.
STATES: dict[str, tuple[dict[str, str], tuple[Step, ...]]] = {
    "down": (RUN | DOWN, (Stat("down"),)),
    "run": (RUN, STARTED),
    "paused": (RUN, (*STARTED, Write(b"p"), Stat("run, paused"), Process("stopped"))),
    "deaf": (DEAF, STARTED),
    "leaving": (DEAF, (*STARTED, Write(b"d"), Says("run: CONT"), Stat("run, got TERM, want down"))),
    "finish": (FINISHED, (*STARTED, Hit(), Says("finish: started -1 9"), Stat("finish"))),
    "finish-want-down": (FINISHED, (*STARTED, Write(b"d"), Says("finish: started -1 15"), Stat("finish, want down"))),
    "once": (RUN | DOWN, (Stat("down"), Write(b"o"), Says("run: started"), Stat("run, want down"))),
    "backoff": (
        {"run": FAILS_FIRST, "speaker": speaker(), "policy": LONG_BACKOFF},
        (Says("run: failed"), Stat("down"), Hold(), Stat("down"), Make("hold")),
    ),
}
# Two of the same signal at once, or a signal to a process that has just been started: what it does with them depends on the moment.
UNSURE = {
    ("deaf", b"dx"), ("deaf", b"ku"), *(("leaving", data) for data in (b"tcu", b"du", b"ud", b"dx", b"pc", b"ku", b"od")),
    *(("backoff", data) for data in (b"ku", b"tcu", b"pc", b"h1")),
}
# A start that is taken back at once: whether it has said its first line, too.
NO_TRACE = {(state, data) for state in ("down", "backoff") for data in (b"ud", b"od")}


def word(data: bytes) -> str:
    return "".join(chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else f"x{byte:02x}" for byte in data)


def matrix() -> list[Scenario]:
    """Every control byte, bytes that mean nothing, and several at once, in every state."""
    scenarios = []
    for state, (files, steps) in STATES.items():
        for data in (*SINGLE, *UNKNOWN, *SEVERAL, *((b"xu",) if state == "down" else ())):
            if (state, data) in UNSURE:
                continue
            before = () if state == "backoff" else (Look("before"),)
            keys = STATUS if (state, data) in NO_TRACE else (*STATUS, "lines") if state == "backoff" else (*STATUS, "trace")
            after: tuple[Step, ...] = (Release(), Look("after", keys))
            if state == "backoff" and not set(data) & set(b"udox"):
                data_written, name = data + b"u", data + b"u"  # the backoff of ljsv is long: `u` ends it
            else:
                data_written = name = data
            if state.startswith("finish"):
                after = (Look("after"), Hit(signal.SIGTERM), Look("finish has ended")) if not set(data) & set(b"k") else (Look("after"),)
            scenarios.append(Scenario(f"{state}.{word(name)}", files, (*steps, *before, Write(data_written), *after)))
    return scenarios


# ---- the clients

VERBS = (
    "up", "down", "once", "pause", "cont", "hup", "alarm", "interrupt", "quit", "1", "2", "term", "kill", "exit",
    "start", "stop", "reload", "restart", "shutdown", "force-stop", "force-reload", "force-restart", "force-shutdown", "try-restart", "check", "status",
)
PLAIN = VERBS[:14]  # these do not wait, unless they are asked to
UNSUPERVISED = (*STARTED, Write(b"x"), Gone())


def clients() -> list[Scenario]:
    """Every verb of `sv`, and every option of `svc`, where it is obeyed, where it is not, and where nobody supervises."""
    scenarios = []
    for state in ("run", "down", "deaf", "paused", "once"):
        files, steps = STATES[state]
        for verb in VERBS:
            if (state, verb) == ("once", "start"):
                continue  # it runs: `sv` is content with what it finds, and prints what was before its command or after it
            words = f"sv {verb} {{name}}" if verb in PLAIN else f"sv -w {1 if state == 'deaf' else 4} {verb} {{name}}"
            scenarios.append(Scenario(f"sv.{state}.{verb}", files, (*steps, Aged(), Look("before"), Client(words), Look("after"))))
        scenarios += [
            Scenario(f"sv-w.{state}.{verb}", files, (*steps, Aged(), Look("before"), Client(f"sv -w 4 {verb} {{name}}"), Look("after")))  # -w implies -v
            for verb in PLAIN if state in {"run", "down"}
        ]
    scenarios += [Scenario(f"svc.{state}.{letter}", STATES[state][0], (*STATES[state][1], Client(f"svc -{letter} {{path}}"), Look("after")))
                  for state in ("run", "down") for letter in "udopchaitkx"]
    asks = tuple(Client(f"sv {verb} {{name}}") for verb in ("status", "up", "down", "hup", "exit", "start", "stop", "restart", "shutdown", "check"))
    asks += (Client("svstat {path}"), Client("svok {path}"), Client("svc -d {path}"))
    scenarios.append(Scenario("sv.unsupervised", RUN, (*UNSUPERVISED, *asks, Look("after"))))
    words = (
        "sv status {name} no-such-service", "sv", "sv status", "sv fly {name}", "sv status {path}", "sv status {path}/", "env SVWAIT=1 sv stop {name}",
        "sv status {name} {name}", "svstat {path}", "svok {path}",
    )
    scenarios.append(Scenario("sv.words", DEAF, (*STARTED, *(Client(word) for word in words), Look("after"))))
    files, steps = STATES["backoff"]
    sv_down_up = (Client("sv down {name}"), Await("`d` to be read, or not", wants_down_or_waits), Client("sv up {name}"))
    scenarios.append(Scenario("sv.backoff.down-up", files, (*steps, *sv_down_up, Release(), Look("after", (*STATUS, "lines")))))
    scenarios.append(Scenario("runsv.second", RUN, (*STARTED, Look("before"), Client("runsv {path}"), Look("after"))))
    return scenarios


def wants_down_or_waits(case: Case) -> bool:
    """ljsv has read `d`; runsv reads it only when it has slept enough."""
    return case.peer.kind == "runit" or case.peer.read(case.name, "status")[17:18] == b"d"


def lsb() -> list[Scenario]:
    """`sv` under the name of the service, as an init script: other exit codes."""
    verbs = (
        "start", "stop", "status", "restart", "force-reload", "reload", "try-restart", "force-stop", "force-restart", "shutdown", "force-shutdown",
        "check", "dance",
    )
    scenarios = []
    for state in ("run", "down", "deaf"):
        files, steps = STATES[state]
        seconds = 1 if state == "deaf" else 4
        scenarios += [
            Scenario(f"lsb.{state}.{verb}", files, (*steps, Aged(), Client(f"{{lsb}} -w {seconds} {verb}"), Look("after"), Client("{lsb} status"))) for verb in verbs
        ]
    scenarios.append(Scenario("lsb.unsupervised", RUN, (*UNSUPERVISED, *(Client(f"{{lsb}} {verb}") for verb in ("status", "start", "stop")))))
    scenarios.append(Scenario("lsb.nothing", RUN, (*STARTED, Client("{lsb}"))))
    return scenarios


# ---- finish


def has_fault(case: Case) -> bool:
    """Whether ljsv says that the files are not as they have to be."""
    return case.peer.kind == "ljsv" and "fault" in case.peer.tree.detail(case.name)


NO_TRACE_KEYS = ("stat", "bytes", "pid", "process", "ok", "lines")
NOTICED = Await("ljsv to notice the change", lambda case: case.peer.kind == "runit" or "changed" in case.peer.tree.detail(case.name))
TOLD = Await("finish to be told, or the files to be refused", lambda case: "finish: 111 0" in case.peer.trace(case.name) or has_fault(case))
STARTS = Await("a start, or the files to be refused", lambda case: "run: started" in case.peer.trace(case.name) or has_fault(case))
ENDS = {
    "exit-0": ("exit 0", "0 0"), "exit-7": ("exit 7", "7 0"), "exit-255": ("exit 255", "255 0"), "kill": ("kill -KILL $$", "-1 9"),
    "term": ("kill -TERM $$", "-1 15"), "usr1": ("kill -USR1 $$", "-1 10"), "pipe": ("kill -PIPE $$", "-1 13"),
}


def finish() -> list[Scenario]:
    """What ./finish is told, and when it runs."""
    tells = {"finish": '#!/bin/sh\necho "finish: $*"\n'}
    down = (Stat("down"), Hold(), Stat("down"), Write(b"d"), Release(), Look("after", NO_TRACE_KEYS))
    tells["policy"] = LONG_BACKOFF
    scenarios = [
        Scenario(f"finish.of.{name}", {"run": f'#!/bin/sh\necho "run: started"\n{end}\n'} | tells, (Says(f"finish: {told}"), *down))
        for name, (end, told) in ENDS.items()
    ]
    del tells["policy"]
    again = (Hit(), Says("run: started", 2), Look("after"))
    scenarios += [
        Scenario("finish.of.not-executable", {"run": "exit 0\n"} | tells, (TOLD, *down)),
        Scenario("finish.of.no-interpreter", {"run": "#!/no/such/interpreter\n"} | tells, (Says("finish: 111 0"), *down)),
        Scenario("finish.of.removed-run", RUN | tells, (*STARTED, Remove("run"), Hit(), Says("finish: -1 9"), Says("finish: 111 0"), *down)),
        Scenario("finish.fails", RUN | {"finish": "#!/bin/sh\necho finish\nexit 9\n"}, (*STARTED, *again)),
        Scenario("finish.dies", RUN | {"finish": "#!/bin/sh\necho finish\nkill -9 $$\n"}, (*STARTED, *again)),
        Scenario("finish.not-executable", RUN | {"finish": "echo finish\n"}, (STARTS, Look("after"))),
        Scenario("finish.added", RUN, (*STARTED, Make("finish", tells["finish"]), NOTICED, *again)),
        Scenario("finish.removed", RUN | tells, (*STARTED, Remove("finish"), NOTICED, *again)),
        Scenario("finish.of.taken-back", {"run": "#!/bin/sh\nexec sleep 1000\n"} | DOWN | tells, (
            Stat("down"), Write(b"ud"), Await("finish to run", lambda case: case.peer.trace(case.name)), Look("after", ("stat", "bytes", "pid", "ok", "trace")),
        )),
        Scenario("finish.time", FINISHED, (*STARTED, Look("run"), Hit(), Says("finish: started -1 9"), Look("finish"))),
        Scenario(
            "finish.exit", FINISHED, (*STARTED, Write(b"x"), Says("finish: started -1 15"), Look("finish"), Hit(signal.SIGTERM), Gone(), Look("after")),
        ),
        Scenario(
            "finish.once", FINISHED | DOWN,
            (Stat("down"), Write(b"o"), Says("run: started"), Hit(), Says("finish: started -1 9"), Look("finish"), Hit(signal.SIGTERM), Look("after")),
        ),
        Scenario("finish.outlives-exit", FINISHED, (*STARTED, Hit(), Says("finish: started -1 9"), Write(b"x"), Look("finish"), Hit(signal.SIGTERM), Look("after"))),
    ]
    return scenarios


# ---- control scripts, check, down, env, and what ./run finds


def script(letter: str, code: int) -> str:
    return f'#!/bin/sh\n[ -x ./run ] && echo "control/{letter}: $# arguments"\nexit {code}\n'


def control() -> list[Scenario]:
    """control/C before the signal, and instead of it where it exits with 0."""
    scenarios = []
    for letter in "tkpchaiq12":
        for code in (0, 1):
            said = Says(f"control/{letter}: 0 arguments")
            scenarios.append(Scenario(f"control.{letter}.{code}", RUN | {f"control/{letter}": script(letter, code)},
                                      (*STARTED, Look("before"), Write(letter.encode()), said, Look("after"))))
    # Told after the signal: whether it or the process is the first to say its line depends on the moment.
    unordered = Look("after", (*STATUS, "lines"))
    both = {"control/t": script("t", 0), "control/d": script("d", 0), "control/x": script("x", 0)}
    starts = RUN | {"control/u": script("u", 1)}
    scenarios += [
        Scenario("control.u", starts, (*STARTED, Look("first"), Hit(), Says("run: started", 2), Look("second"))),
        Scenario("control.u.once", starts | DOWN, (Stat("down"), Write(b"o"), Says("run: started"), Look("after"))),
        Scenario("control.d", RUN | {"control/d": script("d", 0)}, (*STARTED, Write(b"d"), Says("control/d: 0 arguments"), unordered)),
        Scenario("control.d.deaf", DEAF | {"control/d": script("d", 0)}, (*STARTED, Write(b"d"), Says("control/d: 0 arguments"), unordered)),
        Scenario("control.td", RUN | both, (*STARTED, Write(b"d"), Says("control/d: 0 arguments"), unordered)),
        Scenario("control.tx", RUN | both, (*STARTED, Write(b"x"), Says("control/x: 0 arguments"), unordered)),
        Scenario("control.x", RUN | {"control/x": script("x", 0)}, (*STARTED, Write(b"x"), Says("control/x: 0 arguments"), Gone(), unordered)),
        Scenario("control.not-executable", RUN | {"control/h": "exit 0\n"}, (*STARTED, Write(b"h"), Says("run: HUP"), Look("after"))),
        Scenario("control.down", RUN | DOWN | {f"control/{letter}": script(letter, 0) for letter in "tdkh"}, (Stat("down"), Write(b"tdkh"), Look("after"))),
        Scenario("control.added", RUN, (*STARTED, Make("control/"), Make("control/h", script("h", 0)), Write(b"h"), Says("control/h: 0 arguments"), Look("after"))),
    ]
    return scenarios


SEES = """#!/bin/sh
echo "argv: $0 and $# arguments"
echo "umask: $(umask)"
grep -E '^Sig(Blk|Ign)' /proc/self/status
[ -f ./run ] && echo "in the service directory"
cd /proc/$$/fd && echo descriptors: *
exec sleep 1000
"""
ENVIRONMENT = {
    "env/X_MARK": "1\n", "env/X_PLAIN": "hello\n", "env/X_BLANK": "  a b \t \n", "env/X_LINES": "one\ntwo\n", "env/X_NUL": "a\0b\n",
    "env/X_NO_NEWLINE": "end", "env/X_EMPTY_LINE": "\n", "env/HOME": "", "env/X_EQUALS": "a=b\n", "env/X_UTF8": "\u00e4\n", "env/.hidden": "no\n",
}
SHOWS_ENVIRONMENT = """#!/usr/bin/python3 -IS
import os
if "X_MARK" not in os.environ:
    os.execvp("chpst", ["chpst", "-e", "./env", "./run"])
for name in sorted(os.environ):
    if name.startswith(("X_", "HOME", ".")):
        print(name, ascii(os.environ[name]), flush=True)
print("end", flush=True)
os.execvp("sleep", ["sleep", "1000"])
"""


CHILD = f"1000.{os.getpid()}"
HAS_CHILD = f"#!/bin/sh\nsleep {CHILD} &\nexec ./speaker\n"


def count_children(_case: Case) -> str:
    """How many of them live."""
    done = subprocess.run(["pgrep", "-c", "-f", "-x", f"sleep {CHILD}"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def details() -> list[Scenario]:
    """check, down, env/, the files of supervise/, and what ./run finds when it starts."""
    status = Client("sv status {name}")
    asks = (Client("sv -w 1 start {name}"), Client("sv -w 1 check {name}"), Client("sv -w 1 restart {name}"), Look("after", STATUS))
    fails = "#!/bin/sh\nexit 1\n"
    files = Note("files", lambda case: case.peer.files(case.name))
    here = {"supervise": "-> .there"}
    return [
        Scenario("check.succeeds", RUN | {"check": "#!/bin/sh\nexit 0\n"}, (*STARTED, *asks)),
        Scenario("check.fails", RUN | {"check": fails}, (*STARTED, *asks)),
        Scenario("check.down", RUN | DOWN | {"check": fails}, (Stat("down"), Client("sv -w 1 check {name}"), *asks)),
        Scenario("check.not-executable", RUN | {"check": "exit 1\n"}, (*STARTED, *asks)),
        Scenario("down.added", RUN, (*STARTED, Make("down"), status, Hit(), Says("run: started", 2), Look("after"), status)),
        Scenario("down.removed", RUN | DOWN, (Stat("down"), Remove("down"), status, Look("after"), Write(b"u"), *STARTED, status)),
        Scenario("run.sees", {"run": SEES}, (Await("descriptors", lambda case: any(x.startswith("descriptors") for x in case.peer.trace(case.name))), Look())),
        Scenario("run.environment", {"run": SHOWS_ENVIRONMENT} | ENVIRONMENT, (Says("end"), Look())),
        Scenario("run.children", {"run": HAS_CHILD, "speaker": speaker()}, (*STARTED, Write(b"d"), Stat("down"), Look("after"), Note("children left", count_children))),
        Scenario("files.run", RUN, (*STARTED, files)),
        Scenario("files.down", RUN | DOWN, (Stat("down"), files)),
        Scenario("files.exited", RUN, (*UNSUPERVISED, Look(), files)),
        Scenario("files.dangling", RUN | here, (*STARTED, files, Look())),
        Scenario("files.symlink", RUN | here | {".there/": ""}, (*STARTED, files, Look())),
        Scenario("files.directory", RUN | {"supervise/": ""}, (*STARTED, files, Look())),
        Scenario("files.no-fifo", RUN | {"supervise/control": ""}, (Look("after", ("pid", "ok", "trace")),)),
    ]


# ---- the log service

COUNTS = """#!/usr/bin/python3 -IS
import _signal, os
_signal.pthread_sigmask(_signal.SIG_SETMASK, (10, 15))
for turn in range(1, 1000):
    os.write(1, b"".join(b"line %d.%d\\n" % (turn, number) for number in range(100)))
    if _signal.sigwait((10, 15)) == 15:
        os.write(1, b"last line\\n")
        break
"""
LOG_RUN = '#!/bin/sh\nexec svlogd "${LJSV_LOG:-./main}"\n'
LOGGED = {"run": COUNTS, "log/run": LOG_RUN, "log/main/": ""}
LOG = "{name}/log"
WANT_DOWN = Await("the log service to be wanted down", lambda case: case.peer.read(f"{case.name}/log", "status")[17:18] == b"d")


def has_lines(turns: int, last: str = "") -> Await:
    """Until the log has that many turns of 100 lines (and the last line)."""
    lines = [f"line {turn}.{number}" for turn in range(1, turns + 1) for number in range(100)] + ([last] if last else [])
    return Await(f"exactly {turns} turns in the log", lambda case: [x.split(" ", 1)[-1] if x.startswith("@") else x for x in case.peer.log_lines(case.name)] == lines)


def look_at_log(label: str) -> tuple[Step, ...]:
    def describe(case: Case) -> str:
        peer, name = case.peer, f"{case.name}/log"
        status = describe_status(peer.read(name, "status"))
        return f"{peer.read(name, 'stat').decode().strip()}; {status}; {describe_process(peer.pid(name))}; ok {peer.is_supervised(name)}"

    return Note(f"{label}: log", describe), Client("sv status {name}"), Client("svstat {path}/log"), Note(f"{label}: files", lambda case: case.peer.files(f"{case.name}/log"))


def log() -> list[Scenario]:
    """`log/run` with svlogd: a service of its own on one pipe, which loses no line."""
    up = (Stat("run"), Stat("run", LOG))
    more = Write(b"1")

    def other_pid(case: Case) -> bool:
        return case.peer.pid(f"{case.name}/log") not in {0, getattr(case, "old", 0)} and case.peer.read(f"{case.name}/log", "stat") == b"run\n"

    def remember(case: Case) -> str:
        case.old = case.peer.pid(f"{case.name}/log")  # type: ignore[attr-defined]
        return "remembered"

    old, new = Note("old", remember), Await("another logger", other_pid)
    gone = Await("the logger to go", lambda case: not case.peer.is_supervised(f"{case.name}/log"))
    return [
        Scenario("log.plain", LOGGED, (*up, has_lines(1), more, has_lines(2), *look_at_log("after"))),
        Scenario("log.term", LOGGED, (*up, has_lines(1), old, Write(b"t", LOG), new, more, has_lines(2), *look_at_log("after"))),
        Scenario("log.killed", LOGGED, (*up, has_lines(1), old, Hit(service=LOG), more, new, more, has_lines(3), *look_at_log("after"))),
        Scenario("log.down", LOGGED, (*up, has_lines(1), Write(b"d", LOG), Stat("down", LOG), more, *look_at_log("down"), Write(b"u", LOG), Stat("run", LOG), has_lines(2))),
        Scenario("log.exit-ignored", LOGGED, (*up, has_lines(1), Write(b"x", LOG), more, has_lines(2), *look_at_log("after"))),
        Scenario("log.paused", LOGGED, (*up, has_lines(1), Write(b"p", LOG), Stat("run, paused", LOG), more, *look_at_log("paused"), Write(b"c", LOG), has_lines(2))),
        Scenario("log.restart", LOGGED, (*up, has_lines(1), Write(b"d"), Stat("down"), has_lines(1, "last line"), *look_at_log("after"))),
        Scenario("log.exit", LOGGED, (*up, has_lines(1), Write(b"x"), Gone(), gone, has_lines(1, "last line"), *look_at_log("after"))),
        Scenario("log.down-file", LOGGED | {"log/down": ""}, (Stat("run"), Stat("down", LOG), *look_at_log("down"), Write(b"u", LOG), Stat("run", LOG), has_lines(1))),
        Scenario("log.service-down", LOGGED | DOWN, (Stat("down"), Stat("run", LOG), *look_at_log("after"), Write(b"u"), has_lines(1))),
        Scenario("log.sv", LOGGED, (*up, has_lines(1), Aged(LOG), Client("sv -w 4 restart {path}/log"), Client("sv -w 4 hup {path}/log"), Client("sv -w 4 stop {path}/log"), *look_at_log("after"))),
        Scenario("log.not-executable", LOGGED | {"log/run": "exit 0\n"}, (Stat("run"), Write(b"d", LOG), WANT_DOWN, Stat("down", LOG), *look_at_log("after"))),
        Scenario("log.added", {"run": COUNTS}, (
            Stat("run"), Make(".log/"), Make(".log/main/"), Make(".log/run", LOG_RUN), Rename(".log", "log"), old, Await("a logger, or none", is_logger_decided), *look_at_log("after"),
        )),
        Scenario("log.removed", LOGGED, (*up, has_lines(1), Remove("log"), more, Await("the logger to go, or to stay", is_logger_decided), Client("sv status {name}"), Look("after", STATUS))),
    ]


def is_logger_decided(case: Case) -> bool:
    """runit does nothing at all: there is nothing to wait for. ljsv is waited for."""
    if case.peer.kind == "runit":
        return True
    has_log = case.peer.path(f"{case.name}/log").exists()
    return case.peer.is_supervised(f"{case.name}/log") == has_log


GROUPS = {"matrix": matrix, "clients": clients, "lsb": lsb, "finish": finish, "control": control, "details": details, "log": log}
