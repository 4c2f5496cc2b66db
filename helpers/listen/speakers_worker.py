"""The process in which pyannote.audio runs: `python -m helpers.listen.speakers_worker FOLDER`.

PCM (s16le, 16 kHz, mono) on stdin; on stdout the turns as JSON: [[begin, end, label], …], in seconds, without overlap.
FOLDER is the model: config.yaml and what it names. `speakers.py` sets the environment.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

from helpers.core.pcm import RATE


def diarise(pcm: bytes, folder: str) -> list[tuple[float, float, str]]:
    """Who speaks when: (begin, end, label)."""
    import numpy as np

    warnings.simplefilter("ignore")  # of torchcodec, which is not needed: the sound is decoded already
    import torch
    from pyannote.audio import Pipeline
    from pyannote.audio.core.task import Problem, Resolution, Specifications

    # What a checkpoint of pyannote.audio holds besides tensors
    torch.serialization.add_safe_globals([Problem, Resolution, Specifications, torch.torch_version.TorchVersion])
    pipeline: Any = Pipeline.from_pretrained(folder)
    if torch.cuda.is_available():
        pipeline.to(torch.device("cuda"))
    sound = np.frombuffer(pcm, np.int16).astype(np.float32) / 32768
    found = pipeline({"waveform": torch.from_numpy(sound)[None], "sample_rate": RATE}).exclusive_speaker_diarization
    return [(turn.start, turn.end, label) for turn, _, label in found.itertracks(yield_label=True)]


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr  # stdout is for the answer alone
    json.dump(diarise(sys.stdin.buffer.read(), sys.argv[1]), out)
