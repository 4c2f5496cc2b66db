"""The model hub: look up a file with huggingface_hub, then download it, with resume.

huggingface_hub (2.4) restarts an interrupted download from the beginning and passes large files to hf_xet, which has
its own cache elsewhere. So we use its session, headers and look-up, and receive the bytes ourselves: one request that
starts at the first missing byte.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from helpers.core.errors import UserError
from helpers.core.text import printable

if TYPE_CHECKING:
    import httpx2

DOMAINS = ("hf.co", "huggingface.co")  # the hub keeps large files on hosts of these


class Patience(NamedTuple):
    """Timeouts in seconds: for the first answer, without new data, and in total; `attempts` without progress."""

    answer: float
    stall: float
    total: float
    attempts: int


class Answer(NamedTuple):
    """The hub's answer about a file: its address, its size in bytes (None if unknown), its hash (empty if unknown):
    the SHA-256 of a large file, the git blob hash of a small one; and the commit that it is of (empty if unknown)."""

    url: str
    size: int | None
    hash: str
    commit: str


class Unreachable(UserError):
    """The hub cannot be reached or sends no data: there is no point in trying another repository."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(os.EX_UNAVAILABLE, message, remedy)


def _constants() -> Any:
    """huggingface_hub's constants, with its telemetry switched off for this process; it reads them at each request."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    return constants


def usual_patience() -> Patience:
    """HF_HUB_ETAG_TIMEOUT for an answer and HF_HUB_DOWNLOAD_TIMEOUT for data (10 s each), no limit in total."""
    constants = _constants()
    return Patience(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT, float("inf"), 3)


def cache() -> Path:
    """The folder of Hugging Face's own cache."""
    return Path(_constants().HF_HUB_CACHE)


def cached(repo: str, revision: str, path: str, sha256: str) -> Iterator[Path]:
    """Where Hugging Face's own cache (HF_HUB_CACHE, HF_HOME) may have a file: other programs download into it.

    sha256: of the file; without it, only the given revision counts, whose files are named after their hash.
    """
    folder = cache() / f"models--{repo.replace('/', '--')}"
    places = [folder / "snapshots" / revision / path]
    if sha256:
        places = [folder / "blobs" / sha256, *places, *sorted(folder.glob(f"snapshots/*/{path}"))]
    return (place for place in places if place.is_file())


