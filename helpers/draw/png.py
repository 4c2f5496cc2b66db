"""Write a picture as a PNG with its settings, and read them back: `encode(picture)` and `read_job(file)`.

The settings are a text chunk called `parameters` in the format of AUTOMATIC1111's web UI
(its modules/infotext_utils.py), which most image tools read:

    a red heart
    Negative prompt: a dog
    Steps: 20, Sampler: dpm++, CFG scale: 7.5, Seed: 5, Size: 512x512, Model hash: 6ce0161689, Model: builtin, …
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.adapt.diffusers_folder import plain
from helpers.core.errors import UserError
from helpers.core.settings import OPTIONS, Adapter
from helpers.core.text import printable
from helpers.draw.diffusion import VARIED
from helpers.draw.job import Job
from helpers.draw.tones import TONES
from helpers.words import emphasis, prompt_syntax

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from helpers.draw.job import Picture

HASH_DIGITS = 10  # of the model's SHA-256, as other programs write it
MOST_TONES = 100
_PROGRAM = "audio-to-image"
_NEGATIVE = "Negative prompt:"
_VALUE = re.compile(r'\s*(\w[\w /-]{0,60}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_BOTH = "prompt and negative"
_FEWEST = 3  # values on the line of settings; a line with fewer is part of the prompt
# The web UI's names of our samplers
_SAMPLERS = {"dpm++ 2m": "dpm++", "euler a": "euler-ancestral"}


def encode(picture: Picture) -> bytes:
    """The PNG of a picture with its settings."""
    return write(picture.pixels, parameters(picture))


def parameters(picture: Picture) -> str:
    """The settings of a picture as the text of its `parameters` chunk."""
    job = picture.job
    width, height = job.size or picture.pixels.shape[1::-1]
    values = {
        "Steps": job.steps,
        "Sampler": job.sampler,
        "CFG scale": _number(job.guidance or 0.0),
        "Seed": picture.seed,
        "Size": f"{width}x{height}",
        "Model hash": job.sha256[:HASH_DIGITS],
        "Model": job.model,
        **({"VAE": job.decoder} if job.decoder not in ("", "full") else {}),
        **({"Precision": job.precision} if job.precision else {}),
        **({"Variation seed": job.variation, "Variation seed strength": VARIED} if job.variation is not None else {}),
        **({"Tones": " ".join(job.tones)} if job.tones else {}),
        **({"Lora hashes": ", ".join(f"{_stem(one)}: {one.sha256}" for one in job.loras)} if job.loras else {}),
        **({"Plain prompt": ordinary} if (ordinary := _ordinary(job)) else {}),
        "Version": f"{_PROGRAM} {picture.version}",
    }
    settings = ", ".join(f"{key}: {_quoted(str(value))}" for key, value in values.items())
    prompt = emphasis.escaped(job.prompt) if ordinary else job.prompt
    unwanted = emphasis.escaped(job.negative) if ordinary == _BOTH else job.negative
    negative = f"\n{_NEGATIVE} {unwanted}" if job.negative else ""
    tags = "".join(f" <lora:{_stem(one)}:{_number(one.weight)}>" for one in job.loras)
    return f"{prompt}{tags}{negative}\n{settings}"


def write(pixels: NDArray[np.uint8], text: str) -> bytes:
    """A PNG of `pixels` (uint8, (height, width, 3)) with `text` as its parameters; deterministic."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    chunks, file = PngInfo(), io.BytesIO()
    chunks.add_itxt("parameters", text)
    # Level 2 takes 14 ms for 512×512, level 4 takes 25 ms; the file is a tenth larger
    Image.fromarray(pixels).save(file, "PNG", pnginfo=chunks, compress_level=2)
    return file.getvalue()


def read_job(file: Path) -> Job:
    """The job that draws the picture in `file` again: one picture, with its seed. Settings not in the file are None.

    Raises: UserError 66 for a file that cannot be read, 65 for one without settings or with invalid ones.
    """
    from PIL import Image

    name = printable(file.name)
    try:
        stream = plain(file).open("rb")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(os.EX_NOINPUT, f"cannot read {name}: {why}") from error
    with stream:
        try:
            info = Image.open(stream, formats=["PNG"]).info
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(os.EX_DATAERR, f"{name} is not a PNG picture, or is damaged") from error
    text = info.get("parameters", "")
    if program := _other_program(info):
        remedy = f"Read the prompt in {program}, and give it with --prompt."
        raise UserError(os.EX_DATAERR, f"{name} says in {program}'s form how it was drawn, which is not read", remedy)
    if not isinstance(text, str) or not text.strip():
        remedy = "Only a PNG that this program or AUTOMATIC1111's web UI wrote can be drawn again."
        raise UserError(os.EX_DATAERR, f"{name} does not say how it was drawn", remedy)
    try:
        return parse(text)
    except ValueError as error:
        raise UserError(os.EX_DATAERR, f"{name} has invalid settings: {error}") from error


