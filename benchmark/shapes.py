"""Models with random weights in the shapes of real ones, to measure speed without a download; and their FLOPs."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from helpers.core.paths import ROOT

# scheduler_config.json of Stable Diffusion 2.1-base
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": True,
             "set_alpha_to_one": False, "steps_offset": 1}  # fmt: skip


KINDS = ("convolutions", "matrix products", "attention")  # of arithmetic


class Shapes(NamedTuple):
    """The configuration of a model, and the steps, batch sizes and rounds to measure."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    steps: tuple[int, ...]
    batches: tuple[int, ...]
    rounds: int


_DECODER = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
SD21 = Shapes(
    {"sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
     "use_linear_projection": True},
    {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 768} | _DECODER,
    {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
     "hidden_act": "gelu", "vocab_size": 49408, "projection_dim": 512},
    (20, 25, 50), (1, 4, 8), 5,
)  # fmt: skip
SMALL = Shapes(
    {"sample_size": 8, "cross_attention_dim": 32, "attention_head_dim": (1, 2, 3, 3), "use_linear_projection": True,
     "block_out_channels": (8, 16, 24, 24), "norm_num_groups": 4},
    {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4} | _DECODER,
    {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 1604,
     "bos_token_id": 1602, "eos_token_id": 1603},
    (2, 3), (1, 2), 1,
)  # fmt: skip


def make(folder: Path, shapes: Shapes, device: str, dtype: Any) -> None:
    """Write a model with random weights in diffusers' layout, with the built-in model's vocabulary."""
    diffusers, torch = _modules()
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(1)
    with torch.device(device):
        parts = (
            diffusers.AutoencoderKL(**shapes.vae),
            transformers.CLIPTextModel(transformers.CLIPTextConfig(**shapes.text)),
            diffusers.UNet2DConditionModel(**shapes.unet),
        )
    vae, text, unet = (part.to(dtype) for part in parts)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(
        ROOT / "models" / "builtin" / "tokenizer", model_max_length=77
    )
    scheduler = diffusers.PNDMScheduler(**SCHEDULER)
    pipe = diffusers.StableDiffusionPipeline(vae, text, tokenizer, unet, scheduler, None, None, None, False)
    pipe.save_pretrained(folder)
    shutil.copytree(ROOT / "models" / "builtin" / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)


def with_ranges(folder: Path) -> None:
    """Let all layers of a model compute in int8, with any range: for its speed. It says nothing about its pictures."""
    from helpers.adapt.diffusers_folder import read_weights

    ranges: dict[str, dict[str, float]] = {}
    for part, beginnings in (("unet", ("",)), ("vae", ("decoder.", "post_quant_conv."))):
        weights = read_weights(folder / part)
        names = [name for name, weight in weights.items() if weight.ndim > 1 and name.startswith(beginnings)]
        ranges[part] = dict.fromkeys(names, 4.0)
    (folder / "int8.json").write_text(json.dumps(ranges))


def arithmetic(shapes: Shapes) -> tuple[dict[str, float], float]:
    """GFLOP of one step with guidance by kind of arithmetic, and of one decoding; counted, not computed."""
    diffusers, torch = _modules()
    with torch.device("meta"):
        unet, vae = diffusers.UNet2DConditionModel(**shapes.unet), diffusers.AutoencoderKL(**shapes.vae)
        side = shapes.unet["sample_size"]
        latents, text = torch.zeros(2, 4, side, side), torch.zeros(2, 77, shapes.unet["cross_attention_dim"])
    counter_of: Any = importlib.import_module("torch.utils.flop_counter").FlopCounterMode
    counted = []
    works: tuple[Callable[[], Any], ...] = (
        lambda: unet(latents, torch.zeros(1, device="meta"), text),
        lambda: vae.decode(latents[:1]),
    )
    for compute in works:
        with counter_of(display=False) as counter, torch.inference_mode():
            compute()
        counted.append(dict.fromkeys(KINDS, 0.0))
        for operation, flops in counter.get_flop_counts()["Global"].items():
            counted[-1][_kind(str(operation))] += flops / 1e9
    return counted[0], sum(counted[1].values())


def _kind(operation: str) -> str:
    if "convolution" in operation:
        return KINDS[0]
    return KINDS[1] if "mm" in operation and "bmm" not in operation else KINDS[2]


def _modules() -> tuple[Any, Any]:
    return importlib.import_module("diffusers"), importlib.import_module("torch")
