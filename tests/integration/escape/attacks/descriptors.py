"""What descriptors there are, and what each leads to."""

from __future__ import annotations

import os

from kit import ARGUMENTS, attempt, say

what, *rest = ARGUMENTS
if what == "list":
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            os.fstat(int(name))
        except OSError:
            continue  # the listing's own
        say(name, "open")
elif what == "reopen":  # a file that was given for reading or appending
    fd = int(rest[0])
    attempt("write", lambda: os.write(fd, b"attacked\n"))
    attempt("reopen for writing", lambda: os.write(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY), b"attacked\n"))
    attempt("reopen for reading", lambda: os.read(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), 100))
    attempt("chmod", lambda: os.fchmod(fd, 0o4777))
    attempt("truncate", lambda: os.ftruncate(fd, 0))
    attempt("change its time", lambda: os.utime(fd, (0, 0)))
    attempt("set an attribute", lambda: os.setxattr(fd, "user.attacked", b"1"))
elif what == "walk":  # a directory
    fd = int(rest[0])
    attempt("list", lambda: sorted(os.listdir(fd))[:3])
    attempt("go up", lambda: sorted(os.listdir(os.open("..", os.O_RDONLY, dir_fd=fd)))[:3])
    attempt("be there", lambda: (os.fchdir(fd), os.getcwd()))
elif what == "place":
    say("cwd", os.getcwd())
    attempt("the marker from here", lambda: os.stat(rest[0].lstrip("/")))
    attempt("the marker further up", lambda: os.stat("../../../../../../../../" + rest[0]))
    attempt("the marker", lambda: os.stat(rest[0]))
