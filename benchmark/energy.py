"""Read the energy counters of the machine: RAPL (Linux), NVML through nvidia-smi, powermetrics (macOS)."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

RAPL = Path("/sys/class/powercap")
PERIOD = 0.2  # seconds between two readings of the power


class Silent(Exception):
    """This machine has no readable energy counter; the message says why."""


@contextlib.contextmanager
def counter() -> Iterator[tuple[str, Callable[[], float]]]:
    """The name of the counter, and a function that returns the joules so far. Raises: Silent."""
    packages = sorted(RAPL.glob("*-rapl:[0-9]"))
    if packages:
        with unreadable():
            joules(packages)
        yield "processor (RAPL)", lambda: joules(packages)
    elif shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "-lms", f"{1e3 * PERIOD:.0f}"]
        with integrated(query, r"^([\d.]+)", 1.0) as so_far:
            yield "GPU (NVML)", so_far
    elif sys.platform == "darwin":
        command = ["sudo", "-n", "powermetrics", "--samplers", "cpu_power,gpu_power,ane_power", "-i", "200"]
        with integrated(command, r"^Combined Power .*: (\d+) mW", 1e-3) as so_far:
            yield "processor, GPU and Neural Engine (powermetrics)", so_far
    else:
        raise Silent("this machine has no energy counter (no RAPL, no NVIDIA GPU)")


@contextlib.contextmanager
def unreadable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Silent(f"only root may read the energy counter (RAPL): {error.strerror}") from error


def joules(packages: list[Path]) -> float:
    """The joules of all processors since an arbitrary moment. An overflow, after hours, is not detected."""
    return sum(int((package / "energy_uj").read_text()) for package in packages) / 1e6


@contextlib.contextmanager
def integrated(command: list[str], pattern: str, watts: float) -> Iterator[Callable[[], float]]:
    """Joules from a program that prints the power repeatedly; watts: the unit of its numbers in watts."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    total, first = 0.0, threading.Event()

    def read() -> None:
        nonlocal total
        assert process.stdout
        last = time.monotonic()
        for line in process.stdout:
            if match := re.match(pattern, line):
                now = time.monotonic()
                total, last = total + float(match[1]) * watts * (now - last), now
                first.set()
        first.set()  # it has ended

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        if not first.wait(5) or process.poll() is not None:
            raise Silent(f"{command[0]} gives no power readings (it may need sudo: run `sudo -v` first)")
        yield lambda: total
    finally:
        process.kill()
        process.wait()
        thread.join()
        assert process.stdout
        process.stdout.close()
