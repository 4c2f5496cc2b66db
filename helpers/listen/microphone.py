"""The microphone, through FFmpeg: PulseAudio or PipeWire, then ALSA, on Linux; AVFoundation on macOS."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.pcm import CHUNK, RATE
from helpers.core.text import printable
from helpers.listen import audio

PATIENCE = 5.0  # seconds without a sample; a Bluetooth headset needs up to two to begin

if sys.platform == "darwin":
    SYSTEMS = ("avfoundation",)
else:
    SYSTEMS = ("pulse", "alsa")

# Programs that start us on a Mac, by their TERM_PROGRAM: the permission for the microphone is theirs.
_LAUNCHERS = {
    "Apple_Terminal": "Terminal",
    "iTerm.app": "iTerm",
    "vscode": "Visual Studio Code",
    "WarpTerminal": "Warp",
    "ghostty": "Ghostty",
    "kitty": "kitty",
    "WezTerm": "WezTerm",
}

# FFmpeg's input options. PulseAudio converts by itself and is asked for 50 ms at a time. ALSA's own conversion of the
# rate is poor, so it gives what nearly every device has.
_OPTIONS: dict[str, dict[str, int]] = {
    "pulse": {"sample_rate": RATE, "channels": 1, "fragment_size": CHUNK},
    "alsa": {"sample_rate": 48_000, "channels": 1},
    "avfoundation": {},
}


def spare_home() -> None:
    """Keep libpulse, in FFmpeg, from making files in the home directory: what it has there is used, what not is not
    needed. A server of this machine knows its user without a cookie, and one without $XDG_RUNTIME_DIR is found by a
    link that it has made there itself.
    """
    home = Path(os.environ.get("HOME", "/dev/null"))
    known = (Path(os.environ.get("XDG_CONFIG_HOME", home / ".config")) / "pulse", home / ".pulse")
    if not any(cookie.exists() for cookie in (*(place / "cookie" for place in known), home / ".pulse-cookie")):
        os.environ.setdefault("PULSE_COOKIE", "/dev/zero")  # it wants 256 bytes
    if not ("XDG_RUNTIME_DIR" in os.environ or any(place.exists() for place in known)):
        os.environ.setdefault("PULSE_RUNTIME_PATH", "/dev/null/pulse")  # where nothing can be made


class Device(NamedTuple):
    """A microphone: the FFmpeg input that reaches it, its address there, and what people call it."""

    system: str
    address: str
    name: str


def devices() -> list[Device]:
    """The microphones of this machine, those of the sound server first.

    Raises: UserError 69 when there is no FFmpeg.
    """
    spare_home()
    found: dict[tuple[str, str], Device] = {}
    for program in audio.ffmpeg_programs():
        for system in SYSTEMS:
            for device in _listed(program, system):
                found.setdefault(device[:2], device)
    return list(found.values())


def _listed(program: str, system: str) -> list[Device]:
    command = [program, "-hide_banner", "-nostdin"]
    if system == "avfoundation":  # on stderr, after those with pictures: [AVFoundation …] [0] MacBook Pro Microphone
        command += ["-f", "avfoundation", "-list_devices", "true", "-i", ""]
    else:  # * alsa_input.usb-… [Yeti Stereo Microphone] (audio)
        command += ["-sources", system]
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if system == "avfoundation":
        text = run.stderr.decode(errors="replace").partition("audio devices:")[2]
        names = [printable(name) for name in re.findall(r"\] \[\d+\] (.+)", text)]
        return [Device(system, f":{name}", name) for name in names]
    lines = re.findall(r"^[* ] (.+?) \[(.*)\](?: \(.*\))?$", run.stdout.decode(errors="replace"), re.MULTILINE)
    if system == "alsa":  # the rest are plugins: null, jack, upmix …
        return [Device(system, address, address) for address, _ in lines if "CARD=" in address]
    titles = [title for _, title in lines]
    return [Device(system, address, title if titles.count(title) == 1 else address) for address, title in lines]


def unmute() -> str:
    """What to do about a microphone that gives silence: macOS gives it to whom the microphone is not allowed."""
    if sys.platform != "darwin":
        return "Unmute it (pavucontrol or alsamixer), or choose another one: --list-devices shows them."
    program = os.environ.get("TERM_PROGRAM", "")
    owner = _LAUNCHERS.get(program, printable(program) or "the program that started this one")
    if stage.setting("EVENTS"):  # the key was pressed
        owner = "Audio to Image"
    settings = "System Settings > Privacy & Security > Microphone"
    return f"Allow it for {owner}: {settings}; then start {owner} again. And check that it is not muted."


def find(name: str) -> Device:
    """The microphone called `name` (its name, its address, or a part of one name only), whatever the case.

    Raises: UserError 69 when there is none or more than one.
    """
    wanted, known = name.casefold(), devices()
    exact = [device for device in known if wanted in (device.name.casefold(), device.address.casefold())]
    matches = exact[:1] or [device for device in known if wanted in device.name.casefold()]
    if len(matches) == 1:
        return matches[0]
    what = f"{len(matches)} microphones are called {name}" if matches else f"no microphone is called {name}"
    names = ", ".join(printable(device.name) for device in matches or known)
    raise UserError(os.EX_UNAVAILABLE, what, f"There are: {names}" if names else "None is connected.")


def listen(name: str = "", stopped: Callable[[], bool] = lambda: False) -> Generator[bytes, None, None]:
    """The sound of the microphone called `name` (empty: the system's own choice) as PCM, while it arrives.

    Yields s16le at 16 kHz, mono, at most 50 ms at a time, and an empty chunk every 0.1 s while nothing comes. It ends
    when `stopped()`, after what was still on its way, or when the microphone goes away; closing it ends it at once.

    Raises: UserError 69 no microphone, or one that gives nothing; 77 not permitted.
    """
    import ffmpeg

    spare_home()
    inputs = [find(name)] if name else [Device(system, _default(system), "default") for system in SYSTEMS]
    complaints: list[tuple[str, str]] = []
    for system, address, _ in inputs:
        for program in audio.ffmpeg_programs():
            source = ffmpeg.input(address, format=system, **_OPTIONS[system])
            with audio.Ffmpeg(program, source) as process:
                last, heard, stopping = time.monotonic(), False, False
                while (data := process.read(0.1)) != b"" and time.monotonic() < last + PATIENCE:
                    if data:
                        last, heard = time.monotonic(), True
                    if stopped() and not stopping:
                        process.stop()
                        last, stopping = time.monotonic() + 0.5 - PATIENCE, True
                    yield data or b""
                if heard or stopping:
                    return
                complaints.append((system, "timed out" if data is None else process.complaint()))
    raise _unheard(complaints)


def _default(system: str) -> str:
    return ":default" if system == "avfoundation" else "default"


def _unheard(complaints: list[tuple[str, str]]) -> UserError:
    """Why no input gave a sample; FFmpeg said `complaints`, each about an input system."""
    if stage.is_set("VERBOSE"):
        for system, complaint in complaints:
            stage.say(f"{system}: {complaint}")
    text = "\n".join(complaint for _, complaint in complaints)
    if re.search("permission denied|not permitted|not authorized|access denied", text, re.IGNORECASE):
        return UserError(os.EX_NOPERM, "the microphone may not be used", unmute())
    if "timed out" in text:
        what = f"the microphone gives nothing: no sample arrived within {PATIENCE:g} seconds"
        return UserError(os.EX_UNAVAILABLE, what, "Reconnect it, or choose another one (--list-devices).")
    if all("Unknown input format" in complaint for system, complaint in complaints if system == SYSTEMS[0]):
        return UserError(os.EX_UNAVAILABLE, "this FFmpeg cannot record", audio.install_ffmpeg())
    remedy = "Connect one and see that the sound server runs, or give a file: --input FILE."
    return UserError(os.EX_UNAVAILABLE, "no microphone was found", remedy)
