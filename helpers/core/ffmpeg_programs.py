"""Which FFmpeg programs this machine has, and whether one is broken: the system's, or the one in imageio-ffmpeg."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from helpers.core.errors import UserError
from helpers.core.packages import install_hint
from helpers.core.text import printable, shortened

log = logging.getLogger(__name__)

SOON = 5.0  # seconds in which any FFmpeg prints its version


def install() -> str:
    """The line that tells how to get a full FFmpeg on this system."""
    return f"Install it: {install_hint('ffmpeg')}"


def found() -> Iterator[str]:
    """The FFmpeg programs of this machine, the system's first. They may be broken.

    Raises: UserError 69 if there is none.
    """
    system = shutil.which("ffmpeg")
    if system:
        yield system
    try:
        import imageio_ffmpeg
    except ImportError:
        bundled = []
    else:  # the bundled file itself; get_ffmpeg_exe() would search the system, too
        bundled = sorted(Path(imageio_ffmpeg.__file__).parent.glob("binaries/ffmpeg-*"))
    yield from map(str, bundled)
    if not (system or bundled):
        raise UserError(os.EX_UNAVAILABLE, "FFmpeg is missing", install())


@functools.cache
def defect(program: str) -> str:
    """Why `program` does not run at all, in a few words; empty if it does. Asked only after a failure: a Homebrew
    FFmpeg whose libraries were upgraded (`dyld: Library not loaded`) looks like one that cannot read the recording."""
    try:
        run = subprocess.run(
            [program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=SOON, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it does not answer within {SOON:g} seconds"
    except OSError as error:
        return error.strerror or "it cannot be started"
    if run.returncode == 0 and run.stdout.startswith(b"ffmpeg version"):
        return ""
    said = run.stderr.decode(errors="replace").strip().splitlines()
    ended = signal.strsignal(-run.returncode) if run.returncode < 0 else f"exit code {run.returncode}"
    return printable(said[0])[:200] if said else str(ended)


@functools.cache
def report_defect(program: str, what: str) -> None:
    """Say once that `program` is broken, and that the next one is tried."""
    log.warning("%s is broken (%s); another FFmpeg is tried", program, what)


def broken(defects: Mapping[str, str]) -> UserError:
    """The error where no FFmpeg works. defects: what is wrong with each program."""
    what = "; ".join(f"{program}: {reason}" for program, reason in defects.items())
    return UserError(os.EX_UNAVAILABLE, f"FFmpeg does not work: {shortened(what)}", install())
