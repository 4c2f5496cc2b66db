"""FFmpeg as a child process: which program, how it is run, and whether a failure is the program's own.

ffmpeg-python builds the commands; the program is the system's FFmpeg, or the one in the package imageio-ffmpeg.
Of ffmpeg-python we use input, filter, output, global_args and compile only: its last release is of 2019, and these turn
names and values into an argument list, so no later FFmpeg can break them. Nothing here runs a process through it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import resource
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from helpers.core import ffmpeg_programs, interpreter
from helpers.core.pcm import CHUNK, RATE
from helpers.core.text import printable

log = logging.getLogger(__name__)

LARGEST = 1 << 30  # bytes of a stream that FFmpeg may keep in a temporary file, to seek in it
# Largest single allocation of FFmpeg, in bytes (-max_alloc). A false sample rate of 1 Hz would ask for more; the index
# of a long file needs less.
MEMORY = 1 << 26
NAME = "\x00"  # stands for a file's name in an ffmpeg-python input; no name or option has it
_TAIL = 1 << 16  # bytes at the end, or at the beginning, of FFmpeg's stderr that are read

# Lines of FFmpeg's stderr that are no complaint, and the level before one that is; others have no level.
_CHATTER = re.compile(r"(?:\[[^\]]* @ 0x[0-9a-f]+\] *)*\[(?:info|warning|verbose)\]")
_LEVEL = re.compile(r"^((?:\[[^\]]* @ 0x[0-9a-f]+\] *)*)\[(?:error|fatal|panic)\] *")

# Lines on FFmpeg's stderr that do not say what went wrong.
_NOISE = ("Inner protocol failed to seekback", "Last message repeated", "] Codec (")
# What a program says that may not open a file that we have opened (a snap sees no hidden folder), or that lacks
# a library; some say so only when they need it.
_SHUT_OUT = re.compile(r"Permission denied|No such file or directory|Operation not permitted")
_NO_LIBRARY = re.compile(
    r"^\S+: (?:error while loading shared libraries|symbol lookup error|\S+: version `\S+' not found)|^dyld"
)
# What a program says that is too old for the options of all our commands, or built without the output that they need.
# Not any option: one without PulseAudio does not know the options of PulseAudio.
_TOO_LITTLE = re.compile(
    r"^(?:\[[^\]]*\] *)*(?:(?:Unrecognized option|Option) '?(?:nostdin|max_alloc|\w+_whitelist)\b|Unknown encoder|"
    r"Automatic encoder selection failed|Requested output format '\S+' is not|Unable to find a suitable output format)",
    re.MULTILINE,
)


class Ffmpeg:
    """A running FFmpeg that turns `source`, an ffmpeg-python input, into PCM. It ends with the `with` block.

    It runs in its own session, so that Ctrl-C on a terminal reaches us and not it.
    Raises: OSError if the program cannot be started.
    """

    def __init__(
        self,
        program: str,
        source: Any,
        stdin: int | BinaryIO = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
        channel: int | None = None,
        file: str = "",
    ) -> None:
        """environment: variables of the program beside ours; channel: the only one to use, from 0, instead of a mix of
        all; file: the name of the file, which `source` calls NAME."""
        only = {} if channel is None else {"af": f"pan=mono|c0=c{channel}"}
        stream = source.output("pipe:1", format="s16le", ac=1, ar=RATE, vn=None, **only)
        # "level": each line begins with its level; "info" lists the tracks
        stream = stream.global_args("-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info")
        stream = stream.global_args("-max_alloc", str(MEMORY))
        self._program = program
        # ffmpeg-python takes text only that can be UTF-8; a file's name may be other bytes
        command = [part.replace(NAME, file) for part in stream.compile(cmd=program)]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (not a pipe: nobody reads it before the end)
        try:
            with _file_size_limit(LARGEST):
                self._process = subprocess.Popen(
                    command, bufsize=0, stdin=stdin, stdout=subprocess.PIPE, stderr=self._log,
                    start_new_session=True, env={**interpreter.environment(), **(environment or {})},
                )  # fmt: skip
        except OSError:
            self._log.close()
            raise
        assert self._process.stdout
        self.stdout = self._process.stdout

    def read(self, seconds: float | None) -> bytes | None:
        """Up to 50 ms of PCM as soon as there is some; None if none came within `seconds`; empty at the end."""
        if select.select([self.stdout], [], [], seconds)[0]:
            return self.stdout.read(CHUNK)
        return None

    def stop(self) -> None:
        """Ask it to end; what it has read so far still comes through stdout."""
        self._process.send_signal(signal.SIGINT)

    def complaint(self) -> str:
        """Wait for its end; the lines of its stderr that say what went wrong, or an empty string."""
        code = self._process.wait()
        if code < 0:
            return f"it ended with: {signal.strsignal(-code)}"
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _TAIL))
        lines = os.fsdecode(self._log.read()).splitlines()  # they may have the name of a file
        said = [_LEVEL.sub(r"\1", line, count=1).strip() for line in lines if not _CHATTER.match(line)]
        return "\n".join(line for line in said if line and not any(noise in line for noise in _NOISE))

    def log(self) -> str:
        """The beginning of its stderr, so far: what it says about its input."""
        return os.pread(self._log.fileno(), _TAIL, 0).decode(errors="replace")

    def defect(self, named: bool = False) -> str:
        """After a failure: what is wrong with the program itself; empty if it is its input that is wrong. named: its
        input is a file that we can open."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
            complaint = self.complaint()
            for line in complaint.splitlines():
                if _TOO_LITTLE.search(line) or _NO_LIBRARY.search(line):
                    return printable(line)[:200]
            if named and _SHUT_OUT.search(complaint):
                return "it may not open the file, as a snap in a hidden folder or in /tmp"
        return ffmpeg_programs.defect(self._program)

    def __enter__(self) -> Ffmpeg:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self.stdout.close()
        self._log.close()


@contextlib.contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    """A process started in the `with` block is ended when it writes more than `size` bytes into one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limits = [limit for limit in (size, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
