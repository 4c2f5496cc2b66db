"""The results as Markdown: nothing is in it that is not in the JSON, but what others have published, which says so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from benchmark import plots
from benchmark.results import Figure, Results

SECTIONS = {  # title, what is measured, its plot
    "pipe": (
        "From the last word to the picture",
        "`./pipeline.sh` starts all stages at once, and they load while the microphone is open. It is compared with "
        "the same programs one after another: record the whole window to a file, transcribe it, filter the text, draw. "
        "Models and settings are the same. Cold: models, compiled models and Python packages are not in the system's "
        "file cache, as after a restart. The microphone is a recording that is played in real time. The recording "
        "window is 5 s. If the speech ends earlier, the pipe stops 0.8 s after the last word; the other way records "
        "the whole window.",
        plots.TIMELINE,
    ),
    "speech": (
        "Speech recognition",
        "Every recogniser on this machine, with thirty prompts in synthetic voices. The real-time factor is the time "
        "of the recognition divided by the length of the recording.",
        "",
    ),
    "ears": (
        "Speech recognition with real weights",
        "One speech model by the whole way from the sound to the line of text, with the fixed recordings of "
        "`benchmark/clips.py`: prompts, everyday sentences, the examples and a real voice; the same under noise; "
        "recordings in which nobody speaks; and sounds like speech, which nobody should get a picture of. An "
        "invented line shares no content word with what was said. Then the pipe with this model. Whisper base for it: "
        "`python tests/real_weights.py q5_1`.",
        "",
    ),
    "image": (
        "Drawing",
        "The engines on this machine. The CPU engine compared with diffusers on PyTorch, used as in its quick start. "
        "Every sampler, with what the judge of the built-in model (which does not see the prompt) finds in the "
        "pictures. Where real weights are missing, time is measured with random weights of the same shapes.",
        plots.PICTURES,
    ),
    "memory": (
        "Memory",
        "Drawing with Stable Diffusion 2.1's shapes (random weights): the first start, which compiles the model, a "
        "later one, and one that keeps only the network that computes in memory. All others keep all networks.",
        "",
    ),
    "models": (
        "Sizes",
        "Models on this disk, and the built-in model with compressed weights (`python -m helpers.compress.palettize`), "
        "computed as Core ML would do it.",
        plots.PALETTES,
    ),
    "voices": (
        "Voices",
        "What a recogniser hears when the voices of this machine say the thirty prompts, and how quick they are. The "
        "recogniser is the one of `A2I_WHISPER`; the built-in one knows all words of the prompts.",
        "",
    ),
}
PUBLISHED = (  # what, figure, whose
    ("Stable Diffusion 2.1-base, 512×512, Core ML on M1: GPU, Neural Engine", "29.6 s, 14.3 s",
     "[Hugging Face, 2023](https://huggingface.co/blog/fast-mac-diffusers)"),
    ("the same on M2", "19.5 s, 10.5 s", "[Hugging Face, 2023](https://huggingface.co/blog/fast-mac-diffusers)"),
    ("the same on M1 Max", "8.3 s, 15.3 s", "[Hugging Face, 2023](https://huggingface.co/blog/fast-mac-diffusers)"),
    ("the same on M2 Ultra, GPU", "4.1 s",
     "[swift-coreml-diffusers #31](https://github.com/huggingface/swift-coreml-diffusers/issues/31)"),
    ("Stable Diffusion 2.1-base, 6 bits, 20 steps, iPad with M1; with M2", "11.2 s; 7.0 s",
     "[Apple, ml-stable-diffusion](https://github.com/apple/ml-stable-diffusion)"),
    ("loading its UNet as `.mlpackage`, which is compiled each time", "91.7 s",
     "[ml-stable-diffusion #103](https://github.com/apple/ml-stable-diffusion/issues/103)"),
    ("whisper.cpp on M1 Pro, 11 s of speech with loading: tiny.en, base.en", "239 ms, 324 ms",
     "[whisper.cpp #1298](https://github.com/ggerganov/whisper.cpp/pull/1298)"),
)  # fmt: skip

README = {  # what stands in the README, by the name of its ratio
    "pipe: one after another / this pipe, microphone, speech to the end of the window, cold": (
        "from the last word to the picture, after a cold start"
    ),
    "pipe: one after another / this pipe, microphone, speech ends at 3 s, warm": (
        "the same, when the speech ends at 3 s of a window of 5 s, warm"
    ),
    "image: diffusers on PyTorch (f32) / CPU engine (f32), the built-in model, start to picture": (
        "from the start of the drawing process to its picture, against diffusers on PyTorch"
    ),
    "image: diffusers on PyTorch (bf16) / CPU engine (bf16), Stable Diffusion 2.1's shapes, step": (
        "a step of Stable Diffusion 2.1's shapes at bf16, against diffusers on PyTorch"
    ),
}
COUNTED = ("pictures", "words", "recordings")  # units of whole numbers


def markdown(results: Results) -> str:
    """The whole document, with a final newline."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts = [
        "# Benchmarks",
        "`python -m benchmark` writes this page. `benchmarks.json` has all values, and `--check` compares the ratios "
        "of a later run with them. In each comparison, two commands run alternately in the same run. Figures are "
        "medians; where there is more than one value, the quartiles follow in brackets.",
        f"{results.machine}, {results.memory} of memory; {versions}; {results.date}"
        + (". **A quick run: few rounds.**" if results.quick else "."),
        "## Ratios",
        "Each ratio says how many times better, or which share of the maximum. Higher is better in all rows.",
        ratios(results),
    ]
    for section, (title, about, plot) in SECTIONS.items():
        if figures := results.part(section):
            parts += [f"## {title}", about]
            if plot and plots.has(results, plot):
                parts.append(f"![{title}, as a plot]({plot})")
            parts += tables(figures)
    if results.notes:
        parts += ["## What was not measured", "\n".join(f"- {note}" for note in results.notes)]
    parts += ["## Figures that others have published", "Measured by them, on their machines.", published()]
    return "\n\n".join(parts) + "\n"


