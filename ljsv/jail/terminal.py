"""A terminal of the jail's own, shown on the caller's: for `ljexec` and `ljsv enter`.

    caller's terminal <-> relay (outside) <-> master | slave <-> program
                              ^ channel v               ^ its parent: the session's leader

The jail never gets the caller's terminal, so it cannot push input into it
(TIOCSTI). The process that opens the slave becomes the leader of a session
and stays as the parent of the program: a program alone in its session could
not be stopped by Ctrl-Z, since nobody would be there to continue it.

The program begins when the relay has said so, and that waits until the jail's
terminal has somebody who gets what Ctrl-C and Ctrl-Z mean. Until then the
caller's terminal sends its signals to the caller, and Ctrl-Z stops him
together with what builds the jail.

The program has the foreground of its terminal while the caller has that of
his. When the program stops, the leader says so, and the caller stops as well;
continued, it has the leader continue the program. A program in the background
that reads stops (SIGTTIN), as it would without a jail: the `fg` of a shell
sends no signal to a job that runs, so this is how we notice that we are in
front.

A program whose child is stopped between vfork and exec cannot stop itself, and
nobody is told: dash 0.5.12 lets that happen to `sh -c 'echo; sleep 1; echo'`,
and loses Ctrl-C in the same moment. So it is without a jail too. A hang-up
ends it. Sources: pty(7), termios(3), ioctl_tty(2), credentials(7), vfork(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import struct
import termios

from ljsv.errors import Fault, quote
from ljsv.jail import pid1
from ljsv.linux import descriptors, process
from ljsv.linux.mount import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2
from ljsv.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TIOCSPTLCK, TIOCGPTPEER = 0x4004_5431, 0x5441  # asm-generic/ioctls.h
IUTF8 = 0x4000  # asm-generic/termbits.h
PTMX = os.makedev(5, 2)
CHUNK = 16384
LEFT_MAX = 32768  # twice what a terminal holds: what is in it when the program has ended, and not what others in the jail go on writing
MASTER, READY, STOPPED = b"T", b"R", b"Z"  # to the relay: with the descriptor; keys find somebody; with the number of the signal
FRONT, BACK = b"F", b"B"  # to the leader: begin or go on, in the foreground or the background of the jail's terminal
PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGALRM, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
AWAITED = (*PASSED_ON, signal.SIGTSTP, signal.SIGCHLD)


# ---- a terminal of the host that a service is given


GONE = frozenset({errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EIO, errno.EBUSY})  # until it is plugged in again, or hung up


def open_host(path: str, origin: str) -> int:
    """A terminal of the host, in a sane state, and not ours. Fault where it cannot be opened, transient where it may be there later."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)  # a line without carrier is not waited for
    except OSError as error:
        fault = Fault.from_os("cannot open the terminal", error, path, hint=f"ls -l {quote(path)}  # it is named in {origin}")
        fault.is_transient = error.errno in GONE
        raise fault from None
    try:
        _make_sane(fd)
        os.set_blocking(fd, True)
    except termios.error as error:
        os.close(fd)
        fault = Fault("cannot open the terminal", path, str(error.args[-1]), hint=f"ls -l {quote(path)}  # is it a terminal? it is named in {origin}")
        fault.is_transient = error.args[0] in GONE
        raise fault from None
    return fd


def _make_sane(fd: int) -> None:
    """As getty and `stty sane` leave it, at the speed that it has: what ended before may have left it raw."""
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = termios.tcgetattr(fd)
    iflag = termios.BRKINT | termios.ICRNL | termios.IXON | (iflag & IUTF8)
    oflag |= termios.OPOST | termios.ONLCR
    cflag |= termios.CREAD
    lflag = termios.ISIG | termios.ICANON | termios.ECHO | termios.ECHOE | termios.ECHOK | termios.ECHOCTL | termios.ECHOKE | termios.IEXTEN
    for which, value in ((termios.VINTR, 3), (termios.VQUIT, 28), (termios.VERASE, 127), (termios.VKILL, 21), (termios.VEOF, 4), (termios.VSUSP, 26)):
        characters[which] = bytes([value])
    termios.tcsetattr(fd, termios.TCSANOW, [iflag, oflag, cflag, lflag, ispeed, ospeed, characters])


