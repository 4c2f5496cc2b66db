"""The last stage: a line of text on stdin is a prompt, a picture in a folder of its own, and a path on stdout.

The model is loaded while the line is still being spoken; when it arrives, only the sampling is left.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import os
import queue
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import __version__
from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.settings import LARGEST_SEED, Settings, add_options
from helpers.core.text import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from helpers.draw.engines import Array, Engine

NAME = "generate"
AHEAD = 100  # lines that may wait to be drawn; who sends more has to wait as well


@dataclass(frozen=True)
class Model:
    """An image model on disk: what the user calls it, its folder (diffusers' or Apple's layout), and its engine."""

    name: str
    folder: Path
    engine: str

    def sha256(self) -> str:
        """The sha256 of the UNet's weights, which is what tells two checkpoints apart."""
        digest = hashlib.sha256()
        for path in sorted([*self.folder.glob("unet/*.safetensors"), *self.folder.glob("Unet*/**/weight.bin")]):
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of `prompt` that a model with a closed vocabulary (`words.txt`) has never seen, in order."""
        path = self.folder / "words.txt"
        if not path.is_file():
            return []
        known = set(path.read_text(encoding="utf-8").split())
        words = re.findall(r"[^\W_]+(?:['’][^\W_]+)*", prompt.casefold().replace("’", "'"))
        return list(dict.fromkeys(word for word in words if word not in known))


def choose_model(name: str) -> Model:
    """The model a user names: a folder, or a name of the catalogue; "" is the best one for this machine. Where that is
    not on disk, the built-in one.

    Raises: UserError 64 for a name that nobody knows, 66 for a folder that is not there, 69 for a model that another
    kind of machine computes.
    """
    from helpers.catalog import catalog
    from helpers.draw import engines
    from helpers.draw.engines import nvidia

    here = engines.available()
    if not stage.setting("ENGINE") and (advice := nvidia.advice()):
        stage.say(f"{NAME}: {advice}")
    if os.sep in name:
        folder = Path(name).expanduser().resolve()
        if not folder.is_dir():
            raise UserError(os.EX_NOINPUT, f"there is no model folder {name}")
        possible = engines.engines_of(folder)
        if not set(here) & set(possible):
            message = f"{name} is computed by {' or '.join(possible)}, which is not on this machine"
            raise UserError(os.EX_UNAVAILABLE, message, "Leave --model out to draw with what is here.")
        return Model(printable(folder.name), folder, next(engine for engine in here if engine in possible))
    entry = catalog.find(name) if name else catalog.default(role(here[0]))
    if entry.kind != "image":
        raise UserError(os.EX_USAGE, f"{name} draws no pictures: it is a {entry.kind} model")
    if not set(here) & set(entry.engines):
        message = f"{name} is computed by {' or '.join(entry.engines)}, which is not on this machine"
        raise UserError(os.EX_UNAVAILABLE, message, f"Models for {here[0]}: ./download_model.py list")
    if problem := entry.problem():
        stage.say(
            f"{NAME}: {entry.name} is {problem}, the built-in model draws; ./download_model.py {entry.name} gets it"
        )
        entry = catalog.default("openvino")
    return Model(entry.name, entry.path, next((engine for engine in here if engine in entry.engines), "openvino"))


def role(engine: str) -> str:
    """The catalogue's role for the pictures of this machine."""
    if engine == "coreml":
        from helpers.core import system

        return "coreml-gpu" if system.machine().has_big_gpu else "coreml"
    return engine


def lines() -> queue.Queue[str | Exception | None]:
    """Read stdin in a thread from now on: each line of text, then None, or what went wrong; some lines ahead."""
    arrived: queue.Queue[str | Exception | None] = queue.Queue(AHEAD)

    def read() -> None:
        try:
            for line in stage.lines():
                arrived.put(line)
            arrived.put(None)
        except Exception as error:
            arrived.put(error)

    threading.Thread(target=read, daemon=True).start()
    return arrived


