"""More small models of random weights: Stable Diffusion XL, a latent consistency model, one with TAESD as its decoder,
and a safety checker; and a CUDA graph that records on the processor what it would record on a GPU."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from small_models import BUILTIN, MODELS, SCHEDULER, TEXT, UNET, VAE, diffusers, random_model, torch, transformers
from torch.utils._python_dispatch import TorchDispatchMode


def xl_model(folder: Path) -> Path:
    torch.manual_seed(7)
    parts = MODELS["tiny"]
    text = transformers.CLIPTextConfig(**TEXT | {"num_hidden_layers": 2, "projection_dim": 24})
    wide = transformers.CLIPTextConfig(**TEXT | {"num_hidden_layers": 2, "hidden_size": 48, "projection_dim": 24})
    wanted = {
        "cross_attention_dim": 80, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 6 * 8,
    }  # fmt: skip
    tokenizers = [
        transformers.CLIPTokenizer.from_pretrained(BUILTIN / "tokenizer", pad_token=pad)
        for pad in ("<|endoftext|>", "!")
    ]
    diffusers.StableDiffusionXLPipeline(
        diffusers.AutoencoderKL(**VAE | parts["vae"] | {"force_upcast": True}),
        transformers.CLIPTextModel(text), transformers.CLIPTextModelWithProjection(wide), *tokenizers,
        diffusers.UNet2DConditionModel(**UNET | parts["unet"] | wanted),
        diffusers.EulerDiscreteScheduler.from_config(SCHEDULER),
    ).save_pretrained(folder)  # fmt: skip
    for name, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        shutil.copytree(BUILTIN / "tokenizer", folder / name, dirs_exist_ok=True)
        settings = folder / name / "tokenizer_config.json"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"pad_token": pad, "model_max_length": 77}))
    return folder


def lcm_model(folder: Path) -> Path:
    random_model(folder, "tiny")
    torch.manual_seed(8)
    unet = diffusers.UNet2DConditionModel(**UNET | MODELS["tiny"]["unet"] | {"time_cond_proj_dim": 32})
    unet.save_pretrained(folder / "unet")
    diffusers.LCMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    _say(folder, scheduler="LCMScheduler")
    return folder


def sdxs_model(folder: Path) -> Path:
    """SDXS-512's architecture: three levels, attention at two of them, no middle block, and a small decoder."""
    random_model(folder, "tiny")
    torch.manual_seed(8)
    shape = {"block_out_channels": (8, 16, 24), "layers_per_block": 1, "mid_block_type": None, "sample_size": 16}
    down = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    up = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    unet = diffusers.UNet2DConditionModel(
        **UNET | shape, down_block_types=down, up_block_types=up, attention_head_dim=(1, 2, 3)
    )
    unet.save_pretrained(folder / "unet")
    shutil.rmtree(folder / "vae")
    sides = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    diffusers.AutoencoderTiny(**sides).save_pretrained(folder / "vae")
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    diffusers.DEISMultistepScheduler(**betas).save_pretrained(folder / "scheduler")
    _say(folder, vae="AutoencoderTiny", scheduler="DEISMultistepScheduler")
    return folder


def _say(folder: Path, **classes: str) -> None:
    """Name the classes of parts in model_index.json, where diffusers reads them."""
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {k: ["diffusers", v] for k, v in classes.items()}))


def taesd_model(folder: Path) -> Path:
    random_model(folder, "tiny")
    shutil.rmtree(folder / "vae")
    torch.manual_seed(8)
    sides = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    diffusers.AutoencoderTiny(**sides, **blocks).save_pretrained(folder / "vae")
    return folder


def safety_checker(folder: Path, takes: bool) -> Path:
    """One that takes every picture, or none."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    torch.manual_seed(9)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = sizes | {"image_size": 224, "patch_size": 56}
    checker = StableDiffusionSafetyChecker(
        transformers.CLIPConfig(text_config=sizes, vision_config=vision, projection_dim=8)
    )
    for name in ("concept_embeds_weights", "special_care_embeds_weights"):
        getattr(checker, name).data.fill_(-2 if takes else 2)  # a similarity is -1 … 1
    checker.save_pretrained(folder)
    return folder


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, operations: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = operations

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result


class Graph:
    """A CUDA graph on the processor: what was launched while it recorded is done again with the same tensors."""

    replays = 0

    def __init__(self) -> None:
        self.operations: list[Any] = []

    def replay(self) -> None:
        Graph.replays += 1
        for function, args, kwargs, result in self.operations:
            again = function(*args, **kwargs)
            for old, new in zip(_tensors(result), _tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _tensors(result: Any) -> list[Any]:
    return [one for one in (result if isinstance(result, (list, tuple)) else [result]) if isinstance(one, torch.Tensor)]


@contextlib.contextmanager
def recording(graph: Graph, capture_error_mode: str) -> Iterator[None]:
    assert capture_error_mode == "thread_local"
    with _Recorder(graph.operations):
        yield
