"""The CPU engine against diffusers and torch: every network by itself, whole pictures, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import diffusion, engines
from helpers.engines import cpu
from helpers.stage import ROOT, StageError

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BUILTIN = ROOT / "models" / "builtin"
TEXT = {"vocab_size": 1604, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "bos_token_id": 1602,
        "eos_token_id": 1603, "pad_token_id": 1603}  # fmt: skip
UNET = {"sample_size": 8, "cross_attention_dim": 32, "norm_num_groups": 4, "block_out_channels": (8, 16, 24, 24)}
VAE = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 64,
       "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}  # fmt: skip
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
             "set_alpha_to_one": False, "steps_offset": 1}  # fmt: skip

# The architectures of Stable Diffusion 1.5, 2.1 and small-stable-diffusion-v0, and what else is computed, in small.
MODELS: dict[str, dict[str, dict[str, Any]]] = {
    "sd1": {
        "text_encoder": {"hidden_act": "quick_gelu", "num_hidden_layers": 3},
        "unet": {"attention_head_dim": 2},
        "vae": {"layers_per_block": 2},
        "scheduler": {"prediction_type": "epsilon"},
    },
    "sd2": {
        "text_encoder": {"hidden_act": "gelu", "num_hidden_layers": 2},
        "unet": {"attention_head_dim": (1, 2, 3, 4), "use_linear_projection": True, "upcast_attention": True},
        "vae": {"scaling_factor": 0.3},
        "scheduler": {"prediction_type": "v_prediction"},
    },
    "small": {
        "text_encoder": {"hidden_act": "quick_gelu", "num_hidden_layers": 1, "layer_norm_eps": 1e-3},
        "unet": {
            "layers_per_block": (1, 2, 1, 1), "transformer_layers_per_block": (2, 1, 1, 1), "mid_block_type": None,
            "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-3,
        },
        "vae": {"use_post_quant_conv": False, "mid_block_add_attention": False},
        "scheduler": {"prediction_type": "epsilon"},
    },
    # No architecture of anyone's, and the quickest to compile: for tests of files.
    "tiny": {
        "text_encoder": {"num_hidden_layers": 1},
        "unet": {
            "sample_size": 16, "layers_per_block": 1, "block_out_channels": (8, 16),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        },
        "vae": {
            "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
        },
        "scheduler": {"prediction_type": "epsilon"},
    },
}  # fmt: skip


def random_model(folder: Path, name: str, **save: Any) -> Path:
    """A small Stable Diffusion of random weights, saved by diffusers, with the built-in vocabulary."""
    torch.manual_seed(7)
    parts = MODELS[name]
    text_encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT | parts["text_encoder"]))
    vae = diffusers.AutoencoderKL(**VAE | parts["vae"])
    unet = diffusers.UNet2DConditionModel(**UNET | parts["unet"])
    for module in (text_encoder, vae, unet):  # biases and norms are 0 and 1 at first: wrong ones would go unseen
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(BUILTIN / "tokenizer")
    scheduler = diffusers.DDIMScheduler(**SCHEDULER | parts["scheduler"])
    pipe = diffusers.StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, scheduler, None, None, None, False)
    pipe.save_pretrained(folder, **save)
    shutil.copytree(BUILTIN / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    return folder


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of compiled models for these tests alone."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("cache") / "openvino"
    patch.setattr(cpu, "CACHE", folder)
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {"builtin": BUILTIN}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = random_model(tmp_path_factory.mktemp("model") / name, name)
        return made[name]

    return make


def reference(folder: Path, scheduler: str = "DDIMScheduler") -> Any:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def close(mine: np.ndarray, theirs: Any) -> None:
    expected = theirs.detach().numpy()
    assert mine.shape == expected.shape
    assert mine.dtype == np.float32
    assert np.abs(mine - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", ["builtin", *MODELS])
def test_every_network_agrees_with_torch(model: Callable[[str], Path], name: str) -> None:
    folder = model(name)
    pipe, engine = reference(folder), engines.load("cpu", folder)
    random = np.random.RandomState(3)
    with torch.no_grad():
        tokens = engine.tokenizer.encode("a delicious burger on a blue background").ids
        text = engine.encode_text(tokens)
        close(text, pipe.text_encoder(torch.from_numpy(tokens[None]))[0])
        width, height = engine.size
        shape = (2, engine.channels, height // engine.factor, width // engine.factor)
        latents, both = random.randn(*shape).astype(np.float32), np.concatenate([text[:, ::-1], text])
        for timestep in (999, 500, 1, 0):
            theirs = pipe.unet(torch.from_numpy(latents), timestep, torch.from_numpy(both))[0]
            close(engine.predict_noise(latents, timestep, both), theirs)
        scaled = torch.from_numpy(latents[:1]) / pipe.vae.config.scaling_factor
        close(engine.decode(latents[:1]), pipe.vae.decode(scaled)[0])


@pytest.mark.parametrize("size", [(72, 40), (64, 128)])
def test_other_sizes_than_the_trained_one(model: Callable[[str], Path], size: tuple[int, int]) -> None:
    """Also where halving a side leaves a remainder, and the way up has to meet the way down."""
    folder = model("sd1")
    engine, pipe = engines.load("cpu", folder, size=size, guidance=False), reference(folder)
    random = np.random.RandomState(1)
    latents = random.randn(1, 4, size[1] // 8, size[0] // 8).astype(np.float32)
    text = random.randn(1, 77, 32).astype(np.float32)
    with torch.no_grad():
        close(
            engine.predict_noise(latents, 321, text),
            pipe.unet(*map(torch.from_numpy, (latents,)), 321, torch.from_numpy(text))[0],
        )
        close(engine.decode(latents), pipe.vae.decode(torch.from_numpy(latents) / 0.18215)[0])


PICTURES = [
    ("builtin", "ddim", "DDIMScheduler", 12, 3.0, ""),
    ("builtin", "dpm++", "DPMSolverMultistepScheduler", 8, 3.0, "a blue background"),
    ("sd1", "euler", "EulerDiscreteScheduler", 6, 2.0, "a cat"),
    ("sd2", "dpm++", "DPMSolverMultistepScheduler", 6, 1.0, ""),
]


@pytest.mark.parametrize(("name", "sampler", "scheduler", "steps", "guidance", "negative"), PICTURES)
def test_a_whole_picture_is_the_one_of_diffusers(
    model: Callable[[str], Path], name: str, sampler: str, scheduler: str, steps: int, guidance: float, negative: str
) -> None:
    folder, prompt = model(name), "a rocket in space"
    engine, pipe = engines.load("cpu", folder, guidance=guidance > 1), reference(folder, scheduler)
    text, unwanted = (engine.encode_text(engine.tokenizer.encode(words).ids) for words in (prompt, negative))
    mine = diffusion.draw(engine, text, unwanted, seed=5, steps=steps, guidance=guidance, sampler=sampler)
    width, height = engine.size
    shape = (1, engine.channels, height // engine.factor, width // engine.factor)
    noise = torch.from_numpy(np.random.RandomState(5).standard_normal(shape).astype(np.float32))
    theirs = pipe(
        prompt, negative_prompt=negative, num_inference_steps=steps, guidance_scale=guidance, latents=noise,
        output_type="np", width=width, height=height,
    ).images[0]  # fmt: skip
    error = np.mean((mine / 255 - np.round(theirs * 255) / 255) ** 2)
    assert 10 * np.log10(1 / max(error, 1e-12)) > 45


def picture(engine: Any, seed: int = 1, steps: int = 2, guidance: float = 2.0) -> np.ndarray:
    text, unwanted = (engine.encode_text(engine.tokenizer.encode(words).ids) for words in ("a red heart", ""))
    return diffusion.draw(engine, text, unwanted, seed=seed, steps=steps, guidance=guidance, sampler="ddim")


def test_the_same_seed_gives_the_same_bytes_and_another_another_picture() -> None:
    engine = engines.load("cpu", BUILTIN)
    first = picture(engine)
    assert np.array_equal(first, picture(engine))
    assert np.array_equal(first, picture(engines.load("cpu", BUILTIN)))
    assert not np.array_equal(first, picture(engine, seed=2))
    assert engine.size == (512, 512)
    assert first.shape == (512, 512, 3)
    assert engine.version == f"openvino {engine.version.split()[1]}"


def test_warming_changes_nothing() -> None:
    engine = engines.load("cpu", BUILTIN)
    engine.warm()
    assert np.array_equal(picture(engine), picture(engines.load("cpu", BUILTIN)))


def test_bf16_draws_nearly_the_same() -> None:
    exact, quick = (engines.load("cpu", BUILTIN, precision=precision) for precision in ("f32", "bf16"))
    if quick.precision == "f32":
        pytest.skip("this processor has no bf16")
    a, b = (picture(engine, steps=4).astype(float) for engine in (exact, quick))
    assert 0.1 < np.abs(a - b).mean() < 6  # of 255


# The cache of compiled models


@pytest.fixture
def own(model: Callable[[str], Path], cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of a small model, with an empty cache."""
    monkeypatch.setattr(cpu, "CACHE", tmp_path / "cache" / "openvino")
    return Path(shutil.copytree(model("tiny"), tmp_path / "model"))