def parameters(run: dict[str, Any], seed: int) -> str:
    """The text that image tools read from the `parameters` chunk of a PNG."""
    negative = f"\nNegative prompt: {run['negative_prompt']}" if run["negative_prompt"] else ""
    return (
        f"{run['prompt']}{negative}\nSteps: {run['steps']}, Sampler: {run['sampler']}, "
        f"CFG scale: {run['guidance']:g}, Seed: {seed}, Size: {run['size']}, "
        f"Model hash: {run['model']['sha256'][:10]}, Model: {run['model']['name']}, "
        f"Version: audio-to-image {__version__}"
    )


def png(pixels: NDArray[np.uint8], text: str) -> bytes:
    """A PNG of `pixels` (uint8, (height, width, 3)) with `text` as its parameters; the same input, the same bytes."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    chunks, file = PngInfo(), io.BytesIO()
    chunks.add_itxt("parameters", text)
    # Level 2 is there 10 ms before level 4 (512×512, 14 and 25 ms), and a tenth larger
    Image.fromarray(pixels).save(file, "PNG", pnginfo=chunks, compress_level=2)
    return file.getvalue()


def say_what_is_lost(model: Model, prompt: str, cut: str) -> None:
    """Name the words of `prompt` that the picture cannot show, on one line each kind."""

    def some(words: list[str]) -> str:
        return " ".join(words[:8]) + (f" … ({len(words)} words)" if len(words) > 8 else "")

    if cut:
        stage.say(f"{NAME}: the prompt is longer than {model.name} reads; cut: {some(cut.split())}")
    if unknown := model.unknown_words(prompt.removesuffix(cut)):
        stage.say(f"{NAME}: words that {model.name} does not know: {some(unknown)}")


def draw(
    engine: Engine,
    prompt: str,
    unwanted: Array | None,
    run: dict[str, Any],
    taken: Callable[[NDArray[np.uint8]], bool] | None = None,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Draw run["count"] pictures of `prompt`, each with the next seed: (seed, pixels).

    taken: whether a safety filter takes a picture, which is then left out. Raises NoPicture when none is left, or for
    one that is black or the like.
    """
    from tqdm import tqdm

    from helpers.draw import diffusion

    text = engine.encode_text(engine.tokenizer.encode(prompt).ids)
    seeds = [(run["seed"] + number) % (LARGEST_SEED + 1) for number in range(run["count"])]
    lost, hidden = 0, stage.is_set("QUIET") or stage.is_set("LOOP") or not sys.stderr.isatty()  # record has the line
    with tqdm(total=run["steps"] * len(seeds), desc="drawing", unit="step", leave=False, disable=hidden) as bar:
        how = {key: run[key] for key in ("steps", "guidance", "sampler")}
        while seeds:
            some, seeds = seeds[: engine.pictures], seeds[engine.pictures :]
            how["on_step"] = functools.partial(lambda done, *_: bar.update(done), len(some))
            for seed, latents in zip(some, diffusion.sample(engine, text, unwanted, seed=some, **how), strict=True):
                pixels = diffusion.pixels(engine.decode(latents[None]), engine.precision)
                if taken and taken(pixels):
                    lost += 1
                else:
                    yield seed, pixels
    if lost == run["count"]:
        raise diffusion.FilteredPicture
    if lost:
        stage.say(f"{NAME}: the safety filter took {lost} of {run['count']} pictures")


def transcript(number: int) -> str:
    """Line `number`, from 1, of what the recogniser wrote in the running pipe; empty without one."""
    folder = stage.session()
    if not folder or not (folder / "transcript.txt").is_file():
        return ""
    written = (folder / "transcript.txt").read_bytes().split(b"\n")  # a line ends nowhere else in the pipe
    return printable(written[number - 1].decode(errors="replace")) if number <= len(written) else ""


