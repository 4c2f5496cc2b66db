"""Hostile text: whatever is said, or given with --prompt, is text and nothing else to a shell, a terminal, a file."""

from __future__ import annotations

import html
import io
import itertools
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import measured
import numpy as np
import pytest
from hostile_text import UNSAFE, canaries, line
from PIL import Image
from prompt_toolkit.utils import get_cwidth
from test_confirm import confirm
from whole_pipe import Pipe

from helpers.core import session as files
from helpers.core import terminal
from helpers.core.lines import Line
from helpers.core.paths import ROOT
from helpers.core.settings import Settings
from helpers.core.text import printable
from helpers.draw import generate, png, run_folder
from helpers.draw.job import Job, Picture
from helpers.listen import audio
from helpers.listen.speech_gate import SpeechGate
from helpers.listen.transcript import Transcript
from helpers.words import emphasis

PLATFORM = ROOT / "helpers" / "shell" / "platform"
SHELLS = sorted({"bash", os.environ.get("A2I_TEST_BASH", "bash")})
Size = Callable[[int, int], int]
Note = Callable[[str, object], None]


def meant(text: bytes) -> str:
    """What a stage makes of a line: one line that is safe to show."""
    return printable(text.decode(errors="replace"))


def safe(shown: str) -> bool:
    return not UNSAFE.search(shown)


def peak_of(command: list[str], stdin: Path, folder: Path) -> tuple[int, bytes, str, float]:
    """(exit code, stdout, stderr, MB at most) of a stage that reads a file."""
    with stdin.open("rb") as given, (folder / "out").open("wb+") as out, (folder / "err").open("wb+") as err:
        settings = {**os.environ, "A2I_SESSION": "", "A2I_CONTROL": "", "PYTHONUTF8": "1"}
        how = {"cwd": ROOT, "env": settings, "stdin": given, "stdout": out, "stderr": err}
        code, peak = measured.run(command, 600, **how)
    return code, (folder / "out").read_bytes(), (folder / "err").read_text("utf-8"), peak


# ------------------------------------------------------------------------------------------------ the stages


def test_the_filter(tmp_path: Path, size: Size, record_property: Note) -> None:
    """The text filter writes one line for each line, with the line's own letters, in limited memory."""
    tried = size(3000, 100_000)
    with (tmp_path / "texts").open("wb") as texts:
        texts.writelines(line(number) + b"\n" for number in range(tried))
    code, out, said, peak = peak_of([sys.executable, "remove_parentheses.py"], tmp_path / "texts", tmp_path)
    assert code == 0 and peak < 300, (code, said[-500:], peak)
    lines = out.decode().split("\n")
    assert len(lines) == tried + 1 and not lines[-1]
    for number, kept in enumerate(lines[:-1]):
        assert safe(kept) and kept == " ".join(kept.split()), (number, kept[:200])
        assert set(kept) <= set(meant(line(number))) | {" "}, (number, kept[:200])
    assert all(told.startswith("nothing was said") and len(told) < 100 and safe(told) for told in said.splitlines())
    record_property("tried", tried)


class Always:
    """A recogniser that always writes `text`."""

    name, languages, translates = "always", "any", True

    def __init__(self, text: str) -> None:
        self._text = text

    def transcribe(self, pcm: bytes) -> Transcript:
        return Transcript(self._text, "en")


def test_what_was_recognised(tmp_path: Path, size: Size, record_property: Note) -> None:
    """A recogniser's text becomes one safe line before it is used; the level meter's line never wraps."""
    pcm, tried = audio.decode(ROOT / "examples" / "burger.wav"), size(5, 100)
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        patch.setenv("COLUMNS", "60")
        for number in range(tried):
            text = line(number).decode(errors="replace")
            assert SpeechGate(Always(text)).transcribe(pcm).text == printable(text), number
        show = terminal.Meter(9, shown=True, session=tmp_path)
        for number in range(100 * tried):
            (tmp_path / files.PARTIAL).write_bytes(line(number))
            screen.seek(0)
            screen.truncate()
            show.show(1.0, -20.0)
            drawn = screen.getvalue()
            assert drawn.startswith("\r  8.0 s left") and drawn.endswith("\x1b[K"), number
            assert safe(drawn[1:-3]) and get_cwidth(drawn[1:-3]) < 60, (number, drawn)
    record_property("tried", 101 * tried)


