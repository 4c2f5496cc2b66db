"""What a user's surroundings have that must not change a run: variables, shell options, closed streams, odd names."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from whole_pipe import SHELL, Pipe

from helpers.core import interpreter
from helpers.core.paths import ROOT
from helpers.install import pip

BURGER = ROOT / "examples" / "burger.wav"
TYPED = ("--prompt", "a cat", "--model", "builtin")
SPOKEN = ("--model", "builtin", "--whisper", "builtin")


@pytest.fixture
def pipe(tmp_path: Path) -> Pipe:
    return Pipe(tmp_path)


def in_shell(pipe: Pipe, command: str, **variables: object) -> subprocess.CompletedProcess[bytes]:
    """`command` in a shell; $P is the pipe's command."""
    how = pipe.environment(**variables) | {"P": str(pipe.root / "pipeline.sh"), "SHELL_OF_THE_TEST": SHELL}
    return subprocess.run(
        ["bash", "-c", command.replace("PIPE", '"$SHELL_OF_THE_TEST" "$P" ' + shlex.join(TYPED))],
        env=how, cwd=pipe.home, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
    )  # fmt: skip


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


# ---- Python's variables


def test_variables_of_python_reach_only_the_users_own_program(pipe: Pipe, tmp_path: Path) -> None:
    for module in ("numpy", "json", "helpers"):
        executable(tmp_path / "theirs" / module / "__init__.py", "raise ImportError('of another Python')")
    program = executable(tmp_path / "enrich", f'#!/bin/sh\nprintf %s "$PYTHONPATH" >{tmp_path}/seen\ncat\n')
    variables = {"PYTHONPATH": tmp_path / "theirs", "PYTHONHOME": "/nowhere", "PYTHONSAFEPATH": 1, "PYTHONINSPECT": 1}
    more = {"PYTHONWARNINGS": "error", "PYTHONIOENCODING": "ascii", "PYTHONHASHSEED": "x", "A2I_ENRICH": program}
    done = pipe.run("--input", BURGER, *SPOKEN, **variables, **more)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("image.png\n") and "warning" not in done.stderr.lower()
    assert (tmp_path / "seen").read_text() == str(tmp_path / "theirs")


def test_variables_of_our_libraries_change_nothing(pipe: Pipe) -> None:
    wrong = {"TQDM_MININTERVAL": "x", "TQDM_NCOLS": "wide", "NUMPY_MADVISE_HUGEPAGE": "yes", "ONEDNN_VERBOSE": 2}
    pictures = []
    for variables in ({}, {**wrong, "ONEDNN_MAX_CPU_ISA": "SSE41", "NPY_DISABLE_CPU_FEATURES": "FOO"}):
        done = pipe.run(*TYPED, "--seed", "7", "--size", "128x128", **variables)
        assert done.returncode == 0, done.stderr
        assert not re.search("onednn|numpy", done.stderr, re.IGNORECASE)
        pictures.append(Path(done.stdout.strip()).read_bytes())
    assert pictures[0] == pictures[1]


def test_programs_that_a_person_starts_find_their_modules() -> None:
    """Also with PYTHONSAFEPATH, which takes the folder of the program from Python's path, and a wrong PYTHONHOME."""
    how = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONHOME": "/nowhere", "PYTHONPATH": ""}
    for name, line in (("download_model.py", b""), ("remove_parentheses.py", b"a cat (meow)\n")):
        command = [str(ROOT / name), *(["list"] if not line else [])]
        run = subprocess.run(command, input=line, env=how, cwd="/", capture_output=True, check=False)
        assert run.returncode == 0 and run.stdout, run.stderr


