"""`ljsv top`: what each service uses, and may use, again and again; with keys on a terminal, plain lines elsewhere.

What is shown is made by pure functions of two looks at the control groups,
`rows_of` and `draw`; the rest reads keys. A service without a group of its
own (see `ljsv doctor`) shows its main process only, with a ~ before it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from contextlib import suppress

from ljsv import status
from ljsv.cli.context import Context
from ljsv.cli.options import Options, usage
from ljsv.cli.show import printable
from ljsv.cli.sizes import read_rss, size
from ljsv.errors import EXIT_OK, Fault
from ljsv.frozen import Frozen
from ljsv.jail.cgroup import unenforced
from ljsv.linux.cgroup import Use, read_use

OPTIONS = {"-d": "SECONDS", "-n": "TIMES", "--sort": "COLUMN", "--all": ""}
HEAD = ("SERVICE", "STATE", "CPU", "OF", "MEMORY", "OF", "PIDS", "OF", "RESTARTS", "")
RIGHT = frozenset({2, 3, 4, 5, 6, 7, 8})
SORTS = ("name", "cpu", "memory", "pids", "restarts")
SORT_KEYS = {"N": "name", "C": "cpu", "M": "memory", "P": "pids", "R": "restarts"}
KEYS = "q quit  up/down select  N C M P R sort  r restart  l log"
SHOWN_MAX = 10_000
LOG_LINES = "20"
CLEAR, HOME, ALTERNATE, NORMAL = "\x1b[J", "\x1b[H", "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
SUSPEND = "\x1a"
UP, DOWN = ("\x1b[A", "\x1bOA", "k"), ("\x1b[B", "\x1bOB", "j")
USUAL_SIZE = (80, 24)  # of a serial line, which does not know
CLOCK_TICKS = 100  # proc_pid_stat(5): USER_HZ


class Look(Frozen):
    """One service at one moment. `cpu_usec` and `at` (seconds) are of use together with the look before."""

    name: str
    state: str
    at: float
    use: Use
    is_whole: bool = True
    restarts: int = 0
    remark: str = ""


class Row(Frozen):
    """One line: the service, what it is sorted by, its cells."""

    name: str
    cpu: float
    memory: int
    pids: int
    restarts: int
    cells: tuple[str, ...]


# ---- looking


def look(context: Context, name: str) -> Look:
    detail: dict[str, str] = {}
    with suppress(PermissionError):
        detail = context.detail(name)
    is_supervised = bool(detail) and status.is_supervised(context.supervise_of(name))
    use = read_use(detail.get("cgroup", "")) if is_supervised else None
    remarks = [f"not enforced: {limit.partition(' (')[0]}" for limit in unenforced(detail)] if is_supervised else []
    remarks += [detail["why"]] if detail.get("state") in {status.BACKOFF, status.FAILED} and "why" in detail else []
    remarks += ["paused"] if "paused" in detail else []
    return Look(
        name, detail.get("state", status.DOWN) if is_supervised else "unsupervised", time.monotonic(), use or _of_main_process(detail),
        use is not None and use.memory is not None, int(detail.get("restarts", "0")), printable(", ".join(remarks)),
    )


def _of_main_process(detail: dict[str, str]) -> Use:
    """Where there is no group: what the kernel knows of the service's own process."""
    try:
        with open(f"/proc/{int(detail['pid'])}/stat") as file:
            words = file.read().rpartition(") ")[2].split()
    except (OSError, KeyError, ValueError):
        return Use()
    ticks = int(words[11]) + int(words[12])
    return Use(memory=read_rss(detail), cpu_usec=ticks * 1_000_000 // CLOCK_TICKS, pids=int(words[17]))


def rows_of(looks: list[Look], before: dict[str, Look], sort: str) -> list[Row]:
    """The rows in order. CPU is that between two looks; a service that was not there before has none yet."""
    rows = [_row(one, before.get(one.name)) for one in looks]
    rows.sort(key=lambda row: row.name)
    if sort != "name":
        rows.sort(key=lambda row: getattr(row, sort), reverse=True)
    return rows


def _row(one: Look, before: Look | None) -> Row:
    use, mark = one.use, "" if one.is_whole else "~"
    cpu = -1.0
    if before and use.cpu_usec is not None and before.use.cpu_usec is not None and before.at < one.at and use.cpu_usec >= before.use.cpu_usec:
        cpu = (use.cpu_usec - before.use.cpu_usec) / (one.at - before.at) / 10_000
    is_running = use.cpu_usec is not None or use.memory is not None
    cells = (
        one.name, one.state, f"{mark}{cpu:.1f}%" if cpu >= 0 else "-", f"{use.cpu_max:g}%" if use.cpu_max is not None else "-",
        f"{mark}{size(use.memory)}" if use.memory is not None else "-", size(use.memory_max) if use.memory_max is not None else "-",
        f"{mark}{use.pids}" if use.pids is not None else "-", str(use.pids_max) if use.pids_max is not None else "-",
        str(one.restarts) if is_running or one.restarts else "-", one.remark,
    )
    return Row(one.name, cpu, use.memory or 0, use.pids or 0, one.restarts, cells)


def draw(rows: list[Row], *, width: int = 0, selected: str = "") -> list[str]:
    """The lines of the table; cut to `width` where that is not 0, the selected one in reverse."""
    table = [HEAD, *[row.cells for row in rows]]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(HEAD))]
    lines = []
    for cells in table:
        padded = [f"{cell:>{length}}" if column in RIGHT else f"{cell:{length}}" for column, (cell, length) in enumerate(zip(cells, widths, strict=True))]
        line = "  ".join(padded).rstrip()
        line = line[:width] if width else line
        lines.append(f"\x1b[7m{line}\x1b[0m" if selected and cells[0] == selected and cells is not HEAD else line)
    return lines


