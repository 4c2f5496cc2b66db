"""The tracks and channels of a file, and the choice of one where nobody speaks in the usual mix.

FFmpeg decodes one track, and mixes its channels to one. That loses the voice where a lead inverts one of two channels
(they cancel each other), where the first track is silent and the microphone has the second one (OBS writes such
files), and where FFmpeg has no rule for so many channels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from helpers.core.pcm import SILENCE_DBFS, loudest_dbfs

MOST = 64  # parts that are looked at; each costs about 0.1 s

# [info]   Stream #0:1[0x2](eng): Audio: aac (LC) (mp4a / 0x6134706D), 48000 Hz, stereo, fltp, 2 kb/s (default)
_TRACK = re.compile(r"^\[info\] +Stream #0:(\d{1,5})[^ ]*: Audio: (.*?)\d Hz, ([^,\n]+)", re.MULTILINE)
_PROTECTED = re.compile(r"\((?:drms|enca) /")  # iTunes' songs, and Common Encryption
_CHANNELS = {"mono": 1, "stereo": 2, "downmix": 2, "quad": 4, "hexagonal": 6, "octagonal": 8, "cube": 8}


class Track(NamedTuple):
    """A track with sound: its number among the streams of the file, the number of its channels, and whether it is
    encrypted."""

    stream: int
    channels: int
    protected: bool = False


class Part(NamedTuple):
    """One channel of a track of a file, or all of its channels mixed; the default is what FFmpeg takes by itself."""

    stream: int | None = None
    channel: int | None = None


WHOLE = Part()


def read(log: str) -> list[Track]:
    """The tracks that FFmpeg lists in its log (`-loglevel level+info`)."""
    inputs = log.partition("Output #0")[0]
    return [
        Track(int(stream), _channels(layout.strip()), bool(_PROTECTED.search(codec)))
        for stream, codec, layout in _TRACK.findall(inputs)
    ]


def _channels(layout: str) -> int:
    """How many channels `stereo`, `5.1(side)`, `32 channels` … have; 2 for one that we do not know."""
    if found := re.match(r"(\d{1,4}) channels", layout):
        return int(found[1])
    if found := re.match(r"(\d{1,2})\.(\d)(?:\.(\d))?", layout):
        return sum(map(int, filter(None, found.groups())))
    return _CHANNELS.get(layout.partition("(")[0], 2)


def parts(tracks: list[Track]) -> list[Part]:
    """What a file may hold beside the usual mix: the mix of each track where there are several, and each channel."""
    mixes = [Part(track.stream) for track in tracks if len(tracks) > 1]
    singles = [
        Part(track.stream, channel)
        for track in tracks
        for channel in range(min(track.channels, MOST) if track.channels > 1 else 0)
    ]
    return (mixes + singles)[:MOST]


def choose(
    candidates: Iterable[Part], decode: Callable[[Part], bytes], is_spoken: Callable[[bytes], bool]
) -> tuple[Part | None, bool, bytes]:
    """The part in which somebody speaks, the loudest of several, True, and its PCM; else the loudest one that is not
    silent, False, and its PCM; else (None, False, b"")."""
    best: tuple[tuple[bool, float], Part | None, bytes] = ((False, SILENCE_DBFS), None, b"")
    for part in candidates:
        pcm = decode(part)
        if (level := loudest_dbfs(pcm)) > SILENCE_DBFS and (rank := (is_spoken(pcm), level)) > best[0]:
            best = rank, part, pcm
    return best[1], best[0][0], best[2]


def describe(part: Part, tracks: list[Track]) -> str:
    """`track 2`, `channel 1`, or `channel 1 of track 2`, counted from 1."""
    number = [track.stream for track in tracks].index(part.stream or 0) + 1
    track = f"track {number}" if len(tracks) > 1 else ""
    if part.channel is None:
        return track
    return f"channel {part.channel + 1}" + (f" of {track}" if track else "")