def test_a_child_process_is_as_isolated_as_its_parent() -> None:
    code = "from helpers.core import interpreter; print(interpreter.module('x')[1:])"
    for flags in ([], ["-E"]):
        run = subprocess.run([sys.executable, *flags, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert eval(run.stdout) == [*(interpreter.ISOLATED if flags else ()), "-m", "x"]


# ---- pip's settings


def test_pip_keeps_the_network_and_drops_what_steers_it_elsewhere() -> None:
    listed = [
        "global.index-url='https://mirror.invalid/simple'", "install.user='true'", "global.proxy='http://p:1'",
        "install.index-url='https://inner.invalid/it\\'s'", ":env:.target='/x'", "global.no-deps='true'",
        "download.index-url='https://no.invalid'", "global.cert=broken",
    ]  # fmt: skip
    environ = {
        "PIP_TARGET": "/x", "PIP_PREFIX": "/x", "PIP_USER": "1", "PIP_ROOT": "/x", "PIP_NO_DEPS": "1",
        "PIP_DRY_RUN": "1",        "PIP_NO_BINARY": ":all:", "PIP_CONSTRAINT": "/x", "PIP_PYTHON": "/x", "PIP_PROXY": "http://q:2",
        "PIP_DEFAULT_TIMEOUT": "9", "PIP_TRUSTED_HOST": "a b", "PIP_USE_FEATURE": "fast-deps truststore", "HOME": "/h",
    }  # fmt: skip
    assert pip.kept(environ, listed) == {
        "PIP_INDEX_URL": "https://inner.invalid/it's", "PIP_PROXY": "http://q:2", "PIP_DEFAULT_TIMEOUT": "9",
        "PIP_TRUSTED_HOST": "a b", "PIP_USE_FEATURE": "truststore",
    }  # fmt: skip
    assert pip.environment(environ | {"PYTHONPATH": "/x"}) == {"HOME": "/h"}


def test_pip_itself_obeys(tmp_path: Path) -> None:
    """pip.conf and variables of the user, as the real pip reads them behind our program."""
    (tmp_path / "pip.conf").write_text(
        "[install]\nuser = true\ntarget = /x\n[global]\nextra-index-url = https://a.invalid\n"
    )
    how = {**os.environ, "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_PREFIX": "/y", "PIP_DRY_RUN": "1"}
    command = [sys.executable, "-I", str(ROOT / "helpers" / "install" / "pip.py"), "config", "list"]
    said = subprocess.run(command, env=how, capture_output=True, text=True, check=True).stdout
    assert "a.invalid" in said
    assert not {"user", "target", "prefix", "dry-run"} & {
        line.split("=")[0].split(".")[-1] for line in said.splitlines()
    }


# ---- the caller's shell


def test_the_callers_shell_changes_nothing(pipe: Pipe, tmp_path: Path) -> None:
    """Exported options and functions, BASH_ENV, a time limit for `read`: no stray line, and a picture."""
    functions = (
        "for f in cd rm cat mkdir mktemp printf dirname tr sed kill say stage generate exec unset test command; do"
    )
    strange = f"""{functions} eval "$f() {{ echo FUNCTION >&2; return 3; }}"; export -f $f; done"""
    options = "set -o noclobber -o noglob -o keyword; shopt -s failglob; export SHELLOPTS BASHOPTS"
    (tmp_path / "env").write_text("set -C -f\nalias mv=false\n")
    done = in_shell(
        pipe,
        f"{options}; {strange}; PIPE",
        BASH_ENV=tmp_path / "env",
        TMOUT=1,
        CDPATH="/:/tmp",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"image.png\n")
    assert done.stderr == b"drawing: a cat\n"
    assert pipe.left() == []


@pytest.mark.parametrize("streams", ["2>&-", ">&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_stream_that_is_closed_or_full_costs_no_picture(pipe: Pipe, streams: str) -> None:
    done = in_shell(pipe, f"PIPE {streams}")
    assert done.returncode == 0, done.stderr
    assert len(pipe.runs()) == 1 and (pipe.runs()[0] / "image.png").exists()


def test_a_result_that_cannot_be_written_is_named_and_the_picture_is_kept(pipe: Pipe) -> None:
    done = in_shell(pipe, "PIPE --json >/dev/full")
    assert done.returncode == 73
    what, remedy = done.stderr.decode().splitlines()[-2:]
    assert what == "generate: cannot write to stdout: No space left on device"
    assert remedy == f"  The picture is kept in {pipe.runs()[0]}."


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-"])
def test_short_answers_with_a_closed_stream(pipe: Pipe, streams: str) -> None:
    for command in ('"$P" --version', '"$P" --help', f"{sys.executable} {ROOT}/download_model.py list"):
        done = in_shell(pipe, f"{command} {streams}")
        assert (done.returncode, done.stderr) == (0, b""), command


# ---- paths


def test_names_that_are_no_utf8(pipe: Pipe, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd_\xff"))
    odd.mkdir()
    name = shutil.copy2(BURGER, odd / os.fsdecode(b"bad_\xfe.wav"))
    model = shutil.copytree(ROOT / "models" / "builtin", odd / "model")
    command = pipe.command("--input", "", "--model", "", "--whisper", "builtin", "--output", odd / "out")
    command[3], command[5] = str(name), str(model)
    done = subprocess.run(
        command, env=pipe.environment(TMPDIR=odd, HOME=odd), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Path(os.fsdecode(done.stdout.strip())).is_file()
    (odd / "text").write_text("no sound")
    done = subprocess.run(
        pipe.command("--input", odd / "text", *SPOKEN), env=pipe.environment(), stdin=subprocess.DEVNULL,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 65 and b"is not a sound file" in done.stderr


def test_a_tilde_that_no_shell_has_expanded(pipe: Pipe) -> None:
    shutil.copy2(BURGER, pipe.home / "x.wav")
    done = pipe.run("--output=~/pictures", "--input", "~/x.wav", *SPOKEN, A2I_EVENTS="~/events", A2I_MODELS="~/models")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(pipe.home / "pictures"))
    assert (pipe.home / "events").exists()
    import pwd

    home = pwd.getpwuid(os.getuid())
    done = pipe.run("--again", f"~{home.pw_name}/no such picture.png")
    assert f"there is no picture {home.pw_dir.rstrip('/')}/no such picture.png" in done.stderr
    for name in ("$HOME/none.png", "${HOME}/none.png"):
        assert f"there is no picture {pipe.home}/none.png" in pipe.run("--again", name).stderr
    executable(pipe.home / "draw", "#!/bin/sh\nexec cat\n")
    assert pipe.run("--prompt", "a cat", A2I_GENERATE="~/draw").stdout == "a cat\n"
    done = pipe.run("--again", "~nobody at all/x.png")
    assert "~nobody at all/x.png" in done.stderr and done.returncode == 66


def test_relative_paths_of_the_environment(pipe: Pipe) -> None:
    (pipe.home / "tmp").mkdir()
    done = in_shell(pipe, "PIPE", TMPDIR="tmp", HOME="there", XDG_CACHE_HOME="cache", A2I_EVENTS="events")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in pipe.home.iterdir()) == ["events", "tmp"]
    assert not list((pipe.home / "tmp").iterdir())


def test_a_folder_on_stdin_is_named(pipe: Pipe) -> None:
    done = in_shell(pipe, '"$P" --no-open --input - <.')
    assert (done.returncode, done.stderr.splitlines()[0]) == (66, b"pipeline: stdin is a folder")


@pytest.mark.parametrize("folder", ["/nowhere/at/all", os.devnull])
def test_no_folder_for_temporary_files_is_said_before_anything_is_installed(pipe: Pipe, folder: str) -> None:
    shutil.rmtree(pipe.root / ".venv")
    done = pipe.run(*TYPED, TMPDIR=folder)
    assert done.returncode == 73
    assert done.stderr.splitlines() == [
        f"pipeline: TMPDIR: there is no folder {folder}",
        "  Unset TMPDIR, or make the folder",
    ]
    assert not (pipe.root / ".venv").exists()


@pytest.mark.parametrize("name", ["a:b", "a\nb", "My $x"])
def test_a_folder_that_python_cannot_have_an_environment_in(pipe: Pipe, name: str, tmp_path: Path) -> None:
    shutil.rmtree(pipe.root / ".venv")
    moved = tmp_path / name
    pipe.root.rename(moved)
    pipe.root = moved
    done = pipe.run(*TYPED)
    assert done.returncode == 69 and len(done.stderr.splitlines()) == 2
    assert "has a colon, a $ or a line break" in done.stderr
