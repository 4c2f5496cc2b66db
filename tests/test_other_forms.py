"""A model in a form that is not ours is named, and a hub's name leads to the catalogue's."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from helpers.core.errors import UserError
from helpers.draw.choose_model import choose_model
from helpers.listen.recognisers import Request, choose
from helpers.shell import names

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def safetensors(*keys: str) -> bytes:
    header = json.dumps({key: {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]} for key in keys}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0\0"


@pytest.mark.parametrize(
    ("files", "given", "what"),
    [
        ({"d.safetensors": safetensors("down_blocks.0.x")}, "d.safetensors", "one part of a model"),
        ({"l.safetensors": safetensors("lora_unet_x.lora_down.weight")}, "l.safetensors", "a LoRA"),
        ({"p.safetensors": POINTER}, "p.safetensors", "Git LFS"),
        ({"m.ckpt": b"PK\3\4archive/data.pkl"}, "m.ckpt", "a pickle"),
        ({"m.gguf": b"GGUF\3\0\0\0"}, "m.gguf", "GGUF"),
        ({"m/models/checkpoints/x.safetensors": b""}, "m", "ComfyUI"),
        ({"m/models/Stable-diffusion/x.ckpt": b""}, "m", "a web UI"),
        ({"Unet.mlpackage/Manifest.json": b"{}"}, "Unet.mlpackage", "one network of a Core ML model"),
        ({"m/unet/config.json": b"{}", "m/unet/w.safetensors": POINTER}, "m", "Git LFS has not fetched"),
        ({"models--a--b/snapshots/12/model_index.json": b"{}"}, "models--a--b", "hub's cache"),
        ({"m/adapter_config.json": b"{}"}, "m", "a LoRA"),
        ({"m/transformer/config.json": b"{}"}, "m", "a transformer"),
        ({"m/a.safetensors": b"", "m/b.safetensors": b""}, "m", "in one file each"),
    ],
)
def test_a_model_in_another_form(tmp_path: Path, files: dict[str, bytes], given: str, what: str) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for refuse in (lambda: choose_model(str(tmp_path / given)), lambda: names.check("image", str(tmp_path / given))):
        with pytest.raises(UserError, match=what) as error:
            refuse()
        assert error.value.code == 69 and given in error.value.message and error.value.remedy


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("stabilityai/sd-turbo", "sd-turbo"),
        ("StabilityAI/SD-Turbo/", "sd-turbo"),
        ("https://huggingface.co/stabilityai/sdxl-turbo/tree/main", "sdxl-turbo"),
        ("/home/me/runwayml/stable-diffusion-v1-5", "stable-diffusion-1-5"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "stable-diffusion-xl"),
    ],
)
def test_a_name_of_the_hub(name: str, entry: str) -> None:
    for refuse in (lambda: choose_model(name), lambda: names.check("image", name)):
        with pytest.raises(UserError, match="no model folder") as error:
            refuse()
        assert error.value.code == 66 and f"--model {entry}" in error.value.remedy


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("openai/whisper-base", "base-q5_1"),
        ("openai/whisper-tiny.en", "tiny.en-q5_1"),
        ("Systran/faster-whisper-small", "faster-whisper-small"),
        ("Systran/faster-whisper-tiny", "tiny-q5_1"),
        ("whisper.cpp/models/ggml-base.en.bin", "base.en"),
        ("./ggml-large-v3-turbo-q5_0.bin", "large-v3-turbo-q5_0"),
        ("https://huggingface.co/openai/whisper-large-v3-turbo", "large-v3-turbo-q5_0"),
    ],
)
def test_a_speech_model_of_the_hub(name: str, entry: str) -> None:
    for refuse in (lambda: choose(Request(name)), lambda: names.check("whisper", name)):
        with pytest.raises(UserError, match="no speech model") as error:
            refuse()
        assert error.value.code == 66 and f"--whisper {entry}" in error.value.remedy


def test_a_name_that_nobody_has() -> None:
    with pytest.raises(UserError, match="no model folder a/b") as error:
        choose_model("a/b")
    assert error.value.remedy == "./download_model.py list shows models by name."
    with pytest.raises(UserError) as near:
        choose_model("sdturbo")
    assert "sd-turbo" in near.value.remedy
    with pytest.raises(UserError) as near:
        names.check("whisper", "turbo")
    assert "large-v3-turbo" in near.value.remedy and "sd-turbo" not in near.value.remedy
