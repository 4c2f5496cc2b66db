"""Speed of drawing: each available engine, compared with diffusers on PyTorch, with every sampler, and how close the
CPU engine comes to the peak speed of the processor.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark import energy, spoken_prompts
from benchmark.results import Results, in_turn
from benchmark.worker import Worker
from helpers.catalog import catalog
from helpers.core import extras, system
from helpers.core.paths import ROOT
from helpers.core.settings import Settings
from helpers.draw import engines

BUILTIN = ROOT / "models" / "builtin"
PRECISIONS = ("f32", "bf16")  # of the CPU engine
OURS, THEIRS = "CPU engine", "diffusers on PyTorch"
SAMPLERS = ("dpm++", "euler", "ddim")
STEPS = (1, 2, 4, 8)
SLOW = 10  # seconds; slower pictures are drawn only once
ROOM = 13e9  # bytes of free memory that two engines of Stable Diffusion 2.1's size need at f32
LAYERS = {  # OpenVINO's layer types, by kind of arithmetic; attention is one of its subgraphs
    "convolutions": ("Convolution",),
    "matrix products": ("FullyConnected",),
    "attention": ("Subgraph", "MatMul", "Softmax", "ScaledDotProductAttention"),
}

Tick = Callable[[], object]


def measure(results: Results, quick: bool, tick: Tick) -> None:
    """Add the figures and ratios of this section."""
    each_engine(results, 3 if quick else 10, tick)
    every_sampler(results, 6 if quick else 12, tick)
    if extras.missing("torch"):
        results.notes.append(f"image: no comparison, since PyTorch is not installed: {extras.command('torch')}")
        return
    with tempfile.TemporaryDirectory(prefix="audio-to-image.") as cache:
        beside_diffusers(results, BUILTIN, Path(cache), 2 if quick else 5, 8, tick)
    first_pictures(results, 2, tick)
    full_size(results, quick, tick)


def each_engine(results: Results, rounds: int, tick: Tick) -> None:
    """Every available engine with every installed model."""
    for engine in engines.available():
        for entry in catalog.read(Settings.from_environment(names=["models"]).models).entries.values():
            if entry.kind != "image" or engine not in entry.engines or not entry.is_present():
                continue
            subject = f"image / {entry.name}, {engine} engine"
            with Worker("engine", engine=engine, folder=str(entry.folder)) as worker:
                about = worker.ask("about")[1]
                steps, how = about["steps"], f"{about['version']}, {about['precision']}"
                ways = {"step": worker.seconds("step"), "decoding": worker.seconds("decode")}
                found = in_turn(ways, rounds, tick)
                pictures = 1 if steps * min(found["step"]) > SLOW else rounds
                ways = {"picture": worker.seconds("picture", steps=steps)}
                found |= in_turn(ways, pictures, tick, warm=0 if pictures == 1 else 1)
                for what, seconds in found.items():
                    more = f", {steps} steps" if what == "picture" else ""
                    results.add(f"{subject} / {what}", "s", seconds, how + more)
                results.add(f"{subject} / loading", "s", [worker.loaded], "from the start of its process; once")
                used(results, subject, worker, steps, pictures)
                results.add(f"{subject} / memory", "MB", [worker.ask("memory")[1]], "peak of its process")


def used(results: Results, subject: str, worker: Worker, steps: int, rounds: int) -> None:
    """Add the energy of a picture, or a note why it is unknown."""
    try:
        with energy.counter() as (what, so_far):
            before = so_far()
            for _ in range(rounds):
                worker.ask("picture", steps=steps)
            results.add(f"{subject} / energy", "J", [(so_far() - before) / rounds], f"{what}; mean of {rounds}")
    except energy.Silent as silent:
        if (note := f"image: energy is not measured: {silent}") not in results.notes:
            results.notes.append(note)


def every_sampler(results: Results, prompts: int, tick: Tick) -> None:
    """Time and correctness of the pictures, by sampler and number of steps, with the built-in model."""
    asked = spoken_prompts.PROMPTS[:prompts]
    found: dict[tuple[str, int], list[Any]] = {(sampler, steps): [] for sampler in SAMPLERS for steps in STEPS}
    with Worker("engine", engine="openvino", folder=str(BUILTIN)) as worker:
        for seed, one in enumerate(asked):
            scene = {"subject": one.subject, "background": one.background, "prompt": one.text, "seed": seed}
            for (sampler, steps), answers in found.items():
                answers.append(worker.ask("shows", sampler=sampler, steps=steps, **scene)[1])
                tick()
    how = "the built-in model; the spoken prompts, for each all samplers in turn; judged by training/builtin/judge.py"
    for (sampler, steps), answers in found.items():
        subject = f"image / {sampler}, {steps} steps"
        results.add(f"{subject} / drawing", "s", [answer["seconds"] for answer in answers], how)
        results.add(f"{subject} / asked", "pictures", [len(asked)], how)
        results.add(f"{subject} / right", "pictures", [sum(answer["right"] for answer in answers)], how)
    own = engines.defaults(BUILTIN)
    subject = f"image / {own.sampler}, {own.steps} steps"
    results.compare("image: right / asked, the built-in model", f"{subject} / right", f"{subject} / asked")


def beside_diffusers(results: Results, folder: Path, cache: Path, rounds: int, steps: int, tick: Tick) -> None:
    """The CPU engine and diffusers with the built-in model, both precisions in turn."""
    name = "the built-in model"
    with side_by_side(folder, cache, precisions()) as workers:
        for action, what in (("step", "step"), ("decode", "decoding")):
            found = in_turn({way: worker.seconds(action) for way, worker in workers.items()}, rounds, tick)
            add(results, name, what, found, "all ways alternately")
        pictures = {way: worker.seconds("picture", steps=steps) for way, worker in workers.items()}
        add(results, name, f"picture, {steps} steps", in_turn(pictures, rounds, tick), "all ways alternately")
        remember(results, name, workers)


@contextlib.contextmanager
def side_by_side(folder: Path, cache: Path, wanted: Iterable[str]) -> Iterator[dict[str, Worker]]:
    """The CPU engine and diffusers with the model in `folder`, at each of the precisions, by their names."""
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for precision in wanted:
            spec = {"folder": str(folder), "precision": precision}
            ours = Worker("engine", engine="openvino", cache=str(cache), **spec)
            workers[f"{OURS}, {precision}"] = stack.enter_context(ours)
            workers[f"{THEIRS}, {precision}"] = stack.enter_context(Worker("quick start", **spec))
        yield workers


def remember(results: Results, name: str, workers: Mapping[str, Worker]) -> None:
    """Add the peak memory of each."""
    for way, worker in workers.items():
        results.add(f"image / {name}, {way} / memory", "MB", [worker.ask("memory")[1]], "peak of its process")


def first_pictures(results: Results, rounds: int, tick: Tick) -> None:
    """From the start of a process to its first picture, with the built-in model and its usual steps."""

    def start(kind: str, **spec: str) -> float:
        with Worker(kind, folder=str(BUILTIN), precision="f32", **spec) as worker:
            return worker.loaded + worker.ask("picture", steps=engines.defaults(BUILTIN).steps)[0]

    ways = {f"{OURS}, f32": lambda: start("engine", engine="openvino"), f"{THEIRS}, f32": lambda: start("quick start")}
    found = in_turn(ways, rounds, tick)
    add(
        results,
        "the built-in model",
        "start to picture",
        found,
        "its own number of steps, from the start of the process, in turn",
    )


def add(results: Results, name: str, what: str, found: Mapping[str, list[float]], how: str) -> None:
    """Add the seconds of every way, and the ratio of diffusers to ours at each precision."""
    for way, seconds in found.items():
        results.add(f"image / {name}, {way} / {what}", "s", seconds, how)
    pairs = [(f"{OURS}, {precision}", f"{THEIRS}, {precision}") for precision in precisions()]
    for mine, other in [*pairs, (f"{OURS}, {precisions()[-1]}", f"{THEIRS}, f32")]:
        title = f"image: {THEIRS} ({other[-4:].strip(' ,')}) / {OURS} ({mine[-4:].strip(' ,')}), {name}, {what}"
        if mine in found and other in found and title not in results.ratios:
            results.compare(title, f"image / {name}, {other} / {what}", f"image / {name}, {mine} / {what}")


def precisions() -> tuple[str, ...]:
    """The precisions that the processor has: bf16 only if Linux reports it, since emulation would distort the times."""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text()
        return PRECISIONS if "avx512_bf16" in flags or "amx_bf16" in flags else PRECISIONS[:1]
    return PRECISIONS[:1]


def full_size(results: Results, quick: bool, tick: Tick) -> None:
    """Stable Diffusion 2.1-base's exact shapes with random weights, on an NVIDIA GPU or on the CPU."""
    if engines.available()[0] == "torch":
        from benchmark import gpu, shapes

        gpu.measure(results, shapes.SD21, "Stable Diffusion 2.1's shapes", tick)
        return
    free = system.memory()[1]
    if free < ROOM:
        room, here = catalog.human(int(ROOM)), catalog.human(free)
        results.notes.append(f"image: Stable Diffusion 2.1's shapes need {room} of free memory; {here} are free")
        return
    name = "Stable Diffusion 2.1's shapes"
    with tempfile.TemporaryDirectory(prefix="audio-to-image.") as temporary:
        folder, cache = Path(temporary) / "model", Path(temporary) / "cache"
        with Worker("weights", folder=str(folder)) as maker:
            kinds, decoding = maker.ask("arithmetic")[1]
        arithmetic = "counted layer by layer; with guidance, each step computes two inputs"
        for kind, amount in kinds.items():
            results.add(f"image / {name}, {kind} / arithmetic of a step", "GFLOP", [amount], arithmetic)
        results.add(f"image / {name}, a step / arithmetic", "GFLOP", [sum(kinds.values())], arithmetic)
        results.add(f"image / {name}, the decoder / arithmetic", "GFLOP", [decoding], arithmetic)
        for precision in precisions()[-1:] if quick else precisions():
            with Worker(
                "engine", engine="openvino", folder=str(folder), precision=precision, cache=str(cache)
            ) as first:
                subject = f"image / {name}, {OURS}, {precision} / first start"
                results.add(subject, "s", [first.loaded], "compiles the model and stores the result")
            tick()
            with side_by_side(folder, cache, [precision]) as workers:  # not all four: they need 17 GB
                pictures = {way: worker.ask("picture", steps=2)[0] for way, worker in workers.items()}
                begun = {way: [workers[way].loaded + pictures[way]] for way in workers}
                add(results, name, "start to picture, 2 steps", begun, "from the start of the process; once")
                steps = {way: worker.seconds("step") for way, worker in workers.items()}
                found = in_turn(steps, 1 if quick else 3, tick, warm=0)
                add(results, name, "step", found, "both ways alternately, after a picture")
                remember(results, name, workers)
        if len(precisions()) > 1:
            in_int8(results, name, folder, cache, 1 if quick else 3, tick)
        best = share_of_the_peak(results, name, folder, cache, kinds, 1 if quick else 3, tick)
        whole, how = (
            20 * sum(kinds.values()) + decoding,
            "at the highest speed that PyTorch's kernels reached, both networks",
        )
        results.add(f"image / {name}, 20 steps and the decoder / arithmetic in all", "GFLOP", [whole], arithmetic)
        results.add(f"image / {name}, 20 steps and the decoder / floor", "s", [whole / best / 1e3], how)


