"""Small Stable Diffusions 1, 2 and XL of random weights as one file with their authors' names, and as a folder.

The file is made from diffusers' weights by renaming them the other way round, with a table of its own.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
from small_models import SCHEDULER, diffusers, torch, transformers

from helpers.adapt.checkpoint import CLIP
from helpers.draw.tokenizer import clip_vocabulary

FAMILIES = ("sd1", "sd2", "xl")
UNET: dict[str, dict[str, Any]] = {
    "sd1": {"block_out_channels": (32, 64), "layers_per_block": 1, "attention_head_dim": 8, "cross_attention_dim": 64,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
    "sd2": {"block_out_channels": (64, 64, 64, 128), "attention_head_dim": (1, 1, 1, 2), "cross_attention_dim": 64,
            "use_linear_projection": True, "sample_size": 96},
    "xl": {"block_out_channels": (64, 64, 128), "attention_head_dim": (1, 1, 2), "cross_attention_dim": 192,
           "use_linear_projection": True, "transformer_layers_per_block": (1, 2, 3),
           "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
           "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
           "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
           "projection_class_embeddings_input_dim": 128 + 6 * 8},
}  # fmt: skip
VAE = {"block_out_channels": (32, 32, 64), "layers_per_block": 1, "latent_channels": 4,
       "down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}  # fmt: skip
TEXT = {"vocab_size": 49408, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 1,
        "bos_token_id": 49406, "eos_token_id": 49407, "projection_dim": 64}  # fmt: skip
_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip

_LAYER = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
          "mlp.fc2": "mlp.c_proj"}  # fmt: skip


def folder(path: Path, family: str) -> Path:
    """The model in diffusers' layout."""
    torch.manual_seed(11)
    xl = family == "xl"
    act = "gelu" if family == "sd2" else "quick_gelu"
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT, hidden_act=act, num_hidden_layers=2))
    parts: dict[str, Any] = {
        "unet": diffusers.UNet2DConditionModel(**{"sample_size": 128 if xl else 64} | UNET[family]),
        "vae": diffusers.AutoencoderKL(**VAE, **({"scaling_factor": 0.13025, "force_upcast": True} if xl else {})),
        "text_encoder": text,
    }
    if xl:
        wide = TEXT | {"hidden_size": 128, "num_attention_heads": 2, "projection_dim": 128}
        config = transformers.CLIPTextConfig(**wide, hidden_act="gelu", num_hidden_layers=3)
        parts["text_encoder_2"] = transformers.CLIPTextModelWithProjection(config)
    for name, module in parts.items():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
        module.save_pretrained(path / name)
    scheduler = diffusers.EulerDiscreteScheduler if xl else diffusers.DDIMScheduler
    predicts = "v_prediction" if family == "sd2" else "epsilon"
    settings = {**SCHEDULER, "timestep_spacing": "leading", "prediction_type": predicts}
    scheduler.from_config(settings).save_pretrained(path / "scheduler")
    index: dict[str, Any] = {"_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"}
    kinds = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    for name, module in parts.items():
        index[name] = ["diffusers" if name in kinds else "transformers", type(module).__name__]
        (path / "tokenizer").mkdir(exist_ok=True)
    index["scheduler"] = ["diffusers", scheduler.__name__]
    for name in ("tokenizer", "tokenizer_2") if xl else ("tokenizer",):
        index[name] = ["transformers", "CLIPTokenizer"]
        (path / name).mkdir(exist_ok=True)
        shutil.copyfile(CLIP / "merges.txt", path / name / "merges.txt")
        words = clip_vocabulary((CLIP / "merges.txt").read_text(encoding="utf-8"))[0]
        (path / name / "vocab.json").write_text(json.dumps(words))
        pad = "!" if family == "sd2" or name == "tokenizer_2" else "<|endoftext|>"
        marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        (path / name / "tokenizer_config.json").write_text(
            json.dumps({**marks, "pad_token": pad, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})
        )
    if xl:
        index["force_zeros_for_empty_prompt"] = True
    (path / "model_index.json").write_text(json.dumps(index))
    return path


