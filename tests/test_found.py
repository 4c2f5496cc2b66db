"""Models of other programs are found where those keep them, listed with the option that uses them, and not changed."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

from helpers.adapt import found, names
from helpers.adapt.found import Found
from helpers.core.paths import ROOT


def safetensors(key: str) -> bytes:
    header = json.dumps({key: {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0\0"


def put(file: Path, content: bytes = b"{}") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_what_other_programs_have(tmp_path: Path) -> None:
    home, own, hub = tmp_path / "home", tmp_path / "own models", tmp_path / "home/.cache/huggingface/hub"
    unet = "model.diffusion_model.x"
    there = [
        Found("image", put(home / "stable-diffusion-webui/models/Stable-diffusion/a.safetensors", safetensors(unet))),
        Found("image", put(home / "ComfyUI/models/checkpoints/b.safetensors", safetensors(unet))),
        Found("image", put(own / "c.safetensors", safetensors(unet))),
        Found("lora", put(home / "stable-diffusion-webui/models/Lora/sub/ink.safetensors", safetensors("x"))),
        Found("lora", put(home / "ComfyUI/models/loras/paper.safetensors", safetensors("x"))),
        Found("image", put(home / "Documents/MochiDiffusion/models/sd/Unet.mlmodelc/metadata.json").parent.parent),
        Found("image", put(hub / "models--o--n/snapshots/12/model_index.json").parent),
        Found("speech", put(home / "whisper.cpp/models/ggml-base.en.bin")),
        Found("speech", put(home / ".local/share/pywhispercpp/models/ggml-tiny.bin")),
    ]
    put(home / "stable-diffusion-webui/models/Stable-diffusion/part.safetensors", safetensors("down_blocks.x"))
    put(home / "stable-diffusion-webui/models/Stable-diffusion/old.ckpt", b"PK\3\4")
    put(home / "ComfyUI/models/checkpoints/damaged.safetensors", b"\xff" * 20)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    assert set(found.found(home, own, hub)) == set(there)
    assert found.found(tmp_path / "nobody", None, tmp_path / "nothing") == []
    assert names.find_lora("Ink", found.lora_folders(home, None)) == there[3].path
    environment = {**os.environ, "HOME": str(home), "A2I_SEARCH": str(own), "HF_HUB_CACHE": str(hub), "A2I_INSIDE": "1"}
    command = [sys.executable, str(ROOT / "download_model.py"), "list", "--found"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert said.returncode == 0 and len(said.stdout.splitlines()) == len(there)
    assert f"image   --model '{own / 'c.safetensors'}'" in said.stdout
    assert f"speech  --whisper {home}/whisper.cpp/models/ggml-base.en.bin" in said.stdout
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert subprocess.run([*command[:2], "--found"], env=environment, capture_output=True).returncode == 64
