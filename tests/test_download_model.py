"""download_model.py against a hub on loopback that can fail in every way: the real program, in a tree of its own."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from downloads import ARCHIVE, CONTENT, FIRST, MIRROR, PARTS, Tree, sha256
from hub import Cut, Does, Elsewhere, Endless, Hub, Lie, NoRanges, Silent, Stall, Status

from helpers.catalog import fetch
from helpers.core.errors import UserError
from helpers.core.paths import ROOT


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    with Hub() as hub:
        yield Tree(tmp_path, hub)


PARTIAL = {f".incoming/one/{sha256(CONTENT)}": 100_000}


def test_fetch_one_file(tree: Tree) -> None:
    assert tree.run("one", says="from first/repo") == f"{tree.one}\n"
    assert tree.one.read_bytes() == CONTENT
    assert tree.left() == {"one/model.bin": len(CONTENT)}
    assert not (tree.models / ".incoming").exists()
    assert f"/{FIRST}/resolve/{'a' * 40}/model.bin" in [request.path for request in tree.hub.requests]


def test_what_may_not_be_used_commercially_says_so_first(tree: Tree) -> None:
    catalogue = tree.root / "models" / "catalog.toml"
    catalogue.write_text(catalogue.read_text().replace('license = "MIT"', 'license = "CC-BY-NC-4.0"'))
    process = tree.start("alone")
    said = process.communicate(timeout=30)[1]
    assert 0 <= said.find("alone may not be used commercially: its licence is CC-BY-NC-4.0") < said.find("fetching")


def test_nothing_else_is_asked_or_kept(tree: Tree) -> None:
    tree.run("one", AI_AGENT="x")
    assert {request.path.split("/")[1] for request in tree.hub.requests} == {"first", "store"}
    assert not (tree.root / "home").exists()


def test_fetch_a_folder_and_only_what_is_missing(tree: Tree) -> None:
    tree.run("parts")
    for path, body in PARTS.items():
        assert (tree.models / "parts" / path).read_bytes() == body
    (tree.models / "parts" / "vocab.txt").write_text("cut")
    tree.hub.requests.clear()
    tree.run("parts")
    assert [request.path for request in tree.hub.requests if request.method == "GET"] == [
        f"/{FIRST}/resolve/{'a' * 40}/vocab.txt"
    ]
    assert (tree.models / "parts" / "vocab.txt").read_bytes() == PARTS["vocab.txt"]


def test_a_model_that_is_here_needs_no_hub(tree: Tree) -> None:
    tree.run("one")
    tree.hub.requests.clear()
    tree.run("one", says="already installed", HF_HUB_OFFLINE="1")
    tree.run("--offer", "one", HF_HUB_OFFLINE="1")
    assert not tree.hub.requests


def test_quiet_says_nothing(tree: Tree) -> None:
    process = tree.start("-q", "one")
    assert process.communicate(timeout=30) == (f"{tree.one}\n", "")


def test_progress_is_shown_on_a_terminal_only(tree: Tree) -> None:
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    subprocess.run(tree.command("one"), env=tree.environment, stdout=its, stderr=its, check=True)
    assert b"model.bin:" in os.read(ours, 10_000)
    process = tree.start("alone")
    assert "model.bin:" not in process.communicate(timeout=30)[1]


def test_a_cut_is_gone_on_with_at_once(tree: Tree) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = Cut(100_000, times=2)
    tree.run("alone")
    assert tree.downloads() == ["", "bytes=100000-", "bytes=200000-"]
    assert (tree.models / "alone" / "model.bin").read_bytes() == CONTENT


def test_every_cut_that_brought_something_is_forgiven(tree: Tree) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = Cut(50_000, times=5)
    tree.run("alone")
    assert len(tree.downloads()) == 6


def test_a_short_answer_is_gone_on_with(tree: Tree) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = Cut(100_000, times=1, politely=True)
    tree.run("one")
    assert tree.downloads() == ["", "bytes=100000-"]
    assert tree.one.read_bytes() == CONTENT


def test_a_hub_without_ranges_starts_again(tree: Tree) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = NoRanges(100_000)
    tree.run("one")
    assert tree.downloads() == ["", "bytes=100000-"]
    assert tree.one.read_bytes() == CONTENT


def test_a_hub_that_always_cuts_is_given_up_and_gone_on_with_later(tree: Tree) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = Cut(0)
    tree.run("one", code=69, says="the connection was lost")
    assert len(tree.downloads()) == 3
    assert not tree.one.exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_it_asks_only_for_the_rest(tree: Tree, how: signal.Signals) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = Stall(100_000, times=1)
    process = tree.start("one", HF_HUB_DOWNLOAD_TIMEOUT="30")
    partial = tree.models / next(iter(PARTIAL))
    assert tree.hub.stalled.wait(10)
    while not partial.exists() or partial.stat().st_size <= 90_000:  # the last few kilobytes may still be in a buffer
        time.sleep(0.01)
    process.send_signal(how)
    _, err = process.communicate(timeout=10)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in err
    assert list(tree.left()) == list(PARTIAL)
    size = partial.stat().st_size
    assert 90_000 < size <= 100_000
    inode = partial.stat().st_ino
    tree.run("one")
    assert tree.downloads() == ["", f"bytes={size}-"]
    assert tree.one.read_bytes() == CONTENT
    assert tree.one.stat().st_ino == inode, "it was copied, and a kill in between would have left half of it"
    assert list(tree.left()) == ["one/model.bin"]


def test_a_mirror_goes_on_where_the_first_stopped(tree: Tree) -> None:
    partial = tree.models / next(iter(PARTIAL))
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[:100_000])
    tree.hub.fail[f"{FIRST}/model.bin"] = Status(404)
    tree.run("one", says="trying the next mirror")
    assert tree.downloads() == ["bytes=100000-"]
    assert tree.one.read_bytes() == CONTENT


def test_a_spoiled_partial_is_deleted_and_fetched_anew(tree: Tree) -> None:
    partial = tree.models / next(iter(PARTIAL))
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(100_000))
    tree.run("one", says="SHA-256")
    assert tree.downloads() == ["bytes=100000-", ""]
    assert tree.one.read_bytes() == CONTENT


def test_a_stall_ends(tree: Tree) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = Stall(0)
    tree.run("one", code=69, says="no data for 1 s")


def test_a_stall_is_gone_on_with(tree: Tree) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = Stall(100_000, times=1)
    tree.run("one")
    assert tree.downloads() == ["", "bytes=100000-"]


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        (Status(401), 77, "refuses access (401)"),
        (Status(403), 77, "refuses access (403)"),
        (Status(404), 69, "does not have it (404)"),
        (Status(500), 69, "reports an error (500)"),
        (Lie(hash="0" * 64), 65, "not the one that the catalogue pins"),
        (Lie(size=7), 65, "not the one that the catalogue pins"),
        (Lie(content=CONTENT[:-1] + b"x"), 65, "SHA-256"),
        (Lie(content=CONTENT[:100]), 69, "the connection was lost"),
        (Endless(), 65, "sent more than"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_kept(tree: Tree, fault: object, code: int, says: str) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = fault
    assert tree.run("alone", code=code, says=says) == ""
    assert not [path for path, size in tree.left().items() if size > 100]


@pytest.mark.parametrize("fault", [Status(401), Status(404), Lie(hash="0" * 64), Lie(content=CONTENT[::-1]), Endless()])
def test_the_mirror_serves_when_the_first_fails(tree: Tree, fault: object) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = fault
    tree.run("one", says="trying the next mirror")
    assert tree.one.read_bytes() == CONTENT
    assert list(tree.left()) == ["one/model.bin"]


def test_when_both_fail_the_first_is_the_cause(tree: Tree) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = Status(403)
    tree.hub.fail[f"{MIRROR}/model.bin"] = Status(404)
    tree.run("one", code=77, says=f"https://huggingface.co/{FIRST}")


def test_a_short_fault_of_the_hub_is_waited_for(tree: Tree) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = Status(503, times=1)
    tree.run("alone")
    assert (tree.models / "alone" / "model.bin").exists()


def test_another_host_is_not_followed(tree: Tree) -> None:
    port = tree.hub.url.rsplit(":", 1)[1]
    tree.hub.fail[f"{FIRST}/model.bin"] = Elsewhere(f"http://localhost:{port}/store/{FIRST}/model.bin")
    tree.run("alone", code=69, says=f"localhost:{port}", HF_TOKEN="hf_secret")
    assert not [request for request in tree.hub.requests if request.path.startswith("/store")]
    assert {request.authorization for request in tree.hub.requests} == {"Bearer hf_secret"}


def test_no_hub_at_all(tree: Tree) -> None:
    tree.run("one", code=69, says="cannot reach 127.0.0.1:9", HF_ENDPOINT="http://127.0.0.1:9")
    assert tree.left() == {} and not (tree.models / ".incoming").exists()


def test_a_hub_that_does_not_answer(tree: Tree) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = Silent()
    tree.run("one", code=69, says="within 1 s", HF_HUB_ETAG_TIMEOUT="1")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("HF_HUB_ETAG_TIMEOUT", "soon", "the hub does not have it"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "1.5", "the hub does not have it"),
        ("ALL_PROXY", "socks5://127.0.0.1:9", "a SOCKS proxy is set"),
        ("SSL_CERT_FILE", "/nowhere", "a file of certificates is not there"),
    ],
)
def test_what_the_user_has_set_for_the_network(tree: Tree, variable: str, value: str, says: str) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = Status(404)
    tree.hub.fail[f"{MIRROR}/model.bin"] = Status(404)
    own: dict[str, Any] = {variable: value}
    if not variable.startswith("HF"):
        own |= {"HF_ENDPOINT": "https://127.0.0.2:9", "NO_PROXY": "", "no_proxy": ""}
    tree.run("one", code=69, says=says, **own)


def test_offline_is_told_apart(tree: Tree) -> None:
    tree.run("one", code=69, says="HF_HUB_OFFLINE is set", HF_HUB_OFFLINE="1")
    assert not tree.hub.requests


def test_unpinned_is_checked_against_the_hub(tree: Tree) -> None:
    tree.run("unpinned", says="no SHA-256 is pinned")
    tree.run("--verify", "unpinned", says="unpinned: OK\n")
    tree.run("--remove", "unpinned")
    tree.hub.fail[f"{FIRST}/model.bin"] = Lie(content=CONTENT[::-1])
    tree.run("unpinned", code=65, says="the SHA-256 of the download is wrong")


def test_an_unpinned_small_file_is_checked_against_what_git_calls_it(tree: Tree) -> None:
    content, place = PARTS["config.json"], tree.models / "unpinned-small" / "config.json"
    for fault, says in (
        (Lie(content=content[::-1]), "the hash of the download is wrong"),
        (Lie(hash="0" * 40), "the hash of the download is wrong"),
        (Lie(hash=sha256(content[::-1])), "the SHA-256 of the download is wrong"),
        (Lie(hash="unknown"), "gives no hash"),
    ):
        tree.hub.fail[f"{FIRST}/config.json"] = fault
        tree.run("unpinned-small", code=65, says=says)
        assert not tree.left()
    tree.hub.fail.clear()
    tree.run("unpinned-small", says="no SHA-256 is pinned")
    assert place.read_bytes() == content
    place.write_bytes(b"hello\n")
    assert fetch.git_hash(place) == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object


def test_a_pin_outweighs_what_the_hub_says_of_a_small_file(tree: Tree) -> None:
    changed = PARTS["config.json"].replace(b"1", b"2")
    for repo in (FIRST, MIRROR):
        tree.hub.add(repo, "config.json", changed, small=True)
    tree.run("parts", code=65, says="the SHA-256 of the download is wrong")
    assert "parts/config.json" not in tree.left()


def test_no_room(tree: Tree) -> None:
    tree.run("huge", code=73, says="free space")
    assert not tree.hub.requests


def test_no_place_to_write(tree: Tree) -> None:
    (tree.root / "file").touch()
    tree.run("one", code=73, says="cannot write", A2I_MODELS=str(tree.root / "file" / "models"))


def test_a_full_disk_is_said() -> None:
    with pytest.raises(UserError, match="the disk is full") as error, fetch.writing(Path("/models")):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.code == os.EX_CANTCREAT


def test_two_at_once(tree: Tree) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = Stall(100_000, times=1)
    process = tree.start("one", HF_HUB_DOWNLOAD_TIMEOUT="30")
    assert tree.hub.stalled.wait(10)
    tree.run("one", code=69, says="another run is downloading one")
    process.kill()
    process.communicate()


def test_verify_finds_a_changed_byte(tree: Tree) -> None:
    tree.run("one", "parts")
    tree.run("--verify", says="one: OK")
    tree.one.write_bytes(CONTENT[:-1] + b"x")
    tree.run("--verify", "parts", says="parts: OK")
    tree.run("--verify", "one", code=65, says="model.bin has the wrong SHA-256")
    tree.run("--verify", "alone", code=69, says="not on this machine")


def test_remove_and_list(tree: Tree) -> None:
    tree.run("parts", "one")
    (tree.models / ".incoming" / "one").mkdir(parents=True)
    (tree.models / ".incoming" / "one" / "x").write_bytes(bytes(10))
    out = tree.run("list")
    assert "here  one " in out and "here  parts" in out and "here  alone" not in out
    tree.run("--remove", "one", says="removed")
    assert set(tree.left()) == {f"parts/{path}" for path in PARTS}
    tree.run("--remove", "one", says="is not installed")
    (tree.models / "parts" / "vocab.txt").write_text("cut")
    out = tree.run()
    assert "damaged  parts" in out
    assert "\n  unpinned: model.bin\n  unpinned-small: config.json\n" in out and "\n  parts:" not in out


def test_remove_takes_what_the_engine_compiled_from_it(tree: Tree) -> None:
    folder, cache = tree.models / "parts", tree.root / ".cache" / "openvino"
    shutil.copytree(ROOT / "models" / "builtin", folder)
    load = "import pathlib, sys; from helpers.draw.engines import load; load('openvino', pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", load, folder], cwd=tree.root, env=tree.environment, check=True)
    other = cache / "0123456789abcdef-unet-0123456789abcdef.blob"
    other.touch()
    assert len(list(cache.iterdir())) == 4
    tree.run("--remove", "parts", says="freed")
    assert list(cache.iterdir()) == [other]


def test_offer_fetches(tree: Tree) -> None:
    assert tree.run("--offer") == ""
    assert tree.one.read_bytes() == CONTENT
    tree.run("--offer", A2I_LANGUAGE="de")
    assert (tree.models / "alone" / "model.bin").exists()


@pytest.mark.parametrize("fault", [Silent(), Stall(0), Status(500), Status(401), Lie(content=bytes(300_000))])
def test_offer_gives_up_in_one_line(tree: Tree, fault: object) -> None:
    tree.hub.fail[f"{FIRST}/model.bin"] = fault
    process = tree.start("--offer", "alone", HF_HUB_ETAG_TIMEOUT="1")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (69, "")
    assert "Later: ./download_model.py alone" in err.splitlines()[-1] and "Traceback" not in err


def test_offer_does_not_wait_for_a_download_that_would_take_too_long(tree: Tree) -> None:
    def trickle(handler: Any) -> None:
        handler.head(200, Content_Length=len(CONTENT))
        with contextlib.suppress(OSError):
            for at in range(1000, len(CONTENT), 1000):
                handler.wfile.write(CONTENT[at - 1000 : at])
                handler.hub.over.wait(0.05)

    tree.hub.fail[f"{FIRST}/model.bin"] = Does(download=trickle)
    program = "import download_model as d; d.offer(d.catalog.read().find('alone'), 0.3, 4)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tree.root, env=tree.environment, stderr=subprocess.PIPE)
    assert b"the download is too slow. Later: ./download_model.py alone" in done.stderr
    (partial,) = (tree.models / ".incoming" / "alone").iterdir()  # for the next run
    assert 0 < partial.stat().st_size < 40_000  # in 4 s there would be 80,000


def test_usage(tree: Tree) -> None:
    tree.run("oen", code=64, says="Did you mean one")
    tree.run("--remove", code=64, says="name the model")
    tree.run("list", "one", code=64, says="alone")
    tree.run("--nonsense", code=64, says="--nonsense")
    assert "--offer" in tree.run("--help")


def test_it_goes_on_in_the_environment_of_the_repository(tree: Tree) -> None:
    python = tree.root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "in .venv: $*"\n')
    python.chmod(0o755)
    said = tree.run("list", "-q")
    assert said.startswith("in .venv: -E ") and said.endswith(f" {tree.root / 'download_model.py'} list -q\n")


def test_a_broken_environment_is_not_gone_into_for_ever(tree: Tree) -> None:
    python = tree.root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(Path(sys.executable).resolve())  # no pyvenv.cfg: it does not know that it is in .venv
    assert "--offer" in tree.run("--help")


def in_cache(folder: Path, path: str, content: bytes, revision: str = "a" * 40, small: bool = False) -> Path:
    """Put a file into a hub's cache in `folder` as huggingface_hub does: a blob, and a link of its name."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() if small else sha256(content)
    held = folder / f"models--{FIRST.replace('/', '--')}"
    (held / "blobs").mkdir(parents=True, exist_ok=True)
    (held / "blobs" / blob).write_bytes(content)
    link = held / "snapshots" / revision / path
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(held / "blobs" / blob, link.parent))
    return held / "blobs" / blob


