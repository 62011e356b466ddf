"""Unpacks the wheels beside this file into PREFIX/lib, whole or not at all, and makes the commands in PREFIX/bin.

python3 -IS install.py FOLDER PREFIX
"""

import compileall
import os
import shutil
import sys
import zipfile

ENTRIES = {"ljsv": "ljsv", "ljexec": "ljexec", "ljsv-init": "init"}
COMMAND = """#!{python} -IS
import sys
sys.path.insert(0, {lib!r})
from ljsv.cli.entry import {entry}
sys.exit({entry}())
"""


def main() -> None:
    folder, prefix = sys.argv[1], os.path.abspath(sys.argv[2])
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever runs it may have an older one
        sys.exit(f"install: {sys.executable}: Python {sys.version.split()[0]}: 3.11 or newer is needed\nhint: PYTHON=/path/to/python3.11 ./install")
    if " " in prefix or len(prefix) > 200:
        sys.exit(f"install: {prefix}: a path without spaces, at most 200 bytes\nhint: ./install /opt/ljsv")
    lib = f"{prefix}/lib"
    new, old = f"{lib}.new", f"{lib}.old"
    os.umask(0o022)
    os.makedirs(f"{prefix}/bin", exist_ok=True)
    for path in (new, old):  # what a killed install has left
        shutil.rmtree(path, ignore_errors=True)
    for name in sorted(os.listdir(folder)):
        if name.endswith(".whl"):
            with zipfile.ZipFile(f"{folder}/{name}") as wheel:
                wheel.extractall(new)
    shutil.copy(f"{folder}/__main__.py", f"{new}/__main__.py")
    compileall.compile_dir(new, quiet=2, stripdir=new, prependdir=lib, workers=1)
    for name, entry in ENTRIES.items():
        with open(f"{prefix}/bin/.{name}", "w") as file:
            file.write(COMMAND.format(python=os.path.realpath(sys.executable), lib=lib, entry=entry))
        os.chmod(f"{prefix}/bin/.{name}", 0o755)
    if os.path.lexists(lib):
        os.rename(lib, old)
    os.rename(new, lib)
    for name in ENTRIES:
        os.rename(f"{prefix}/bin/.{name}", f"{prefix}/bin/{name}")
    shutil.rmtree(old, ignore_errors=True)
    print(f"installed: {prefix}/bin/ljsv")


main()
