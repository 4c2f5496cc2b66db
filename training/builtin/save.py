"""From checkpoints to an ordinary diffusers folder: `StableDiffusionPipeline`, safetensors.

Weights are float16, except for the UNet's, the largest part, which are 8-bit floats: half the size, and the pictures
have a PSNR of 43 dB against float16. diffusers and this project's engines convert them when they load them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from training.builtin import networks
from training.builtin import text as text_step
from training.builtin.curves import HISTORY
from training.builtin.run import Run


def save(run: Run, folder: Path, *, trained: bool = True) -> None:
    """Write the model of `run` to `folder`; parts that the run has not trained come from its starting model.

    With `trained=False` text encoder and UNet keep their random weights: a control for the evaluation.
    """
    words = {
        file.name: file.read_bytes() for file in (run.vocabulary / "tokenizer").iterdir()
    }  # read first, since it may be in `folder`
    tokenizer, unet, vae = networks.tokenizer(run.vocabulary), networks.unet(), networks.vae()
    text = text_step.load(run) if trained else networks.text_encoder(tokenizer)
    if trained:
        run.weights("unet", unet)
        if state := run.load("unet"):
            unet.load_state_dict(state["averaged"])
    run.weights("vae", vae)
    if state := run.load("decoder"):
        torch.nn.Sequential(vae.post_quant_conv, vae.decoder).load_state_dict(state["averaged"])
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=networks.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    small = {name: w.to(torch.float8_e4m3fn) if w.dim() > 1 else w for name, w in load_file(weights).items()}
    save_file(small, weights)
    if (log := run.folder / "log.jsonl").exists():
        shutil.copyfile(log, folder / HISTORY)
    shutil.rmtree(folder / "tokenizer")  # remove tokenizer.json, which is redundant
    (folder / "tokenizer").mkdir()
    for name, content in words.items():
        (folder / "tokenizer" / name).write_bytes(content)
