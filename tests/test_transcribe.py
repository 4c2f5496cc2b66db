"""transcribe: sound in, lines out, and what it says when there is nothing to write down."""

from __future__ import annotations

import array
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import whisper_fixture

from benchmark.voices import speak
from helpers.catalog import catalog
from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, MARK, write_wav
from helpers.core.settings import Settings
from helpers.listen import audio
from helpers.listen.recognisers import Request, choose
from helpers.listen.record import without_mark
from helpers.listen.speech_gate import SpeechGate
from helpers.listen.transcript import Transcript

ROOT = Path(__file__).resolve().parent.parent
TRANSCRIBE = [sys.executable, "-m", "helpers.listen.transcribe"]
SENTENCE = "a red apple on a wooden table"
BUILTIN = "transcribe: the built-in recogniser knows few words; a better one: ./download_model.py base.en-q5_1\n"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a machine without any Whisper model."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("A2I_", "PYTHON"))}
    return {**clean, "A2I_MODELS": str(tmp_path / "models")}


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("voice") / "castle.wav"
    speak("rms", "draw me a castle at sunset", path)
    return path


@pytest.fixture(scope="module")
def pcm(voice: Path) -> bytes:
    return audio.decode(voice)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(whisper_fixture.write(tmp_path_factory.mktemp("model") / "any.bin", SENTENCE, multilingual=True))


def run(
    environment: dict[str, str], *arguments: str | Path, stdin: bytes = b""
) -> tuple[int, str, str]:  # exit code, stdout, stderr
    done = subprocess.run(
        [*TRANSCRIBE, *arguments], cwd=ROOT, env=environment, input=stdin, capture_output=True, timeout=60, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*TRANSCRIBE, *arguments], cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe,
        # A shell that runs the tests in the background has them ignore SIGINT, which a child inherits
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def events(session: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (session / "events.jsonl").read_text().splitlines()]


def children(pid: int) -> list[int]:
    return [int(child) for child in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True).stdout.split()]


def is_running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return state.strip()[:1] not in ("", "Z")


def wait_for(condition: object, seconds: float = 20) -> bool:
    assert callable(condition)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


# ---- what it writes


def test_pcm_on_stdin_becomes_a_line(environment: dict[str, str], pcm: bytes, tmp_path: Path) -> None:
    session = tmp_path / "session"
    session.mkdir()
    # An odd byte at the end is half a sample.
    code, written, said = run({**environment, "A2I_SESSION": str(session)}, stdin=pcm + b"\x01")
    assert (code, written) == (0, "\x1e1 spoken\x1fdraw me a castle at sunset\n")
    assert said == BUILTIN + "heard: draw me a castle at sunset\n"
    assert (session / "transcript-1.txt").read_text() == "draw me a castle at sunset\n"
    noted = {str(event["event"]): event for event in events(session)}
    assert set(noted) - {"partial"} == {"started", "ready", "heard", "line", "done"}
    assert noted["heard"]["seconds"] == pytest.approx(len(pcm) / BYTES_PER_SECOND, abs=0.001)
    assert noted["line"]["text"] == "draw me a castle at sunset"
    assert isinstance(noted["line"]["seconds"], float)


def test_quiet(environment: dict[str, str], pcm: bytes) -> None:
    assert run({**environment, "A2I_QUIET": "1"}, stdin=pcm) == (0, "draw me a castle at sunset\n", "")


def test_files_become_lines_in_order(environment: dict[str, str], voice: Path, tmp_path: Path) -> None:
    other = tmp_path / "with a space.ogg"
    speak("slt", "a happy penguin at night", tmp_path / "penguin.wav")
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", tmp_path / "penguin.wav", other], check=True)
    code, written, _ = run(environment, other, voice, other)
    assert (code, written.splitlines()) == (
        0,
        ["a happy penguin at night", "draw me a castle at sunset", "a happy penguin at night"],
    )


