"""How quickly a GPU draws: diffusers' quick start, this engine for one run, this engine in --loop, and the floor.

python -m tests.measure_cuda            a model of Stable Diffusion 2.1-base's exact shapes (random weights, 2.6 GB in a
                                        temporary folder), 512×512, guidance 7.5, in turn in one process
python -m tests.measure_cuda small      a miniature, to see that this program runs; its times mean nothing

The floor is the arithmetic of the UNet and the decoder, counted, divided by what a large matrix multiplication reaches
on the same device. What random weights draw is noise, which compresses worse than a picture: the PNG takes longer.
"""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from helpers import diffusion, engines, generate
from helpers.diffusion import NoPicture
from helpers.stage import ROOT

diffusers: Any = importlib.import_module("diffusers")
torch: Any = importlib.import_module("torch")
transformers: Any = importlib.import_module("transformers")

PROMPT = "a red heart on a blue background"
GUIDANCE = 7.5
# scheduler_config.json of Stable Diffusion 2.1-base
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": True,
             "set_alpha_to_one": False, "steps_offset": 1}  # fmt: skip


class Shapes(NamedTuple):
    """What a model is made of, and which pictures are drawn with it."""

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
    """Write a model of random weights in diffusers' layout, with the built-in model's vocabulary."""
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


def arithmetic(shapes: Shapes) -> tuple[float, float]:
    """GFLOP of one step with guidance, and of one decoding, counted without computing them."""
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
        counted.append(counter.get_total_flops() / 1e9)
    return counted[0], counted[1]


def rate(device: str, dtype: Any, side: int) -> float:
    """GFLOP/s of a matrix multiplication of `side`, the best of ten."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / 1e9 / min(timed(lambda: a @ b, device) for _ in range(10))


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds of `work`, with what it left running on the device."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def ready(folder: Path, batch: int, loop: bool) -> Any:
    """Our engine as it is when the line arrives; in a loop, once the compiler is done."""
    os.environ["A2I_LOOP"] = "1" if loop else "0"
    engine: Any = engines.load("cuda", folder)
    engine.warm(batch)
    if engine._call.compiling:
        engine._call.compiling.join()
    return engine


def colours(engine: Any, latents: Any) -> Any:
    """The pixels of one picture; where random weights give none, noise."""
    try:
        return diffusion.pixels(engine.decode(latents[None]), engine.precision)
    except NoPicture:
        width, height = engine.size
        return np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)


def ours(engine: Any, steps: int, batch: int, **more: Any) -> list[Any]:
    text, unwanted = (engine.encode_text(engine.tokenizer.encode(words).ids) for words in (PROMPT, ""))
    seeds = list(range(batch))
    latents = diffusion.sample(engine, text, unwanted, seed=seeds, steps=steps, guidance=GUIDANCE, **more)
    return [colours(engine, one) for one in latents]


def profile(engine: Any, steps: int, folder: Path) -> dict[str, float]:
    """Seconds from the arrival of a line to its PNG on disk, by what they went into."""
    unwanted = engine.encode_text(engine.tokenizer.encode("").ids)  # known before the line arrives
    marks = [("", time.perf_counter())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))

    text = engine.encode_text(engine.tokenizer.encode(PROMPT).ids)
    mark("text")
    latents = diffusion.sample(
        engine, text, unwanted, seed=1, steps=steps, guidance=GUIDANCE,
        on_step=lambda step, _: mark("first step" if step == 1 else "other steps"),
    )  # fmt: skip
    pixels = colours(engine, latents[0])
    mark("decoding")
    (folder / "image.png").write_bytes(generate.png(pixels, PROMPT))
    mark("PNG")
    spent: dict[str, float] = {}
    for (_, began), (name, ended) in itertools.pairwise(marks):
        spent[name] = spent.get(name, 0.0) + ended - began
    return spent


def main(argv: list[str]) -> None:
    shapes = SMALL if argv == ["small"] else SD21
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and shapes is SD21:
        sys.exit(
            "no NVIDIA GPU can be used here, and a processor would take hours; try: python -m tests.measure_cuda small"
        )
    dtype = torch.float16 if device == "cuda" else torch.float32
    name = torch.cuda.get_device_name() if device == "cuda" else "the processor, so the times say nothing of a GPU"
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, {dtype}, {name}")
    step, decoding = arithmetic(shapes)
    speed = rate(device, dtype, 8192 if device == "cuda" else 512)
    print(
        f"a step with guidance {step:.5g} GFLOP, decoding {decoding:.5g}; a matrix multiplication reaches {speed:.0f}/s"
    )
    for quiet in (diffusers.utils.logging, transformers.utils.logging):
        quiet.set_verbosity_error()
        quiet.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, shapes, device, dtype)
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=dtype).to(device)
        pipe.set_progress_bar_config(disable=True)
        print(
            "steps pictures quick-start  one run  in a loop    floor   (seconds; how often the quick start, the floor)"
        )
        for batch in shapes.batches:
            once, loop = ready(folder, batch, False), ready(folder, batch, True)
            for steps in shapes.steps:
                ways: dict[str, Callable[[], Any]] = {
                    "quick": lambda steps=steps, batch=batch: pipe(  # type: ignore[misc]
                        PROMPT, num_inference_steps=steps, guidance_scale=GUIDANCE, num_images_per_prompt=batch
                    ),
                    "once": lambda steps=steps, batch=batch, engine=once: ours(engine, steps, batch),  # type: ignore[misc]
                    "loop": lambda steps=steps, batch=batch, engine=loop: ours(engine, steps, batch),  # type: ignore[misc]
                }
                for way in ways.values():
                    way()
                rounds = [{way: timed(work, device) for way, work in ways.items()} for _ in range(shapes.rounds)]
                quick, alone, again = (statistics.median(one[way] for one in rounds) for way in ways)
                floor = batch * (steps * step + decoding) / speed
                print(
                    f"{steps:5} {batch:8} {quick:11.3f} {alone:8.3f} {again:10.3f} {floor:8.3f}   "
                    f"one run {quick / alone:.2f}x, loop {quick / again:.2f}x; {again / floor:.2f}x the floor"
                )
            if batch == 1:
                spent = [profile(loop, 25, folder) for _ in range(shapes.rounds + 1)][1:]
                parts = {part: 1e3 * statistics.median(one[part] for one in spent) for part in spent[0]}
                rest = sum(value for part, value in parts.items() if not part.endswith(("step", "steps")))
                print("line to PNG, 25 steps: " + ", ".join(f"{part} {value:.1f} ms" for part, value in parts.items()))
                print(f"of {sum(parts.values()):.1f} ms, {rest:.1f} ms are not denoising (target: under 60)")
            del once, loop
        if device == "cuda":
            print(
                f"at most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of the card's memory, for all three at once"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
