"""What transcribe takes in: one recording, or, in a loop, one before each mark, wherever the pipe cuts the stream."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.pcm import MARK
from helpers.core.settings import Settings
from helpers.listen import pcm_stream
from helpers.listen.pcm_stream import PcmStream, Recording
from helpers.listen.record import without_mark


@contextmanager
def stdin(pieces: list[bytes | threading.Event]) -> Iterator[threading.Thread]:
    """Standard input is a pipe on which `pieces` arrive from a thread; an event is waited for."""
    reader, writer = os.pipe()
    before = os.dup(0)
    os.dup2(reader, 0)
    os.close(reader)

    def write() -> None:
        with os.fdopen(writer, "wb", buffering=0) as pipe:
            for piece in pieces:
                if isinstance(piece, threading.Event):
                    assert piece.wait(20)
                else:
                    pipe.write(piece)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(5)
        os.dup2(before, 0)
        os.close(before)


def heard(pieces: list[bytes | threading.Event], loop: bool = False) -> list[Recording]:
    with stdin(pieces):
        return list(PcmStream(loop).recordings())


def test_one_recording() -> None:
    assert heard([b"\1\2" * 5000, b"\3\4\5"]) == [Recording(b"\1\2" * 5000 + b"\3\4", True)]


def test_zeros_are_no_mark_outside_a_loop() -> None:
    assert heard([b"\1\2" + MARK + b"\3\4"]) == [Recording(b"\1\2" + MARK + b"\3\4", True)]


def test_a_pause_tells_what_is_there_so_far() -> None:
    told = threading.Event()
    with stdin([b"\1\2", told, b"\3\4"]):
        recordings = PcmStream(False).recordings()
        assert next(recordings) == Recording(b"\1\2", False)
        told.set()
        assert list(recordings) == [Recording(b"\1\2\3\4", True)]


@pytest.mark.parametrize("seed", range(5))
def test_marks_end_recordings_wherever_the_stream_is_cut(seed: int) -> None:
    source = random.Random(seed)
    said = [without_mark(source.choice([b"\0\1", b"\1\0", b"\0\0"]) * source.randint(1, 20_000)) for _ in range(6)]
    said[-1] = b"\5\6" * 7  # one that is not marked: the pipe ended
    stream = b"".join(one + MARK for one in said).removesuffix(MARK)
    cuts = sorted(source.randrange(len(stream)) for _ in range(60))
    pieces: list[bytes | threading.Event] = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    over = [one.pcm for one in heard(pieces, loop=True) if one.complete]
    # A zero at an end counts as part of the mark.
    assert [one.strip(b"\0") for one in over] == [one.strip(b"\0") for one in said]
    assert all(len(one) % 2 == 0 for one in over)


def test_nothing_is_an_error_and_after_a_mark_it_is_not() -> None:
    with pytest.raises(UserError) as raised:
        heard([], loop=True)
    assert raised.value.code == 65
    assert heard([b"\1\2", MARK], loop=True)[-1] == Recording(b"\1\2", True)


def test_more_than_is_taken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stage.begin("transcribe", Settings())
    monkeypatch.setattr(pcm_stream, "LONGEST", 1)
    over = [one for one in heard([b"\1\2" * 40_000, MARK, b"\3\4"], loop=True) if one.complete]
    assert [len(one.pcm) for one in over] == [32_000, 32_000, 16_000, 2]
    assert "transcribe: only the first" in capsys.readouterr().err


def test_zeros_before_the_last_mark_are_no_recording_after_it() -> None:
    said = without_mark(b"\1\2" * 100 + bytes(3000))
    assert [one.complete for one in heard([said + MARK], loop=True)] == [True]


def test_a_recording_does_not_depend_on_the_one_before() -> None:
    sound = b"\1\2" * 100
    streams = [sound + bytes(zeros) + MARK + sound + MARK for zeros in (0, 2, 300, 3000)]
    assert [[one.pcm.rstrip(b"\0") for one in heard([stream], loop=True)] for stream in streams] == [[sound] * 2] * 4


def test_half_a_sample_after_a_mark_is_no_recording() -> None:
    for rest in (b"\3", b"\0\0\3"):  # the mark is found in zeros before it, too, so some are left of it
        assert heard([b"\1\2" * 100 + MARK + rest], loop=True) == [Recording(b"\1\2" * 100, True)]


def test_what_never_ends_waits_until_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcm_stream, "LONGEST", 2)  # seconds of which one piece is half
    piece = b"\1" * 32000 + MARK
    with stdin([piece * 20]) as writer:
        listening = PcmStream(loop=True)
        writer.join(0.5)
        assert writer.is_alive()  # the pipe is full
        assert sum(one.complete for one in listening.recordings()) == 20