def readme(results: Results) -> str:
    """The table of the README, with a final newline."""
    rows = ["| | this | the other way | ratio |", "| --- | --: | --: | --: |"]
    for name, about in README.items():
        if ratio := results.ratios.get(name):
            other, ours = (results.figures[figure] for figure in (ratio.a, ratio.b))
            values = f"{number(ours.median)} {ours.unit} | {number(other.median)} {other.unit}"
            rows.append(f"| {about} | {values} | {number(ratio.value)}× |")
    return "\n".join([*rows, "", f"Measured with {results.machine}."]) + "\n"


def ratios(results: Results) -> str:
    rows = ["| | ratio | quartiles | rounds |", "| --- | --: | --: | --: |"]
    for ratio in results.ratios.values():
        spread = f"{number(ratio.quartiles[0])} to {number(ratio.quartiles[1])}" if ratio.n > 1 else ""
        rows.append(f"| {ratio.name} | {number(ratio.value)} | {spread} | {ratio.n} |")
    return "\n".join(rows)


def tables(figures: Iterable[Figure]) -> list[str]:
    """A table for all subjects of which the same quantities are known, and how they were measured below it."""
    subjects: dict[str, dict[str, Figure]] = defaultdict(dict)
    for figure in figures:
        _, subject, quantity = figure.name.split(" / ")
        subjects[subject][quantity] = figure
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for subject, known in subjects.items():
        alike[tuple(known)].append(subject)
    parts = []
    for quantities, names in alike.items():
        rows = [f"| | {' | '.join(quantities)} |", f"| --- |{' --: |' * len(quantities)}"]
        rows += [f"| {name} | {' | '.join(map(cell, subjects[name].values()))} |" for name in names]
        parts.append("\n".join(rows))
        hows: dict[str, list[str]] = defaultdict(list)
        for quantity in quantities:
            for name in names:
                figure = subjects[name][quantity]
                how = figure.how + (f" ({figure.n} values)" if figure.n > 1 else "")
                if quantity not in hows[how]:
                    hows[how].append(quantity)
        parts.append("; ".join(f"*{', '.join(which)}*: {how}" for how, which in hows.items()) + ".")
    return parts


def cell(figure: Figure) -> str:
    if figure.unit in COUNTED:
        return f"{figure.median:.0f}"
    value = f"{number(figure.median)} {figure.unit}"
    return f"{value} ({number(figure.quartiles[0])}–{number(figure.quartiles[1])})" if figure.n > 1 else value


def number(value: float) -> str:
    """Three digits, and all that stand before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".") if value else "0"


def published() -> str:
    rows = ["| | figure | source |", "| --- | --: | --- |"]
    return "\n".join(rows + [f"| {what} | {figure} | {source} |" for what, figure, source in PUBLISHED])
