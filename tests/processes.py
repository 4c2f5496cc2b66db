"""What a run of the pipe has running, told by the folder that its environment names. Linux only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

from whole_pipe import Pipe


def of(pipe: Pipe) -> dict[int, str]:
    """The processes of the runs of `pipe`, and their command lines; without those that are dead and not yet buried."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"HOME={pipe.home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def wait_until(true: Callable[[], object], seconds: float = 20) -> bool:
    """Whether it became true within `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def start(pipe: Pipe, *options: object, **settings: object) -> subprocess.Popen[str]:
    """A run in a session of its own, as a terminal starts it; stderr goes to the file `log` beside its output."""
    return start_on(None, pipe, *options, **settings)


def start_on(terminal: int | None, pipe: Pipe, *options: object, **settings: object) -> subprocess.Popen[str]:
    """The same with a terminal for the session, a file descriptor."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job may not hear of it
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    with (pipe.output.parent / "log").open("w") as log:
        return subprocess.Popen(
            pipe.command(*options),
            env=pipe.environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            preexec_fn=prepare,
        )


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def clean(pipe: Pipe) -> None:
    """End what is left after a test that failed."""
    kill(list(of(pipe)))