# ---- the command


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    every_s = options.number("-d", 1.0, low=0.1)
    sort = options.get("--sort", "name")
    if sort not in SORTS:
        raise usage(f"--sort wants {', '.join(SORTS)}: found {sort!r}", "ljsv top --sort memory")
    is_asked = bool(options.operands)
    names = context.names() if is_asked else []
    if sys.stdout.isatty() and sys.stdin.isatty():
        times = int(options.number("-n", 0, low=1)) if options.has("-n") else 0
        return Screen(context, names, every_s, sort, times).run()
    return _print_plain(context, names, every_s, sort, int(options.number("-n", 1, low=1)))


def _names(context: Context, names: list[str]) -> list[str]:
    return (names or context.all_names())[:SHOWN_MAX]


def _print_plain(context: Context, names: list[str], every_s: float, sort: str, times: int) -> int:
    """Two looks, then a table; and so on."""
    before = {name: look(context, name) for name in _names(context, names)}
    for number in range(times):
        time.sleep(every_s)
        looks = [look(context, name) for name in _names(context, names)]
        print("\n" * bool(number) + "\n".join(draw(rows_of(looks, before, sort))), flush=True)
        before = {one.name: one for one in looks}
    return EXIT_OK


class Screen:
    """The table on a terminal. Whatever ends it, the terminal is as it was."""

    def __init__(self, context: Context, names: list[str], every_s: float, sort: str, times: int) -> None:
        self.context = context
        self.names = names
        self.every_s = every_s
        self.sort = sort
        self.times = times  # 0: until told to end
        self.selected = ""
        self.message = ""
        self.asking = ""  # the service whose restart waits for a yes
        self.before: dict[str, Look] = {}
        self.looks: list[Look] = []
        self.order: list[str] = []
        self.is_done = False
        self.saved = termios.tcgetattr(0)

    def run(self) -> int:
        signal.signal(signal.SIGWINCH, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            self._take_terminal()
            self._look()
            next_at = time.monotonic() + min(self.every_s, 0.3)  # the first shares of the processor come soon
            while not self.is_done:
                self._show()
                ready = select.select([0], [], [], max(next_at - time.monotonic(), 0.0))[0]
                if ready:
                    self._take(os.read(0, 64).decode(errors="replace"))
                if time.monotonic() >= next_at:
                    self._look()
                    next_at = time.monotonic() + self.every_s
                    self.times -= 1
                    self.is_done |= self.times == 0
        except KeyboardInterrupt:
            pass  # Ctrl-C is a way to end it
        finally:
            self._give_terminal_back()
        return EXIT_OK

    def _take_terminal(self) -> None:
        tty.setcbreak(0)
        mode = termios.tcgetattr(0)
        mode[6][termios.VSUSP] = b"\0"  # Ctrl-Z is a key like others: the terminal is to be given back first
        termios.tcsetattr(0, termios.TCSADRAIN, mode)
        _write(ALTERNATE)

    def _give_terminal_back(self) -> None:
        termios.tcsetattr(0, termios.TCSADRAIN, self.saved)
        _write(NORMAL)

    def _look(self) -> None:
        self.before = {one.name: one for one in self.looks}
        self.looks = [look(self.context, name) for name in _names(self.context, self.names)]

    def _show(self) -> None:
        rows = rows_of(self.looks, self.before, self.sort)
        self.order = [row.name for row in rows]
        if self.selected not in self.order:
            self.selected = self.order[0] if self.order else ""
        columns, height = (found or usual for found, usual in zip(os.get_terminal_size(1), USUAL_SIZE, strict=True))
        lines = draw(rows, width=columns, selected=self.selected)
        place = max(0, min(self.order.index(self.selected) - (height - 4) // 2, len(rows) - (height - 3))) if self.order else 0
        body = [lines[0], *lines[1 + place : 1 + place + max(height - 3, 1)]]
        body += [""] * (height - 2 - len(body))
        foot = self.message or f"{KEYS}  (by {self.sort}, {len(rows)} of {self.context.shown})"
        _write(HOME + "".join(f"{line}\x1b[K\r\n" for line in body[: height - 1]) + foot[:columns] + CLEAR)

    def _take(self, text: str) -> None:
        """What was typed: one key, or the several bytes of an arrow."""
        if self.asking:
            self._answer(text)
        elif text[:3] in UP or text in UP:
            self._move(-1)
        elif text[:3] in DOWN or text in DOWN:
            self._move(1)
        elif text[:1] in {"q", "\x03", "\x04"}:
            self.is_done = True
        elif text[:1] == SUSPEND:
            self._give_terminal_back()
            os.kill(0, signal.SIGTSTP)
            self._take_terminal()
        elif text[:1] in SORT_KEYS:
            self.sort, self.message = SORT_KEYS[text[:1]], ""
        elif text[:1] == "r" and self.selected:
            self.asking = self.selected
            self.message = f"restart {self.selected}? y or n"
        elif text[:1] in {"l", "\n", "\r"} and self.selected:
            self._follow(self.selected)
        else:
            self.message = ""

    def _move(self, step: int) -> None:
        if self.order:
            place = self.order.index(self.selected) + step
            self.selected = self.order[max(0, min(place, len(self.order) - 1))]
        self.message = ""

    def _answer(self, text: str) -> None:
        name, self.asking, self.message = self.asking, "", ""
        if text[:1] != "y":
            return
        try:
            is_at_rest = self.context.detail(name).get("state") in {status.DOWN, status.BACKOFF, status.FAILED}
            self.context.send(name, "u" if is_at_rest else "du")
            self.message = f"{name} is told to restart"
        except Fault as fault:
            self.message = f"{fault}"

    def _follow(self, name: str) -> None:
        """`ljsv logs -f` on the whole terminal, until Ctrl-C."""
        self._give_terminal_back()
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        pid = os.fork()
        if pid == 0:
            self._become_logs(name)
        os.waitpid(pid, 0)
        signal.signal(signal.SIGINT, before)
        self._take_terminal()
        self.message = ""

    def _become_logs(self, name: str) -> None:
        """In the child. Never returns."""
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            from ljsv.cli import logs_verb

            print(f"--- the log of {name}; Ctrl-C comes back ---", flush=True)
            code = logs_verb.run("logs", Options({"-f": "", "-n": LOG_LINES, "--svdir": self.context.svdir}, [name]))
            sys.stdout.flush()
        except KeyboardInterrupt:
            code = 0
        except Fault as fault:
            print(f"ljsv: {fault}", flush=True)
            time.sleep(1)
        finally:
            os._exit(code)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
