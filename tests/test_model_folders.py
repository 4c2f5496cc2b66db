"""What a model folder may look like, what is refused by name, and the cache of compiled models."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
from small_models import BUILTIN, close, picture, random_model, reference, torch

from helpers.core import openvino
from helpers.core.errors import UserError
from helpers.draw import engines
from helpers.draw.engines import openvino_engine

# The cache of compiled models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("model") / "tiny", "tiny")


@pytest.fixture
def own(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of a small model, with an empty cache."""
    monkeypatch.setattr(openvino, "CACHE", tmp_path / "cache" / "openvino")
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def count_builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    built: list[str] = []
    graph = openvino_engine._graph

    def counting(checkpoint: Any, part: str, *how: Any) -> Any:
        built.append(part)
        return graph(checkpoint, part, *how)

    monkeypatch.setattr(openvino_engine, "_graph", counting)
    return built


def test_a_compiled_model_is_read_back_without_building_it(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = count_builds(monkeypatch)
    first = picture(engines.load("openvino", own))
    assert sorted(built) == ["text_encoder", "unet", "vae"]
    assert np.array_equal(first, picture(engines.load("openvino", own)))
    assert len(built) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "folder"])
def test_a_damaged_compiled_model_is_made_anew(own: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    first = picture(engines.load("openvino", own))
    blob = next(openvino.CACHE.glob("*-unet-*.blob"))
    content = bytearray(blob.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    damaged = {"empty": b"", "foreign": b"PK\x03\x04" * 999}.get(damage, bytes(content))
    blob.unlink()
    if damage == "folder":
        blob.mkdir()
    else:
        blob.write_bytes(damaged)
    built = count_builds(monkeypatch)
    assert np.array_equal(first, picture(engines.load("openvino", own)))
    assert built == ["unet"]
    if damage != "folder":
        assert blob.read_bytes() != damaged
        engines.load("openvino", own)
        assert built == ["unet"]


def test_a_compiled_model_of_another_runtime_is_made_anew(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checksum is right, but the runtime does not take it."""
    first = picture(engines.load("openvino", own))
    blob = next(openvino.CACHE.glob("*-unet-*.blob"))
    content = b"<?xml version='1.0'?>" + b"\0" * 5000
    blob.write_bytes(content + zlib.crc32(content).to_bytes(4, "little"))
    built = count_builds(monkeypatch)
    assert np.array_equal(first, picture(engines.load("openvino", own)))
    assert built == ["unet"]


def test_without_a_cache_that_can_be_written_it_draws_too(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = picture(engines.load("openvino", own))
    monkeypatch.setattr(openvino, "CACHE", own / "model_index.json" / "openvino")  # a file, where a folder should be
    assert np.array_equal(first, picture(engines.load("openvino", own)))


def test_a_full_disk_leaves_no_half_file(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    class Full:
        """A file on a disk with room for 10,000 bytes."""

        def __init__(self, file: Any) -> None:
            self.seek, self.file = file.seek, file

        def write(self, data: bytes) -> int:
            if sum(written) > 10_000:
                raise OSError(28, "No space left on device")
            written.append(self.file.write(data))
            return written[-1]

    export = openvino._Export
    monkeypatch.setattr(openvino, "_Export", lambda file: export(cast(BinaryIO, Full(file))))
    picture(engines.load("openvino", own))
    assert written
    assert list(openvino.CACHE.iterdir()) == []


def test_the_cache_does_not_grow_and_a_changed_model_is_compiled_anew(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = count_builds(monkeypatch)
    for width in (32, 34, 36, 38):
        engines.load("openvino", own, size=(width, 32))
    assert len(list(openvino.CACHE.glob("*-unet-*"))) == len(list(openvino.CACHE.glob("*-vae-*"))) == 2
    assert len(list(openvino.CACHE.glob("*-text_encoder-*"))) == 1
    built.clear()
    engines.load("openvino", own, size=(38, 32))
    assert built == []
    os.utime(own / "unet" / "diffusion_pytorch_model.safetensors", (1, 1))
    engines.load("openvino", own, size=(38, 32))
    assert built == ["unet"]


# What a model folder may look like


def rewrite(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: tensor.contiguous() for name, tensor in change(load_file(file)).items()}, file)


def old_names(tensors: dict[str, Any]) -> dict[str, Any]:
    """The decoder's attention as Stable Diffusion 1's own files name and shape it."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    changed = {}
    for name, tensor in tensors.items():
        for new, old in names.items():
            if f"attentions.0.{new}." in name:
                name, tensor = name.replace(new, old), tensor[..., None, None] if tensor.ndim == 2 else tensor
        changed[name] = tensor
    assert changed.keys() != tensors.keys()
    return changed


def with_prefix(tensors: dict[str, Any]) -> dict[str, Any]:
    """The text encoder as transformers 4 saved it."""
    renamed = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
    return renamed | {"text_model.embeddings.position_ids": torch.arange(77)[None]}


def test_older_names_of_weights(own: Path) -> None:
    first = picture(engines.load("openvino", own))
    rewrite(own / "vae" / "diffusion_pytorch_model.safetensors", old_names)
    rewrite(own / "text_encoder" / "model.safetensors", with_prefix)
    assert np.array_equal(first, picture(engines.load("openvino", own)))


@pytest.mark.parametrize(
    ("dtype", "save"),
    [("float32", {"max_shard_size": "20KB"}), ("float16", {"variant": "fp16"}), ("bfloat16", {}),
     ("float8_e4m3fn", {}), ("float16", {"variant": "fp16", "max_shard_size": "20KB"})],
)  # fmt: skip
def test_shards_variants_and_small_floats(own: Path, dtype: str, save: dict[str, Any]) -> None:
    pipe = reference(own).to(getattr(torch, dtype))
    folder = own / "saved"
    pipe.save_pretrained(folder, **save)
    shutil.copytree(BUILTIN / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    assert (len(list((folder / "unet").glob("*.safetensors"))) > 1) == ("max_shard_size" in save)
    engine, pipe = engines.load("openvino", folder), pipe.to(torch.float32)
    text = engine.encode_text(engine.tokenizer.encode("a cat").ids)
    latents = np.random.RandomState(2).randn(2, 4, 16, 16).astype(np.float32)
    with torch.no_grad():
        both = torch.from_numpy(np.concatenate([text, text]))
        close(engine.predict_noise(latents, 10, both.numpy()), pipe.unet(torch.from_numpy(latents), 10, both)[0])
        close(engine.decode(latents[:1]), pipe.vae.decode(torch.from_numpy(latents[:1]) / 0.18215)[0])


# What is refused, and that it is named

UNSUPPORTED = [
    ("unet", "act_fn", "mish"),
    ("unet", "time_embedding_type", "fourier"),
    ("unet", "encoder_hid_dim", 64),
    ("unet", "addition_embed_type", "text_time"),
    ("unet", "downsample_padding", 0),
    ("unet", "resnet_time_scale_shift", "scale_shift"),
    ("unet", "a_setting_of_the_future", 3),
    ("unet", "down_block_types", ["AttnDownBlock2D"] * 2),
    ("unet", "in_channels", 9),
    ("unet", "cross_attention_dim", 768),
    ("vae", "latents_mean", [0.0] * 4),
    ("vae", "up_block_types", ["AttnUpDecoderBlock2D"] * 2),
    ("vae", "a_setting_of_the_future", "yes"),
    ("text_encoder", "hidden_act", "relu"),
    ("text_encoder", "model_type", "t5"),
]


@pytest.mark.parametrize(("part", "key", "value"), UNSUPPORTED)
def test_a_setting_that_is_not_computed_is_named(own: Path, part: str, key: str, value: object) -> None:
    path = own / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=key) as raised:
        engines.load("openvino", own)
    assert raised.value.code == 69


def drop(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def narrow(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors | {"conv_in.weight": tensors["conv_in.weight"][:, :3]}


def more(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors | {"mid_block.adapter.weight": torch.zeros(3)}


@pytest.mark.parametrize(
    ("change", "what"),
    [(drop("conv_in.bias"), "conv_in.bias"), (drop("conv_in.weight"), "conv_in.weight"), (narrow, "unet"),
     (more, "mid_block.adapter.weight"), (drop("mid_block.resnets.0.norm1.bias"), "norm1.bias")],
)  # fmt: skip
def test_weights_that_do_not_fit_are_named(own: Path, change: Callable[..., Any], what: str) -> None:
    rewrite(own / "unet" / "diffusion_pytorch_model.safetensors", change)
    with pytest.raises(UserError, match=what) as raised:
        engines.load("openvino", own)
    assert raised.value.code == 69


def remove(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def cut(file: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / file, (folder / file).stat().st_size - 2)


def pickle_only(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def lost_shard(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.with_name(f"{weights.name}.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../gone.safetensors"}})
    )
    weights.unlink()


@pytest.mark.parametrize(
    ("damage", "what"),
    [(remove("model_index.json"), "model"), (remove("unet/config.json"), "config.json"), (pickle_only, "pickle"),
     (cut("unet/config.json"), "damaged"), (cut("unet/diffusion_pytorch_model.safetensors"), "damaged"),
     (cut("text_encoder/model.safetensors"), "damaged"), (lost_shard, "gone"),
     (remove("unet/diffusion_pytorch_model.safetensors"), "no weights"),
     (remove("tokenizer/vocab.json"), "tokenizer"), (remove("scheduler/scheduler_config.json"), "scheduler")],
)  # fmt: skip
def test_a_model_that_is_missing_or_damaged_is_one_line(own: Path, damage: Callable[[Path], None], what: str) -> None:
    damage(own)
    with pytest.raises(UserError, match=what) as raised:
        engines.load("openvino", own)
    assert raised.value.code == 69
    assert "\n" not in raised.value.message