def take_over(root_fd: int, host_fd: int, path: str) -> int:
    """Make it the controlling terminal of this session, whose leader we are; its descriptor, through the jail's own node.

    Through the host's node ttyname(3) would not find it. Fault where another session has it.
    """
    fd = host_fd
    try:
        own_fd = openat2(root_fd, path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
        if os.fstat(own_fd).st_rdev == os.fstat(host_fd).st_rdev and os.isatty(own_fd):
            os.set_blocking(own_fd, True)
            fd = own_fd
    except OSError:
        pass  # a pseudo-terminal has no node in the jail
    try:
        fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
    except OSError as error:
        cause = "another session has it" if error.errno == errno.EPERM else error.strerror or str(error)
        raise Fault("cannot take the terminal", path, cause, hint=f"fuser -v {quote(path)}  # what has it must end first", is_transient=True) from None
    return fd


# ---- inside the jail


def open_inside(root_fd: int, channel_fd: int) -> int:
    """The slave of a new pair of the jail's own devpts; the master goes out through the channel.

    A jail that runs may have replaced what is in its /dev: only the real
    multiplexer will do.
    """
    master_fd = openat2(root_fd, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
    entry = os.fstat(master_fd)
    if not stat.S_ISCHR(entry.st_mode) or entry.st_rdev != PTMX:
        raise OSError(errno.ENOTTY, "not a terminal multiplexer", "/dev/pts/ptmx")
    fcntl.ioctl(master_fd, TIOCSPTLCK, struct.pack("i", 0))
    slave_fd = fcntl.ioctl(master_fd, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    descriptors.send(channel_fd, MASTER, master_fd)
    os.close(master_fd)
    return int(slave_fd)


def fork_program(slave_fd: int, channel_fd: int) -> None:
    """Return in a child once the relay is there; the caller, a session's leader, stays as its parent.

    Signals that come before the leader passes them on wait: in a session of
    its own SIGTSTP would be lost.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    fcntl.ioctl(slave_fd, termios.TIOCSCTTY, 0)
    process.prctl(process.PR_SET_DUMPABLE, 0)  # both, until the program execs
    descriptors.send(channel_fd, READY)
    place = descriptors.receive(channel_fd)[0]
    if place not in {FRONT, BACK}:
        os._exit(1)  # the caller has died
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    program = os.fork()
    if program == 0:
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setpgid(0, 0)
        if place == FRONT:
            os.tcsetpgrp(slave_fd, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return
    try:
        _lead(program, slave_fd, channel_fd)
    finally:
        os._exit(1)


def _lead(program: int, slave_fd: int, channel_fd: int) -> None:
    """Wait for the program; pass signals on, and tell when it stops. Never returns.

    Signals are awaited, not caught: one caught just before a call that waits
    would wait with it. SIGTSTP for a program that has stopped is for when it
    goes on, since SIGCONT would undo it.
    """
    try:
        os.setpgid(program, program)  # both do it: there has to be a group to pass signals on to
    except OSError:
        pass  # it has done so, and is further
    process.prctl_name("ljsv session")
    process.close_all_except(slave_fd, channel_fd)
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)
    while True:
        number = signal.sigwait(AWAITED)
        if number != signal.SIGCHLD:
            _send(program, number)
        if number in {signal.SIGHUP, signal.SIGTERM}:
            # What is stopped has to see it: a terminal that hangs up does so, and a shell's kill, whose own SIGCONT
            # may have let the program stop again before this one came.
            _send(program, signal.SIGCONT)
        _look(program, slave_fd, channel_fd)


def _look(program: int, slave_fd: int, channel_fd: int) -> None:
    """What has become of the children: reap those that it has left to us, end with it, stop with it."""
    while True:
        pid, wait_status = os.waitpid(-1, os.WUNTRACED | os.WNOHANG)
        if not pid:
            return
        if pid != program:
            continue
        if not os.WIFSTOPPED(wait_status):
            os._exit(pid1.exit_code(wait_status))
        descriptors.send(channel_fd, STOPPED + bytes([os.WSTOPSIG(wait_status)]))
        place = descriptors.receive(channel_fd)[0]
        if place in {FRONT, BACK}:
            os.tcsetpgrp(slave_fd, program if place == FRONT else os.getpid())
        else:
            _send(program, signal.SIGKILL)
        _send(program, signal.SIGCONT)
        if signal.sigpending() - {signal.SIGCHLD}:
            return  # what has come meanwhile is for it first: it may stop again at once, and we would wait for the caller with it


def _send(program: int, number: int) -> None:
    try:
        os.killpg(program, number)
    except ProcessLookupError:
        pass


# ---- outside


def _open_keyboard() -> int:
    """A descriptor of the terminal that the caller types on: 0, or one that is to be closed; -1 for none."""
    if os.isatty(0):
        return 0
    try:
        if os.fstat(0).st_rdev == os.stat("/dev/null").st_rdev:
            return -1
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return -1


class Relay:
    """The caller's side. The terminal that he types on is raw while this runs, and as it was when it ends.

    That is his standard input, or, where this is a pipe or a file, his controlling terminal (`ls | ljexec -- more`); where it
    is /dev/null nothing is read. Output goes to whichever of his standard descriptors is one. In the
    background the terminal is left alone, and so is what is typed, until
    somebody brings us to the front. `is_begun`: the program may run, and signals for it are the leader's.
    """

    def __init__(self, master_fd: int, channel_fd: int) -> None:
        self.master_fd = master_fd
        self.channel_fd = channel_fd
        self.output_fd = next(fd for fd in (1, 2, 0) if os.isatty(fd))
        self.input_fd = _open_keyboard()
        self.has_input = self.input_fd >= 0
        self.before: list[Any] = []
        self.is_raw = False
        self.is_continued = False
        self.is_begun = False
        self.to_jail = b""
        self.is_hung_up = False
        self.is_led = True
        self.is_ended = False
        signal.signal(signal.SIGWINCH, self._resized)
        signal.signal(signal.SIGCONT, self._continued)
        os.set_blocking(master_fd, False)
        self._resize()

    def _resized(self, _number: int, _frame: object) -> None:
        self._resize()

    def _continued(self, _number: int, _frame: object) -> None:
        self.is_continued = True
        if self.is_raw:  # SIGSTOP from somebody has stopped us, and his shell has put its own settings back
            self.is_raw = False
            self._take()

    def _resize(self) -> None:
        try:
            size = fcntl.ioctl(self.output_fd, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(self.master_fd, termios.TIOCSWINSZ, size)
        except OSError:
            pass  # the terminal has gone

    def _is_in_front(self) -> bool:
        """Whether what is typed is for us. A terminal that controls nobody here (no shell with job control) always is."""
        try:
            return os.tcgetpgrp(self.input_fd) == os.getpgrp()
        except OSError as error:
            return error.errno == errno.ENOTTY

    def _take(self) -> bool:
        """Raw mode (cfmakeraw(3), of the settings as they are), if we are in the foreground; whether we are."""
        try:
            if not self.has_input or self.is_raw:
                return True
            if not self._is_in_front():
                return False
            self.before = termios.tcgetattr(self.input_fd)
            iflag, oflag, cflag, lflag, ispeed, ospeed, cc = self.before
            iflag &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
            oflag &= ~termios.OPOST
            lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
            cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            termios.tcsetattr(self.input_fd, termios.TCSADRAIN, [iflag, oflag, cflag, lflag, ispeed, ospeed, cc])
            self.is_raw = True
        except (OSError, termios.error):
            self.has_input = False  # the terminal has gone
        return True

    def _place(self, *, is_front: bool) -> None:
        """Let the program begin or go on."""
        try:
            descriptors.send(self.channel_fd, FRONT if is_front else BACK)
        except BrokenPipeError:
            self.is_led = False

    def _restore(self) -> None:
        if not self.is_raw:
            return
        self.is_raw = False
        try:
            termios.tcsetattr(self.input_fd, termios.TCSADRAIN, self.before)
        except (OSError, termios.error):
            pass  # the terminal has gone

    def close(self) -> None:
        """Show what is left of the output, and give the terminal back. A second time does nothing."""
        if self.master_fd < 0:
            return
        self.is_ended = True
        try:
            shown = 0
            while shown < LEFT_MAX and (more := self._show()):
                shown += more
        finally:
            self._restore()
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)
            os.close(self.master_fd)
            os.close(self.channel_fd)
            if self.input_fd > 0:
                os.close(self.input_fd)
            self.master_fd = self.input_fd = -1

    def watch(self, poller: select.poll) -> None:
        """What this waits for now: input only when the last of it has been taken, so that nothing piles up."""
        output = 0 if self.is_hung_up else select.POLLIN | (select.POLLOUT if self.to_jail else 0)
        takes_input = self.is_raw and self.has_input and not self.to_jail and not self.is_hung_up
        for fd, events in ((self.master_fd, output), (self.input_fd, select.POLLIN if takes_input else 0), (self.channel_fd, select.POLLIN if self.is_led else 0)):
            if fd < 0:
                continue
            if events:
                poller.register(fd, events)
            else:
                try:
                    poller.unregister(fd)  # or else it would wake us for its end, over and over
                except KeyError:
                    pass

    def turn(self, ready: dict[int, int], poller: select.poll) -> None:
        """Carry what is there, then say anew what to wait for."""
        typed = self._read_input() if ready.get(self.input_fd, 0) else b""
        if self.to_jail:
            self._write_input()
        if typed and self.input_fd > 0:
            self._tell_others(typed)
        if ready.get(self.master_fd, 0) & ~select.POLLOUT and not self._show():
            self.is_hung_up = True  # nobody has the slave open any more
        if ready.get(self.channel_fd, 0):
            self._read_channel()
        self.watch(poller)

    def _read_input(self) -> bytes:
        """What was typed."""
        if not self.is_raw:
            return b""  # in the background since
        try:
            self.to_jail = os.read(self.input_fd, CHUNK)
        except OSError:
            self.to_jail = b""
        self.has_input = bool(self.to_jail)
        return self.to_jail

    def _tell_others(self, typed: bytes) -> None:
        """Ctrl-C and its like are for whoever else is in the pipe as well: raw, the terminal no longer tells them.

        After the program, which would else see the end of its input first.
        Which keys they are the user's terminal says, never the jail's: what a
        terminal answers by itself counts as typed, too.
        """
        try:
            lflag = termios.tcgetattr(self.master_fd)[3]
        except termios.error:
            return
        keys = self.before[6]
        if not lflag & self.before[3] & termios.ISIG:
            return  # to the program, or to the user, they are keys as any other
        for place, number in ((termios.VINTR, signal.SIGINT), (termios.VQUIT, signal.SIGQUIT), (termios.VSUSP, signal.SIGTSTP)):
            if keys[place] != b"\0" and keys[place] in typed:
                handler = signal.signal(number, signal.SIG_IGN)  # we have it already
                os.killpg(0, number)
                signal.signal(number, handler)

    def _write_input(self) -> None:
        try:
            self.to_jail = self.to_jail[os.write(self.master_fd, self.to_jail) :]
        except BlockingIOError:
            pass
        except OSError:
            self.to_jail = b""

    def _show(self) -> int:
        """Output of the jail; its size, 0 when there is no more."""
        try:
            data = os.read(self.master_fd, CHUNK)
        except BlockingIOError:
            return int(not self.is_ended)
        except OSError:
            return 0
        size = len(data)
        while data:
            try:
                data = data[os.write(self.output_fd, data) :]
            except BlockingIOError:  # somebody who shares the terminal has made it so
                select.select([], [self.output_fd], [])
        return max(size, 1)

    def _read_channel(self) -> None:
        message, _ = descriptors.receive(self.channel_fd)
        if not message:
            self.is_led = False
        elif message == READY:
            is_front = self._take()
            self.is_begun = True
            self._place(is_front=is_front)
        elif message[:1] == STOPPED:
            self._stop(message[1])

    def _stop(self, number: int) -> None:
        """The program has stopped: so do we, until somebody continues us. What wants the terminal while we have it goes on."""
        wants_terminal = number in {signal.SIGTTIN, signal.SIGTTOU}
        if wants_terminal and self._is_in_front():
            is_front = self._take()
        else:
            self._restore()
            self.is_continued = False
            number = number if wants_terminal else signal.SIGTSTP
            caught = signal.signal(number, signal.SIG_DFL)
            os.kill(0, number)  # the whole pipeline, as the terminal does it
            is_front = self._take() or not self.is_continued  # not stopped: no shell is there that could continue us
            signal.signal(number, caught)
        self._resize()
        self._place(is_front=is_front)