def in_int8(results: Results, name: str, folder: Path, cache: Path, rounds: int, tick: Tick) -> None:
    """The CPU engine's step in int8, beside its own and diffusers' at bf16."""
    from benchmark import shapes

    shapes.with_ranges(folder)
    how: dict[str, Any] = {"engine": "openvino", "folder": str(folder), "cache": str(cache)}
    ways = {
        f"{OURS}, int8": Worker("engine", precision="int8", **how),
        f"{OURS} beside int8, bf16": Worker("engine", precision="bf16", **how),
        f"{THEIRS} beside int8, bf16": Worker("quick start", folder=str(folder), precision="bf16"),
    }
    with contextlib.ExitStack() as stack:
        for worker in ways.values():
            stack.enter_context(worker)
        steps = {way: worker.seconds("step") for way, worker in ways.items()}
        for way, seconds in in_turn(steps, rounds, tick).items():
            how_measured = "all convolutions and matrix products in int8; all ways alternately"
            results.add(f"image / {name}, {way} / step", "s", seconds, how_measured)
        mine = f"{OURS}, int8"
        results.add(f"image / {name}, {mine} / memory", "MB", [ways[mine].ask("memory")[1]], "peak of its process")
    for way in list(ways)[1:]:
        title = f"image: {way.replace(' beside int8, bf16', ' (bf16)')} / {OURS} (int8), {name}, step"
        results.compare(title, f"image / {name}, {way} / step", f"image / {name}, {mine} / step")