def test_confirm(tmp_path: Path, size: Size, record_property: Note) -> None:
    """--confirm shows any text without escape sequences, and passes on what it showed."""
    tried = [number for number in range(100) if meant(line(number))][: size(2, 40)]
    for number in tried:
        code, drawn, shown = confirm(line(number).decode(errors="replace") + "\n", b"\r", tmp_path)
        assert (code, drawn) == (0, meant(line(number)) + "\n"), number
        assert not re.search(r"\x1b(\[31337m|[\]Pc(N])", shown), number
        theirs = r"\x1b\[[?\d;]*[A-Za-z]|\x1b[=>]|[\r\n]|(?<!\x08)\x08(?!\x08)"  # of prompt_toolkit
        assert safe(re.sub(theirs, "", shown)), (number, shown)
    record_property("tried", len(tried))


def test_the_terminal(tmp_path: Path, size: Size, record_property: Note) -> None:
    """Any text gives a picture, and only letters of it reach the terminal, with and without --json."""
    tried = size(2, 30)
    numbers = range(7, 7 + tried)  # the first is a megabyte
    # "cat": the built-in model draws nothing of a text in which it knows no subject.
    (tmp_path / "texts").write_bytes(b"".join(b"cat " + line(number) + b"\n" for number in numbers))
    for switch in ("0", "1"):
        settings = {**os.environ, "A2I_MODEL": "builtin", "A2I_STEPS": "1", "A2I_JSON": switch, "A2I_SESSION": ""}
        settings |= {"A2I_OUTPUT": str(tmp_path / "outputs"), "PYTHONUTF8": "1", "A2I_CONTROL": ""}
        terminal, end = pty.openpty()
        command = [sys.executable, "-m", "helpers.draw.generate"]
        with (tmp_path / "texts").open("rb") as texts, os.fdopen(terminal, "rb", buffering=0) as screen:
            stage_ = subprocess.Popen(command, cwd=ROOT, env=settings, stdin=texts, stdout=end, stderr=end)
            os.close(end)
            shown = b""
            try:
                while data := screen.read(1 << 16):
                    shown += data
            except OSError:  # it has ended
                pass
            assert stage_.wait() == 0
        bar = re.sub(r"\x1b\[[AK]|[\r\n]", "", shown.decode())
        assert safe(bar), UNSAFE.findall(bar)
    assert len(list((tmp_path / "outputs").iterdir())) == 2 * tried
    record_property("tried", 2 * tried)


@pytest.mark.parametrize("what", ["remove_parentheses", "helpers.draw.generate"])
def test_a_line_without_end(tmp_path: Path, what: str) -> None:
    """An endless line is refused in one line at the length limit, and fills no memory."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def pour() -> None:
        with fifo.open("wb", buffering=0) as pipe:
            try:
                for _ in itertools.repeat(None):
                    pipe.write(b"a cat " * 10_000)
            except BrokenPipeError:
                pass

    pouring = threading.Thread(target=pour)
    pouring.start()
    code, out, said, peak = peak_of([sys.executable, "-m", what], fifo, tmp_path)
    pouring.join()
    told = [told for told in said.splitlines() if told.startswith(what.split(".")[-1])]
    assert (code, out) == (65, b"") and told == [f"{what.split('.')[-1]}: a prompt is longer than 1048576 bytes"]
    assert peak < (300 if what == "remove_parentheses" else 2000)


# ------------------------------------------------------------------------------------------------ what is kept


def test_metadata(size: Size, record_property: Note) -> None:
    """The text in a picture is read back exactly, by another program's reader."""
    tried, pixels = size(3000, 100_000), np.zeros((1, 1, 3), np.uint8)
    for number in range(tried):
        job = Job(meant(line(number)), meant(line(number + 1)), number, 1, 1, 1.0, "s", (16, 16), "", "m", "0" * 10)
        picture = Picture(pixels, number, job, "openvino", "openvino 1", "f32", "1.0")
        text = png.parameters(picture)
        with Image.open(io.BytesIO(png.encode(picture))) as image:
            found = image.text["parameters"]  # type: ignore[attr-defined]
        assert found == text, number
        first, *others, settings = found.split("\n")
        assert first in (job.prompt, emphasis.escaped(job.prompt)), number  # an ordinary bracket is escaped
        assert others == ([f"Negative prompt: {job.negative}"] if job.negative else []), number
        assert settings.startswith("Steps: 1, "), number
        assert png.parse(found) == job, number
    record_property("tried", tried)