def _other_program(info: Mapping[Any, Any]) -> str:
    """The program that wrote the settings in a form of its own, by the keys of a PNG's texts; "" if none did."""
    if "workflow" in info or str(info.get("prompt", "")).startswith("{"):
        return "ComfyUI"
    if "invokeai_metadata" in info or "sd-metadata" in info:
        return "InvokeAI"
    if info.get("Software") == "NovelAI":
        return "NovelAI"
    return "Fooocus" if str(info.get("parameters", "")).lstrip().startswith('{"') else ""


def parse(text: str) -> Job:
    """The job in a text that `parameters` or the web UI wrote. Line breaks in prompts become spaces.

    Raises: ValueError that names the invalid setting.
    """
    *lines, last = text.rstrip("\n").split("\n")
    values = {key: _unquoted(value) for key, value in _VALUE.findall(last)}
    if len(values) < _FEWEST:
        lines, values = [*lines, last], {}
    ours = values.get("Version", "").startswith(_PROGRAM)
    # Of ours the first line is always the prompt, even if it begins like this
    split = 1 if ours else next((at for at, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    prompt, negative = (printable(" ".join(part)) for part in (lines[:split], lines[split:]))
    sampler = values.get("Sampler", "").strip().lower()
    ordinary = values.get("Plain prompt", "") if ours else ""
    prompt, tags = (prompt, []) if ordinary and "Lora hashes" not in values else prompt_syntax.loras(prompt)
    typed = not ordinary and emphasis.is_possible(prompt)
    prompt, negative = (emphasis.unescaped(prompt) if ordinary else prompt, negative.removeprefix(_NEGATIVE).strip())
    hashes = dict(re.findall(r"([^:,]+): ([0-9a-f]{4,64})", values.get("Lora hashes", "")))
    hashes = {name.strip(): digits for name, digits in hashes.items()}
    return Job(
        prompt,
        emphasis.unescaped(negative) if ordinary == _BOTH else negative,
        seed=_checked(values, "Seed", "seed"),
        steps=_checked(values, "Steps", "steps"),
        guidance=_checked(values, "CFG scale", "guidance"),
        sampler=printable(_SAMPLERS.get(sampler, sampler)) or None,
        size=_checked(values, "Size", "size"),
        precision=printable(values.get("Precision", "")),
        decoder=printable(values.get("VAE", "")) if ours else "",
        variation=_checked(values, "Variation seed", "seed") if ours else None,  # the web UI's noise is another
        tones=tuple(tone for tone in values.get("Tones", "").split() if tone in TONES)[:MOST_TONES] if ours else (),
        model=printable(values.get("Model", "")),
        sha256=printable(values.get("Model hash", "")).lower(),
        typed=typed,
        plain=ordinary == _BOTH,
        loras=tuple(Adapter(name, weight, hashes.get(name, "")) for name, weight in tags),
    )


def _checked(values: dict[str, str], key: str, option: str) -> Any:
    """The value of `key`, parsed and checked like the command line's `option`; None if it is missing."""
    if not (text := values.get(key, "").strip()):
        return None
    kind: Callable[[str], Any] = OPTIONS[option].kind
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{key}: {printable(str(error))[:200]}") from error


def _ordinary(job: Job) -> str:
    """Which prompts have brackets that are ordinary text; they are escaped for those who read emphasis: `prompt`, or
    `prompt and negative`, or ""."""
    if job.plain:
        return _BOTH if emphasis.is_possible(f"{job.prompt} {job.negative}") else ""
    return "prompt" if not job.typed and emphasis.is_possible(job.prompt) else ""


def _stem(adapter: Adapter) -> str:
    """What a LoRA is called in a prompt, whose marks it must not have."""
    return re.sub(r"[<>:,]", " ", Path(adapter.name).name.removesuffix(".safetensors"))


def _number(value: float) -> str:
    """`7.5` or `7`: six significant digits, or more where needed to be exact."""
    short = f"{value:g}"
    return short if "e" not in short and float(short) == value else f"{value:.10f}".rstrip("0").rstrip(".")


def _quoted(value: str) -> str:
    """A value of the comma-separated line: as JSON if it could not be read back otherwise."""
    return json.dumps(value, ensure_ascii=False) if re.search(r'^\s|\s$|[,:"\n]', value) else value


def _unquoted(value: str) -> str:
    if value.startswith('"') and value.endswith('"') and len(value) > 1:
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value.strip()
