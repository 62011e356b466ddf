"""What a service needs, and who needs it: by announcements, without a central scheduler.

A supervisor that needs `db` holds a FIFO `need.IDENTITY.NAME` in db's fifodir
while its own service is not at rest. It gets a byte for each announcement of db
(so it sleeps until then), and db's supervisor sees in the same place who depends
on it: a FIFO that has a reader. The identity is that of the service directory:
two may have had one name. A need is ready when its status says so and its jail
holds the lock of its exit record.
"""

from __future__ import annotations

import os
from contextlib import suppress

from ljsv import status
from ljsv.errors import Fault, quote
from ljsv.service.circle import find_circle
from ljsv.service.read import read_needs
from ljsv.supervise.directory import is_locked, open_subscription
from ljsv.supervise.loop import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ljsv.paths import Places
    from ljsv.supervise.loop import Loop

PREFIX = "need."
READ_SIZE = 4096
AGAIN_S = 0.5


class Circle(Fault):
    """Needs that go in a circle: it may be broken elsewhere."""


class Needs:
    """The needs of one service. `on_change` is called when one of them, or what is supervised at all, has changed."""

    def __init__(self, places: Places, loop: Loop, identity: str, on_change: Callable[[], None]) -> None:
        self._places = places
        self._identity = identity
        self._loop = loop
        self._on_change = on_change
        self._fifos: dict[str, int] = {}  # by path

    def missing(self, name: str, needs: tuple[str, ...]) -> tuple[str, ...]:
        """Those that are not ready, in order; from now on their announcements are heard. Fault when they go in a circle."""
        self._subscribe(name, needs)
        self.refuse_circle(name, needs)
        return tuple(need for need in needs if not is_ready(f"{self._places.svdir}/{need}/supervise"))

    def refuse_circle(self, name: str, needs: tuple[str, ...]) -> None:
        """Fault when they go in one."""
        circle = find_circle(name, lambda one: needs if one == name else read_needs(f"{self._places.svdir}/{one}"))
        if circle:
            hint = f"grep -n needs {quote(f'{self._places.svdir}/{circle[-2]}/policy')}  # take one out, there or in another of them"
            raise Circle("needs go in a circle", " -> ".join(circle), "none of them could ever start", hint=hint)

    def refuse_edit(self, name: str, needs: tuple[str, ...]) -> None:
        """Fault where needs that were edited under a running service could never be ready."""
        self.refuse_circle(name, needs)
        for need in needs:
            if not os.path.isdir(f"{self._places.svdir}/{need}"):
                self._hear(f"{self._places.scanner}/event/{_fifo_of(self._identity, name)}")  # of what is supervised from now on
                raise Fault("needs what is not there", need, "no such service", hint=f"ljsv new {quote(need)}  # or take it out of policy")

    @property
    def fds(self) -> list[int]:
        """Where they are heard."""
        return list(self._fifos.values())

    def _subscribe(self, name: str, needs: tuple[str, ...]) -> None:
        wanted = set(paths_of(self._places, self._identity, name, needs))
        for path in self._fifos.keys() - wanted:
            self._drop(path)
        for path in wanted:
            self._hear(path)

    def _hear(self, path: str) -> None:
        """From now on; where it is not there, the scanner announces when it is."""
        if path in self._fifos and not os.path.exists(path):
            self._drop(path)
        if path not in self._fifos:
            try:
                fd = self._fifos[path] = open_subscription(path)
                self._loop.watch(fd, lambda: self._heard(fd))
            except BlockingIOError:
                self._loop.set_timer(f"hear {path}", now() + AGAIN_S, self._on_change)
            except (OSError, Fault):
                pass

    def _heard(self, fd: int) -> None:
        with suppress(BlockingIOError):
            os.read(fd, READ_SIZE)
        self._on_change()

    def _drop(self, path: str) -> None:
        fd = self._fifos.pop(path)
        self._loop.forget(fd)
        with suppress(OSError):
            os.unlink(path)
        os.close(fd)

    def follow_name(self, name: str) -> None:
        """The service has another name: who looks at what depends on a need is to see that."""
        for path in list(self._fifos):
            renamed = f"{os.path.dirname(path)}/{_fifo_of(self._identity, name)}"
            with suppress(OSError):
                os.rename(path, renamed)
                self._fifos[renamed] = self._fifos.pop(path)

    def release(self) -> None:
        """The service is at rest: it depends on nobody."""
        for path in list(self._fifos):
            self._drop(path)


def _fifo_of(identity: str, name: str) -> str:
    return f"{PREFIX}{identity}.{name}"


def _name_in(fifo: str) -> str:
    return fifo.removeprefix(PREFIX).partition(".")[2]


def paths_of(places: Places, identity: str, name: str, needs: Iterable[str]) -> list[str]:
    """The FIFOs that `name` holds for what it needs, and for news of the scanner; none without needs."""
    folders = [f"{places.svdir}/{need}/supervise/event" for need in needs]
    return [f"{folder}/{_fifo_of(identity, name)}" for folder in [*folders, f"{places.scanner}/event"]] if folders else []


def hold(places: Places, identity: str, name: str, supervise: str) -> list[int]:
    """Those of a service that runs, as its `detail` says, open: for one that only waits."""
    found = []
    with suppress(OSError):
        for path in paths_of(places, identity, name, status.read_detail(supervise).get("needs", "").split()):
            with suppress(OSError, Fault):  # it is not there: the scanner announces when it is
                found.append(open_subscription(path))
    return found


def is_ready(supervise: str) -> bool:
    """Whether a service says that it is ready, and its jail lives."""
    try:
        state = status.read_detail(supervise).get("state")
    except OSError:
        return False
    return state == status.READY and is_locked(f"{supervise}/exit")


def open_dependents(supervise: str) -> dict[int, str]:
    """Who depends on a service now: the writing ends of their FIFOs (one reports an error when its reader has gone), by name."""
    found: dict[int, str] = {}
    with suppress(OSError):
        for name in sorted(os.listdir(f"{supervise}/event")):
            if name.startswith(PREFIX):
                with suppress(OSError):
                    fd = os.open(f"{supervise}/event/{name}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
                    found[fd] = _name_in(name)
    return found


def name_dependents(supervise: str) -> list[str]:
    """Their names."""
    found = open_dependents(supervise)
    for fd in found:
        os.close(fd)
    return list(found.values())