def test_run_folders(tmp_path: Path, size: Size, record_property: Note) -> None:
    """A run's folder has a harmless name and lies in the output folder; its files hold the exact text."""
    (session := tmp_path / "session").mkdir()
    settings = Settings(output=tmp_path / "outputs", session=session)
    tried, pixels = size(3000, 100_000), np.zeros((1, 1, 3), np.uint8)
    for number in range(tried):
        prompt, spoken = meant(line(number)), meant(line(number + 1))
        assert re.fullmatch("([a-z0-9]+(-[a-z0-9]+)*)?", run_folder.slug(prompt)), number
        assert len(run_folder.slug(prompt)) <= 40, number
        if number % (tried // 300):
            continue
        job = Job(prompt, "", number, 1, 1, 1.0, "s", (1, 1), "", "m", "0" * 64)
        files.transcript(session, 7).write_text(spoken + "\n", encoding="utf-8")
        picture = Picture(pixels, number, job, "openvino", "openvino 1", "f32", "1.0")
        kept = generate.keep(settings, Line(prompt, 7), [picture])
        folder = Path(kept["folder"])
        assert folder.parent == tmp_path / "outputs" and not folder.is_symlink(), number
        assert (folder / "prompt.txt").read_bytes() == prompt.encode() + b"\n", number
        assert not spoken or (folder / "transcript.txt").read_bytes() == spoken.encode() + b"\n", number
        written = json.loads((folder / "run.json").read_bytes())
        assert (written["prompt"], written["transcript"]) == (prompt, spoken), number
        assert json.loads(json.dumps(kept))["prompt"] == prompt, number
        shutil.rmtree(folder)
    assert not list((tmp_path / "outputs").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs", "session"]
    record_property("tried", tried)


def test_a_line_without_an_id_gets_no_transcript_and_no_recording(tmp_path: Path) -> None:
    """A picture gets the transcript and recording of the recording that its line names, and else none."""
    (session := tmp_path / "session").mkdir()
    settings = Settings(output=tmp_path / "outputs", session=session)
    job = Job("a cat", "", 1, 1, 1, 1.0, "s", (1, 1), "", "m", "0" * 64)
    picture = Picture(np.zeros((1, 1, 3), np.uint8), 1, job, "openvino", "openvino 1", "f32", "1.0")
    for number in (1, 2):
        files.transcript(session, number).write_text(f"text {number}\n")
        files.recording(session, number).write_text(f"sound {number}")
    for id in (None, 0, 3):
        folder = Path(generate.keep(settings, Line("a cat", id), [picture])["folder"])
        assert sorted(path.name for path in folder.iterdir()) == ["image.png", "prompt.txt", "run.json"]
    folder = Path(generate.keep(settings, Line("a cat", 2), [picture])["folder"])
    assert (folder / "transcript.txt").read_text() == "text 2\n" and (folder / "prompt.wav").read_text() == "sound 2"
    assert files.recording(session, 1).exists() and not files.recording(session, 2).exists()


def test_folders_whose_name_is_no_text(tmp_path: Path) -> None:
    """A folder whose name is not UTF-8 can keep runs; its path is printed unchanged, also as JSON."""
    output = os.fsencode(tmp_path) + b"/caf\xe9 \x9b\xff"
    try:
        Path(os.fsdecode(output)).mkdir()
    except OSError:
        pytest.skip("this file system takes no such name")
    for switch in (b"0", b"1"):
        settings = {**os.environb, b"A2I_OUTPUT": output, b"A2I_MODEL": b"builtin", b"A2I_STEPS": b"1"}
        settings |= {b"A2I_JSON": switch, b"A2I_SESSION": b"", b"A2I_CONTROL": b"", b"PYTHONUTF8": b"1"}
        command = [sys.executable, "-m", "helpers.draw.generate"]
        ended = subprocess.run(command, cwd=ROOT, env=settings, input=b"a cat\n", capture_output=True, check=False)
        assert ended.returncode == 0, ended.stderr
        path = os.fsencode(json.loads(ended.stdout)["paths"][0]) if switch == b"1" else ended.stdout[:-1]
        assert path.startswith(output + b"/") and Path(os.fsdecode(path)).is_file()


# ------------------------------------------------------------------------------------------------ the shell


def test_prompts_on_the_command_line(tmp_path: Path, size: Size, record_property: Note) -> None:
    """A prompt passes the shell byte by byte; only line breaks become spaces; nothing in it is run."""
    pipe, got = Pipe(tmp_path / "place"), tmp_path / "got"
    path = f"{canaries(tmp_path)}:{os.environ['PATH']}"
    tried = 0
    for number in itertools.count():
        prompt = line(number).replace(b"\0", b"") + (b"", b"\n$(canary)\r\n`canary`")[number % 2]
        if len(prompt) > 100_000 or not re.search(rb"\S", prompt):
            continue
        settings = pipe.environment(PATH=path, A2I_GENERATE=f"tee {got}")
        shell, program = os.fsencode(SHELLS[number % len(SHELLS)]), os.fsencode(pipe.root / "pipeline.sh")
        command = [shell, program, *([b"--prompt=" + prompt] if number % 3 else [b"-p", prompt])]
        ended = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, b""), (number, ended)
        assert ended.stdout == got.read_bytes() == re.sub(rb"[\r\n]", b" ", prompt) + b"\n", number
        tried += 1
        if tried == size(6, 300):
            break
    assert not (tmp_path / "started").exists() and not pipe.left()
    record_property("tried", tried)


def test_options_that_are_wrong(tmp_path: Path, size: Size, record_property: Note) -> None:
    """A wrong option is refused in two lines, whatever it contains, without escape sequences."""
    pipe, tried = Pipe(tmp_path / "place"), size(6, 300)
    settings = pipe.environment(PATH=f"{canaries(tmp_path)}:{os.environ['PATH']}", LC_ALL="C.UTF-8")
    for number in range(8, 8 + tried):
        value = b"x" + line(number).replace(b"\0", b"")[:10_000]
        option = [b"--steps", b"--size", b"--time", b"--guidance", b"--" + value][number % 5]
        command = [os.fsencode(SHELLS[number % len(SHELLS)]), os.fsencode(pipe.root / "pipeline.sh"), option, value]
        ended = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, check=False)
        said = ended.stderr.decode(errors="replace").rstrip("\n").split("\n")
        assert ended.returncode == 64 and len(said) == 2 and not ended.stdout, (number, ended)
        assert safe("".join(said)), (number, said)
    assert not (tmp_path / "started").exists() and not pipe.left()
    record_property("tried", tried)


