"""Where the catalogue pins no revision or no hash, the first download does: it is said, kept, and verified after it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from downloads import CONTENT, FIRST, PARTS, Tree, sha256
from hub import Hub

OTHER = b"other weights" * 1000


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    with Hub() as hub:
        yield Tree(tmp_path, hub)


def lock(tree: Tree, name: str = "newest") -> Path:
    return tree.models / ".lock" / f"{name}.json"


def test_the_first_download_fixes_revision_and_hashes(tree: Tree) -> None:
    tree.run("newest", says=f"no revision of {FIRST} is pinned: it is {'c' * 40} from now on, kept in {lock(tree)}")
    known = json.loads(lock(tree).read_text())
    assert known["revisions"] == {FIRST: "c" * 40}
    expected = {"model.bin": CONTENT, "config.json": PARTS["config.json"]}
    assert known["files"] == {path: {"bytes": len(body), "sha256": sha256(body)} for path, body in expected.items()}
    asked = [request.path for request in tree.hub.requests if "/resolve/" in request.path]
    assert asked[0] == f"/{FIRST}/resolve/main/model.bin"
    assert {path.split("/resolve/")[1].split("/")[0] for path in asked[1:]} == {"c" * 40}


def test_later_downloads_are_of_that_revision_and_must_bring_the_same(tree: Tree) -> None:
    tree.run("newest")
    tree.hub.commit = "d" * 40  # the repository has moved on
    tree.run("--remove", "newest")
    assert lock(tree).is_file()
    tree.hub.requests.clear()
    tree.run("newest")
    assert {request.path.split("/")[4] for request in tree.hub.requests if "/resolve/" in request.path} == {"c" * 40}
    tree.run("--remove", "newest")
    tree.hub.add(FIRST, "model.bin", OTHER)
    tree.run("newest", code=65, says=f"is not the one that {lock(tree)} has from the first download")
    tree.hub.add(FIRST, "model.bin", CONTENT)
    tree.hub.add(FIRST, "config.json", b'{"a": 2}', small=True)  # as long as the right one
    tree.run("newest", code=65, says="the SHA-256 of the download is wrong")
    lock(tree).unlink()
    tree.run("newest", says="d" * 40)


def test_what_has_changed_since_is_found(tree: Tree) -> None:
    tree.run("newest")
    tree.run("--verify", "newest", says="newest: OK\n")
    place = tree.models / "newest" / "config.json"
    place.write_bytes(b'{"a": 2}')
    tree.run("--verify", "newest", code=65, says="newest is damaged: config.json has the wrong SHA-256")
    place.write_bytes(b"{}")
    tree.run("--verify", "newest", code=69, says="config.json should have 8 bytes")


def test_an_entry_with_a_revision_but_no_hash_has_the_same(tree: Tree) -> None:
    tree.run("unpinned", says="no SHA-256 is pinned, so the hub's own hash is used")
    assert json.loads(lock(tree, "unpinned").read_text())["revisions"] == {}
    tree.run("--verify", "unpinned", says="unpinned: OK\n")
    tree.run("one")
    assert not lock(tree, "one").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"revisions": {"a/b": "main"}, "files": {}}'])
def test_a_damaged_lock_file_is_one_line(tree: Tree, text: str) -> None:
    lock(tree).parent.mkdir(parents=True)
    lock(tree).write_text(text)
    tree.run("newest", code=65, says="its lock file cannot be read")
    assert "  newest: all files\n" in tree.run("list")
    lock(tree).unlink()
    tree.run("newest")
