"""The microphone, through FFmpeg: PulseAudio or PipeWire, then ALSA, on Linux; AVFoundation on macOS."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

from helpers.core import ffmpeg_programs, interpreter
from helpers.core.errors import UserError
from helpers.core.pcm import CHUNK, RATE
from helpers.core.text import printable
from helpers.listen import ffmpeg_process

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds without a sample; a Bluetooth headset needs up to two for its first

if sys.platform == "darwin":
    SYSTEMS = ("avfoundation",)
else:
    SYSTEMS = ("pulse", "alsa")

# Programs that start us on a Mac, by TERM_PROGRAM. macOS gives the permission for the microphone to them.
_LAUNCHERS = {
    "Apple_Terminal": "Terminal",
    "iTerm.app": "iTerm",
    "vscode": "Visual Studio Code",
    "WarpTerminal": "Warp",
    "ghostty": "Ghostty",
    "kitty": "kitty",
    "WezTerm": "WezTerm",
}

# FFmpeg's input options. PulseAudio resamples by itself and is asked for 50 ms at a time. ALSA resamples poorly, so it
# is asked for the rate that nearly every device has.
_OPTIONS: dict[str, dict[str, int]] = {
    "pulse": {"sample_rate": RATE, "channels": 1, "fragment_size": CHUNK},
    "alsa": {"sample_rate": 48_000, "channels": 1},
    "avfoundation": {},
}


def pulse_environment() -> dict[str, str]:
    """Variables that stop libpulse, in FFmpeg, from creating files in $HOME.

    A local server authenticates by user id, so no cookie is needed; existing cookie or runtime files are still used.
    """
    home = Path(os.environ.get("HOME", "/dev/null"))
    folders = (Path(os.environ.get("XDG_CONFIG_HOME", home / ".config")) / "pulse", home / ".pulse")
    variables = {}
    if not any(cookie.exists() for cookie in (*(folder / "cookie" for folder in folders), home / ".pulse-cookie")):
        variables["PULSE_COOKIE"] = "/dev/zero"  # it wants 256 bytes
    if not ("XDG_RUNTIME_DIR" in os.environ or any(folder.exists() for folder in folders)):
        variables["PULSE_RUNTIME_PATH"] = "/dev/null/pulse"  # where nothing can be created
    return {name: value for name, value in variables.items() if name not in os.environ}


class Device(NamedTuple):
    """A microphone: the FFmpeg input that reaches it, its address there, and what people call it."""

    system: str
    address: str
    name: str


def devices() -> list[Device]:
    """The microphones of this machine, those of the sound server first.

    Raises: UserError 69 if there is no FFmpeg that works.
    """
    found: dict[tuple[str, str], Device] = {}
    programs = list(ffmpeg_programs.found())
    for program in programs:
        for system in SYSTEMS:
            for device in _listed(program, system):
                found.setdefault(device[:2], device)
    defects = {program: defect for program in programs if not found and (defect := ffmpeg_programs.defect(program))}
    if defects:
        raise ffmpeg_programs.broken(defects)
    return list(found.values())


def _listed(program: str, system: str) -> list[Device]:
    command = [program, "-hide_banner", "-nostdin"]
    if system == "avfoundation":  # on stderr, after the cameras: [AVFoundation …] [0] MacBook Pro Microphone
        command += ["-f", "avfoundation", "-list_devices", "true", "-i", ""]
    else:  # * alsa_input.usb-… [Yeti Stereo Microphone] (audio)
        command += ["-sources", system]
    try:
        run = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False,
            env={**interpreter.environment(), **pulse_environment()},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    if system == "avfoundation":
        text = run.stderr.decode(errors="replace").partition("audio devices:")[2]
        names = [printable(name) for name in re.findall(r"\] \[\d+\] (.+)", text)]
        return [Device(system, f":{name}", name) for name in names]
    lines = re.findall(r"^[* ] (.+?) \[(.*)\](?: \(.*\))?$", run.stdout.decode(errors="replace"), re.MULTILINE)
    if system == "alsa":  # the others are plugins: null, jack, upmix …
        return [Device(system, address, address) for address, _ in lines if "CARD=" in address]
    titles = [title for _, title in lines]
    return [Device(system, address, title if titles.count(title) == 1 else address) for address, title in lines]


def unmute(hotkey: bool = False) -> str:
    """What to do about a microphone that gives only silence: macOS gives silence to a program without permission.

    hotkey: whether this program was started by its hotkey, and not from a terminal.
    """
    if sys.platform != "darwin":
        return "Unmute it (pavucontrol or alsamixer), or choose another one: --list-devices shows them."
    program = os.environ.get("TERM_PROGRAM", "")
    owner = _LAUNCHERS.get(program, printable(program) or "the program that started this one")
    if hotkey:
        owner = "Audio to Image"
    settings = "System Settings > Privacy & Security > Microphone"
    return f"Allow it for {owner}: {settings}; then start {owner} again. And check that it is not muted."


def find(name: str) -> Device:
    """The microphone called `name` (its name, its address, or a part of one name only), in upper or lower case.

    Raises: UserError 69 if there is none or more than one.
    """
    wanted, connected = name.casefold(), devices()
    exact = [device for device in connected if wanted in (device.name.casefold(), device.address.casefold())]
    matches = exact[:1] or [device for device in connected if wanted in device.name.casefold()]
    if len(matches) == 1:
        return matches[0]
    what = f"{len(matches)} microphones are called {name}" if matches else f"no microphone is called {name}"
    names = ", ".join(printable(device.name) for device in matches or connected)
    raise UserError(os.EX_UNAVAILABLE, what, f"There are: {names}" if names else "None is connected.")


def listen(
    name: str = "", stopped: Callable[[], bool] = lambda: False, hotkey: bool = False
) -> Generator[bytes, None, None]:
    """The sound of the microphone called `name` (empty: the system's default) as PCM, while it arrives.

    Yields s16le at 16 kHz, mono, at most 50 ms at a time, and an empty chunk every 0.1 s while nothing arrives. It ends
    when `stopped()`, after the sound that is still on its way, or when the microphone goes away. Closing the generator
    ends it at once. hotkey: see `unmute`.

    Raises: UserError 69 no microphone, no FFmpeg that works, or no samples; 77 not permitted.
    """
    import ffmpeg

    inputs = [find(name)] if name else [Device(system, _default(system), "default") for system in SYSTEMS]
    complaints: list[tuple[str, str]] = []
    defects: dict[str, str] = {}
    for system, address, _ in inputs:
        for program in ffmpeg_programs.found():
            if program in defects:
                continue
            source = ffmpeg.input(address, format=system, **_OPTIONS[system])
            try:
                with ffmpeg_process.Ffmpeg(program, source, environment=pulse_environment()) as process:
                    last, arrived, stopping = time.monotonic(), False, False
                    while (data := process.read(0.1)) != b"" and time.monotonic() < last + PATIENCE:
                        if data:
                            last, arrived = time.monotonic(), True
                        if stopped() and not stopping:
                            process.stop()
                            last, stopping = time.monotonic() + 0.5 - PATIENCE, True
                        yield data or b""
                    if arrived or stopping:
                        return
                    defect = process.defect()
                    if not defect:
                        complaints.append((system, "timed out" if data is None else process.complaint()))
            except OSError as error:
                defect = error.strerror or "it cannot be started"
            if defect:
                defects[program] = defect
                ffmpeg_programs.report_defect(program, defect)
    raise _unheard(complaints, defects, hotkey)


def _default(system: str) -> str:
    return ":default" if system == "avfoundation" else "default"


def _unheard(complaints: list[tuple[str, str]], defects: dict[str, str], hotkey: bool) -> UserError:
    """Why no input gave a sample. complaints: what FFmpeg said about each input system; defects: broken programs."""
    for system, complaint in complaints:
        log.debug("%s: %s", system, complaint)
    text = "\n".join(complaint for _, complaint in complaints)
    if re.search("permission denied|not permitted|not authorized|access denied", text, re.IGNORECASE):
        return UserError(os.EX_NOPERM, "the microphone may not be used", unmute(hotkey))
    if "timed out" in text:
        what = f"the microphone gives nothing: no sample arrived within {PATIENCE:g} seconds"
        return UserError(os.EX_UNAVAILABLE, what, "Reconnect it, or choose another one (--list-devices).")
    unknown = r"Unknown input format|Unrecognized option '(?:sample_rate|channels|fragment_size)'"
    if all(re.search(unknown, complaint) for system, complaint in complaints if system == SYSTEMS[0]):
        if defects:
            return ffmpeg_programs.broken(defects)
        return UserError(os.EX_UNAVAILABLE, "this FFmpeg cannot record", ffmpeg_programs.install())
    remedy = "Connect one and see that the sound server runs, or give a file: --input FILE."
    return UserError(os.EX_UNAVAILABLE, "no microphone was found", remedy)
