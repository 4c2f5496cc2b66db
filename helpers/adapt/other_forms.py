"""What somebody gave as a model that is not one of ours: a hub's name, a single file, the folder of another program."""

from __future__ import annotations

import os
import re
from pathlib import Path

from helpers.catalog.catalog import SPEECH, Catalog, Entry
from helpers.core.errors import UserError

_LIST = "./download_model.py list shows models that work."
_FOLDER = f"A folder in the layout of diffusers works (docs/models.md). {_LIST}"
_HEAD = 1 << 16  # bytes of a file that are looked at

# Other names under which the hub has, or had, models of the catalogue
_ALSO = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-1-5",
    "stabilityai/stable-diffusion-2-1-base": "stable-diffusion-2-1-base",
}
_WHISPER = re.compile(
    r"(?:^|/)(?:(?:faster-)?(?:distil-)?whisper[-_]([a-z0-9.-]+?)(?:-ct2|-ggml)?|ggml-([a-z0-9._-]+)\.bin)$"
)


def of_hub(name: str, kind: str, models: Catalog) -> Entry | None:
    """The model of the catalogue that the hub has under `name`: OWNER/NAME, its page, or a path that ends
    with it. kind: `image` or `whisper`."""
    found = re.search(r"(?:huggingface\.co|hf\.co)/+([^/?#]+/[^/?#]+)", name, re.IGNORECASE)
    repo = "/".join((found[1] if found else name).rstrip("/").lower().split("/")[-2:])
    entries = [entry for entry in models.entries.values() if entry.kind == kind]
    if kind == "whisper":
        own = (one for one in models.entries.values() if one.kind in SPEECH and one.kind != kind)
        if entry := next((one for one in own if repo in {source.repo.lower() for source in one.sources}), None):
            return entry
        if not (size := _WHISPER.search(repo)):
            return None
        named = re.escape(size[1] or size[2])
        return next((one for one in entries if re.fullmatch(named + r"(?:-q\d_\d)?", one.name)), None)
    if repo in _ALSO:
        return models.entries.get(_ALSO[repo])
    return next((one for one in entries if repo in {source.repo.lower() for source in one.sources}), None)


def missing(name: str, kind: str, models: Catalog) -> UserError:
    """The error for a path where nothing is; it may be the hub's name of a model of the catalogue."""
    what = "model folder" if kind == "image" else "speech model"
    option = "--model" if kind == "image" else "--whisper"
    remedy = "./download_model.py list shows models by name."
    if entry := of_hub(name, kind, models):
        here = "" if entry.is_present() else f"Get it: ./download_model.py {entry.name}; then "
        remedy = f"The hub's model is called {entry.name} here. {here}{option} {entry.name}"
    return UserError(os.EX_NOINPUT, f"there is no {what} {name}", remedy)


def check(path: Path) -> None:
    """Raises: UserError 69 for a file or a folder that is a model in another form, which says in which."""
    if found := _file(path) if path.is_file() else _folder(path):
        raise UserError(os.EX_UNAVAILABLE, f"{path} is {found[0]}", found[1])


def _file(path: Path) -> tuple[str, str] | None:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        return f"a file that cannot be read: {error.strerror}", "Check its permissions."
    if head.startswith(b"version https://git-lfs"):
        return "the pointer of a file that Git LFS has not fetched", "Fetch the file: git lfs pull"
    if head.startswith(b"GGUF"):
        return "a model in the format GGUF, which is not read", _FOLDER
    if head[8:9] == b"{" and (b"lora_" in head or b".lora" in head):
        return "a LoRA, an addition to a model", f"--lora {path} adds it to one."
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        from helpers.adapt import single_file

        if single_file.is_checkpoint(path):
            single_file.layout(path)
            return None
        return _part(path), _FOLDER
    if head.startswith((b"PK\x03\x04", b"\x80")) and path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        return "a model in one file, and a pickle, which could run any code", _FOLDER
    if head.startswith(b"PK\x03\x04"):
        return "an archive", "Unpack it, and give the folder."
    return "a file, and a model is a folder", _FOLDER


def _part(path: Path) -> str:
    """What a safetensors file without Stable Diffusion's own names is."""
    from helpers.adapt import safetensors_file

    try:
        names = list(safetensors_file.header(path).shapes)
    except Exception:  # safetensors has its own
        return "a model in one file, and damaged or incomplete"
    if any(name.split(".")[-3:-2] == ["lora"] or ".lora" in name or "lora_" in name for name in names):
        return "a LoRA, an addition to a model, which is not read"
    if any(
        "double_blocks" in name or "joint_blocks" in name or "transformer_blocks.0.ff_context" in name for name in names
    ):
        return "a model with a transformer (Stable Diffusion 3, Flux …), which is not read"
    return "one part of a model, or a model in one file of another kind, which is not read"


def _folder(path: Path) -> tuple[str, str] | None:
    def has(*names: str) -> bool:
        return any(any(path.glob(name)) for name in names)

    if has("unet/config.json", "Unet*.ml*"):
        weights = [*path.glob("*/*.safetensors")]
        if weights and all(_is_pointer(file) for file in weights):
            return "a clone in which Git LFS has not fetched the weights", f"Fetch them: cd {path} && git lfs pull"
        return None
    if path.suffix == ".mlpackage" or path.suffix == ".mlmodelc":
        return "one network of a Core ML model", "Give the folder that holds it, TextEncoder, Unet and VAEDecoder."
    if has("models/checkpoints", "models/Stable-diffusion"):
        return "the folder of another program, ComfyUI or a web UI, not that of a model", _FOLDER
    if snapshots := sorted(path.glob("snapshots/*/model_index.json")):
        return "a folder of the hub's cache", f"Give the model in it: --model {snapshots[-1].parent}"
    if has("adapter_config.json", "pytorch_lora_weights.*"):
        return "a LoRA, an addition to a model", f"--lora {path} adds it to one."
    if has("transformer/config.json"):
        return "a model with a transformer (Stable Diffusion 3, Flux …), which is not read", _LIST
    if has("*.safetensors", "*.ckpt", "*.gguf"):
        return "a folder of models in one file each, which are not read", _FOLDER
    if not has("*"):
        return "an empty folder", _LIST
    return None


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(23) == b"version https://git-lfs"
