"""Runs a program and tells the most memory that it took."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

# What a process took before it became another program counts, and that is what its parent had; so a small one starts it
_STARTER = """import os, sys
_, status, used = os.wait4(os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ), 0)
os.write(int(sys.argv[1]), f"{os.waitstatus_to_exitcode(status)} {used.ru_maxrss}".encode())"""


def run(command: list[str], seconds: float, **how: Any) -> tuple[int, float]:
    """(exit code, MB of the program or of one that it started and waited for, whichever is more).

    seconds: after which all of it is killed; how: for subprocess.Popen.
    """
    reader, writer = os.pipe()
    starter = [sys.executable, "-ISc", _STARTER, str(writer), *command]
    process = subprocess.Popen(starter, pass_fds=[writer], start_new_session=True, **how)
    os.close(writer)
    timer = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    process.wait()
    timer.cancel()
    with os.fdopen(reader) as told:
        code, peak = map(int, told.read().split() or (-9, 0))
    return code, peak / (1e6 if sys.platform == "darwin" else 1e3)