def ask(repo: str, revision: str, path: str, patience: Patience) -> Answer:
    """Look up a file; retry a few times if the hub answers 5xx or 429.

    Raises: UserError 77 (access refused), 69 (no such file, or an error of the hub), Unreachable.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    where, status = f"{repo}/{path}", 0
    for attempt in range(patience.attempts):
        try:
            found = _within(patience.answer, hf_hub_url(repo, path, revision=revision))
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                remedy = f"Accept its terms on https://huggingface.co/{repo} and set HF_TOKEN; an old token is refused."
                raise UserError(os.EX_NOPERM, f"{where}: the hub refuses access ({status})", remedy) from error
            if status < 500 and status != 429:
                raise UserError(os.EX_UNAVAILABLE, f"{where}: the hub does not have it ({status})") from error
            if attempt + 1 < patience.attempts:
                time.sleep(0.5 * 2**attempt)
        else:
            digest = re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", found.etag or "")
            commit = re.fullmatch("[0-9a-f]{40}", found.commit_hash or "")
            return Answer(found.location, found.size, digest[0] if digest else "", commit[0] if commit else "")
    raise UserError(os.EX_UNAVAILABLE, f"{where}: the hub reports an error ({status})", "Try again in a few minutes.")


def _within(seconds: float, url: str) -> Any:
    """The metadata of `url`; raises Unreachable after `seconds`, wherever it hangs.

    It runs in a thread: DNS has no timeout, and the timeout applies to each address of a host separately.
    """
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    remedy = "Check the network and run it again."
    if _constants().is_offline_mode():
        raise Unreachable("HF_HUB_OFFLINE is set, so nothing is downloaded", "unset HF_HUB_OFFLINE")
    host = _named(url)
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answer.put(get_hf_file_metadata(url, timeout=seconds))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        found = answer.get(timeout=seconds)
    except queue.Empty:
        raise Unreachable(f"no answer from {host} within {seconds:g} s", remedy) from None
    if isinstance(found, HfHubHTTPError):
        raise found
    if isinstance(found, Exception):  # of the network, or a malformed answer
        what = printable(str(found))[:200] or type(found).__name__
        if isinstance(found, ImportError):  # httpx2 has no SOCKS of its own
            what, remedy = (
                "a SOCKS proxy is set, which is not supported",
                "Set HTTPS_PROXY to an HTTP proxy.",
            )
        elif isinstance(found, FileNotFoundError):
            what, remedy = "a file of certificates is not there", "Correct or unset SSL_CERT_FILE and SSL_CERT_DIR."
        raise Unreachable(f"cannot reach {host}: {what}", remedy) from found
    return found


def receive(name: str, url: str, partial: Path, size: int, patience: Patience, progress: bool = False) -> None:
    """Append to `partial` until it has `size` bytes; retry after interruptions as long as there is progress.

    Raises: UserError 65 (more than `size` arrived; `partial` is emptied), 69 (the host refuses, or is not the hub's),
    Unreachable; OSError for the disk. The bytes received so far stay in `partial`.
    """
    import httpx2

    began = time.monotonic()
    with partial.open("ab") as out, _progress(name, size, out.tell(), progress) as bar:
        tries, best, why = 0, out.tell(), ""
        while out.tell() < size:
            if tries == patience.attempts:
                raise Unreachable(f"{name}: {why}", "Run it again to continue the download.")
            tries += 1
            why = "the connection was lost"
            try:
                with _open(url, out.tell(), patience) as response:
                    part = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
                    if response.status_code != 206 or not part or int(part[1]) != out.tell():
                        out.truncate(0)  # the whole file, or 416: nothing after this offset
                        out.seek(0)
                    bar.reset(size)
                    bar.update(out.tell())
                    before = out.tell()
                    # Raw bytes: no compression was requested, and a decompression bomb could expand without limit
                    for block in response.iter_raw() if response.status_code != 416 else ():
                        if out.tell() + len(block) > size:
                            out.truncate(0)
                            raise UserError(os.EX_DATAERR, f"{name}: the hub sent more than the announced {size} bytes")
                        out.write(block)
                        bar.update(len(block))
                        if _too_slow(time.monotonic() - began, out.tell() - before, size - out.tell(), patience):
                            remedy = "Run it again to continue the download."
                            raise Unreachable(f"{name}: the download is too slow", remedy)
            except httpx2.TimeoutException:
                why = f"no data for {patience.stall:g} s"
            except httpx2.RequestError:
                pass
            except (httpx2.InvalidURL, ValueError) as error:
                raise UserError(os.EX_UNAVAILABLE, f"{name}: the hub redirects to an invalid address") from error
            if out.tell() > best:
                tries, best = 0, out.tell()
        out.flush()
        os.fsync(out.fileno())


def _too_slow(seconds: float, received: int, missing: int, patience: Patience) -> bool:
    """Whether the total time is over, or will be too short for the rest; this is estimated after `patience.answer`.

    seconds: since the download began; received, missing: bytes.
    """
    left = patience.total - seconds
    return left < 0 or (patience.answer < seconds and math.isfinite(left) and missing * seconds > received * left)


@contextlib.contextmanager
def _open(url: str, offset: int, patience: Patience) -> Iterator[httpx2.Response]:
    """GET `url` from byte `offset`, following redirects only to the hub's own hosts."""
    import httpx2
    from huggingface_hub.utils import build_hf_headers, get_session

    endpoint = urlsplit(_constants().ENDPOINT)
    timeout = httpx2.Timeout(patience.stall, connect=patience.answer)
    for _ in range(5):
        target = urlsplit(url)
        own = (target.scheme, target.netloc) == (endpoint.scheme, endpoint.netloc)
        domains = (*DOMAINS, endpoint.hostname)
        if not own and not (
            target.scheme == "https" and any(f".{target.hostname}".endswith(f".{domain}") for domain in domains)
        ):
            what = f"the hub redirects to {_named(url)}, which is not one of its hosts"
            raise UserError(os.EX_UNAVAILABLE, what, "Unset HF_ENDPOINT if you set it.")
        headers = build_hf_headers(token=None if own else False)  # a token never leaves the hub itself
        headers["Accept-Encoding"] = "identity"
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=False) as response:
            if response.has_redirect_location:
                url = urljoin(url, response.headers["Location"])
                continue
            if response.status_code not in (200, 206, 416):
                what = f"{_named(url)} answers {response.status_code}"
                raise UserError(os.EX_UNAVAILABLE, what, "Try again in a few minutes.")
            yield response
            return
    raise UserError(os.EX_UNAVAILABLE, "the hub redirects in circles")


def _named(url: str) -> str:
    """The host of `url` for messages, without a password in front of it."""
    return printable((urlsplit(url).netloc or url).rpartition("@")[2])[:100]


def _progress(name: str, size: int, done: int, shown: bool) -> Any:
    """A progress bar on stderr; without `shown` it shows nothing."""
    from tqdm import tqdm

    return tqdm(desc=name, total=size, initial=done, unit="B", unit_scale=True, disable=not shown, leave=False)
