"""Listening that outlasts its microphone: it is opened again when it went away, and after the computer has slept."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Generator

from helpers.core.errors import UserError

log = logging.getLogger(__name__)

LONGEST = 300.0  # seconds that a microphone may be away: to charge it or to find a cable, not to forget it
EVERY = 1.0  # seconds between two tries
# A microphone gives sound, or an empty chunk, every 0.1 s. So after this many seconds without either, it was this
# program that stood still: it was stopped, or the whole computer was.
STOOD_STILL = 1.0
_LONGEST_TRY = 10.0  # seconds of a try that count; it takes longer only if the program is stopped meanwhile


def listen_on(
    listen: Callable[[str, Callable[[], bool]], Generator[bytes, None, None]], name: str, stopped: Callable[[], bool]
) -> Generator[bytes | None, None, None]:
    """Like `listen`, which is microphone.listen, but it ends only when `stopped()`. Where it yields None, sound is
    missing: the microphone called `name` (empty: the default of that moment) is opened again. Nothing is heard of the
    time in which this program was stopped.

    Raises: what `listen` raises before the first sample; UserError 69 when the microphone stays away.
    """
    ever = told = False
    away = 0.0  # seconds
    while True:
        began = seen = time.monotonic()
        arrived = False
        try:
            with contextlib.closing(listen(name, stopped)) as chunks:
                for chunk in chunks:
                    seen = time.monotonic()
                    if chunk:
                        ever = arrived = True
                    yield chunk
        except UserError:
            if not ever:
                raise
        if stopped():
            return
        if arrived:
            stood_still = time.monotonic() > seen + STOOD_STILL
            yield None
            told, away, began = False, 0.0, time.monotonic()
            if stood_still:
                continue
        if not told:
            told = True
            log.warning("the microphone went away; listening goes on when it is back (within %g minutes)", LONGEST / 60)
        for _ in range(10):
            time.sleep(EVERY / 10)
            if stopped():
                return
        away += min(time.monotonic() - began, _LONGEST_TRY)
        if away >= LONGEST:
            what = f"the microphone went away, and did not come back within {LONGEST / 60:g} minutes"
            raise UserError(os.EX_UNAVAILABLE, what, "Connect it, and start again.")
