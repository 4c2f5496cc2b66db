"""download_model.py in a tree of its own, with a catalogue of small models that a hub on loopback has.

with Hub() as hub:
    tree = Tree(tmp_path, hub)
    tree.run("one", code=69, says="the connection was lost")
    tree.left()
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from hub import Hub

from helpers.core.paths import ROOT

FIRST, MIRROR = "first/repo", "second/mirror"
CONTENT = random.Random(1).randbytes(300_000)
PARTS = {"unet/model.bin": random.Random(2).randbytes(50_000), "config.json": b'{"a": 1}', "vocab.txt": b"a\nb\n"}
COMPILED = {
    "TextEncoder.mlmodelc/model.mil": b"text " * 40,
    "Unet.mlmodelc/analytics/coremldata.bin": b"\x01\x02",
    "Unet.mlmodelc/weights/weight.bin": random.Random(3).randbytes(3_000),
    "VAEDecoder.mlmodelc/model.mil": b"",
    "merges.txt": b"a b\n",
    "vocab.json": b"{}",
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def zipped(members: dict[str, bytes], change: Callable[[zipfile.ZipInfo], object] = lambda info: None) -> bytes:
    """A zip archive of `members`; `change` may alter what the headers say of the last one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, body in members.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, zipfile.ZIP_DEFLATED
            info.external_attr = (0o40755 if name.endswith("/") else 0o100644) << 16
            out.writestr(info, body)
        change(out.infolist()[-1])
    return buffer.getvalue()


def model(name: str, source: str, files: dict[str, bytes], pinned: bool = True) -> str:
    rows = [
        f'{{ path = "{path}", bytes = {len(body)}, sha256 = "{sha256(body) if pinned else "hub"}" }}'
        for path, body in files.items()
    ]
    return (
        f'[models."{name}"]\nkind = "image"\nabout = "for tests"\nlicense = "MIT"\nmemory_mb = 1\n'
        f'engines = ["openvino"]\nlanguages = "en"\nsource = "{source}"\nfiles = [{", ".join(rows)}]\n'
    )


ARCHIVE = {"x_compiled.zip": zipped({f"x_compiled/{path}": body for path, body in COMPILED.items()})}
CATALOG = "\n".join(
    [
        "[defaults]",
        *(
            f'{role} = "one"'
            for role in ("english", "coreml", "coreml-gpu", "torch", "openvino", "filter", "speakers", "builtin")
        ),
        'multilingual = "alone"',
        *(
            f'[[sources.both]]\nrepo = "{repo}"\nrevision = "{letter * 40}"'
            for repo, letter in ((FIRST, "a"), (MIRROR, "b"))
        ),
        f'[[sources.single]]\nrepo = "{FIRST}"\nrevision = "{"a" * 40}"',
        model("one", "both", {"model.bin": CONTENT}),
        model("alone", "single", {"model.bin": CONTENT}),
        model("parts", "both", PARTS),
        f'[[sources.newest]]\nrepo = "{FIRST}"',
        model("newest", "newest", {"model.bin": CONTENT, "config.json": PARTS["config.json"]}, pinned=False),
        model("unpinned", "single", {"model.bin": CONTENT}, pinned=False),
        model("unpinned-small", "single", {"config.json": PARTS["config.json"]}, pinned=False),
        model("packed", "single", ARCHIVE),
        model("packed-unpinned", "single", ARCHIVE, pinned=False),
        model("huge", "single", {"model.bin": b""}).replace("bytes = 0", f"bytes = {10**16}"),
    ]
)


class Tree:
    """A copy of the program with a catalogue of small models, a home of its own and a hub."""

    def __init__(self, root: Path, hub: Hub) -> None:
        self.root, self.hub, self.models = root, hub, root / "models" / "downloaded"
        self.one = self.models / "one" / "model.bin"
        shutil.copy(ROOT / "download_model.py", root)
        shutil.copytree(ROOT / "helpers", root / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
        (root / "models").mkdir()
        (root / "models" / "catalog.toml").write_text(CATALOG)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(root / "home"),
            "HF_ENDPOINT": hub.url,
            "HF_HUB_ETAG_TIMEOUT": "10",
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        }
        for repo in (FIRST, MIRROR):
            for path, body in ({"model.bin": CONTENT} | PARTS | ARCHIVE).items():
                hub.add(repo, path, body, small=path in PARTS and not path.endswith(".bin"))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(self.root / "download_model.py"), *arguments]

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        everything = self.environment | environment
        return subprocess.Popen(
            self.command(*arguments), env=everything, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, code: int = 0, says: str = "", **environment: str) -> str:
        """Run it, check the exit code, that `says` is on stderr and no traceback, and return stdout."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=30)
        assert process.returncode == code, err
        assert says in err and "Traceback" not in err, err
        assert len(err.splitlines()) <= (2 if code and "mirror" not in err and "fetching" not in err else 6), err
        return out

    def left(self) -> dict[str, int]:
        """Every file below the models folder and its size."""
        files = (file for file in self.models.rglob("*") if file.is_file())
        return {str(file.relative_to(self.models)): file.stat().st_size for file in files}

    def downloads(self) -> list[str]:
        """The Range header of every request for content, in order."""
        return [request.range for request in self.hub.requests if request.method == "GET"]