def test_what_was_heard(tmp_path: Path, size: Size, record_property: Note) -> None:
    """Spoken text goes through the whole pipe as text: into one picture, and into no program."""
    pipe, tried = Pipe(tmp_path / "place"), size(1, 20)
    for first in range(0, 20 * tried, 20):
        texts = [line(number) for number in range(first, first + 20)]
        (tmp_path / "said").write_bytes(b"".join(text + b"\n" for text in texts))
        (tmp_path / "hear").write_text(f"#!/bin/sh\ncat >/dev/null\nexec cat '{tmp_path}/said'\n")
        (tmp_path / "hear").chmod(0o755)
        environment = {"A2I_TRANSCRIBE": tmp_path / "hear", "A2I_GENERATE": f"tee {tmp_path}/got"}
        path = f"{tmp_path}/canaries:{os.environ['PATH']}" if first else f"{canaries(tmp_path)}:{os.environ['PATH']}"
        ended = pipe.run("-i", ROOT / "examples" / "burger.wav", PATH=path, **environment)
        assert ended.returncode == 0, (first, ended)
        lines = (tmp_path / "got").read_text("utf-8").split("\n")
        assert len(lines) == len(texts) + 1 and ended.stdout.split("\n") == lines, first
        assert safe(ended.stdout.replace("\n", "")) and safe(ended.stderr.replace("\n", "")), first
    assert not (tmp_path / "started").exists() and not pipe.left()
    record_property("tried", 20 * tried)


# ------------------------------------------------------------------------------------------------ notifications


def notified(platform: str, texts: list[str], folder: Path) -> list[list[str]]:
    """The arguments with which each text reaches the system's own program, for `notify TITLE TEXT`."""
    (folder / "texts").write_bytes(b"".join(text.encode() + b"\0" for text in texts))
    script = (
        f'. "$1"; while IFS= read -r -d "" text; do notify Heard "$text"; done <{shlex.quote(str(folder / "texts"))}'
    )
    settings = {**os.environ, "PATH": shims(folder)}
    shell = [SHELLS[0], "-c", script, "notify", str(PLATFORM / f"{platform}.sh")]
    subprocess.run(shell, env=settings, cwd=folder, check=True)
    assert not (folder / "started").exists()
    return calls(folder)