def count_builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    built: list[str] = []
    graph = cpu._graph
    monkeypatch.setattr(cpu, "_graph", lambda folder, part, shape: (built.append(part), graph(folder, part, shape))[1])
    return built


def test_a_compiled_model_is_read_back_without_building_it(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = count_builds(monkeypatch)
    first = picture(engines.load("cpu", own))
    assert sorted(built) == ["text_encoder", "unet", "vae"]
    assert np.array_equal(first, picture(engines.load("cpu", own)))
    assert len(built) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "folder"])
def test_a_damaged_compiled_model_is_made_anew(own: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    first = picture(engines.load("cpu", own))
    blob = next(cpu.CACHE.glob("*-unet-*.blob"))
    content = bytearray(blob.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    damaged = {"cut": content[: len(content) // 2], "empty": b"", "foreign": b"PK\x03\x04" * 999}.get(damage, content)
    blob.unlink()
    if damage == "folder":
        blob.mkdir()
    else:
        blob.write_bytes(damaged)
    built = count_builds(monkeypatch)
    assert np.array_equal(first, picture(engines.load("cpu", own)))
    assert built == ["unet"]
    if damage != "folder":
        assert blob.read_bytes() != damaged
        engines.load("cpu", own)
        assert built == ["unet"]


def test_a_compiled_model_of_another_runtime_is_made_anew(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checksum is right, but the runtime does not take it."""
    first = picture(engines.load("cpu", own))
    blob = next(cpu.CACHE.glob("*-unet-*.blob"))
    content = b"<?xml version='1.0'?>" + b"\0" * 5000
    blob.write_bytes(content + cpu.zlib.crc32(content).to_bytes(4, "little"))
    built = count_builds(monkeypatch)
    assert np.array_equal(first, picture(engines.load("cpu", own)))
    assert built == ["unet"]


def test_without_a_cache_that_can_be_written_it_draws_too(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = picture(engines.load("cpu", own))
    monkeypatch.setattr(cpu, "CACHE", own / "model_index.json" / "openvino")  # a file, where a folder should be
    assert np.array_equal(first, picture(engines.load("cpu", own)))


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

    export = cpu._Export
    monkeypatch.setattr(cpu, "_Export", lambda file: export(Full(file)))
    picture(engines.load("cpu", own))
    assert written
    assert list(cpu.CACHE.iterdir()) == []


def test_the_cache_does_not_grow_and_a_changed_model_is_compiled_anew(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = count_builds(monkeypatch)
    for width in (32, 34, 36, 38):
        engines.load("cpu", own, size=(width, 32))
    assert len(list(cpu.CACHE.glob("*-unet-*"))) == len(list(cpu.CACHE.glob("*-vae-*"))) == 2
    assert len(list(cpu.CACHE.glob("*-text_encoder-*"))) == 1
    built.clear()
    engines.load("cpu", own, size=(38, 32))
    assert built == []
    os.utime(own / "unet" / "diffusion_pytorch_model.safetensors", (1, 1))
    engines.load("cpu", own, size=(38, 32))
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
    first = picture(engines.load("cpu", own))
    rewrite(own / "vae" / "diffusion_pytorch_model.safetensors", old_names)
    rewrite(own / "text_encoder" / "model.safetensors", with_prefix)
    assert np.array_equal(first, picture(engines.load("cpu", own)))


@pytest.mark.parametrize(
    ("dtype", "save"),
    [("float32", {"max_shard_size": "20KB"}), ("float16", {"variant": "fp16"}), ("bfloat16", {}),
     ("float16", {"variant": "fp16", "max_shard_size": "20KB"})],
)  # fmt: skip
def test_shards_variants_and_half_precision(
    model: Callable[[str], Path], tmp_path: Path, dtype: str, save: dict[str, Any]
) -> None:
    pipe = reference(model("tiny")).to(getattr(torch, dtype))
    pipe.save_pretrained(tmp_path, **save)
    shutil.copytree(BUILTIN / "tokenizer", tmp_path / "tokenizer", dirs_exist_ok=True)
    assert (len(list((tmp_path / "unet").glob("*.safetensors"))) > 1) == ("max_shard_size" in save)
    engine, pipe = engines.load("cpu", tmp_path), pipe.to(torch.float32)
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
    with pytest.raises(StageError, match=key) as raised:
        engines.load("cpu", own)
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
    with pytest.raises(StageError, match=what) as raised:
        engines.load("cpu", own)
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
    with pytest.raises(StageError, match=what) as raised:
        engines.load("cpu", own)
    assert raised.value.code == 69
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("abacus", {}), ("cpu", {"precision": "f8"}), ("cpu", {"size": (500, 512)}), ("cpu", {"size": (0, 16)})],
)
def test_wrong_arguments_are_a_usage_error(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(StageError) as raised:
        engines.load(name, BUILTIN, **arguments)
    assert raised.value.code == 64


def test_nothing_is_sent_and_nothing_written_to_the_home(tmp_path: Path) -> None:
    """No socket by Python, no telemetry package, no consent file."""
    program = f"""
import sys
sys.addaudithook(lambda event, _: event.startswith("socket.") and sys.exit(f"used {{event}}"))
from pathlib import Path
from helpers import engines
from helpers.engines import cpu
cpu.CACHE = Path({str(tmp_path / "cache")!r})
engines.load("cpu", Path({str(BUILTIN)!r})).warm()
loaded = [name for name in sys.modules if name.startswith(("openvino_telemetry", "openvino.tools.", "torch", "socket"))]
print([name for name in loaded if sys.modules[name]])
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"HOME": str(home)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert list(home.iterdir()) == []
