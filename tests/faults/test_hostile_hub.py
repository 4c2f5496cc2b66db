"""A hub, or somebody on the way to it, that means harm: what it sends is refused in one line, and nothing stays."""

from __future__ import annotations

import contextlib
import gzip
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from downloads import ARCHIVE, CONTENT, FIRST, PARTS, Tree, zipped
from hub import Does, Handler, Hub, Lie

from helpers.catalog import hub
from helpers.core.errors import UserError

NAME = f"{FIRST}/model.bin"
TOKEN = "hf_aVerySecretTokenThatNobodyMaySee"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    with Hub() as hub:
        yield Tree(tmp_path, hub)


class Elsewhere:
    """A host that is not the hub's; notes what it is asked, and with what."""

    def __enter__(self) -> Elsewhere:
        asked = self.asked = list[str]()

        class Note(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(f"{self.command} {self.path} {self.headers}")
                self.send_response(200)
                self.end_headers()

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Note)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def redirect(url: str) -> Does:
    """A look-up that is right but for where the file is."""
    return Does(lookup=lambda handler: handler.head(302, Location=url, **handler.linked(NAME)))


def drip(handler: Handler, first: bytes, again: bytes, pause: float) -> None:
    """Send `first`, then `again` for as long as somebody listens."""
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.wfile.write(first)
        while not handler.hub.over.wait(pause):
            handler.wfile.write(again)


def packed(handler: Handler) -> None:
    """A gigabyte of zeros that comes as a megabyte."""
    body = gzip.compress(bytes(1 << 24)) * 64
    handler.head(200, Content_Encoding="gzip", Content_Length=len(body))
    with contextlib.suppress(OSError):
        handler.wfile.write(body)


def lookup(**headers: object) -> Does:
    """A look-up that is right but for these headers."""

    def answer(handler: Handler) -> None:  # without a redirect, which would be followed to what is right
        handler.head(200, **{**handler.linked(NAME), "Content_Length": len(CONTENT), **headers})
        if handler.command == "GET":
            handler.wfile.write(CONTENT)

    return Does(lookup=answer)


