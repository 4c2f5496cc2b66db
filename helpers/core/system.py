"""Facts about this machine, without private data, for bug reports."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from helpers import __version__
from helpers.core.paths import ROOT
from helpers.core.text import printable


def said(*command: str) -> str:
    """The stdout of a program; "" if it cannot be run."""
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.decode(errors="replace")


class Machine(NamedTuple):
    """The facts that decide how a Mac draws; fields are empty or 0 if unknown, as on Linux."""

    chip: str  # "Apple M2 Max"
    memory: int  # bytes
    build: str  # of macOS: "24G90"

    @property
    def has_big_gpu(self) -> bool:
        """Max and Ultra chips: their GPU draws in half the time of the Neural Engine, as an M1 Max did (8 s and 15 s;
        https://huggingface.co/blog/fast-mac-diffusers, 2023)."""
        return self.chip.endswith(("Max", "Ultra")) and self.memory > 8 << 30


@functools.lru_cache(maxsize=1)
def machine() -> Machine:
    """Chip, memory and macOS build of this Mac."""
    memory = said("sysctl", "-n", "hw.memsize").strip()
    chip = said("sysctl", "-n", "machdep.cpu.brand_string").strip()
    return Machine(chip, int(memory) if memory.isdecimal() else 0, said("sw_vers", "-buildVersion").strip())


def memory() -> tuple[int, int]:
    """Bytes of memory: (total, free). 0 if unknown."""
    if sys.platform == "darwin":
        pages = dict(re.findall(r"^(.+?):\s+(\d+)\.$", vm := said("vm_stat"), re.M))
        page = re.search(r"page size of (\d+)", vm)
        free = sum(int(pages.get(f"Pages {kind}", 0)) for kind in ("free", "inactive", "speculative", "purgeable"))
        return machine().memory, free * int(page[1] if page else 0)
    try:
        sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M))
    except OSError:
        sizes = {}
    return int(sizes.get("MemTotal", 0)) * 1024, int(sizes.get("MemAvailable", 0)) * 1024


def system() -> str:
    """One line about this machine: version of this program, system, processor, Python."""
    if sys.platform == "darwin":
        chip, name = machine().chip, f"macOS {platform.mac_ver()[0]}"
    else:
        cpuinfo = Path("/proc/cpuinfo")
        models = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else []
        chip = models[0] if models else platform.machine()
        name = f"Linux {platform.release().split('-')[0]}"
        with contextlib.suppress(OSError):
            name = f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {name}"
    return f"audio-to-image {__version__}, {name}, {chip}, {os.cpu_count()} cores, Python {platform.python_version()}"


def short(path: str | Path) -> str:
    """A path relative to the repository, or with ~ for the home folder."""
    text = str(path)
    for folder, name in ((f"{ROOT}/", ""), (str(Path.home()), "~")):
        text = text.replace(folder, name) if folder.strip("/") else text
    return text


def private(text: str) -> str:
    """`text` without the user's names, home folder and host name. Device names may have names too: "Ada's AirPods"."""
    import getpass  # here: most programs do not need them
    import socket

    names = {getpass.getuser(), socket.gethostname(), socket.gethostname().split(".")[0]}
    with contextlib.suppress(ImportError, KeyError):
        import pwd

        names |= set(pwd.getpwuid(os.getuid()).pw_gecos.split(",")[0].split())
    text = re.sub(r"\S+['’]s (?=\S)", "", short(text))
    for name in sorted(
        names - {"root", "localhost", ""}, key=len, reverse=True
    ):  # longer names first: they may contain a shorter one
        if len(name) > 2:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", text, flags=re.IGNORECASE)
    return printable(text)