def _unet_name(name: str, layers: int) -> str:
    name = (
        name.replace("conv_norm_out.", "out.0.").replace("conv_out.", "out.2.").replace("conv_in.", "input_blocks.0.0.")
    )
    for new, old in (("time_embedding", "time_embed"), ("add_embedding", "label_emb.0")):
        name = name.replace(f"{new}.linear_1", f"{old}.0").replace(f"{new}.linear_2", f"{old}.2")
    if found := re.match(
        r"(down|mid|up)_(?:blocks?)(?:\.(\d))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name
    ):
        side, block, kind, layer, inner = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
        if kind == "resnets":
            first, _, last = inner.partition(".")
            inner = f"{_RESNET[first]}.{last}"
        if side == "mid":
            return f"middle_block.{2 * layer if kind == 'resnets' else 1}.{inner}"
        if side == "down":
            number = 1 + (layers + 1) * block + (layers if kind == "downsamplers" else layer)
            inner = inner.replace("conv", "op") if kind == "downsamplers" else inner
            return f"input_blocks.{number}.{int(kind == 'attentions')}.{inner}"
        number = (layers + 1) * block + (layers if kind == "upsamplers" else layer)
        place = {"resnets": "0", "attentions": "1"}.get(kind, "up")
        return f"output_blocks.{number}.{place}.{inner}"
    return name


def original(folder: Path, family: str) -> dict[str, Any]:
    """The weights of the folder's model under their authors' names."""
    result: dict[str, Any] = {}
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    weights = {_unet_name(name, unet.config.layers_per_block): value for name, value in unet.state_dict().items()}
    for name, value in weights.items():
        if ".up." in name:  # after the attention, if there is one
            begin = name.split(".up.")[0]
            place = "2" if any(other.startswith(f"{begin}.1.") for other in weights) else "1"
            name = name.replace(".up.", f".{place}.")
        result[f"model.diffusion_model.{name}"] = value
    for name, value in diffusers.AutoencoderKL.from_pretrained(folder / "vae").state_dict().items():
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
        if "attentions" in new and value.ndim == 2:
            value = value[:, :, None, None]
        for inner, old in (
            ("group_norm", "norm"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
        ):
            new = new.replace(f"mid_block.attentions.0.{inner}.", f"mid.attn_1.{old}.")
        new = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", new)
        new = re.sub(r"up_blocks\.(\d)\.resnets", lambda found: f"up.{2 - int(found[1])}.block", new)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{2 - int(found[1])}.upsample", new)
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        result[f"first_stage_model.{new}"] = value
    text = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict()
    if family == "sd2":
        result |= _openclip(text, "cond_stage_model.model.", extra=True)
    else:
        begin = "cond_stage_model.transformer." if family == "sd1" else "conditioner.embedders.0.transformer."
        result |= {f"{begin}text_model.{name}": value for name, value in text.items()}
        result[f"{begin}text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if family == "xl":
        second = transformers.CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2").state_dict()
        second = {name.removeprefix("text_model."): value for name, value in second.items()}
        result |= _openclip(second, "conditioner.embedders.1.model.", extra=False)
    return result


def _openclip(text: dict[str, Any], begin: str, extra: bool) -> dict[str, Any]:
    """extra: with a last layer that is not used."""
    rest = {"embeddings.token_embedding.weight": "token_embedding.weight",
            "embeddings.position_embedding.weight": "positional_embedding",
            "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias"}  # fmt: skip
    result = {begin + rest[name]: value for name, value in text.items() if name in rest}
    result[f"{begin}logit_scale"] = torch.tensor(4.6)
    width = text["final_layer_norm.weight"].shape[0]
    projection = (
        text["text_projection.weight"].T.contiguous() if "text_projection.weight" in text else torch.randn(width, width)
    )
    result[f"{begin}text_projection"] = projection
    layers = 1 + max(int(name.split(".")[2]) for name in text if name.startswith("encoder.layers."))
    for layer in range(layers):
        old, new = f"encoder.layers.{layer}", f"{begin}transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            parts = [text[f"{old}.self_attn.{one}_proj.{kind}"] for one in "qkv"]
            result[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
            for inner, outer in _LAYER.items():
                result[f"{new}.{outer}.{kind}"] = text[f"{old}.{inner}.{kind}"]
    if extra:
        last = {name: value for name, value in result.items() if f"resblocks.{layers - 1}." in name}
        result |= {
            name.replace(f"resblocks.{layers - 1}.", f"resblocks.{layers}."): value + 1 for name, value in last.items()
        }
    return result


def save(path: Path, weights: dict[str, Any], dtype: Any = None, **metadata: str) -> Path:
    kept = {name: value.to(dtype or value.dtype).contiguous().clone() for name, value in weights.items()}
    safetensors.torch.save_file(kept, path, metadata or None)
    return path
