"""How far the programs reach: no network, no file outside their places, nothing that others may read, no token told."""

from __future__ import annotations

import ast
import functools
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import microphone
import pytest
from downloads import CONTENT, FIRST, Tree
from hub import Hub
from whole_pipe import Pipe

from helpers.core.paths import ROOT

TOKEN = "hf_aVerySecretTokenThatNobodyMaySee"
SAID = "examples/burger.wav"
WRITES = "openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,symlink,symlinkat,link,linkat,mknod,mknodat"


@pytest.fixture
def pipe(tmp_path: Path) -> Pipe:
    return Pipe(tmp_path)


@functools.cache
def works(*command: str) -> bool:
    """Whether this machine lets a program be run like this."""
    return not shutil.which(command[0]) or subprocess.run([*command, "true"], capture_output=True).returncode == 0


def needs(*command: str) -> None:
    if not shutil.which(command[0]) or not works(*command):
        pytest.skip(f"{command[0]} is not here, or may not be used here")


class Trace:
    """What a run asked of the system: every socket and connection, and every file that it wrote or made."""

    def __init__(self, file: Path) -> None:
        lines = [line.partition(" ")[2].strip() for line in file.read_text(errors="replace").splitlines()]
        self.sockets = {match[1] for line in lines if (match := re.match(r"socket\((\w+)", line))}
        self.addresses = {
            match[1] for line in lines if (match := re.match(r"(?:connect|bind|sendto)\(\d+, \{([^}]*)", line))
        }
        made = (
            line
            for line in lines
            if not re.match(r"open", line) or re.search(r"O_(WRONLY|RDWR|CREAT)(?!.*O_TMPFILE)", line)
        )
        texts = (
            re.findall(r'"((?:[^"\\]|\\.)*)"', line) for line in made if WRITES_CALL.match(line) and "-1 E" not in line
        )
        self.written = {
            text.encode().decode("unicode_escape").encode("latin-1").decode() for some in texts for text in some
        }

    def outside(self, *places: Path) -> set[str]:
        """What was written in none of the places, nor to a device; FFmpeg keeps what it reads back in a file without a
        name, always in /tmp."""
        known = (*map(str, places), "/dev/null", "/dev/zero", "/dev/tty", "/dev/shm/", "/proc/self/", "/tmp/ffcache")
        return {path for path in self.written if path.startswith("/") and not path.startswith(known)}


WRITES_CALL = re.compile(WRITES.replace(",", "|"))


