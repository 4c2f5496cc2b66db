"""doctor: each thing that can be wrong is found and told with what to do, and nothing private is."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import microphone as speaker
import pytest
import whisper_fixture

from helpers.catalog import catalog
from helpers.core import extras, ffmpeg_programs, system
from helpers.core.errors import UserError
from helpers.core.pcm import CHUNK, write_wav
from helpers.core.settings import Settings
from helpers.doctor import __main__ as doctor
from helpers.doctor import checks
from helpers.doctor.checks import Finding
from helpers.draw import engines
from helpers.draw.engines import compute_units, nvidia
from helpers.listen import microphone

now = Settings.from_environment  # what the check is given
ROOT = Path(__file__).resolve().parent.parent
DOCTOR = [sys.executable, "-m", "helpers.doctor"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("A2I_", "PYTHON", "PULSE"))}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("A2I_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("A2I_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(extras, "missing", lambda name: name)  # for speech, whatever this environment has


def sound(*samples: int, seconds: float = 3.1) -> Callable[..., Iterator[bytes]]:
    """In place of microphone.listen: the samples again and again, 50 ms at a time."""
    chunk = (struct.pack(f"<{len(samples)}h", *samples) * 800)[:CHUNK]

    def listen(name: str = "") -> Iterator[bytes]:
        for _ in range(round(seconds * 20)):
            yield chunk
            yield b""

    return listen


def program(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


# ---- Python


def test_the_environment_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = ["numpy==9.9.9", "tqdm==1; extra == 'cuda'", "coremltools==9.0; sys_platform == 'darwin'"]
    monkeypatch.setattr(metadata, "requires", lambda name: [*requires, "numpy==8.8; python_version < '3.11'"])
    monkeypatch.setattr(metadata, "version", lambda name: {"numpy": "8.8"}[name])
    monkeypatch.setattr(metadata, "PackageNotFoundError", KeyError)
    found = checks.environment(now())
    assert found.state == "ok" and found.text.endswith("1 packages with the pinned versions: numpy 8.8")
    monkeypatch.setattr(metadata, "version", lambda name: {"numpy": "7.7"}[name])
    found = checks.environment(now())
    assert (found.state, found.text) == ("!", "these packages have other versions than the tested ones: numpy 7.7")
    assert "./pipeline.sh" in found.remedy


def test_a_package_that_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    found = checks.environment(now())
    assert (found.state, found.code) == ("no", 69) and found.text.startswith("pocketsphinx cannot be loaded: ")


def test_packages_that_were_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert checks.environment(now())[::3] == ("no", 69)


# ---- FFmpeg

VERSION = 'case "$*" in *-version*) echo "ffmpeg version 7.1-test Copyright" ;;'


@pytest.mark.parametrize(
    "script, state, text",
    [
        ([f"{VERSION} *) echo ' DE pulse  x'; echo ' DE alsa  y' ;; esac"], "ok", "7.1-test, /.*, records with pulse"),
        ([f"{VERSION} *) echo ' DE lavfi  x' ;; esac"], "!", "reads files but cannot record"),
        (["exit 127"], "no", "does not run"),
        (None, "no", "FFmpeg is missing"),
    ],
)
def test_ffmpeg(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: list[str] | None, state: str, text: str
) -> None:
    monkeypatch.setattr(microphone, "SYSTEMS", ("pulse", "alsa"))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)  # it brings one along
    monkeypatch.setenv("PATH", str(tmp_path))
    if script:
        program(tmp_path / "ffmpeg", *script)
    found = doctor.examine(checks.ffmpeg, Settings())
    assert found.state == state and text.replace("/.*", "").split(", ")[-1] in found.text
    assert bool(found.remedy) == (state != "ok") and found.code == (69 if state == "no" else 0)


def test_a_broken_ffmpeg_is_named_although_another_one_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(microphone, "SYSTEMS", ("pulse", "alsa"))
    program(tmp_path / "broken", "echo 'dyld[1]: Library not loaded: libx264' >&2; exit 134")
    program(tmp_path / "bundled", f"{VERSION} *) echo ' DE alsa  y' ;; esac")
    programs = [str(tmp_path / "broken"), str(tmp_path / "bundled")]
    monkeypatch.setattr(ffmpeg_programs, "found", lambda: iter(programs))
    found = doctor.examine(checks.ffmpeg, Settings())
    assert (found.state, found.code) == ("!", 0) and found.remedy
    assert "does not run: dyld[1]: Library not loaded" in found.text and "7.1-test" in found.text


# ---- the microphone


@pytest.mark.parametrize(
    "listen, state, code, text",
    [
        (sound(3000, -3000), "ok", 0, "Yeti: -21 dBFS at the loudest, -21 on average"),
        (sound(0), "no", 77, "Yeti gives only silence"),
        (sound(40, -40), "!", 0, "too quiet"),
        (sound(32767, -32768), "!", 0, "clipped"),
    ],
)
def test_the_microphone(
    monkeypatch: pytest.MonkeyPatch, listen: Callable[..., Iterator[bytes]], state: str, code: int, text: str
) -> None:
    monkeypatch.setattr(checks, "_device", lambda settings: "Yeti")
    monkeypatch.setattr(microphone, "listen", listen)
    found = checks.listening(now())
    assert (found.state, found.code) == (state, code) and text in found.text
    assert bool(found.remedy) == (state != "ok")


@pytest.mark.parametrize("code", [69, 77])
def test_no_microphone(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def listen(name: str = "") -> Iterator[bytes]:
        raise UserError(code, "no microphone was found", "Connect one.")
        yield b""

    monkeypatch.setattr(microphone, "devices", list)
    monkeypatch.setattr(microphone, "listen", listen)
    assert checks.listening(now()) == Finding("no", "no microphone was found", "Connect one.", code)


def test_the_microphone_that_is_asked_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A2I_DEVICE", "yeti")
    monkeypatch.setattr(microphone, "devices", lambda: [microphone.Device("pulse", "x", "Blue Yeti")])
    monkeypatch.setattr(microphone, "listen", sound(3000, -3000))
    assert checks.listening(now()).text.startswith("Blue Yeti: ")


def test_a_mac_names_its_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [{"_name": "Speakers"}, {"_name": "Studio Mic", "coreaudio_default_audio_input_device": "spaudio_yes"}]
    report = json.dumps({"SPAudioDataType": [{"_items": items}]})
    monkeypatch.setattr(system, "said", lambda *command: report if command[0] == "system_profiler" else "")
    monkeypatch.setattr(microphone, "devices", lambda: [microphone.Device("avfoundation", ":Teams", "Teams")])
    monkeypatch.setattr(sys, "platform", "darwin")
    assert checks._device(now()) == "Studio Mic"
    monkeypatch.setattr(system, "said", lambda *command: "")
    assert checks._device(now()) == "Teams"


# ---- models


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """base.en-q5_1, as the catalogue has it for once: the fixture model, with its size and hash."""
    path = tmp_path / "models" / "base.en-q5_1" / "ggml-base.en-q5_1.bin"
    path.parent.mkdir(parents=True)
    data = whisper_fixture.write(path, "a cat").read_bytes()
    entry = catalog.read().find("base.en-q5_1")
    text = catalog.CATALOG.read_text(encoding="utf-8").replace(f"bytes = {entry.bytes},", f"bytes = {len(data)},")
    text = text.replace(entry.files[0].sha256, hashlib.sha256(data).hexdigest())
    (tmp_path / "catalog.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(catalog, "CATALOG", tmp_path / "catalog.toml")
    yield path


def test_the_models_are_checked(base: Path) -> None:
    found = checks.models(now())
    assert found.text.startswith("builtin, base.en-q5_1 7 MB; every pinned SHA-256 is right") and not found.code
    assert checks.speech(now()) == Finding("ok", "whisper.cpp with ggml-base.en-q5_1.bin, language en")
    data = base.read_bytes()
    anew = "./download_model.py --remove base.en-q5_1; ./download_model.py base.en-q5_1"
    for damage in (data[:-1] + bytes([data[-1] ^ 1]), data[:-1]):
        base.write_bytes(damage)
        assert checks.models(now()) == Finding("no", "base.en-q5_1 is damaged", anew, 65)


def test_models_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("openvino", "torch"):
        monkeypatch.setattr(engines, "available", lambda asked="", engine=engine: (engine, "openvino"))
        found, better = checks.models(now()), catalog.read().default(engine).name
        assert found == Finding("!", "builtin; a better one suits this machine", f"./download_model.py {better}")
    found = checks.speech(now())
    assert (found.state, found.remedy) == ("!", "./download_model.py base.en-q5_1") and "few words" in found.text


@pytest.mark.parametrize(
    "setting, value, code", [("LANGUAGE", "de", 69), ("WHISPER", "base.en", 69), ("WHISPER", "nonsense", 64)]
)
def test_no_recogniser_for_this(monkeypatch: pytest.MonkeyPatch, setting: str, value: str, code: int) -> None:
    monkeypatch.setenv(f"A2I_{setting}", value)
    found = checks.speech(now())
    assert (found.state, found.code) == ("no", code) and "./download_model.py" in found.remedy


# ---- what the machine has


def test_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "advice", lambda: "")
    monkeypatch.setattr(engines, "available", lambda asked="": ("openvino",))
    assert checks.engine(now()) == Finding("ok", "OpenVINO on the processor")
    monkeypatch.setattr(nvidia, "advice", lambda: "the NVIDIA GPU is not used: pip")
    assert checks.engine(now()) == Finding("!", "OpenVINO on the processor", "The NVIDIA GPU is not used: pip")


def test_an_engine_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "memory", lambda: (16 << 30, 8 << 30))
    monkeypatch.setenv("A2I_ENGINE", "steam")
    assert checks.engine(now())[::3] == ("no", 64)
    assert checks.models(now()).state == checks.memory(now()).state == "ok"  # it is told once


def test_the_units_of_a_mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engines, "available", lambda asked="": ("coreml", "openvino"))
    monkeypatch.setattr(nvidia, "advice", lambda: "")
    mac = system.Machine("Apple M2 Max", 32 << 30, "24G90")
    monkeypatch.setattr(system, "machine", lambda: mac)
    monkeypatch.setattr(compute_units, "REMEMBERED", tmp_path / "units.json")
    assert checks.engine(now()) == Finding("ok", "Core ML on Apple M2 Max")
    (tmp_path / "units.json").write_text(json.dumps({"24G90 x": {"model": "/m", "unit": "CPU_AND_GPU", "failed": {}}}))
    assert checks.engine(now()) == Finding("ok", "Core ML on Apple M2 Max, CPU_AND_GPU")
    (tmp_path / "units.json").write_text("[1")
    assert checks.engine(now()) == Finding("ok", "Core ML on Apple M2 Max")


@pytest.mark.parametrize("free, state", [(8 << 30, "ok"), (100 << 20, "!"), (0, "ok")])
def test_memory(monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(system, "memory", lambda: (16 << 30, free))
    found = checks.memory(now())
    assert found.state == state and found.text.startswith("17.2 GB, ") and found.text.endswith("need 510 MB")


@pytest.mark.parametrize("free, state", [(2 << 30, "ok"), (500 << 20, "!"), (1 << 20, "no")])
def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, state: str) -> None:
    monkeypatch.setenv("A2I_OUTPUT", str(tmp_path / "not" / "yet"))
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = checks.disk(now())
    assert (found.state, found.code) == (state, 73 if state == "no" else 0)
    assert not (tmp_path / "not").exists()


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A2I_OUTPUT", "/proc/pictures")  # not even by root
    found = checks.disk(now())
    assert (found.state, found.code) == ("no", 73) and found.text.startswith("cannot write to /proc/pictures: ")


@pytest.mark.parametrize(
    "status, state, text",
    [
        ("shortcut     Ctrl+Alt+I in GNOME", "ok", "Ctrl+Alt+I in GNOME"),
        ("shortcut     no key in GNOME", "!", "no key in GNOME"),
        ("shortcut     not installed", "!", "not installed"),
        ("shortcut     this desktop is not supported; bind …", "!", "this desktop is not supported; bind …"),
        ("", "!", "the installer does not say"),
        (None, "!", "no key is bound"),
    ],
)
def test_the_shortcut(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: str | None, state: str, text: str
) -> None:
    monkeypatch.setattr(checks, "JOURNAL", tmp_path / "journal")
    monkeypatch.setattr(checks, "INSTALLER", program(tmp_path / "installer", f"echo 'app   yes'; echo '{status}'"))
    if status is not None:
        (tmp_path / "journal").touch()
    found = checks.shortcut(now())
    assert (found.state, found.text) == (state, text) and bool(found.remedy) == (state != "ok")


# ---- the proof


def test_a_picture_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A2I_STEPS", "1000")  # the user's settings are not what is tried
    found = checks.picture(now())
    assert found.state == "ok" and found.text.startswith("drawn by the built-in model in ")


@pytest.mark.parametrize(
    "lines, code, text, remedy",
    [
        (
            ["echo 'generate: the model is missing\n  Get it.' >&2", "exit 69"],
            69,
            "the model is missing",
            "Get",
        ),
        (["kill -SEGV $$"], 70, "no picture was drawn (signal 11)", "--verbose shows why"),
        (["exit 1"], 70, "no picture was drawn (exit code 1)", "--verbose"),
        (["echo /nowhere/image.png"], 70, "no picture was drawn (exit code 0)", "--verbose"),
        (
            ["echo png >$A2I_OUTPUT/image.png", "echo $A2I_OUTPUT/image.png"],
            70,
            "no picture was drawn (exit code 0)",
            "",
        ),
        (["exec sleep 60"], 70, "no picture after 0.5 seconds", "--verbose"),
    ],
)
def test_no_picture_is_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: list[str], code: int, text: str, remedy: str
) -> None:
    monkeypatch.setattr(sys, "executable", str(program(tmp_path / "python", *lines)))
    monkeypatch.setattr(checks, "PATIENCE", 0.5 if "sleep" in lines[0] else 60)
    found = checks.picture(now())
    assert found[:2] == ("no", text) and found.code == code and remedy in found.remedy


# ---- what is printed


def every(**others: Finding) -> dict[str, Callable[[], Finding]]:
    def found(name: str, settings: Settings) -> Finding:
        return others.get(name, Finding("ok", "x"))

    return {name: functools.partial(found, name) for name in checks.CHECKS}


@pytest.mark.parametrize("name", checks.CHECKS)
def test_it_ends_with_0_only_if_a_picture_can_be_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for finding in (Finding("!", "works, but", "Do."), Finding("no", "broken", "Mend.", 73)):
        monkeypatch.setattr(checks, "CHECKS", every(**{name: finding}))
        code = doctor.main([])
        printed = capsys.readouterr().out
        needed = name in ("Python", "models", "engine", "disk", "picture")
        assert code == (73 if finding.state == "no" and needed else 0)
        assert f"{finding.state:>2}  {name:10} {finding.text}\n               → {finding.remedy}\n" in printed
        assert ("No picture can be drawn" in printed) == (code != 0)
        assert ("not from speech" in printed) == (finding.state == "no" and code == 0)


def test_a_check_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ffmpeg", None)
    monkeypatch.setattr(microphone, "devices", list)
    found = doctor.examine(checks.listening, Settings())
    assert (found.text, found.code) == ("the Python package ffmpeg is missing", 69) and "./pipeline.sh" in found.remedy


def test_a_check_that_fails_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(settings: Settings) -> Finding:
        raise ZeroDivisionError("no chip")

    monkeypatch.setattr(checks, "CHECKS", {**every(), "memory": broken, "picture": broken})
    assert doctor.main([]) == 70
    assert capsys.readouterr().out.count("the check failed: ZeroDivisionError: no chip") == 2


def test_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = subprocess.run(
        [*DOCTOR, "--json"], cwd=ROOT, env={**CLEAN, "A2I_MODELS": str(tmp_path), "PATH": str(tmp_path)},
        capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == answer["code"] == 0 and list(answer["checks"]) == list(checks.CHECKS)
    assert answer["checks"]["microphone"]["state"] == "no" and answer["checks"]["picture"]["state"] == "ok"
    assert answer["verdict"].startswith("A picture can be drawn with --prompt, but not from speech")


def test_nothing_private_is_printed() -> None:
    found = doctor.examine(lambda settings: Finding("no", f"{Path.home()}/x", f"cd {Path.home()}", 69), Settings())
    assert found == Finding("no", "~/x", "cd ~", 69)


def terminal(environment: dict[str, str], seconds: float = 100) -> tuple[int, str]:
    """Exit code and all that it shows on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        DOCTOR, cwd=ROOT, env={**environment, "COLUMNS": "80"}, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown, end = b"", time.monotonic() + seconds
        while time.monotonic() < end and select.select([ours], [], [], end - time.monotonic())[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:
                break
        os.close(ours)
        return process.wait(10), shown.decode()


def test_on_a_terminal_it_listens_and_is_one_screen(tmp_path: Path) -> None:
    with speaker.running() as environment:
        heard = {name: value for name, value in environment.items() if not name.startswith(("A2I_", "NO_COLOR"))}
        settings = {**heard, "A2I_MODELS": str(tmp_path / "models")}
        tone = tmp_path / "tone.wav"
        write_wav(tone, (struct.pack("<8h", 0, 5657, 8000, 5657, 0, -5657, -8000, -5657) * 2000) * 8)
        with subprocess.Popen(["paplay", tone], env=heard) as player:
            code, shown = terminal(settings)
            player.terminate()
        assert code == 0 and "Say something: the microphone is recorded for 3 seconds." in shown
        assert "s left  [####" in shown and "\x1b[32mok\x1b[0m  microphone Monitor of " in shown
        assert "\x1b[33m !\x1b[0m  shortcut" in shown or "\x1b[32mok\x1b[0m  shortcut" in shown
        screen = [line.rsplit("\r", 1)[-1] for line in shown.replace("\r\n", "\n").split("\n")]
        assert len(screen) <= 24 and max(len(re.sub("\x1b[^mK]*[mK]", "", line)) for line in screen) < 80
        code, shown = terminal({**settings, "NO_COLOR": "1"})
        assert code == 0 and "no  microphone Monitor of" in shown and "gives only silence" in shown
        assert "\x1b[3" not in shown


def test_ctrl_c_ends_it_although_the_pipe_ignores_it(tmp_path: Path) -> None:
    with speaker.running() as environment:
        process = subprocess.Popen(
            DOCTOR, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )  # fmt: skip
        assert process.stdout
        while b"FFmpeg" not in process.stdout.readline():  # now it listens
            pass
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130 and b"Traceback" not in said
