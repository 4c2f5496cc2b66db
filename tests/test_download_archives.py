"""download_model.py with models that are published as one archive: unpacked as a whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from downloads import ARCHIVE, COMPILED, FIRST, Tree, sha256, zipped
from hub import Hub

from helpers.catalog import archive, catalog, fetch
from helpers.core.errors import UserError

NAME, CONTENT = next(iter(ARCHIVE.items()))
WHOLE = {"packed/" + path: len(body) for path, body in COMPILED.items()}
WAITING = {f".incoming/packed/{sha256(CONTENT)}": len(CONTENT)}
# The first fsync is that of the finished download, the second that of the first part that was unpacked.
AT_THE_SECOND_FSYNC = """
import errno, os, pathlib, time
fsync, calls = os.fsync, []
def disturbed(fd):
    fsync(fd)
    calls.append(fd)
    if len(calls) == 2:
        pathlib.Path({marker!r}).touch()
        {what}
os.fsync = disturbed
"""


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    with Hub() as hub:
        yield Tree(tmp_path, hub)


def disturb(tree: Tree, what: str) -> tuple[dict[str, str], Path]:
    """An environment in which `what` happens when one part is unpacked, and a file that is there from then on."""
    folder, marker = tree.root / "disturbed", tree.root / "marker"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(AT_THE_SECOND_FSYNC.format(marker=str(marker), what=what))
    return {"PYTHONPATH": str(folder)}, marker


def whole(tree: Tree) -> bool:
    left = tree.left()
    return left.pop(f"packed/{archive.LIST}", 0) > 0 and left == WHOLE


def test_an_archive_is_unpacked_and_deleted(tree: Tree) -> None:
    assert tree.run("packed", says=f"unpacking {NAME}") == f"{tree.models / 'packed'}\n"
    assert whole(tree) and not (tree.models / ".incoming").exists()
    for path, body in COMPILED.items():
        assert (tree.models / "packed" / path).read_bytes() == body
    assert "here  packed " in tree.run("list")


def test_it_is_known_without_the_archive(tree: Tree) -> None:
    tree.run("packed")
    tree.hub.requests.clear()
    tree.run("packed", says="already installed", HF_HUB_OFFLINE="1")
    tree.run("--verify", "packed", says="packed: OK\n", HF_HUB_OFFLINE="1")
    assert not tree.hub.requests


def test_verify_finds_a_changed_byte_of_a_part(tree: Tree) -> None:
    tree.run("packed")
    (tree.models / "packed" / "vocab.json").write_bytes(b"[]")
    assert "here  packed " in tree.run("list"), "the listing reads sizes only: it has to be quick"
    tree.run("--verify", "packed", code=65, says="vocab.json has the wrong SHA-256")


@pytest.mark.parametrize(
    ("path", "content"),
    [("vocab.json", b"{"), (archive.LIST, b"{"), (archive.LIST, b'{"archive": "of another pin", "files": []}')],
)
def test_a_damaged_part_is_seen_and_all_is_fetched_anew(tree: Tree, path: str, content: bytes) -> None:
    tree.run("packed")
    (tree.models / "packed" / path).write_bytes(content)
    (tree.models / "packed" / "stray").touch()
    assert "damaged  packed " in tree.run("list")
    tree.run("--verify", "packed", code=69, says="is damaged: ")
    tree.run("packed")
    assert whole(tree)


def test_a_part_that_is_gone_is_missing(tree: Tree) -> None:
    tree.run("packed")
    (tree.models / "packed" / "vocab.json").unlink()
    tree.run("--verify", "packed", code=69, says="not on this machine")


def test_an_archive_in_the_place_of_the_model_is_not_the_model(tree: Tree) -> None:
    (tree.models / "packed").mkdir(parents=True)
    (tree.models / "packed" / NAME).write_bytes(CONTENT)
    assert "here  packed " not in tree.run("list")
    tree.run("packed")
    assert whole(tree)


def test_remove_leaves_nothing(tree: Tree) -> None:
    tree.run("packed")
    tree.run("--remove", "packed", says="removed, ")
    assert not list(tree.models.iterdir())


def test_without_a_pin_the_hub_is_believed(tree: Tree) -> None:
    tree.run("packed-unpinned", says="no SHA-256 is pinned")
    tree.run("--verify", "packed-unpinned", says="packed-unpinned: OK\n")


@pytest.mark.parametrize(
    "content",
    [
        zipped(COMPILED | {"../../../evil": b"x"}),
        zipped({"readme.txt": b"hello"}),
        zipped(COMPILED, lambda info: setattr(info, "CRC", 7)),
        CONTENT[:-100],
        b"no archive",
    ],
)
def test_what_is_no_model_leaves_nothing(tree: Tree, content: bytes) -> None:
    catalogue = tree.root / "models" / "catalog.toml"
    catalogue.write_text(catalogue.read_text().replace(f"bytes = {len(CONTENT)}", f"bytes = {len(content)}"))
    tree.hub.add(FIRST, NAME, content)
    before = set(tree.root.rglob("*"))
    assert tree.run("packed-unpinned", code=65, says=f"{NAME} cannot be unpacked: ") == ""
    assert {path for path in tree.root.rglob("*") if "__pycache__" not in path.parts} - before <= {tree.models}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_cut_while_unpacking_it_needs_no_second_download(tree: Tree, how: signal.Signals) -> None:
    environment, marker = disturb(tree, "time.sleep(60)")
    process = tree.start("packed", **environment)
    while not marker.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(how)
    _, err = process.communicate(timeout=10)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL) and "Traceback" not in err
    assert not (tree.models / "packed").exists() and WAITING.items() <= tree.left().items()
    assert len(tree.left()) == (1 if how == signal.SIGINT else 2)
    tree.run("packed")
    assert whole(tree) and tree.downloads() == [""]


def test_a_full_disk_leaves_the_archive_only(tree: Tree) -> None:
    environment, _ = disturb(tree, "raise OSError(errno.ENOSPC, 'No space left on device')")
    tree.run("packed", code=73, says="the disk is full", **environment)
    assert tree.left() == WAITING
    tree.run("packed")
    assert whole(tree) and tree.downloads() == [""]


def test_the_archive_goes_though_it_was_cut_before(tree: Tree) -> None:
    tree.run("packed")
    waiting = tree.models / next(iter(WAITING))
    waiting.parent.mkdir(parents=True)
    waiting.write_bytes(CONTENT)
    tree.run("packed", says="already installed", HF_HUB_OFFLINE="1")
    assert whole(tree) and not (tree.models / ".incoming").exists()


class Usage(NamedTuple):
    free: int


def test_an_archive_needs_room_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = catalog.read(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(3_000_000_000))
    plain = models.find("stable-diffusion-2-1-base")
    fetch.incoming(plain).mkdir(parents=True)
    fetch.check_room(plain, list(plain.files))
    entry = models.find("stable-diffusion-1-5-coreml-ne")
    fetch.incoming(entry).mkdir(parents=True)
    with pytest.raises(UserError, match=r"needs 3\.3 GB of free space, but has 3\.0 GB") as error:
        fetch.check_room(entry, list(entry.files))
    assert error.value.code == os.EX_CANTCREAT
    with (fetch.incoming(entry) / entry.files[0].sha256).open("wb") as arrived:
        arrived.truncate(entry.bytes)
    fetch.check_room(entry, list(entry.files))