ENDLESS = b"X-%s: %s\r\n" % (b"a" * 100, b"b" * 10_000)
LINE = b"HTTP/1.1 200 OK\r\n"
# What the hub does, and the exit codes that are right; 0 where what it says is passed over and the file is right
HARM: dict[str, tuple[Does, set[int]]] = {
    "redirects to a file": (redirect("file:///etc/passwd"), {69}),
    "redirects to data": (redirect("data:text/plain,x"), {69}),
    "redirects to another port": (redirect("http://127.0.0.1:9/x"), {69}),
    "redirects to a host that looks like it": (redirect("https://huggingface.co.evil.example/x"), {69}),
    "redirects to a host that ends like it": (redirect("https://evilhuggingface.co/x"), {69}),
    "redirects to itself by a user's name": (redirect("https://huggingface.co@evil.example/x"), {69}),
    "redirects without encryption": (redirect("http://huggingface.co/x"), {69}),
    "redirects to no address": (redirect("http://[::1/x"), {65, 69}),
    "redirects with control characters": (redirect("https://evil.example/\x1b[2J\x1b]0;x\x07"), {65, 69}),
    "redirects a look-up in circles": (Does(lookup=lambda handler: handler.head(302, Location=handler.path)), {69}),
    "redirects a download in circles": (Does(download=lambda handler: handler.head(302, Location=handler.path)), {69}),
    "redirects a download elsewhere": (
        Does(download=lambda handler: handler.head(302, Location="http://127.0.0.1:9/x")),
        {69},
    ),
    "says a size that is none": (lookup(X_Linked_Size="a lot"), {0, 65, 69}),
    "says a size below zero": (lookup(X_Linked_Size="-5"), {0, 65}),
    "says a size that no disk has": (lookup(X_Linked_Size=str(10**30)), {0, 65}),
    "says a hash that is a path": (lookup(X_Linked_Etag='"../../../evil"', ETag='"/evil"'), {0, 65}),
    "says a hash of another file": (lookup(X_Linked_Etag=f'"{"0" * 64}"'), {65}),
    "sends headers without end to a look-up": (Does(lookup=lambda h: drip(h, LINE, ENDLESS, 0)), {69}),
    "sends headers without end to a download": (Does(download=lambda h: drip(h, LINE, ENDLESS, 0)), {69}),
    "drips headers to a look-up": (Does(lookup=lambda h: drip(h, LINE, b"X-a: b\r\n", 0.2)), {69}),
    "packs the file": (Does(download=packed), {65}),
    "sends no HTTP": (Does(download=lambda h: drip(h, b"\0\xff" * 5000, b"", 5)), {69}),
    "sends lying lengths of parts": (
        Does(download=lambda h: drip(h, LINE + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", b"x", 0)),
        {65, 69},
    ),
    "sends another part than was asked for": (
        Does(download=lambda h: drip(h, b"HTTP/1.1 206 OK\r\nContent-Range: bytes 7-9/10\r\n\r\n", b"abc", 0)),
        {65, 69},
    ),
}  # fmt: skip


def test_hostile_hub(
    tree: Tree, size: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    """A hub that redirects, lies, compresses or never ends: one line, the right exit code, no file left."""
    names = list(HARM)[:: size(4, 1)]
    record_property("tried", len(names))
    for name in names:
        tree.hub.fail[NAME], codes = HARM[name]
        with tree.start("alone", HF_TOKEN=TOKEN) as process:
            out, err = process.communicate(timeout=60)
        lines = [line for line in err.splitlines() if not line.startswith("fetching ")]
        assert process.returncode in codes, f"{name}: {process.returncode} {err}"
        assert TOKEN not in err and "Traceback" not in err and "\x1b" not in err, f"{name}: {err}"
        if process.returncode:
            assert len(lines) in (1, 2) and all(len(line) < 500 for line in lines) and not out, f"{name}: {err}"
            assert not [path for path, bytes in tree.left().items() if bytes > len(CONTENT)], name
            assert not tree.one.with_name("alone").exists(), name
        outside = {path.name for path in tree.root.iterdir()} - {"download_model.py", "helpers", "models", "home"}
        assert not outside and {path.name for path in (tree.root / "models").iterdir()} <= {
            "catalog.toml",
            "downloaded",
        }
        tree.run("--remove", "alone")


def test_the_token(tree: Tree, record_property: Callable[[str, object], None]) -> None:
    """A hub token is sent to the hub only: not to a redirect target, not into a message or a file."""
    stored = tree.root / "home" / ".cache" / "huggingface" / "token"
    stored.parent.mkdir(parents=True)
    stored.write_text(TOKEN)
    tried = 0
    with Elsewhere() as elsewhere:
        faults = [
            redirect(f"{elsewhere.url}/x"),
            Does(lookup=lambda handler: handler.head(301, Location=f"{elsewhere.url}/x")),
            Does(download=lambda handler: handler.head(307, Location=f"{elsewhere.url}/x")),
            Does(lookup=lambda handler: handler.head(401)),
            Does(lookup=lambda handler: handler.head(403, X_Error_Message="no")),
            Does(lookup=lambda handler: handler.head(500)),
            Lie(content=CONTENT[::-1]),
            None,
        ]
        for fault in faults:
            for how in ({"HF_TOKEN": TOKEN}, {}):
                tree.hub.fail[NAME] = fault
                with tree.start("alone", A2I_VERBOSE="1", **how) as process:
                    out, err = process.communicate(timeout=60)
                assert TOKEN[3:] not in out + err, fault
                tried += 1
        record_property("tried", tried)
        assert any(TOKEN in request.authorization for request in tree.hub.requests), "it was never sent at all"
        assert not [asked for asked in elsewhere.asked if TOKEN in asked]
    for file in tree.root.rglob("*"):
        assert file == stored or not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


def test_the_token_stays_at_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is sent to the hub's address, not to its file hosts or to hosts with a similar name."""
    import huggingface_hub.utils
    from huggingface_hub import constants

    sent: list[tuple[str, str]] = []

    class Session:
        @contextlib.contextmanager
        def stream(self, method: str, url: str, headers: dict[str, str], **_: object) -> Iterator[object]:
            sent.append((url, str(headers)))
            yield SimpleNamespace(has_redirect_location=False, status_code=200)

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN", TOKEN, raising=False)
    monkeypatch.setattr(huggingface_hub.utils, "get_session", Session)
    files = ["https://cdn-lfs.hf.co/x", "https://cas-bridge.xethub.hf.co/x", "https://cdn-lfs.huggingface.co/x"]
    for url in (f"{constants.ENDPOINT}/x", *files):
        with hub._open(url, 0, hub.Patience(1, 1, 1, 1)):
            pass
    assert [TOKEN in headers for _, headers in sent] == [True, False, False, False]
    others = [
        "http://huggingface.co/x",
        "https://evilhf.co/x",
        "https://hf.co.evil.example/x",
        "https://hf.co@evil.example/",
    ]
    for url in others:
        with pytest.raises(UserError, match="not one of its hosts"), hub._open(url, 0, hub.Patience(1, 1, 1, 1)):
            pass
    assert len(sent) == 4


def test_a_password_in_the_address_of_the_hub(tree: Tree) -> None:
    """A password in the address of a hub or proxy is never shown."""
    for name in ("HF_ENDPOINT", "HTTP_PROXY"):
        for fault in (None, Does(lookup=lambda handler: handler.head(302, Location="http://127.0.0.1:9/x"))):
            tree.hub.fail[NAME] = fault
            address = f"http://me:{TOKEN}@127.0.0.1:{9 if fault is None else tree.hub.url.rpartition(':')[2]}"
            with tree.start("alone", **{name: address, "A2I_VERBOSE": "1"}) as process:
                out, err = process.communicate(timeout=60)
            assert process.returncode and TOKEN not in out + err, err


def test_a_hub_that_drips_for_ever_does_not_hold_up_the_first_recording(tree: Tree) -> None:
    """A hub that sends one byte now and then delays the first recording only for the time limit."""
    tree.hub.fail[NAME] = Does(download=lambda handler: drip(handler, LINE, b"X-a: b\r\n", 0.2))
    program = "import download_model as d; d.offer(d.catalog.read().find('alone'), 1, 4)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tree.root, env=tree.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "takes too long" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tree.models / "alone").exists()


def test_a_file_that_is_not_pinned_has_about_its_size(tree: Tree) -> None:
    """A file of roughly known size, from a hub that sends any other size, is not downloaded."""
    catalog = tree.root / "models" / "catalog.toml"
    known = len(PARTS["config.json"])
    catalog.write_text(
        catalog.read_text().replace(f'bytes = {known}, sha256 = "hub"', f'about_bytes = {known}, sha256 = "hub"')
    )
    tree.hub.add(FIRST, "config.json", bytes(1_000_000), small=True)
    tree.run("unpinned-small", code=65, says="has 1 MB, but the catalogue says 1 kB")
    assert not tree.left() and not tree.downloads()
    tree.hub.add(FIRST, "config.json", b"{}", small=True)
    tree.run("unpinned-small", says="no SHA-256 is pinned")


def test_a_bomb_with_the_right_hash(tree: Tree) -> None:
    """An unpinned archive that unpacks to a hundred times its size is refused and deleted."""
    bomb = zipped({"x/Unet.mlmodelc/weights/weight.bin": bytes(50_000_000), "x/vocab.json": b"{}"})
    assert len(bomb) < 100_000
    catalog = tree.root / "models" / "catalog.toml"
    (name,) = ARCHIVE
    catalog.write_text(
        catalog.read_text().replace(
            f'bytes = {len(ARCHIVE[name])}, sha256 = "hub"', 'about_bytes = 100000, sha256 = "hub"'
        )
    )
    tree.hub.add(FIRST, name, bomb)
    tree.run("packed-unpinned", code=65, says="times its size")
    assert not tree.left()
