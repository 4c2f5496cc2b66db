"""A process that holds one engine or recogniser and measures it on request. Compared programs thus share no memory,
threads or state, and only one of them works at a time.

    with Worker("engine", engine="openvino", folder="models/builtin") as ours:
        ours.loaded                          # seconds from the start of the process until it is ready
        seconds, _ = ours.ask("step")

The process is `python -m benchmark.worker KIND JSON`: a JSON line for each question, and one for each answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.pcm import BYTES_PER_SECOND, RATE
from helpers.core.settings import Settings
from helpers.core.text import printable

Actions = dict[str, Callable[..., Any]]
PROMPT = "a red heart on a blue background"
GUIDANCE = 7.5


class Worker:
    """The process, seen from outside. Raises: UserError 70 with its last message if it dies."""

    def __init__(self, kind: str, **spec: Any) -> None:
        self.kind = kind
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, "-m", "benchmark.worker", kind, json.dumps(spec)]
        began = time.monotonic()
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        try:
            self._answer()
        except UserError:
            self.close()
            raise
        self.loaded = time.monotonic() - began

    def ask(self, action: str, **how: Any) -> tuple[float, Any]:
        """Run an action once. Returns the seconds and the result."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # _answer reports why
            self._process.stdin.write(json.dumps([action, how]) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        return float(answer["seconds"]), answer["result"]

    def seconds(self, action: str, **how: Any) -> Callable[[], float]:
        """A function for `in_turn` that returns the seconds."""
        return lambda: self.ask(action, **how)[0]

    def _answer(self) -> Any:
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return json.loads(line)
        self._said.seek(0)
        lines = self._said.read().strip().splitlines() or ["it printed nothing"]
        what = f"the measured {self.kind} ended with {self._process.wait()}: {printable(lines[-1])}"
        raise UserError(os.EX_SOFTWARE, what, "\n  ".join(lines[-8:-1]))

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._said.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---- inside


def engine(engine: str, folder: str, precision: str = "", cache: str = "", low_memory: bool | None = None) -> Actions:
    """One of our engines, warmed up as generate does while somebody speaks. cache: the CPU engine's
    folder for compiled models, if not the default."""
    import numpy as np

    from helpers.draw import diffusion, engines

    usual = engines.defaults(Path(folder))
    options = engines.Options(low_memory, cache=Path(cache) if cache else None)
    loaded = engines.load(engine, Path(folder), options, guidance=usual.guidance > 1, precision=precision)
    loaded.warm()
    width, height = loaded.size
    batch = 2 if usual.guidance > 1 else 1  # guidance computes each step with and without the prompt
    shape = (batch, loaded.channels, height // loaded.factor, width // loaded.factor)
    latents = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    unwanted = loaded.encode_text(loaded.tokenizer.encode("").ids)

    def encoded(prompt: str) -> Any:
        return loaded.encode_text(loaded.tokenizer.encode(prompt).ids)

    texts = np.concatenate([unwanted, encoded(PROMPT)])[-batch:]

    def picture(steps: int, sampler: str | None = None, prompt: str = PROMPT, seed: int = 1) -> None:
        guidance = usual.guidance
        latents = diffusion.sample(
            loaded, encoded(prompt), unwanted, seed=seed, steps=steps, guidance=guidance, sampler=sampler
        )
        loaded.decode(latents)

    def shows(subject: str, background: str, steps: int, sampler: str, prompt: str, seed: int) -> dict[str, Any]:
        """Whether the picture is correct, and the seconds of drawing, without the judge's time."""
        from training.builtin.judge import judge
        from training.builtin.vocabulary import Scene, Subject

        began = time.perf_counter()
        how: dict[str, Any] = {"seed": seed, "steps": steps, "guidance": usual.guidance, "sampler": sampler}
        try:
            drawn = diffusion.draw(loaded, encoded(prompt), unwanted, **how)
        except diffusion.NoPicture:
            return {"right": False, "seconds": time.perf_counter() - began}
        seconds = time.perf_counter() - began
        return {"right": judge(drawn, Scene((Subject(subject),), background)).all, "seconds": seconds}

    return {
        "step": lambda: loaded.predict_noise(latents, 500, texts) is None,
        "decode": lambda: loaded.decode(latents[:1]) is None,
        "picture": picture,
        "shows": shows,
        "about": lambda: {"version": loaded.version, "precision": loaded.precision, "steps": loaded.defaults.steps},
    }


def quick_start(folder: str, precision: str = "f32", device: str = "cpu") -> Actions:
    """diffusers on PyTorch as in its quick start, with DDIM, which calls the UNet once per step."""
    import diffusers
    import torch

    from helpers.draw import engines

    types = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, dtype=types[precision], safety_checker=None)
    pipe = pipe.to(device)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    side = pipe.unet.config.sample_size
    guidance = engines.defaults(Path(folder)).guidance
    batch = 2 if guidance > 1 else 1
    latents = torch.randn(batch, pipe.unet.config.in_channels, side, side, dtype=types[precision], device=device)
    text, unwanted = pipe.encode_prompt(PROMPT, device, 1, True)
    texts = torch.cat([unwanted, text])[-batch:]

    def step() -> None:
        with torch.inference_mode():
            pipe.unet(latents, 500, texts)

    def decode() -> None:
        with torch.inference_mode():
            pipe.vae.decode(latents[:1] / pipe.vae.config.scaling_factor)

    def picture(steps: int) -> None:
        pipe(PROMPT, num_inference_steps=steps, guidance_scale=guidance, output_type="np")

    return {"step": step, "decode": decode, "picture": picture}


def arithmetic(precision: str) -> Actions:
    """PyTorch's peak speed on this CPU: a matrix product and a convolution of a UNet's size."""
    import torch

    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    a, b = (torch.randn(2048, 2048, dtype=kind) for _ in range(2))
    picture = torch.randn(2, 640, 32, 32, dtype=kind).to(memory_format=torch.channels_last)
    weight = torch.randn(640, 640, 3, 3, dtype=kind).to(memory_format=torch.channels_last)

    def convolution() -> float:
        with torch.inference_mode():
            torch.conv2d(picture, weight, padding=1)
        return 2 * 2 * 32 * 32 * 640 * 640 * 9 / 1e9

    def product() -> float:
        torch.mm(a, b)
        return 2 * 2048**3 / 1e9

    return {"product": product, "convolution": convolution}


def weights(folder: str) -> Actions:
    """Makes the model with Stable Diffusion 2.1's shapes, in its own process, so that its memory is free again."""
    import torch

    from benchmark import shapes

    shapes.make(Path(folder), shapes.SD21, "cpu", torch.float16)
    return {"arithmetic": lambda: shapes.arithmetic(shapes.SD21)}


def layers(folder: str, precision: str) -> Actions:
    """The CPU engine's UNet, compiled with timing of each layer."""
    import numpy as np

    from helpers.adapt.diffusers_folder import read_config, read_weights
    from helpers.core import openvino
    from helpers.draw.engines import openvino_graph

    ov, part = openvino.runtime(), Path(folder) / "unet"
    config = read_config(part / "config.json")
    side = config["sample_size"]
    length = read_config(Path(folder) / "text_encoder" / "config.json")["max_position_embeddings"]
    model = openvino_graph.unet(config, read_weights(part), 2, side, side, length)
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
    options |= {"ENABLE_CPU_PINNING": False, "EXECUTION_MODE_HINT": "ACCURACY" if precision == "f32" else "PERFORMANCE"}
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    inputs = [np.zeros(port.shape, port.element_type.to_dtype()) for port in request.model_inputs]

    def spent() -> dict[str, float]:
        request.infer(inputs)
        found: dict[str, float] = {}
        for layer in request.get_profiling_info():
            found[layer.node_type] = found.get(layer.node_type, 0.0) + layer.real_time.total_seconds()
        return found

    return {"spent": spent}


def recogniser(name: str) -> Actions:
    """A recogniser by its name in the catalogue, or `builtin`; it reads WAV files of 16 kHz."""
    from helpers.listen import audio, recognisers

    loaded = recognisers.load(recognisers.Request(name, models=Settings.from_environment(names=["models"]).models))
    model = loaded.__enter__()  # until this process ends

    def write_down(path: str) -> dict[str, Any]:
        pcm = audio.decode(path, 600)
        began = time.perf_counter()
        try:
            text = model.transcribe(pcm).text
        except UserError:  # not understood
            text = ""
        return {
            "text": text,
            "seconds": time.perf_counter() - began,
            "length": len(pcm) / BYTES_PER_SECOND,
        }

    return {"hear": write_down}


def voice(name: str) -> Actions:
    """A voice by its name; what it says is written as PCM (s16le, 16 kHz, mono)."""
    from helpers.speak import voices
    from helpers.speak.loudness import resampled
    from helpers.speak.voice import speakable

    models = Settings.from_environment(names=["models"]).models
    loaded = voices.load(voices.Request(name, "en", models))

    def say(text: str, path: str) -> dict[str, float]:
        began = time.perf_counter()
        pieces = loaded.say(speakable(text))
        sound = next(pieces)
        first = time.perf_counter() - began
        sound += b"".join(pieces)
        spent = time.perf_counter() - began
        Path(path).write_bytes(resampled(sound, loaded.rate, RATE))
        return {"first": first, "factor": spent / (len(sound) / 2 / loaded.rate)}

    return {"say": say}


def peak_memory() -> float:
    """Peak memory of this process and its children, in MB."""
    import resource

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    status = Path("/proc/self/status")  # on Linux getrusage also counts the parent that forked this process
    if status.exists():
        own = next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    listed = subprocess.run(["ps", "-A", "-o", "ppid=,rss="], capture_output=True, text=True, check=False).stdout
    rows = [line.split() for line in listed.splitlines()]
    return (own + 1024 * sum(int(size) for parent, size in rows if int(parent) == os.getpid())) / 1e6


def anonymous_memory() -> float | None:
    """MB of this process that no file is mapped to; None where the system does not say."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon"))
    return None


KINDS: dict[str, Callable[..., Actions]] = {
    "engine": engine,
    "quick start": quick_start,
    "arithmetic": arithmetic,
    "layers": layers,
    "weights": weights,
    "recogniser": recogniser,
    "voice": voice,
}


def main(argv: list[str] | None = None) -> int:
    kind, spec = argv or sys.argv[1:]
    pipe = stage.take_stdout()

    def answer(**result: Any) -> None:
        pipe.write(json.dumps(result).encode() + b"\n")
        pipe.flush()

    actions = KINDS[kind](**json.loads(spec)) | {"memory": peak_memory, "anonymous": anonymous_memory}
    answer()
    for line in sys.stdin:
        action, how = json.loads(line)
        began = time.perf_counter()
        result = actions[action](**how)
        answer(seconds=time.perf_counter() - began, result=result)
    return 0


if __name__ == "__main__":
    stage.run("worker", main)
