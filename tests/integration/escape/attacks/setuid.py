"""Set-user-id programs and file capabilities: gaining by them, and leaving them behind."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess

from kit import ARGUMENTS, attempt, say

what, *rest = ARGUMENTS
if what == "gain":  # programs that print their effective user id
    for program in rest:
        attempt(program, lambda program=program: subprocess.run([program, "-u"], capture_output=True, text=True, check=True).stdout.strip())
elif what == "capabilities":  # programs that print /proc/self/status
    for program in rest:
        done = subprocess.run([program, "/proc/self/status"], capture_output=True, text=True, check=False)
        say(program, " ".join(line.split()[1] for line in done.stdout.splitlines() if line.startswith(("CapPrm", "CapEff"))) or f"EXIT {done.returncode} {done.stderr}")
elif what == "leave":  # a set-user-id program, a set-group-id program, file capabilities, made in that directory
    at = rest[0]
    for name, mode in (("setuid", 0o4755), ("setgid", 0o2755)):
        shutil.copy("/usr/bin/id", f"{at}/{name}")
        attempt(name, lambda name=name, mode=mode: os.chmod(f"{at}/{name}", mode))
    attempt("created so", lambda: os.close(os.open(f"{at}/created", os.O_CREAT | os.O_WRONLY, 0o4755)))
    shutil.copy("/usr/bin/id", f"{at}/capable")
    everything = struct.pack("<5I", 0x02000001, 0xFFFFFFFF, 0, 0x1FF, 0)
    attempt("capabilities", lambda: os.setxattr(f"{at}/capable", "security.capability", everything))
    for owner in (1, 1000, 65535):
        attempt(f"give away to {owner}", lambda owner=owner: (shutil.copy("/usr/bin/id", f"{at}/of-{owner}"), os.chown(f"{at}/of-{owner}", owner, owner), os.chmod(f"{at}/of-{owner}", 0o4755)))
    for name in ("setuid", "setgid", "capable"):
        attempt(f"run {name}", lambda name=name: subprocess.run([f"{at}/{name}", "-u"], capture_output=True, text=True, check=True).stdout.strip())