def shims(folder: Path) -> str:
    """A PATH with canaries, and with notify-send and osascript, which note their arguments in `calls`."""
    programs = canaries(folder)
    note = f"#!/bin/sh\n{{ printf '%s\\0' \"$@\"; printf '\\1'; }} >>'{folder}/calls'\n"
    for name in ("notify-send", "osascript"):
        (programs / name).write_text(note)
        (programs / name).chmod(0o755)
    return f"{programs}:{os.environ['PATH']}"


def calls(folder: Path) -> list[list[str]]:
    """The arguments of each call, but those without which notify-send is not to be called."""
    noted = (folder / "calls").read_text("utf-8").split("\1")[:-1] if (folder / "calls").exists() else []
    return [call.split("\0")[:-1] for call in noted]


def read_by_notify_send(body: str) -> str:
    """What notify-send (0.8, g_strcompress) and the markup of a notification make of its second argument."""
    escapes = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}

    def unescaped(found: re.Match[str]) -> str:
        return chr(int(found[1], 8) & 255) if found[1].isdigit() else escapes.get(found[1], found[1])

    return html.unescape(re.sub(r"\\([0-7]{1,3}|.)", unescaped, body, flags=re.DOTALL))


def test_notifications_on_linux(tmp_path: Path, size: Size, record_property: Note) -> None:
    """A notification shows the text exactly: no markup, escape sequence, option or shell command in it."""
    texts = [text for number in range(8, size(150, 5000)) if (text := meant(line(number)))]
    for number, (text, call) in enumerate(zip(texts, notified("linux", texts, tmp_path), strict=True)):
        assert call[:4] == ["-a", "Audio to Image", "--", "Heard"] and len(call) == 5, (number, call)
        assert read_by_notify_send(call[4]) == text and not re.search("[<>]", call[4]), (number, call)
    record_property("tried", len(texts))


def test_notifications_on_a_mac(tmp_path: Path, size: Size, record_property: Note) -> None:
    """AppleScript gets the text as an argument; its source is always the same."""
    texts = [text for number in range(8, size(150, 5000)) if (text := meant(line(number)))]
    found = notified("darwin", texts, tmp_path)
    source = found[0][:7]
    assert source[::2] == ["-e", "-e", "-e", "--"]
    assert found == [[*source, "Heard", text] for text in texts]
    record_property("tried", len(texts))


def test_the_key(tmp_path: Path, size: Size, record_property: Note) -> None:
    """After the hotkey, two notifications show the recognised text, shortened if long; nothing runs it."""
    pipe, path, picture = Pipe(tmp_path / "place"), shims(tmp_path), tmp_path / "image.png"
    hear = "import sys; from helpers.core import settings, stage, text; sys.stdin.read(); "
    hear += "said = text.printable(open(sys.argv[1], 'rb').read().decode(errors='replace')); "
    hear += "stage.begin('transcribe', settings.Settings.from_environment()); "
    hear += "stage.event('line', text=said[:300]); print(said)"  # as much of it as our own recognisers note
    scripts = {
        "record": "printf pcm",
        "transcribe": f"cd '{pipe.root}' && exec '{sys.executable}' -c \"{hear}\" '{tmp_path}/said'",
        "generate": f"cat >'{tmp_path}/drawn'; : >'{picture}'; echo '{picture}'",
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    settings = pipe.environment(PATH=path, **{f"A2I_{name.upper()}": tmp_path / name for name in scripts})
    settings["A2I_REMOVE_PARENTHESES"] = "cat"
    tried = [number for number in range(7, 200) if meant(line(number))][: size(3, 60)]  # the first is a megabyte
    for number in tried:
        (tmp_path / "said").write_bytes(line(number))
        (tmp_path / "calls").unlink(missing_ok=True)
        press = [SHELLS[number % len(SHELLS)], str(pipe.root / "helpers" / "press.sh"), "follow"]
        subprocess.run(press, env=settings, cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while (
            len(calls(tmp_path)) < 2 and time.monotonic() < end
        ):  # the last one may be clicked on, and is not waited for
            time.sleep(0.01)
        heard, shown = calls(tmp_path)
        text = meant(line(number))[:300].rstrip()
        assert heard == ["-a", "Audio to Image", "--", "Heard", heard[-1]], number
        assert shown[:5] == ["-a", "Audio to Image", "-i", str(picture), "-A"] and shown[-2] == "Your picture", number
        assert read_by_notify_send(heard[-1]) == read_by_notify_send(shown[-1]) == text, number
        assert (tmp_path / "drawn").read_bytes() == meant(line(number)).encode() + b"\n", number
    assert not (tmp_path / "started").exists()
    record_property("tried", len(tried))
