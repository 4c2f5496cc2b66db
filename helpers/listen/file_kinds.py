"""What a file is that FFmpeg takes no sound from, by its first bytes; and WAV files that say less than they have."""

from __future__ import annotations

import re
from pathlib import Path

_HEAD = 4096  # bytes that are looked at
_WAV_HEADER = 44  # bytes; what follows the data without a name is sound if it is longer than this

_SOUND = "Give a file with a voice in it."
_PICTURE = "To draw a picture of this program again, give it with --again. Here, give a file with a voice in it."
_TEXT = 'To draw a text, use --prompt "TEXT". Here, give a file with a voice in it.'
_LIST = "Playlists are not followed: give the sound itself."

# (how a file begins, what it is, what to do)
_KINDS = [
    (r"\xff\xd8\xff|\x89PNG|GIF8|BM....\0\0\0\0|II\*\0|MM\0\*", "a picture", _PICTURE),
    (r"RIFF....WEBP|....ftyp(?:hei[cx]|mif1|avif)", "a picture", _PICTURE),
    (r"(?:\xef\xbb\xbf)?\s*(?:#EXTM3U|\[playlist\]|ffconcat|<asx|<MPD)", "a playlist", _LIST),
    (r"(?:\xef\xbb\xbf)?\s*<\?xml[^>]*>\s*<(?:MPD|playlist|smil)", "a playlist", _LIST),
    (r"version https://git-lfs", "the pointer of a file that Git LFS has not fetched", "Fetch the file: git lfs pull"),
    (r"%PDF-", "a PDF document", _SOUND),
    (r"\s*<(?:!doctype html|html)", "a web page", "The download went wrong: fetch the file itself."),
    (r"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!|\xfd7zXZ|BZh", "an archive", "Unpack it, and give a file of it."),
    (r"SQLite format 3", "a database, as Audacity's projects are", "Export the sound from it, as WAV for example."),
    (r"MThd", "a MIDI file: notes, and no sound", _SOUND),
    (r"\x7fELF|\xcf\xfa\xed\xfe|MZ", "a program", _SOUND),
]


def describe(file: Path) -> tuple[str, str] | None:
    """What a file without sound is, and what to do about it; None if its first bytes do not say it."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
    except (OSError, ValueError):
        return None
    start = head.decode("latin-1")
    for pattern, what, remedy in _KINDS:
        if re.match(pattern, start, re.IGNORECASE | re.DOTALL):
            return what, remedy
    if head and not re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", head) and _is_utf8(head):
        return "a text", _TEXT
    return None


def _is_utf8(head: bytes) -> bool:
    try:
        head[:-3].decode()
    except UnicodeDecodeError:
        return False
    return True


def says_too_little(file: Path) -> bool:
    """Whether the header of a WAV file gives its data a size after which neither a chunk nor the end follows.

    A recorder that was killed leaves the size of the first seconds. FFmpeg then reads these only.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(4) != b"RIFF" or stream.read(8)[4:] != b"WAVE":
                return False
            end = stream.seek(0, 2)
            place, after_data = 12, False
            while place + 8 <= end:
                stream.seek(place)
                header = stream.read(8)
                size = int.from_bytes(header[4:], "little")
                if not re.fullmatch(rb"[A-Za-z0-9_ ]{4}", header[:4]):
                    return after_data and end - place > _WAV_HEADER
                after_data = header[:4] == b"data"
                place += 8 + size + size % 2
    except (OSError, ValueError):
        pass
    return False