def keep(run: dict[str, Any], number: int, pictures: Iterable[tuple[int, NDArray[np.uint8]]]) -> dict[str, Any]:
    """Put the pictures of line `number`, each as it is drawn, and everything about them into a folder of their own.

    Returns run.json's content with the final paths.
    """
    from helpers.draw.run_folder import RunFolder, timeline

    with RunFolder(time.time()) as folder:
        run["pictures"] = []
        for index, (seed, pixels) in enumerate(pictures, 1):
            name = "image.png" if index == 1 else f"image-{index}.png"
            folder.write(name, png(pixels, parameters(run, seed)))
            run["pictures"].append({"file": name, "seed": seed})
        stage.event("drawn", number=number)
        if run["transcript"]:
            folder.write("transcript.txt", run["transcript"] + "\n")
        folder.write("prompt.txt", run["prompt"] + "\n")
        recording = (stage.session() or folder.path / "none") / f"recording-{number}.wav"
        if recording.is_file():
            folder.take(recording, "prompt.wav")
        run["seconds"] = timeline(number)
        run["exit_code"] = 0
        folder.write("run.json", json.dumps(run, indent=2, ensure_ascii=False) + "\n")
        final = folder.finish(run["prompt"])
    paths = [str(final / picture["file"]) for picture in run["pictures"]]
    return {**run, "folder": str(final), "paths": paths}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = stage.Parser(
        prog="python -m helpers.draw.generate", description="Draw each line of stdin; print each picture's path."
    )
    names = ("model", "steps", "seed", "guidance", "sampler", "negative", "size", "count", "precision", "safe")
    add_options(parser, Settings.from_environment(), *names)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    pipe = stage.take_stdout()
    arrived = lines()
    from helpers.draw import engines, safety
    from helpers.draw.diffusion import NoPicture

    model = choose_model(arguments.model)
    taken = safety.load(model.folder) if arguments.safe else None
    digest = ThreadPoolExecutor(1).submit(model.sha256)  # while the model loads
    usual = engines.defaults(model.folder).guidance
    guidance = usual if arguments.guidance is None else arguments.guidance
    engine = engines.load(
        model.engine, model.folder, size=arguments.size, guidance=guidance > 1, precision=arguments.precision
    )
    negative = printable(arguments.negative)
    unwanted = engine.encode_text(engine.tokenizer.encode(negative).ids) if guidance > 1 else None
    if arrived.empty():
        engine.warm(arguments.count)
    stage.event("ready")

    drawn, failure = False, None
    prompts: Iterator[str | Exception] = iter(arrived.get, None)
    for number, prompt in enumerate(prompts, 1):
        if isinstance(prompt, Exception):
            raise prompt
        if not prompt:
            continue
        stage.event("prompt", number=number)
        waiting = sum(map(bool, tuple(arrived.queue)))
        stage.say(f"drawing: {prompt}" + (f" ({waiting} more to draw)" if waiting else ""))
        say_what_is_lost(model, prompt, engine.tokenizer.encode(prompt).cut)
        run: dict[str, Any] = {
            "version": __version__,
            "prompt": prompt,
            "transcript": transcript(number),
            "negative_prompt": negative,
            "seed": secrets.randbelow(LARGEST_SEED + 1) if arguments.seed is None else arguments.seed,
            "count": arguments.count,
            "steps": arguments.steps or engine.defaults.steps,
            "guidance": guidance,
            "sampler": arguments.sampler or engine.defaults.sampler,
            "size": "x".join(map(str, engine.size)),
            "model": {"name": model.name, "sha256": digest.result()},
            "engine": {"name": engine.name, "version": engine.version, "precision": engine.precision},
            "language": stage.setting("LANGUAGE", "en"),
        }
        try:
            result = keep(run, number, draw(engine, prompt, unwanted, run, taken))
        except NoPicture as error:  # no reason to give up the other lines
            if stage.is_set("LOOP"):
                stage.say(f"{NAME}: {error.message}")
            failure = failure or error
            continue
        output = json.dumps(result) if stage.is_set("JSON") else "\n".join(result["paths"])
        pipe.write(os.fsencode(f"{output}\n"))  # a folder's name may be no UTF-8
        pipe.flush()
        drawn = True
    if failure and not stage.is_set("LOOP"):
        raise failure
    if not (drawn or stage.is_set("LOOP")):
        remedy = "printf 'a burger\\n' | python -m helpers.draw.generate"
        raise UserError(os.EX_DATAERR, "no prompt arrived on stdin", remedy)
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