def share_of_the_peak(
    results: Results, name: str, folder: Path, cache: Path, kinds: Mapping[str, float], rounds: int, tick: Tick
) -> float:
    """Compare the CPU engine's UNet with PyTorch's matrix product and convolution, alternately, in TFLOP/s; add the
    time of each kind of layer. Returns the best speed of PyTorch."""
    precision = precisions()[-1]
    spec = {"folder": str(folder), "precision": precision}
    with (
        Worker("engine", engine="openvino", cache=str(cache), **spec) as ours,
        Worker("arithmetic", precision=precision) as peak,
    ):

        def rate(action: str) -> Callable[[], float]:
            def best() -> float:  # best of ten, since the machine may be busy
                answers = [peak.ask(action) for _ in range(10)]
                return max(float(amount) / seconds for seconds, amount in answers) / 1e3

            return best

        ways = {
            f"{OURS}, UNet": lambda: sum(kinds.values()) / ours.ask("step")[0] / 1e3,
            "PyTorch, matrix product": rate("product"),
            "PyTorch, convolution": rate("convolution"),
        }
        for way, speeds in in_turn(ways, rounds, tick).items():
            results.add(f"image / {way}, {precision} / arithmetic reached", "TFLOP/s", speeds, f"{name}; in turn")
    mine = f"image / {OURS}, UNet, {precision} / arithmetic reached"
    for what in ("matrix product", "convolution"):
        other = f"image / PyTorch, {what}, {precision} / arithmetic reached"
        results.compare(f"image: {OURS}'s UNet / {what} of PyTorch, {precision}, {name}", mine, other)
    with Worker("layers", **spec) as worker:
        worker.ask("spent")
        spent = worker.ask("spent")[1]
        tick()
    whole = sum(spent.values())
    how = f"OpenVINO's own clock, {precision}, once; attention includes element-wise operations"
    named = {layer for layers in LAYERS.values() for layer in layers}
    for kind, layers in LAYERS.items():
        seconds = sum(spent.get(layer, 0.0) for layer in layers)
        share_of(results, f"{name}, {kind}", seconds, whole, how)
        if seconds:
            results.add(f"image / {name}, {kind} / arithmetic reached", "TFLOP/s", [kinds[kind] / seconds / 1e3], how)
    for layer, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        if layer not in named and seconds > 0.01 * whole:
            share_of(results, f"{name}, no arithmetic: {layer}", seconds, whole, how)
    peaks = ("matrix product", "convolution")
    return max(results.figures[f"image / PyTorch, {what}, {precision} / arithmetic reached"].median for what in peaks)


def share_of(results: Results, subject: str, seconds: float, whole: float, how: str) -> None:
    results.add(f"image / {subject} / time of a step", "s", [seconds], how)
    results.add(f"image / {subject} / share of a step", "%", [100 * seconds / whole], how)
