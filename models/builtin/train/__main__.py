"""Makes the built-in model, step by step. Each step carries on where it was stopped.

from nothing:  text, decoder (in any order), unet, save, evaluate
better:        unet with more samples, save, evaluate
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from models.builtin.vocabulary import EVERYTHING, FEATURES, FOLDER, KNOWN, SUBJECTS, Known


def _features(text: str) -> dict[str, float]:
    """`single=0.8,size=0.2` as {feature: weight}."""
    weights = {name: float(weight or 1) for name, _, weight in (part.partition("=") for part in text.split(","))}
    if unknown := set(weights) - set(FEATURES):
        raise argparse.ArgumentTypeError(f"no such feature: {', '.join(sorted(unknown))}")
    return weights


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m models.builtin.train", description=__doc__, formatter_class=form, allow_abbrev=False
    )
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")

    def step(name: str, what: str) -> argparse.ArgumentParser:
        return steps.add_parser(name, help=what, description=what, allow_abbrev=False)

    trained = {
        "text": step("text", "train the text encoder to name what a caption says"),
        "decoder": step("decoder", "train the decoder from latents to pixels"),
        "unet": step("unet", "train the UNet, with the text encoder frozen"),
    }
    for name, (batch, rate) in {"text": (128, 1e-3), "decoder": (8, 8e-4), "unet": (16, 1e-3)}.items():
        options = trained[name]
        options.add_argument("--samples", type=int, required=True, help="train until the run has seen so many")
        options.add_argument("--batch", type=int, default=batch, help="samples at once (default %(default)s)")
        options.add_argument("--rate", type=float, default=rate, help="learning rate (default %(default)s)")
        options.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    trained["unet"].add_argument("--workers", type=int, default=0, help="processes that draw scenes (default: none)")
    trained["unet"].add_argument(
        "--features", type=_features, default=dict(FEATURES), help="kinds of scenes: single=0.8,size=0.2"
    )
    save = step("save", "write the model as a diffusers folder")
    save.add_argument("--model", type=Path, default=FOLDER, help="where to (default: the shipped model's folder)")
    for options in (*trained.values(), save):
        options.add_argument("--run", type=Path, required=True, help="folder of the checkpoints and the log")
        options.add_argument("--from-nothing", action="store_true", help="do not start from the shipped weights")
    measure = step("evaluate", "draw held-out captions and judge the pictures")
    measure.add_argument("--model", type=Path, default=FOLDER, help="the model (default: the shipped one)")
    measure.add_argument("--out", type=Path, help="where the figures and the sheet go (default: the model's folder)")
    measure.add_argument("--prompts", type=int, default=200, help="how many pictures (default %(default)s)")
    measure.add_argument("--all-subjects", action="store_true", help="ask for all subjects, not for the known ones")
    measure.add_argument("--features", type=_features, help="kinds of scenes (default: the known ones)")
    measure.add_argument("--untrained", action="store_true", help="measure an untrained model too")
    step("basis", "find the basis of the latents anew: makes all weights void")
    return parser


def _evaluate(options: argparse.Namespace) -> None:
    from models.builtin.train.evaluate import evaluate  # without torch, unless an untrained model is to be made

    everything = EVERYTHING.subjects if options.all_subjects else KNOWN.subjects
    known = Known(everything, options.features or KNOWN.features)
    with tempfile.TemporaryDirectory() as folder:
        untrained = None
        if options.untrained:
            from models.builtin.train.run import Run
            from models.builtin.train.save import save

            untrained = Path(folder) / "untrained"
            save(Run(Path(folder)), untrained, trained=False)
        evaluate(options.model, options.out or options.model, count=options.prompts, known=known, untrained=untrained)


def _train(options: argparse.Namespace) -> None:
    import torch

    from models.builtin.train import decoder, latents, text, unet
    from models.builtin.train.run import Run
    from models.builtin.train.save import save

    if options.step == "basis":
        latents.make_basis()
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
        {"text": text, "decoder": decoder}[options.step].train(run, **how)


def main(argv: list[str] | None = None) -> int:
    """Parse the step and its options, and run it."""
    options = _parser().parse_args(argv)

    if options.step == "evaluate":
        _evaluate(options)
    else:
        _train(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
