"""Models that other programs have on this machine. They are used where they are, never moved or changed.

Looked for in the folders in which these programs keep them when they are installed in the home folder: AUTOMATIC1111's
web UI, ComfyUI, Mochi Diffusion (Core ML), whisper.cpp, pywhispercpp and the Hugging Face hub's cache; and in one
folder of the user's own (A2I_SEARCH).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

OPTIONS = {"image": "--model", "lora": "--lora", "speech": "--whisper"}
_UI = ("stable-diffusion-webui", "ComfyUI", "Documents/ComfyUI")
_CHECKPOINTS = ("models/Stable-diffusion", "models/checkpoints")
_LORAS = ("models/Lora", "models/loras", "loras")
_COREML = ("Documents/MochiDiffusion/models",)
_SPEECH = ("whisper.cpp/models", ".local/share/pywhispercpp/models", "Library/Application Support/pywhispercpp/models")
_MOST = 2000  # entries that are looked at in a place


class Found(NamedTuple):
    """A model: what it is for (a key of OPTIONS), and its file or folder."""

    kind: str
    path: Path


def home_folder() -> Path:
    """The user's home folder, also where the system knows none."""
    return Path(os.path.expanduser("~"))  # noqa: PTH111  (pathlib's raises an error then)


def lora_folders(home: Path, search: Path | None) -> list[Path]:
    """The folders in which LoRAs of other programs lie."""
    roots = [home / name for name in _UI] + ([search] if search else [])
    return [root / name for root in roots for name in _LORAS if (root / name).is_dir()]


def found(home: Path, search: Path | None, hub: Path) -> list[Found]:
    """What is there, each once. search: the user's own folder; hub: the cache of the Hugging Face hub."""
    from helpers.adapt import single_file

    models = []
    for root in [home / name for name in _UI] + ([search] if search else []):
        places = [root / name for name in _CHECKPOINTS] + ([root] if root == search else [])
        files = (file for place in places for file in _files(place, "*.safetensors"))
        models += [Found("image", file) for file in files if single_file.is_checkpoint(file)]
    for folder in lora_folders(home, search):
        models += [Found("lora", file) for file in _files(folder, "**/*.safetensors")]
    for place in [home / name for name in _COREML] + ([search] if search else []):
        folders = {file.parent for file in _files(place, "*/Unet*.ml*") + _files(place, "*/model_index.json")}
        models += [Found("image", folder) for folder in sorted(folders)]
    models += [Found("image", file.parent) for file in _files(hub, "models--*/snapshots/*/model_index.json")]
    for place in [home / name for name in _SPEECH] + ([search] if search else []):
        models += [Found("speech", file) for file in _files(place, "ggml-*.bin") if "silero" not in file.name]
    return list(dict.fromkeys(models))


def listing(models: list[Found]) -> str:
    """A line for each: how it is given to pipeline.sh."""
    if not models:
        return "No models of other programs were found."
    return "\n".join(f"{one.kind:6}  {OPTIONS[one.kind]} {_shown(one.path)}" for one in models)


def _shown(path: Path) -> str:
    import shlex

    from helpers.core.text import printable

    return printable(shlex.quote(os.fsencode(path).decode(errors="replace")))


def _files(folder: Path, pattern: str) -> list[Path]:
    def entries() -> Iterator[Path]:
        try:
            yield from folder.glob(pattern)
        except OSError:  # a folder that may not be read
            return

    return sorted(itertools.islice(entries(), _MOST))
