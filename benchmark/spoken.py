"""The voices of this machine: what a recogniser hears, how natural an estimate finds them, their speed and memory.

Each prompt is said by every voice in turn, each in a process of its own. These are the programs of the machine, the
downloaded voices, and those that A2I_VOICE names (with commas between them).
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import speech
from benchmark.results import Results
from benchmark.spoken_prompts import PROMPTS
from benchmark.worker import Worker
from helpers.core import openvino
from helpers.core.errors import UserError
from helpers.core.pcm import RATE
from helpers.core.settings import Settings
from helpers.listen import recognisers
from helpers.speak import voices

# DNSMOS P.835 (Microsoft, MIT): the package speechmos has its network, sig_bak_ovr.onnx. It takes 9.01 s of sound (a
# shorter one is repeated); this polynomial turns the last of its three numbers into a score (speechmos/dnsmos.py).
_DNSMOS = "dnsmos_models/sig_bak_ovr.onnx"
_LENGTH = 144_160  # samples
_OVERALL = (-0.06766283, 1.11546468, 0.04602535)


def names(settings: Settings) -> list[str]:
    """The voices that are measured: those that speak English."""
    here = (voice.name for voice in voices.listed(voices.Request(models=settings.models)) if voice.here)
    asked = [*here, *(name for name in settings.voice.split(",") if name)]
    able = []
    for name in asked:
        with contextlib.suppress(UserError):
            if voices.choose(voices.Request(name, "en", settings.models)).language == "en":
                able.append(name)
    return able


def measure(results: Results, quick: bool, tick: Callable[[], object]) -> None:
    """Add the figures of this section."""
    settings = Settings.from_environment(names=["models", "whisper", "voice"])
    prompts = PROMPTS[:6] if quick else PROMPTS
    said: dict[str, list[dict[str, Any]]] = {name: [] for name in names(settings)}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="audio-to-image.")))
        workers = {name: stack.enter_context(Worker("voice", name=name)) for name in said}
        for number, prompt in enumerate(prompts):
            for place, (name, worker) in enumerate(workers.items()):
                path = folder / f"{place}-{number}.pcm"
                _, spoken = worker.ask("say", text=f"{prompt.text}.", path=str(path))
                said[name].append({**spoken, "pcm": path.read_bytes()})
                tick()
        for name, worker in workers.items():
            subject = f"voices / {title(name)}"
            about = "from the start of the process until it can speak; compiled before, if it is a network"
            results.add(f"{subject} / loading", "s", [worker.loaded], about)
            results.add(
                f"{subject} / first sound", "s", [one["first"] for one in said[name]], "its first piece of sound"
            )
            how = "time of speaking / length of the sound"
            results.add(f"{subject} / real-time factor", "", [one["factor"] for one in said[name]], how)
            results.add(f"{subject} / memory", "MB", [worker.ask("memory")[1]], "the peak of its process")
    request = recognisers.Request(settings.whisper, models=settings.models)
    with recognisers.load(request) as recogniser:
        for name, spoken in said.items():
            how = f"{len(prompts)} prompts, heard by {recogniser.name}"
            heard = [(one.text, text_of(recogniser, part["pcm"])) for one, part in zip(prompts, spoken, strict=True)]
            subject = f"voices / {title(name)}"
            results.add(f"{subject} / word error rate", "%", [100 * speech.errors(heard)], how)
            if scores := opinions([one["pcm"] for one in spoken]):
                about = "DNSMOS P.835 estimates what listeners would say, from 1 to 5; clean speech gets 3.3 at most"
                results.add(f"{subject} / estimated MOS", "", scores, about)
            tick()
    if not dnsmos():
        results.notes.append("voices: no estimated MOS, since the package speechmos is not installed")


def title(name: str) -> str:
    return Path(name).name if "/" in name else name


def text_of(recogniser: recognisers.Recogniser, pcm: bytes) -> str:
    silence = bytes(RATE)  # half a second, as a recording has around the words
    try:
        return recogniser.transcribe(silence + pcm + silence).text
    except UserError:  # not understood
        return ""


def dnsmos() -> Path | None:
    """The file of the network, if the package is here. The package itself is not imported: it needs librosa."""
    spec = importlib.util.find_spec("speechmos")
    folders = list((spec and spec.submodule_search_locations) or [])
    path = Path(folders[0], _DNSMOS) if folders else None
    return path if path and path.is_file() else None


def opinions(sounds: list[bytes]) -> list[float]:
    """The estimated overall score of each recording (s16le, 16 kHz); empty without the network."""
    path = dnsmos()
    if not path:
        return []
    network = openvino.compiled(lambda: openvino.runtime().Core().read_model(path), "dnsmos", path.stat().st_size)
    return [float(np.polyval(_OVERALL, network(window(pcm))[0].ravel()[2])) for pcm in sounds]


def window(pcm: bytes) -> NDArray[Any]:
    """Shape (1, 144160), values from -1 to 1."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    return np.resize(samples, _LENGTH)[None]
