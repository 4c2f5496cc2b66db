"""A model hub on loopback: resolve, redirect to a content store, byte ranges; and every way in which it can fail.

with Hub() as hub:
    hub.add("owner/repo", "model.bin", content)
    hub.fail["owner/repo/model.bin"] = Cut(after=1000)
    ... HF_ENDPOINT=hub.url ...
    hub.requests    # every request: method, path, its Range and Authorization headers
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Request(NamedTuple):
    method: str
    path: str
    range: str
    authorization: str


class Status(NamedTuple):
    """Answer a look-up with this status, `times` times and then properly."""

    code: int
    times: int = 1000


class Silent(NamedTuple):
    """Take a look-up and never answer."""


class Lie(NamedTuple):
    """Announce another hash or size than the content has, or deliver other content."""

    hash: str = ""
    size: int = 0
    content: bytes = b""


class Elsewhere(NamedTuple):
    """Redirect the download to another host."""

    url: str


class Cut(NamedTuple):
    """Close the connection `after` that many bytes, `times` times; politely: announcing no more than that."""

    after: int
    times: int = 1000
    politely: bool = False


class Stall(NamedTuple):
    """Send that many bytes of an answer and then nothing, `times` times."""

    after: int
    times: int = 1000


class Endless(NamedTuple):
    """Announce no length and never stop."""


class NoRanges(NamedTuple):
    """Answer a request for a part with the whole, and cut the first answers after that many bytes."""

    after: int
    times: int = 1


class Does(NamedTuple):
    """Answer a look-up, or a download, with a function of the handler; None: properly."""

    lookup: Callable[[Handler], object] | None = None
    download: Callable[[Handler], object] | None = None


class Hub:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.small: set[str] = set()
        self.commit = "c" * 40  # what the branch main is
        self.fail: dict[str, Any] = {}
        self.requests: list[Request] = []
        self.stalled = threading.Event()  # set when a Stall or Silent was reached
        self.over = threading.Event()
        self.counts: dict[str, int] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def add(self, repo: str, path: str, content: bytes, small: bool = False) -> None:
        """A file of a repository; a small one is kept in git: no redirect, and its ETag is no sha256."""
        self.files[f"{repo}/{path}"] = content
        if small:
            self.small.add(f"{repo}/{path}")

    def first(self, name: str, times: int) -> bool:
        """Whether this is one of the first `times` calls for `name`."""
        self.counts[name] = self.counts.get(name, 0) + 1
        return self.counts[name] <= times

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        headers = self.headers
        self.hub.requests.append(
            Request(self.command, self.path, headers.get("Range", ""), headers.get("Authorization", ""))
        )
        kind, _, rest = self.path.lstrip("/").partition("/")
        if kind == "store":
            self.store(rest)
            return
        repo, _, tail = self.path.strip("/").partition("/resolve/")
        revision, _, path = tail.partition("/")
        self.resolve(f"{repo}/{path}", revision)

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        headers.setdefault("Content_Length", 0)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def resolve(self, name: str, revision: str) -> None:
        fault = self.hub.fail.get(name)
        if isinstance(fault, Silent):
            self.hub.stalled.set()
            self.hub.over.wait(30)
            self.close_connection = True
            return
        if isinstance(fault, Does) and fault.lookup:
            fault.lookup(self)
            return
        if isinstance(fault, Status) and self.hub.first(name, fault.times):
            self.head(fault.code)
            return
        if name not in self.hub.files:
            self.head(404, X_Error_Code="EntryNotFound")
            return
        content, commit = self.hub.files[name], revision if len(revision) == 40 else self.hub.commit
        if name in self.hub.small:
            lie = fault if isinstance(fault, Lie) else Lie()
            blob = lie.hash or hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self.head(200, ETag=f'"{blob}"', X_Repo_Commit=commit, Content_Length=len(content))
            if self.command == "GET":
                self.wfile.write(lie.content or content)
            return
        self.head(
            302, Location=fault.url if isinstance(fault, Elsewhere) else f"/store/{name}", **self.linked(name, commit)
        )

    def linked(self, name: str, commit: str = "") -> dict[str, object]:
        fault, content = self.hub.fail.get(name), self.hub.files[name]
        sha256, size = hashlib.sha256(content).hexdigest(), len(content)
        if isinstance(fault, Lie):
            sha256, size = fault.hash or sha256, fault.size or size
        return {
            "X_Linked_Etag": f'"{sha256}"',
            "X_Linked_Size": size,
            "X_Repo_Commit": commit or self.hub.commit,
            "ETag": f'"{sha256}"',
        }

    def store(self, name: str) -> None:
        fault, content = self.hub.fail.get(name), self.hub.files[name]
        if self.command == "HEAD":
            self.head(200, Content_Length=self.linked(name)["X_Linked_Size"], **self.linked(name))
            return
        if isinstance(fault, Does) and fault.download:
            fault.download(self)
            return
        if isinstance(fault, Lie) and fault.content:
            content = fault.content
        if isinstance(fault, Endless):
            self.head(200, Content_Length=None, Connection="close")
            self.close_connection = True
            try:
                while not self.hub.over.is_set():
                    self.wfile.write(bytes(1 << 16))
            except OSError:
                return
            return
        start = 0
        if (wanted := self.headers.get("Range")) and not isinstance(fault, NoRanges):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.head(416, Content_Range=f"bytes */{len(content)}")
                return
        body, extra = content[start:], {}
        if start:
            extra["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        sent = body
        if isinstance(fault, (Cut, Stall, NoRanges)) and self.hub.first(name, fault.times):
            sent = body[: fault.after]
        announced = sent if isinstance(fault, Cut) and fault.politely else body
        self.head(206 if start else 200, Content_Length=len(announced), **extra)
        self.wfile.write(sent)
        if sent is not body:
            self.wfile.flush()
            if isinstance(fault, Stall):
                self.hub.stalled.set()
                self.hub.over.wait(30)
            self.close_connection = True
