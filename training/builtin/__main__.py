"""Train the built-in model, step by step. Each step resumes where it was stopped.

from scratch:  all --from-nothing
improve it:    unet with more samples, save, evaluate, curves
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from training.builtin.vocabulary import FEATURES, FOLDER, SUBJECTS

# Hard kinds of scenes are more frequent in training than in real prompts.
_PRACTICE = {"single": 0.4, "size": 0.14, "colour": 0.14, "count": 0.14, "pair": 0.18}

_TRAINED = {  # step: samples, samples at once, learning rate
    "text": (100_000, 128, 1e-3),
    "decoder": (20_000, 8, 8e-4),
    "judge": (40_000, 32, 2e-3),
    "unet": (500_000, 16, 6e-4),
}


def _features(text: str) -> dict[str, float]:
    """`single=0.8,size=0.2` as {feature: weight}."""
    weights = {name: float(weight or 1) for name, _, weight in (part.partition("=") for part in text.split(","))}
    if unknown := set(weights) - set(FEATURES):
        raise argparse.ArgumentTypeError(f"no such feature: {', '.join(sorted(unknown))}")
    return weights


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m training.builtin", description=__doc__, formatter_class=form, allow_abbrev=False
    )
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")

    def step(name: str, what: str) -> argparse.ArgumentParser:
        return steps.add_parser(name, help=what, description=what, allow_abbrev=False)

    trained = {
        "text": step("text", "train the text encoder to classify captions"),
        "decoder": step("decoder", "train the decoder from latents to pixels"),
        "judge": step("judge", "train the networks of the judge, and write them beside judge.py"),
        "unet": step("unet", "train the UNet, with the text encoder frozen"),
    }
    for name, options in trained.items():
        samples, batch, rate = _TRAINED[name]
        options.add_argument(
            "--samples", type=int, default=samples, help="train until the run has seen this many (default %(default)s)"
        )
        options.add_argument("--batch", type=int, default=batch, help="batch size (default %(default)s)")
        options.add_argument("--rate", type=float, default=rate, help="learning rate (default %(default)s)")
    trained["unet"].add_argument("--workers", type=int, default=0, help="processes that draw scenes (default: none)")
    trained["unet"].add_argument(
        "--features", type=_features, default=_PRACTICE, help="kinds of scenes: single=0.8,size=0.2"
    )
    save = step("save", "write the model as a diffusers folder")
    save.add_argument("--model", type=Path, default=FOLDER, help="the folder (default: the shipped model's folder)")
    everything = step("all", "all steps, from the scenes to the finished model")
    for options in (*trained.values(), everything):
        options.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    for options in (*trained.values(), save, everything):
        options.add_argument("--run", type=Path, required=True, help="folder for the checkpoints and the log")
        options.add_argument("--from-nothing", action="store_true", help="do not start from the shipped weights")
    measure = step("evaluate", "draw held-out captions and judge the pictures")
    measure.add_argument("--model", type=Path, default=FOLDER, help="the model (default: the shipped one)")
    measure.add_argument("--out", type=Path, help="folder for the figures and the sheet (default: the model's folder)")
    measure.add_argument("--prompts", type=int, default=200, help="number of pictures (default %(default)s)")
    draw = step("curves", "plot the training curves of a model")
    draw.add_argument("--model", type=Path, default=FOLDER, help="the model (default: the shipped one)")
    step("basis", "compute a new basis of the latents: all weights become invalid")
    return parser


def _carry_out(options: argparse.Namespace) -> None:
    import torch

    from training.builtin import curves, decoder, evaluate, latents, reader, text, unet
    from training.builtin.run import Run
    from training.builtin.save import save

    if options.step == "basis":
        latents.make_basis()
        return
    if options.step == "curves":
        curves.curves(options.model)
        return
    if options.step == "evaluate":
        evaluate.evaluate(options.model, options.out or options.model, count=options.prompts)
        return
    run = Run(options.run, None if options.from_nothing else FOLDER)
    if options.step == "save":
        save(run, options.model)
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    how = {"total": options.samples, "batch": options.batch, "rate": options.rate}
    if options.step == "unet":
        unet.train(run, SUBJECTS, options.features, workers=options.workers, **how)
    else:
        {"text": text, "decoder": decoder, "judge": reader}[options.step].train(run, **how)


def _every_step(options: argparse.Namespace) -> Iterator[list[str]]:
    """The command line of each step of `all`; a completed step ends immediately."""
    run = ["--run", str(options.run), *["--from-nothing"] * options.from_nothing]
    if options.from_nothing:
        yield ["basis"]
    for name in _TRAINED:
        yield [name, *run, *(["--threads", str(options.threads)] if options.threads else [])]
    yield from (["save", *run], ["evaluate"], ["curves"])


def main(argv: list[str] | None = None) -> int:
    """Parse the step and its options, and run it."""
    options = _parser().parse_args(argv)
    for step in _every_step(options) if options.step == "all" else [argv]:
        _carry_out(_parser().parse_args(step))
    return 0


if __name__ == "__main__":
    sys.exit(main())
