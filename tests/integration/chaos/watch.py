"""The one who watches: reads the process table all the time, and remembers what must not have been."""

from __future__ import annotations

import threading
import time

from tests.conftest import is_alive
from tests.integration.chaos.marked import Marked, find_jails

PAUSE_S = 0.02


class Watch(threading.Thread):
    """No service in two jails at once; a service of `lasting` keeps its process from beginning to end."""

    def __init__(self, cast: dict[str, Marked], lasting: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self.cast = cast
        self.pids = {name: cast[name].tree.pid(cast[name].name) for name in lasting}
        self.problems: list[str] = []
        self.looks = 0
        self._known: set[str] = set()
        self._is_over = threading.Event()
        self._begun_at = time.monotonic()

    def run(self) -> None:
        labels = {service.label: service.label_name for service in self.cast.values()}
        while not self._is_over.wait(PAUSE_S) and len(self.problems) < 20:
            for label, namespaces in find_jails(list(labels)).items():
                if len(namespaces) > 1 and set(namespaces) - self._known:
                    self._known |= set(namespaces)
                    self._tell(f"{labels[label]} runs in {len(namespaces)} jails: {namespaces}")
            for name, pid in list(self.pids.items()):
                if not is_alive(pid):
                    self._tell(f"{name} (pid {pid}) has ended, and nobody has told it to")
                    self.pids.pop(name, None)
            self.looks += 1

    def _tell(self, what: str) -> None:
        self.problems.append(f"after {time.monotonic() - self._begun_at:.3f} s: {what}")

    def release(self) -> None:
        """From now on they may end."""
        self.pids = {}

    def stop(self) -> None:
        self._is_over.set()
        self.join()