@pytest.mark.parametrize("name", ["one", "parts", "unpinned", "unpinned-small", "packed"])
@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", ""])
def test_what_the_hubs_cache_has_is_not_downloaded(tree: Tree, name: str, variable: str) -> None:
    """For each kind of a model, offline; other programs have downloaded it."""
    home = tree.root / "home" / ".cache" / "huggingface"
    cache = tree.root / "elsewhere" if variable == "HF_HUB_CACHE" else home / "hub"
    if variable == "HF_HOME":
        cache = tree.root / "hf" / "hub"
    files = {"parts": PARTS, "unpinned-small": {"config.json": PARTS["config.json"]}, "packed": ARCHIVE}
    for path, content in files.get(name, {"model.bin": CONTENT}).items():
        in_cache(cache, path, content, small=path in PARTS and not path.endswith(".bin"))
    value = {"HF_HUB_CACHE": str(cache), "HF_HOME": str(cache.parent)}
    settings: dict[str, Any] = {variable: value[variable]} if variable else {}
    tree.run("-q" if name == "parts" else "--offer", name, HF_HUB_OFFLINE="1", **settings)
    tree.run(name, says="already installed", HF_HUB_OFFLINE="1")
    assert not tree.hub.requests and not (tree.models / ".incoming").exists()
    assert not any(file.is_symlink() for file in tree.models.rglob("*"))
    tree.run("--remove", name)
    assert all(blob.is_file() for blob in cache.glob("*/blobs/*"))


def test_a_wrong_file_in_the_hubs_cache_is_not_used(tree: Tree) -> None:
    cache = tree.root / "cache"
    in_cache(cache, "model.bin", CONTENT).write_bytes(b"x" + CONTENT[1:])
    tree.run("one", says="from first/repo", HF_HUB_CACHE=str(cache))
    assert tree.one.read_bytes() == CONTENT
    in_cache(cache, "config.json", b"another", revision="c" * 40, small=True)
    tree.run("unpinned-small", says="from first/repo", HF_HUB_CACHE=str(cache))
