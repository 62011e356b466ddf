"""When is a directory that is filled in place complete? (design, section 3). Pure."""

from __future__ import annotations

from dataclasses import dataclass

TOP_QUIET_S = 0.2
BELOW_QUIET_S = 2.0
INCOMPLETE_QUIET_S = 10.0
DIRECTORIES_MAX = 4096


@dataclass
class Settling:
    """What has been seen of one directory; times are the loop's clock."""

    top_change: float
    below_change: float
    has_tree: bool = False  # it holds a root directory or an image
    has_root: bool = False  # a root directory: what is below it is watched
    is_complete: bool = False  # run and rootfs are there

    def due(self) -> float:
        """When it will have been quiet for long enough, if nothing changes any more."""
        last = max(self.top_change, self.below_change)
        if not self.is_complete:
            return last + INCOMPLETE_QUIET_S
        if self.has_tree:
            return max(self.top_change + TOP_QUIET_S, last + BELOW_QUIET_S)
        return self.top_change + TOP_QUIET_S