def test_in_a_session_each_file_keeps_its_number(environment: dict[str, str], voice: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.wav"
    code, written, _ = run({**environment, "A2I_SESSION": str(tmp_path)}, missing, voice)
    assert (code, written) == (66, "\x1e2 spoken\x1fdraw me a castle at sunset\n")
    assert [path.name for path in tmp_path.glob("transcript-*")] == ["transcript-2.txt"]


def test_a_clipped_file_that_is_not_understood_is_named_so(environment: dict[str, str], tmp_path: Path) -> None:
    loud = [
        max(-32768, min(32767, 40 * sample))
        for sample in array.array("h", audio.decode(ROOT / "examples/unicorn.flac"))
    ]
    write_wav(tmp_path / "loud.wav", array.array("h", loud).tobytes())
    code, _, said = run(environment, tmp_path / "loud.wav")
    assert code == 65 and "The sound is clipped" in said


def test_a_file_that_cannot_be_used_is_named_once(environment: dict[str, str], voice: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("no sound\n" * 9)
    code, written, said = run(environment, voice, tmp_path / "notes.wav")
    assert (code, written) == (65, "draw me a castle at sunset\n")
    assert said.count("notes.wav") == 1
    code, _, said = run(environment, tmp_path / "notes.wav", voice, tmp_path / "gone.wav")
    assert (code, said.count("notes.wav"), said.count("gone.wav")) == (65, 1, 1)
    assert "2 of 3 recordings cannot be used" in said


def test_in_a_loop_a_recording_without_words_is_a_line(environment: dict[str, str], pcm: bytes, tmp_path: Path) -> None:
    session = {**environment, "A2I_SESSION": str(tmp_path)}
    code, written, said = run(session, "--loop", stdin=b"\1\0" * 16_000 + MARK + without_mark(pcm) + MARK)
    assert (code, written) == (0, "\x1e1 spoken\x1f\n\x1e2 spoken\x1fdraw me a castle at sunset\n")
    assert "no words were heard in 1.0 seconds" in said
    assert [path.name for path in tmp_path.glob("transcript-*")] == ["transcript-2.txt"]
    assert json.loads(next(line for line in (tmp_path / "events.jsonl").open() if '"line"' in line))["number"] == 2


def test_one_bad_file_does_not_cost_the_others(environment: dict[str, str], voice: Path, tmp_path: Path) -> None:
    silence, missing = tmp_path / "silence.wav", tmp_path / "missing.wav"
    write_wav(silence, bytes(64000))
    code, written, said = run(environment, missing, voice, silence, voice)
    assert (code, written.splitlines()) == (66, ["draw me a castle at sunset"] * 2)
    assert said.count(str(missing)) == said.count(str(silence)) == 1 and "Traceback" not in said


@pytest.mark.parametrize("language", ["en", "en-GB", "de", "auto"])
def test_whisper_and_nothing_but_its_words(environment: dict[str, str], pcm: bytes, model: str, language: str) -> None:
    code, written, said = run(
        environment, "--whisper", model, "--threads", "1", "--language", language, "--translate", stdin=pcm
    )
    assert (code, written, said) == (0, f"{SENTENCE}\n", f"heard: {SENTENCE}\n")


def test_what_whisper_says_is_safe_on_a_terminal(environment: dict[str, str], pcm: bytes, tmp_path: Path) -> None:
    evil = whisper_fixture.write(tmp_path / "evil.bin", "a \x1b[2Jcat\x07 $(reboot) \u202eon the moon")
    code, written, said = run(environment, "--whisper", str(evil), "--threads", "1", stdin=pcm)
    assert (code, written) == (0, "a [2Jcat $(reboot) on the moon\n")
    assert said == "heard: a [2Jcat $(reboot) on the moon\n"


def test_the_environment_sets_what_options_do_not(environment: dict[str, str], pcm: bytes, model: str) -> None:
    settings = {**environment, "A2I_WHISPER": model, "A2I_LANGUAGE": "de", "A2I_TRANSLATE": "1"}
    assert run(settings, stdin=pcm)[1] == f"{SENTENCE}\n"
    assert run(settings, "--whisper", "builtin", "--language", "en", stdin=pcm)[1] == "draw me a castle at sunset\n"


# ---- while it loads and after


def test_stdin_is_drained_while_the_model_loads(environment: dict[str, str], model: str, pcm: bytes) -> None:
    """Ten seconds of sound are taken at once, five times what a pipe holds, before a model can be there."""
    with start(environment, "--whisper", model, "--threads", "1") as process:
        assert process.stdin
        assert wait_for(lambda: children(process.pid))
        worker = children(process.pid)[0]
        os.kill(worker, signal.SIGSTOP)  # the slowest of all loaders
        loads = threading.Timer(20, os.kill, (worker, signal.SIGCONT))  # if it is not drained
        loads.start()
        process.stdin.write((pcm + bytes(320_000))[:320_000])
        process.stdin.flush()
        assert loads.is_alive()
        loads.cancel()
        os.kill(worker, signal.SIGCONT)
        written, said = process.communicate(timeout=60)
    assert (process.returncode, written, said) == (0, f"{SENTENCE}\n".encode(), f"heard: {SENTENCE}\n".encode())


def test_it_is_ready_before_the_recording_ends(environment: dict[str, str], pcm: bytes, tmp_path: Path) -> None:
    session = tmp_path / "session"
    session.mkdir()
    with start({**environment, "A2I_SESSION": str(session)}) as process:
        assert process.stdin
        for i in range(0, len(pcm), 16_000):  # a microphone that takes its time
            process.stdin.write(pcm[i : i + 16_000])
            process.stdin.flush()
            time.sleep(0.1)
        assert wait_for(lambda: "ready" in [event["event"] for event in events(session)])
        written, _ = process.communicate(timeout=60)
    assert written == b"\x1e1 spoken\x1fdraw me a castle at sunset\n"
    noted = [event["event"] for event in events(session) if event["event"] != "partial"]
    assert noted == ["started", "ready", "heard", "line", "done"]


def test_more_than_ten_minutes_are_not_taken(environment: dict[str, str], model: str, tmp_path: Path) -> None:
    """Stdin is closed on a sender that never ends, and what is kept is bounded."""
    sender = subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE)
    session = tmp_path / "session"
    session.mkdir()
    done = subprocess.run(
        [*TRANSCRIBE], cwd=ROOT, env={**environment, "A2I_SESSION": str(session)}, stdin=sender.stdout,
        capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert sender.stdout
    sender.stdout.close()
    assert sender.wait(10) == -signal.SIGPIPE
    assert done.returncode == 65 and b"only the first 10 minutes are used" in done.stderr
    assert "no words were heard in 600.0 seconds of audio (silence)" in (session / "transcribe.error").read_text()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_worker_goes_with_the_stage(environment: dict[str, str], model: str, sent: signal.Signals) -> None:
    with start(environment, "--whisper", model) as process:
        assert wait_for(lambda: children(process.pid))
        worker = children(process.pid)[0]
        process.send_signal(sent)
        code = process.wait(20)
        assert code == (130 if sent == signal.SIGINT else -sent)
        assert process.stderr and b"Traceback" not in process.stderr.read()
        assert wait_for(lambda: not is_running(worker))


def test_a_worker_that_dies_is_told_at_once(environment: dict[str, str], model: str) -> None:
    with start(environment, "--whisper", model) as process:
        assert wait_for(lambda: children(process.pid))
        os.kill(children(process.pid)[0], signal.SIGSEGV)
        process.wait(20)  # stdin is still open: the recording has not ended
        assert process.returncode == 65 and process.stderr
        said = process.stderr.read().decode()
    assert said.startswith("transcribe: whisper.cpp crashed (SIGSEGV) on ") and len(said.splitlines()) == 2


def test_a_next_stage_that_is_gone(environment: dict[str, str], pcm: bytes) -> None:
    with start(environment) as process:
        assert process.stdout and process.stdin and process.stderr
        process.stdout.close()
        process.stdin.write(pcm)
        process.stdin.close()
        assert process.wait(60) == 141 and b"Traceback" not in process.stderr.read()


# ---- what is wrong


def test_what_was_understood_in_a_pause_is_not_asked_again(pcm: bytes) -> None:
    asked: list[bytes] = []

    class Noting:
        name, languages, translates = "noting", "any", True

        def transcribe(self, pcm: bytes) -> Transcript:
            asked.append(pcm)
            return Transcript("a cat\n", "en", 0.5)

    gate = SpeechGate(Noting())
    for heard in (pcm + bytes(1000), pcm + bytes(500)):  # the mark of a loop has taken zeros away
        assert gate.transcribe(heard) == Transcript("a cat", "en", 0.5)
    assert len(asked) == 1
    assert gate.transcribe(bytes(len(pcm))).text == "" and len(asked) == 1


def test_empty_input_is_an_error_and_in_a_pipe_left_to_the_pipe(environment: dict[str, str], tmp_path: Path) -> None:
    code, written, said = run(environment)
    assert (code, written) == (65, "") and "transcribe: no audio arrived\n" in said
    code, written, said = run({**environment, "A2I_SESSION": str(tmp_path)}, stdin=b"\x00")
    assert (code, written, said) == (65, "", BUILTIN)
    assert (tmp_path / "transcribe.error").read_text().startswith("transcribe: no audio arrived\n")


@pytest.mark.parametrize("stdin, level", [(bytes(96_000), "silence"), (b"\x00\x10\x00\xf0" * 24_000, "-18 dBFS")])
def test_no_words(environment: dict[str, str], stdin: bytes, level: str) -> None:
    code, written, said = run(environment, stdin=stdin)
    assert (code, written) == (65, "")
    assert "transcribe: no words were heard in 3.0 seconds of audio" in said and level in said
    assert len(said.splitlines()) == 3


def test_whisper_is_not_asked_about_silence(environment: dict[str, str], model: str) -> None:
    code, written, said = run(environment, "--whisper", model, stdin=bytes(96_000))
    assert (code, written) == (65, "") and "(silence)" in said


def test_an_audio_file_on_stdin_is_told_apart(environment: dict[str, str], voice: Path) -> None:
    code, written, said = run(environment, stdin=voice.read_bytes())
    assert (code, written) == (65, "") and "stdin is an audio file, not raw PCM" in said


def test_no_stdin(environment: dict[str, str]) -> None:
    ours, terminal = pty.openpty()
    for stdin, what in ((terminal, "no audio on stdin"), (os.open(os.devnull, os.O_WRONLY), "cannot read stdin")):
        done = subprocess.run(TRANSCRIBE, cwd=ROOT, env=environment, stdin=stdin, capture_output=True, timeout=20)
        assert (done.returncode, done.stdout) == (66, b"") and what in done.stderr.decode()
    os.close(ours)
    os.close(terminal)


@pytest.mark.parametrize(
    "arguments, code, what",
    [
        (
            ["--whisper", "base.en", "--language", "de"],
            69,
            "base.en understands English only\n  Get one that can: ./download_model.py base-q5_1\n",
        ),
        (["--whisper", "base.en-q5_1", "--translate"], 69, "base.en-q5_1 cannot translate"),
        (["--whisper", "large-v3-turbo-q5_0", "--translate"], 69, "large-v3-turbo-q5_0 cannot translate"),
        (["--whisper", "stable-diffusion-2-1-base"], 64, "is not a speech model"),
        (["--whisper", "bsae.en"], 64, "no model is called 'bsae.en'\n  Did you mean base.en"),
        (["--whisper", "base.en"], 69, "base.en is not on this machine\n  Download it: ./download_model.py base.en\n"),
        (["--whisper", "./nowhere.bin"], 66, "there is no speech model ./nowhere.bin"),
        (["--whisper", "./README.md"], 65, "README.md is not a Whisper model"),
        (
            ["--language", "de"],
            69,
            "understands English only\n  Get one for other languages: ./download_model.py base-q5_1\n",
        ),
        (["--language", "auto"], 69, "./download_model.py base-q5_1"),
        (["--language", "de", "--whisper", "builtin"], 69, "the built-in recogniser understands English only"),
        (["--language", "../etc"], 64, "--language"),
        (["--threads", "many"], 64, "--threads"),
        (["--threads", "-1"], 64, "--threads"),
        (["--loud"], 64, "--loud"),
    ],
)
def test_a_choice_that_cannot_be(
    environment: dict[str, str], arguments: list[str], code: int, what: str, pcm: bytes
) -> None:
    ended, written, said = run(environment, *arguments, stdin=pcm)
    assert (ended, written) == (code, "") and what in said and len(said.splitlines()) == 2


def test_an_unknown_language(environment: dict[str, str], model: str) -> None:
    code, _, said = run(environment, "--whisper", model, "--language", "xx")
    assert code == 64 and said.startswith("transcribe: Whisper does not know the language 'xx'\n")


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", *TRANSCRIBE[1:], "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "--translate" in done.stdout and "argparse" in imported
    assert not imported & {"numpy", "openvino", "pywhispercpp", "pocketsphinx"}


# ---- which model


@pytest.fixture
def small_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The real catalogue, but every Whisper model may have any size; returns the folder of models."""
    text = catalog.CATALOG.read_text(encoding="utf-8")
    lines = [line.replace(" bytes =", " about_bytes =") if "ggml-" in line else line for line in text.splitlines()]
    (tmp_path / "catalog.toml").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(catalog, "CATALOG", tmp_path / "catalog.toml")
    monkeypatch.setenv("A2I_MODELS", str(tmp_path / "models"))
    yield tmp_path / "models"


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name / f"ggml-{name}.bin"
        path.parent.mkdir(parents=True)
        whisper_fixture.write(path, "x", multilingual=".en" not in name)


@pytest.mark.parametrize(
    "present, language, translate, chosen",
    [
        ([], "en", False, None),
        (["base.en-q5_1", "small.en", "base-q5_1"], "en", False, "base.en-q5_1"),
        (["base.en-q5_1", "small.en", "base-q5_1"], "de", False, "base-q5_1"),
        (["base.en-q5_1", "small.en", "base-q5_1"], "auto", False, "base-q5_1"),
        (["base.en-q5_1", "small.en", "base-q5_1"], "en", True, "base-q5_1"),
        (["small.en"], "en", False, "small.en"),  # any is better than the built-in recogniser
        (["small-q5_1"], "en", False, "small-q5_1"),
        (["small.en"], "de", False, None),
        (["large-v3-turbo-q5_0"], "de", False, "large-v3-turbo-q5_0"),
        (["large-v3-turbo-q5_0"], "de", True, None),
        (["large-v3-turbo-q5_0", "small-q5_1"], "de", True, "small-q5_1"),
    ],
)
def test_the_best_model_that_is_here(
    small_catalogue: Path, present: list[str], language: str, translate: bool, chosen: str | None
) -> None:
    put(small_catalogue, *present)
    request = Request(language=language, translate=translate, models=small_catalogue)
    if chosen is None and language != "en":
        with pytest.raises(UserError, match="understands English only"):
            choose(request)
    else:
        path = choose(request).path
        assert (path and path.parent.name) == chosen


def test_a_model_by_name(small_catalogue: Path) -> None:
    put(small_catalogue, "base.en-q5_1", "small.en")
    path = choose(Request("small.en", models=small_catalogue)).path
    assert path and path.parent.name == "small.en"


@pytest.mark.parametrize(
    "named, language, translate, lack",
    [
        ("base.en-q5_1", "de", False, "understands English only"),
        ("base.en-q5_1", "auto", False, "understands English only"),
        ("base.en-q5_1", "en", True, "cannot translate"),
        ("large-v3-turbo-q5_0", "de", True, "cannot translate"),
        ("./distilled.bin", "de", True, "cannot translate"),
        ("./english.bin", "de", False, "understands English only"),
        ("builtin", "de", False, "understands English only"),
    ],
)
def test_a_model_that_cannot_gives_way_to_one_that_can(
    small_catalogue: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    named: str,
    language: str,
    translate: bool,
    lack: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    whisper_fixture.write("english.bin", "x")
    distilled = bytearray(whisper_fixture.write("distilled.bin", "x", multilingual=True).read_bytes())
    struct.pack_into("<i", distilled, 20, 32)  # 32 layers hear and 1 writes
    Path("distilled.bin").write_bytes(distilled + bytes(11_000_000))
    put(small_catalogue, "base.en-q5_1", "large-v3-turbo-q5_0")
    if not translate:
        shutil.rmtree(small_catalogue / "large-v3-turbo-q5_0")  # which can do this
    with pytest.raises(UserError, match=lack) as caught:
        choose(Request(named, language, translate, models=small_catalogue))
    assert caught.value.code == os.EX_UNAVAILABLE
    assert caught.value.remedy == "Get one that can: ./download_model.py base-q5_1"
    put(small_catalogue, "small-q5_1")
    stage.begin("transcribe", Settings())
    path = choose(Request(named, language, translate, models=small_catalogue)).path
    assert path and path.parent.name == "small-q5_1"
    name = "the built-in recogniser" if named == "builtin" else named
    assert capsys.readouterr().err == f"transcribe: {name} {lack}; small-q5_1 is used\n"


def test_a_model_that_can_is_used_without_a_word(
    small_catalogue: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(small_catalogue, "small-q5_1", "base.en-q5_1")
    for named, language, translate in ((model, "de", True), (model, "auto", False), ("builtin", "en", True)):
        stage.begin("transcribe", Settings())
        path = choose(Request(named, language, translate, models=small_catalogue)).path
        assert str(path) == (named if named == model else "None")
    assert capsys.readouterr().err == ""


def test_what_is_translated_is_of_any_language(
    environment: dict[str, str], voice: Path, model: str, tmp_path: Path
) -> None:
    """--translate alone is for somebody who speaks another language than the usual one; it is found, and noted."""
    session = {**environment, "A2I_SESSION": str(tmp_path)}
    assert run(session, "--whisper", model, "--threads", "1", "--translate", voice)[:2] == (
        0,
        f"\x1e1 spoken\x1f{SENTENCE}\n",
    )
    assert [event["found"] for event in events(tmp_path) if event["event"] == "language"] == ["nl"]
    assert run(session, "--whisper", model, "--threads", "1", "--language", "de", "--translate", voice)[0] == 0
    assert len([event for event in events(tmp_path) if event["event"] == "language"]) == 1


@pytest.mark.parametrize(("seconds", "says_so"), [("1.5", True), ("20", False)])
def test_of_a_file_the_window_is_used(environment: dict[str, str], voice: Path, seconds: str, says_so: bool) -> None:
    """The castle is said after a second and a half; the built-in recogniser may or may not make sense of half of it."""
    _, heard, said = run({**environment, "A2I_TIME": seconds}, voice)
    assert ("castle at sunset" in heard) is not says_so
    assert (f"{seconds} s" in said) is says_so


@pytest.mark.parametrize(("whisper", "name"), [(True, "whisper.cpp any.bin"), (False, "pocketsphinx")])
def test_the_run_notes_what_recognised(
    environment: dict[str, str], voice: Path, model: str, tmp_path: Path, whisper: bool, name: str
) -> None:
    options = ["--whisper", model] if whisper else []
    assert run({**environment, "A2I_SESSION": str(tmp_path)}, *options, voice)[0] == 0
    assert [event["recogniser"] for event in events(tmp_path) if event["event"] == "ready"] == [name]
