"""What Python runs of a zipapp, or of the folder that ljsv and what it needs were put in: ljsv, ljexec and ljsv-init by their names, or `-m MODULE`."""

import os
import sys

if sys.argv[1:2] == ["-m"]:  # ljsv.again: a process of this very installation
    name = sys.argv[2]
    sys.argv[:3] = [name]
    sys.exit(__import__(name, fromlist=("main",)).main())
called = os.path.basename(sys.argv[0])
entry = __import__("ljsv.cli.entry", fromlist=("ljsv",))
sys.exit({"ljexec": entry.ljexec, "ljsv-init": entry.init, "init": entry.init}.get(called, entry.ljsv)())
