"""The steps of a jail after its mounts: names, ids, privileges. In the order of the plan, which is the design's.

`enter` takes some of them too, for a process that comes later.
"""

from __future__ import annotations

import errno
import os
import resource
import struct
from binascii import crc32
from fcntl import ioctl

from ljsv.jail.passwd import User, find_user
from ljsv.jail.step import Build, Step, write_at
from ljsv.linux import capabilities, process, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

_AF_INET, _SOCK_DGRAM = 2, 2
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


class SetHostname(Step):
    stage: ClassVar[str] = "set the host name"
    name: str

    def describe(self) -> str:
        return f"host name {self.name}"

    def execute(self, build: Build) -> None:
        process.sethostname(self.name)


class LoopbackUp(Step):
    stage: ClassVar[str] = "bring up the loopback"

    def describe(self) -> str:
        return "bring up lo"

    def execute(self, build: Build) -> None:
        control_fd = process.socket(_AF_INET, _SOCK_DGRAM | os.O_CLOEXEC)
        ioctl(control_fd, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
        os.close(control_fd)


class NewKeyring(Step):
    """Leave the caller's session keyring, with the keys that he may have in it."""

    stage: ClassVar[str] = "leave the session keyring"

    def describe(self) -> str:
        return "session keyring: a new one"

    def execute(self, build: Build) -> None:
        process.join_session_keyring()


class SetLimits(Step):
    stage: ClassVar[str] = "set a resource limit"
    rlimits: tuple[tuple[int, int], ...]

    def describe(self) -> str:
        return "resource limits: " + " ".join(f"{_name_of(which)}={value}" for which, value in self.rlimits)

    def execute(self, build: Build) -> None:
        for which, value in self.rlimits:
            _, hard = resource.getrlimit(which)
            try:
                if which == resource.RLIMIT_CORE:
                    resource.setrlimit(which, (value, max(value, hard)) if hard == -1 else (min(value, hard), hard))
                else:
                    resource.setrlimit(which, (value, value))
            except (ValueError, OSError) as error:
                raise OSError(errno.EPERM, f"the hard limit is {hard}", f"{_name_of(which).removeprefix('RLIMIT_').lower()} = {value}") from error


def _name_of(which: int) -> str:
    """RLIMIT_NOFILE and so on; RLIMIT_OFILE is BSD's word for it."""
    return next(name for name, value in vars(resource).items() if value == which and name.startswith("RLIMIT_") and name != "RLIMIT_OFILE")


class FindUser(Step):
    """Look the user up in the jail's passwd, now that it can be seen."""

    stage: ClassVar[str] = "find the user"
    wanted: str
    origin: str

    def describe(self) -> str:
        return f"look up user {self.wanted or 'root'} in the jail's /etc/passwd"

    def execute(self, build: Build) -> None:
        build.user = find_user(self.wanted, build.root_fd, self.origin)


class SwitchIds(Step):
    """Become the jail's user. `nested`: with one id mapped, a second user namespace shows it as his."""

    stage: ClassVar[str] = "change ids"
    nested: bool

    def describe(self) -> str:
        return "become that user" + (" through a user namespace of its own" if self.nested else "")

    def execute(self, build: Build) -> None:
        user = found(build)
        if (user.uid, user.gid) == (0, 0):
            return
        if self.nested:
            process.prctl(process.PR_SET_DUMPABLE, 1)  # or else /proc/self/uid_map is the real root's
            process.unshare(process.CLONE_NEWUSER)
            for name, text in (("setgroups", "deny"), ("uid_map", f"{user.uid} 0 1"), ("gid_map", f"{user.gid} 0 1")):
                write_at(build.proc_fd, f"self/{name}", text)
            return
        process.prctl(process.PR_SET_KEEPCAPS, 1)
        kept = capabilities.capget_permitted()
        try:
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        except OSError as error:
            why = "not among the jail's ids" if error.errno == errno.EINVAL else error.strerror
            raise OSError(error.errno, why, f"uid {user.uid}, gid {user.gid}") from None
        capabilities.capset(kept, kept)


def found(build: Build) -> User:
    """The user that `FindUser` has found."""
    if build.user is None:
        raise OSError(errno.EINVAL, "no user was looked up", "user")
    return build.user


class DropBoundingSet(Step):
    stage: ClassVar[str] = "drop capabilities"
    keep: frozenset[int]
    last: int

    def describe(self) -> str:
        return "bounding set: " + (" ".join(capabilities.NAMES[number] for number in sorted(self.keep)) or "empty")

    def execute(self, build: Build) -> None:
        capabilities.drop_bounding_set(self.keep, self.last)


class ForbidUserNamespaces(Step):
    stage: ClassVar[str] = "forbid user namespaces"

    def describe(self) -> str:
        return "user.max_user_namespaces = 0"

    def execute(self, build: Build) -> None:
        write_at(build.proc_fd, "sys/user/max_user_namespaces", "0")


class NoNewPrivileges(Step):
    stage: ClassVar[str] = "set no_new_privs"

    def describe(self) -> str:
        return "no_new_privs"

    def execute(self, build: Build) -> None:
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)


class SetCapabilities(Step):
    """The permitted and effective sets; empty for any user but the jail's root."""

    stage: ClassVar[str] = "set capabilities"
    keep: frozenset[int]

    def describe(self) -> str:
        return "capabilities of uid 0: " + (" ".join(capabilities.NAMES[number] for number in sorted(self.keep)) or "none")

    def execute(self, build: Build) -> None:
        mask = sum(1 << number for number in self.keep) if found(build).uid == 0 else 0
        capabilities.capset(mask, mask)


class FilterSystemCalls(Step):
    """The seccomp filter; after it nothing is left but exec."""

    stage: ClassVar[str] = "set the seccomp filter"
    program: bytes

    def describe(self) -> str:
        return f"seccomp filter: {len(self.program) // 8} instructions, {crc32(self.program):08x}"

    def execute(self, build: Build) -> None:
        seccomp.seccomp_set_mode_filter(self.program)
