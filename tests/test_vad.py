"""The voice activity detector against Silero's own ONNX file, and what is cut out of a stream with it."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openvino
import pytest
import recordings
from recordings import Recording

from helpers.core.errors import UserError
from helpers.listen import vad
from helpers.listen.endpointing import Endpointer, is_spoken

SECOND = 32_000  # bytes
CHUNK = SECOND // 10


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    return list(recordings.with_speech(tmp_path_factory.mktemp("voices")))


def test_the_same_as_the_onnx_file(speech: list[Recording]) -> None:
    found = importlib.util.find_spec("silero_vad")
    if not found or not found.origin:
        pytest.skip("needs silero-vad")
    core = openvino.Core()
    model = core.read_model(Path(found.origin).with_name("data") / "silero_vad_openvino_16k.onnx")
    request = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    samples = np.frombuffer(speech[2].pcm, "<i2").astype(np.float32) / 32768
    state, expected = np.zeros((2, 1, 128), np.float32), []
    context: vad.Array = np.zeros((1, vad.CONTEXT), np.float32)
    for start in range(0, len(samples) // vad.FRAME * vad.FRAME, vad.FRAME):
        heard = np.concatenate([context, samples[None, start : start + vad.FRAME]], axis=1)
        context = heard[:, -vad.CONTEXT :]
        probability, following = request.infer({"input": heard, "state": state}).values()
        expected.append(probability.item())
        state = following.copy()
    assert max(expected) > 0.9
    assert np.abs(vad.Detector().feed(speech[2].pcm) - expected).max() < 1e-4


def test_pieces_of_any_length_are_one_stream(speech: list[Recording]) -> None:
    detector, pcm, at = vad.Detector(), speech[0].pcm, 0
    heard: list[float] = []
    for length in np.random.default_rng(0).integers(0, 3000, 400):
        heard += detector.feed(pcm[at : at + 2 * length]).tolist()
        at += 2 * length
    assert np.allclose(heard, vad.Detector().feed(pcm)[: len(heard)], atol=1e-5)


def test_weights_that_are_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vad._weights.cache_clear()
    monkeypatch.setattr(vad, "WEIGHTS", tmp_path / "gone")
    with pytest.raises(UserError) as raised:
        vad.Detector()
    assert (raised.value.code, raised.value.remedy) == (69, "Get it back: git restore models/silero_vad")


def cut(pcm: bytes, silence: float) -> Iterator[tuple[float, float, float]]:
    """The utterances in `pcm`: (first second that was sent, last one, when it was known to be over)."""
    endpointer, said, first = Endpointer(silence), 0, 0.0
    for end in range(CHUNK, len(pcm) + 1, CHUNK):
        for piece in endpointer.feed(pcm[end - CHUNK : end]):
            if piece and not said:
                at = pcm.index(piece)
                first = at / SECOND
            said += len(piece or b"")
            if piece is None:
                yield first, first + said / SECOND, end / SECOND
                said = 0
    if said:
        yield first, first + said / SECOND, len(pcm) / SECOND


@pytest.mark.slow
def test_the_end_is_found_in_time_and_no_word_is_cut(speech: list[Recording]) -> None:
    late = []
    for recording in speech:
        found = list(cut(recording.pcm, 0.8))
        assert len(found) == 1, recording.name
        ((first, last, known),) = found
        assert first <= recording.begins, f"the first syllable is lost: {recording.name}"
        assert last >= recording.ends - 0.02, f"the last word is cut: {recording.name}"
        late += [recording.name] * (known > recording.ends + 1.2)
    assert len(late) <= 5, late


@pytest.mark.slow
def test_where_nobody_speaks_nothing_is_heard(size: Callable[[int, int], int]) -> None:
    for recording in itertools.islice(recordings.without_speech(), size(32, 100)):  # eight kinds in turn
        assert not is_spoken(recording.pcm), recording.name


@pytest.mark.slow
def test_what_was_cut_out_is_speech_again(speech: list[Recording]) -> None:
    for recording in speech[::5]:
        said = b"".join(filter(None, Endpointer(0.8).feed(recording.pcm)))
        assert is_spoken(said), recording.name


def test_a_pause_is_not_sent_before_speech_goes_on(speech: list[Recording]) -> None:
    first, second = (speech[number].pcm for number in (0, 15))
    words = first[: int(speech[0].ends * 16_000) * 2]
    endpointer = Endpointer(9.0)
    sent = b"".join(filter(None, endpointer.feed(words + bytes(SECOND))))
    assert endpointer.speaking
    assert not b"".join(filter(None, endpointer.feed(bytes(SECOND))))
    sent += b"".join(filter(None, endpointer.feed(second)))
    assert len(sent) > 3 * SECOND and sent in words + bytes(2 * SECOND) + second  # the pause came with what followed


def test_an_utterance_that_never_ends_is_cut(speech: list[Recording]) -> None:
    endpointer = Endpointer(0.8, longest=1.0)
    pieces = list(endpointer.feed(speech[0].pcm))
    assert None in pieces
    assert sum(map(len, filter(None, pieces[: pieces.index(None)]))) <= 2 * SECOND