def traced(pipe: Pipe, *options: object, **settings: object) -> tuple[subprocess.CompletedProcess[str], Trace]:
    """A whole run under strace."""
    needs("strace", "-f", "-qq", "-o", "/dev/null")
    trace = pipe.root.parent / "trace"
    command = ["strace", "-f", "-qq", "-s", "4096", "-o", str(trace), "-e", f"trace=network,{WRITES}"]
    done = subprocess.run(
        [*command, *pipe.command(*options)],
        env=pipe.environment(PYTHONDONTWRITEBYTECODE=1, **settings),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    return done, Trace(trace)


def places(pipe: Pipe) -> tuple[Path, ...]:
    return pipe.output, pipe.temporary, pipe.root / ".cache"


# ---- the network and the files of a run


RUNS: dict[str, tuple[object, ...]] = {
    "a recording": ("--input", ROOT / SAID, "--seed", 1),
    "the doctor": ("--doctor",),
    "a prompt": ("--prompt", "a cat on the beach", "--seed", 1),
    "a recording of nothing": ("--input", "/dev/null"),
}


def test_no_network(
    tmp_path: Path, size: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    """A run opens only local sockets, and writes only to its own folders."""
    runs = list(RUNS)[: size(2, len(RUNS))]
    record_property("tried", len(runs))
    for run in runs:
        pipe = Pipe(tmp_path / run)
        # A place for the sound server, as each desktop has: without one, libpulse makes it in the home directory
        done, trace = traced(pipe, *RUNS[run], HF_TOKEN=TOKEN, A2I_VERBOSE=1, PULSE_SERVER="unix:/nowhere")
        right = {"the doctor": (0, 69), "a recording of nothing": (65,)}.get(run, (0,))
        assert done.returncode in right, done.stderr
        assert trace.sockets <= {"AF_UNIX"}, trace.addresses
        assert all("sun_path" in address for address in trace.addresses), trace.addresses
        assert trace.written and not trace.outside(*places(pipe)), trace.outside(*places(pipe))
        assert not list(pipe.home.iterdir())
        assert TOKEN not in done.stdout + done.stderr
        for file in pipe.root.parent.rglob("*"):
            assert file.name == "trace" or not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


def test_the_microphone_without_a_network(pipe: Pipe, tmp_path: Path) -> None:
    """A run that records connects only to the sound server's socket, and writes only to its own folders."""
    needs("strace", "-f", "-qq", "-o", "/dev/null")
    voice = tmp_path / "voice.wav"
    voice.write_bytes((ROOT / SAID).read_bytes())
    with microphone.running() as heard:
        server = heard["PULSE_SERVER"]

        def say() -> None:
            wait = pipe.root / ".cache" / "recording"
            for _ in range(600):
                if any(wait.glob("*")) and any(pipe.temporary.glob("*/events.jsonl")):
                    events = next(pipe.temporary.glob("*/events.jsonl")).read_text()
                    if '"record", "event": "ready"' in events:
                        break
                time.sleep(0.1)
            microphone.speak(heard, voice)

        threading.Thread(target=say, daemon=True).start()
        done, trace = traced(pipe, "--time", 20, "--seed", 1, PULSE_SERVER=server)
    assert done.returncode == 0, done.stderr
    assert trace.sockets <= {"AF_UNIX", "AF_NETLINK"}, trace.addresses
    assert any(server.removeprefix("unix:") in address for address in trace.addresses), trace.addresses
    assert all("sun_path" in address or "AF_NETLINK" in address for address in trace.addresses), trace.addresses
    assert not trace.outside(*places(pipe)), trace.outside(*places(pipe))
    assert not list(pipe.home.rglob("*"))


@pytest.mark.parametrize("options", [["--list-devices"], ["--time", "1"]])
def test_no_sound_server(pipe: Pipe, options: list[str]) -> None:
    """Without a sound server, the search for a microphone leaves nothing in the home directory."""
    settings = pipe.environment(A2I_QUIET=1)
    settings.pop("PULSE_SERVER", None)
    subprocess.run(pipe.command(*options), env=settings, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert not list(pipe.home.rglob("*"))


def test_the_same_picture_without_a_network(pipe: Pipe) -> None:
    """Without any network, even the local one, a run draws the same picture."""
    needs("unshare", "-rn")
    first = pipe.run(*RUNS["a recording"])
    assert first.returncode == 0, first.stderr
    command = ["unshare", "-rn", *pipe.command(*RUNS["a recording"])]
    done = subprocess.run(
        command,
        env=pipe.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, other = (Path(each.stdout.strip()).read_bytes() for each in (first, done))
    assert one == other


HOOK = """
import os, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto", "urllib.Request"):
        with open(os.environ["A2I_NOTES"], "a") as notes:
            notes.write(f"{event} {arguments}\\n")
sys.addaudithook(note)
"""


@pytest.mark.parametrize("run", ["a recording", "the doctor"])
def test_no_python_of_a_run_connects(pipe: Pipe, tmp_path: Path, run: str) -> None:
    """Python's own events in a run, where tracing is not allowed: no lookup, no connect, no bind."""
    hook, notes = tmp_path / "hook", tmp_path / "notes"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    how = {"PYTHONPATH": hook, "A2I_NOTES": notes}
    probe = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    subprocess.run([sys.executable, "-c", probe], env=pipe.environment(**how), check=True)
    assert "socket.connect" in notes.read_text(), "the hook does not see"
    notes.unlink()
    python = pipe.root / ".venv" / "bin" / "python"  # it is started with -E, so that no PYTHONPATH counts
    python.write_text(python.read_text().replace('"$@"', '"${@:2}"').replace("#!/bin/sh", "#!/bin/bash"))
    done = pipe.run(*RUNS[run], **how)
    assert done.returncode == 0 or (run, done.returncode) == ("the doctor", 69), done.stderr
    assert not notes.exists() or not notes.read_text()


# ---- the one exception


def test_the_offer_asks_the_hub_only(pipe: Pipe) -> None:
    """Before the first recording, only the catalogue's hub is asked for the speech model, once."""
    (pipe.root / ".cache" / "speech-model-offered").unlink()
    (pipe.root / "models").unlink()
    shutil.copytree(ROOT / "models", pipe.root / "models", ignore=shutil.ignore_patterns("downloaded", "train"))
    with Hub() as hub:
        port = hub.url.rpartition(":")[2]
        done, trace = traced(pipe, *RUNS["a recording"], HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
        assert done.returncode == 0 and "could not be fetched" in done.stderr, done.stderr
        asked = [request.path for request in hub.requests]
        assert asked and all(path.startswith("/ggerganov/whisper.cpp/resolve/") for path in asked)
        inet = {address for address in trace.addresses if "AF_INET" in address}
        assert inet and all(f"htons({port})" in address and '"127.0.0.1"' in address for address in inet), inet
        assert not trace.outside(*places(pipe), pipe.root / "models" / "downloaded")
        hub.requests.clear()
        assert pipe.run(*RUNS["a recording"], HF_ENDPOINT=hub.url).returncode == 0
        assert not hub.requests
    assert not list(pipe.home.iterdir())


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    with Hub() as hub:
        yield Tree(tmp_path, hub)


def test_a_download_asks_the_hub_only(tree: Tree) -> None:
    """A download connects to the hub only, writes to the models' folder only, and nobody else can change it."""
    needs("strace", "-f", "-qq", "-o", "/dev/null")
    trace, port = tree.root / "trace", tree.hub.url.rpartition(":")[2]
    command = ["strace", "-f", "-qq", "-s", "4096", "-o", str(trace), "-e", f"trace=network,{WRITES}"]
    environment = tree.environment | {"PYTHONDONTWRITEBYTECODE": "1", "HF_TOKEN": TOKEN}
    shell = ["sh", "-c", 'umask 000; exec "$@"', "sh"]
    done = subprocess.run(
        [*shell, *command, *tree.command("one", "parts", "packed")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and tree.one.read_bytes() == CONTENT, done.stderr
    found = Trace(trace)
    inet = {address for address in found.addresses if "AF_INET" in address}
    assert inet and all(f"htons({port})" in address and '"127.0.0.1"' in address for address in inet), inet
    assert not found.outside(tree.models), found.outside(tree.models)
    assert not (tree.root / "home").exists() or not list((tree.root / "home").iterdir())
    for path in (tree.models, *tree.models.rglob("*")):
        assert not path.stat().st_mode & 0o022, path
    assert {request.path.split("/")[1] for request in tree.hub.requests} <= {FIRST.split("/")[0], "store"}


# ---- who may read


def seen_by_others(folder: Path) -> set[str]:
    """What in `folder`, below a folder that others may enter, they may read, write or enter themselves."""
    found = set()
    for path, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            status = (Path(path) / name).lstat()
            if status.st_mode & 0o077 and not stat.S_ISLNK(status.st_mode):
                found.add(str((Path(path) / name).relative_to(folder)))
        folders[:] = [name for name in folders if (Path(path) / name).lstat().st_mode & 0o077]
    return found


PRIVATE: dict[str, tuple[str, ...]] = {
    "a recording": ("--input", str(ROOT / SAID), "--json"),
    "the doctor": ("--doctor",),
    "a key": ("press",),
    "a prompt": ("--prompt", "a cat on the beach", "--seed", "1"),
    "a file of silence": ("--input", "silence"),
}


def test_private(
    tmp_path: Path, size: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    """The files of a run belong to the user alone, during and after it, whatever the umask."""
    trials = [(run, mask) for mask in ("000", "022") for run in PRIVATE][: size(3, 2 * len(PRIVATE))]
    record_property("tried", len(trials))
    for run, mask in trials:
        folder = tmp_path / f"{run} {mask}"
        is_private(Pipe(folder), run, mask, folder)


def is_private(pipe: Pipe, run: str, mask: str, tmp_path: Path) -> None:
    shutil.rmtree(pipe.root / ".cache")
    shutil.rmtree(pipe.output, ignore_errors=True)
    options = [str(tmp_path / one) if one == "silence" else one for one in PRIVATE[run]]
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "anullsrc", "-t", "2", str(tmp_path / "silence.wav")], check=True
    )
    (tmp_path / "silence.wav").rename(tmp_path / "silence")
    command = [str(pipe.root / "helpers" / "press.sh"), "follow"] if run == "a key" else pipe.command(*options)
    environment = pipe.environment(
        HF_ENDPOINT="http://127.0.0.1:9", PULSE_SERVER="unix:/nowhere", PYTHONDONTWRITEBYTECODE=1
    )
    with subprocess.Popen(
        ["sh", "-c", f'umask {mask}; exec "$@"', "sh", *command],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        seen: set[str] = set()
        while process.poll() is None:
            for place in (pipe.temporary, pipe.output, pipe.root / ".cache"):
                try:
                    seen |= {f"{place.name}/{one}" for one in seen_by_others(place)}
                except FileNotFoundError:  # gone meanwhile
                    continue
            time.sleep(0.02)
        err = process.communicate()[1]
    assert process.returncode in (0, 65, 66, 69, 70), err
    made = [path for path in (pipe.output, pipe.root / ".cache") if path.exists()]
    assert made, err
    assert not [path for path in made if path.stat().st_mode & 0o077], [oct(path.stat().st_mode) for path in made]
    assert not seen and not seen_by_others(pipe.temporary)


# ---- which code could


MAY = {  # module: what of the network it may import, and why
    "helpers/catalog/hub.py": {"urllib", "httpx2", "huggingface_hub"},  # the models
    "helpers/core/system.py": {"socket"},  # the name of this machine
    "helpers/listen/recogniser_process.py": {"multiprocessing"},  # a pair of sockets to its own child
    "helpers/words/confirm.py": {"asyncio"},
    "helpers/words/language_model.py": {"http", "httpx2", "urllib"},  # the address that the user names
}
NETWORK = (
    r"(socket|ssl|httpx?2?|httpcore|requests|urllib3?|aiohttp|asyncio|ftplib|smtplib|poplib|imaplib|telnetlib|xmlrpc|"
    r"socketserver|webbrowser|huggingface_hub|websockets?|grpc|paramiko|multiprocessing)(\.\w+)*$"
)
SHELL = re.compile(r"\b(curl|wget|nc|ncat|netcat|ssh|scp|rsync|socat|telnet|ftp|/dev/tcp|/dev/udp)\b")


def shipped(*endings: str) -> list[Path]:
    """The programs that are installed: not the tests, nor what made the models and the examples."""
    listed = [*ROOT.glob("*"), *(ROOT / "helpers").rglob("*"), ROOT / "models" / "builtin" / "__init__.py"]
    return [path for path in listed if path.suffix in endings and path.is_file()]


def test_which_modules_may_reach_a_network() -> None:
    """Only listed modules import something that can reach a network; no shell script calls such a program."""
    found: dict[str, set[str]] = {}
    for path in shipped(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
            if reaching := {name.split(".")[0] for name in names if re.match(NETWORK, name)}:
                found.setdefault(str(path.relative_to(ROOT)), set()).update(reaching)
    benchmark = {name for name in found if name.startswith("benchmark")}
    unknown = {name: names - MAY.get(name, set()) for name, names in found.items() if name not in benchmark}
    assert not {name: names for name, names in unknown.items() if names}
    assert len(shipped(".py")) > 40 and len(shipped(".sh")) > 8
    for path in shipped(".sh"):
        code = "\n".join(
            line.partition(" #")[0] for line in path.read_text(encoding="utf-8").splitlines() if line[:1] != "#"
        )
        assert not SHELL.search(code), (path, SHELL.search(code))
