"""The model hub, through huggingface_hub: where a file is and what it should be, and its bytes, across cuts.

huggingface_hub (2.4) starts a cut download from the beginning and hands large files to hf_xet, which keeps a cache of
its own elsewhere. So its session, headers and look-up are used, and the bytes are received here: one request, from the
byte on where the last one ended.
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
    """Seconds: for the first answer, without a byte, and in all; `attempts` without any progress."""

    answer: float
    stall: float
    total: float
    attempts: int


class Answer(NamedTuple):
    """What the hub says of a file: where it is, its bytes (None if unsaid), its hash (empty if unsaid): the sha256 of a
    large file, and of a small one the id that git gives its content."""

    url: str
    size: int | None
    hash: str


class Unreachable(UserError):
    """The hub cannot be reached or does not deliver: no other repository on it needs to be tried."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(os.EX_UNAVAILABLE, message, remedy)


def _constants() -> Any:
    """huggingface_hub's constants, with its telemetry switched off for this process; it is asked at each request."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    return constants


def usual_patience() -> Patience:
    """HF_HUB_ETAG_TIMEOUT for an answer and HF_HUB_DOWNLOAD_TIMEOUT for a byte (10 s each), no limit in all."""
    constants = _constants()
    return Patience(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT, float("inf"), 3)


def ask(repo: str, revision: str, path: str, patience: Patience) -> Answer:
    """Look a file up, with a few tries at a hub that answers 5xx or 429.

    Raises UserError 77 (refused), 69 (the hub does not have it, or has a fault) and Unreachable.
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
            known = re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", found.etag or "")
            return Answer(found.location, found.size, known[0] if known else "")
    raise UserError(os.EX_UNAVAILABLE, f"{where}: the hub has a fault ({status})", "Try again in a few minutes.")


def _within(seconds: float, url: str) -> Any:
    """The metadata of `url`; raises Unreachable after `seconds`, whatever it hangs in.

    A thread, because a resolver has no timeout and each of a host's addresses has the whole timeout to itself.
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
    if isinstance(found, Exception):  # of the network, or of what the hub says
        what = printable(str(found))[:200] or type(found).__name__
        raise Unreachable(f"cannot reach {host}: {what}", remedy) from found
    return found


def receive(name: str, url: str, partial: Path, size: int, patience: Patience, progress: bool = False) -> None:
    """Append to `partial` until it has `size` bytes, through cuts and stalls, as long as each try brings something.

    Raises UserError 65 (more than `size` arrived; `partial` is emptied), 69 (the host refuses, or is not the hub's)
    and Unreachable; OSError for the disk. What has arrived stays in `partial`.
    """
    import httpx2

    began = time.monotonic()
    with partial.open("ab") as out, _progress(name, size, out.tell(), progress) as bar:
        tries, best, why = 0, out.tell(), ""
        while out.tell() < size:
            if tries == patience.attempts:
                raise Unreachable(f"{name}: {why}", "Run it again: the download is continued.")
            tries += 1
            why = "the connection broke off"
            try:
                with _open(url, out.tell(), patience) as response:
                    part = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
                    if response.status_code != 206 or not part or int(part[1]) != out.tell():
                        out.truncate(0)  # it sends the whole file, or says that nothing comes after this
                        out.seek(0)
                    bar.reset(size)
                    bar.update(out.tell())
                    before = out.tell()
                    # Raw bytes: no compression was requested, and a decompression bomb could expand without limit
                    for block in response.iter_raw() if response.status_code != 416 else ():
                        if out.tell() + len(block) > size:
                            out.truncate(0)
                            raise UserError(os.EX_DATAERR, f"{name}: more arrived than the {size} bytes announced")
                        out.write(block)
                        bar.update(len(block))
                        if _too_slow(time.monotonic() - began, out.tell() - before, size - out.tell(), patience):
                            remedy = "Run it again: the download is continued."
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
    """Whether the time is over, or will be before the rest has arrived; that is judged once `patience.answer` is over.

    seconds: since the download began; received, missing: bytes.
    """
    left = patience.total - seconds
    return left < 0 or (patience.answer < seconds and math.isfinite(left) and missing * seconds > received * left)


@contextlib.contextmanager
def _open(url: str, offset: int, patience: Patience) -> Iterator[httpx2.Response]:
    """GET `url` from byte `offset` on, following redirects as far as the hub's own hosts and no further."""
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
            what = f"the hub sends us to {_named(url)}, which is not a host of its own"
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
    """The host of `url` as a person is told it: without a password that may stand before it."""
    return printable((urlsplit(url).netloc or url).rpartition("@")[2])[:100]


def _progress(name: str, size: int, done: int, shown: bool) -> Any:
    """A progress bar on stderr; without `shown` one that shows nothing."""
    from tqdm import tqdm

    return tqdm(desc=name, total=size, initial=done, unit="B", unit_scale=True, disable=not shown, leave=False)
