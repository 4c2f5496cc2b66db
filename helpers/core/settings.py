"""Every option of the program: name, type, range, default and help, in one place.

    settings = Settings.from_environment()                       # once, in each program's main
    arguments = parse(parser, argv, settings, "time", "device")  # these options, with their A2I_… values as defaults

The shell's table of options (`helpers/shell/options.sh`) and the stages' own parsers come from here; `--help` and the
README are checked against it. This is the only module that reads `A2I_…` variables.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from helpers.core.errors import UserError
from helpers.core.paths import ROOT

LARGEST_SEED = 2**64 - 1  # as in AUTOMATIC1111's web UI and in ComfyUI
RANDOM_SEED = -1  # stands for a seed by chance there, and here
LONGEST_WINDOW = 3600.0  # seconds of sound


# ---- kinds of values: each turns the text of an option into a value, or raises ValueError with what is wrong


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`; whole numbers only where `whole`."""

    low: float
    high: float
    whole: bool = True

    def __call__(self, text: str) -> Any:
        kind, pattern = (
            ("whole number", r"[0-9]{1,10}") if self.whole else ("number", r"[0-9]{1,10}(\.[0-9]{0,10})?|\.[0-9]{1,10}")
        )
        value = float(text) if re.fullmatch(pattern, text) else -1.0
        if not self.low <= value <= self.high:
            raise ValueError(f"not a {kind} from {self.low:.10g} to {self.high:.10g}: {text!r}")
        return int(text) if self.whole else value


class Seed:
    """A whole number from 0 to LARGEST_SEED, or RANDOM_SEED."""

    def __call__(self, text: str) -> int:
        seed = int(text) if re.fullmatch(r"-1|[0-9]{1,20}", text) else LARGEST_SEED + 1
        if seed > LARGEST_SEED:
            raise ValueError(f"not a whole number from 0 to {LARGEST_SEED}, or -1 for any: {text!r}")
        return seed


@dataclass(frozen=True)
class Size:
    """WIDTHxHEIGHT in pixels, each from `low` to `high`."""

    low: int = 16
    high: int = 9999

    def __call__(self, text: str) -> tuple[int, int]:
        match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
        if not match or not all(self.low <= int(side) <= self.high for side in match.groups()):
            raise ValueError(f"not WIDTHxHEIGHT from {self.low}x{self.low} to {self.high}x{self.high}: {text!r}")
        return int(match[1]), int(match[2])


@dataclass(frozen=True)
class Choice:
    """One of `names`, or "" for the default, which argparse also parses."""

    names: tuple[str, ...]

    def __call__(self, text: str) -> str:
        if text and text not in self.names:
            raise ValueError(f"not one of {', '.join(self.names)}: {text!r}")
        return text


class Adapter(NamedTuple):
    """A LoRA by its name or its file, and how strongly it is applied; sha256: its first digits, or "" for any."""

    name: str
    weight: float = 1.0
    sha256: str = ""


class Adapters:
    """NAME_OR_FILE[:WEIGHT], several with commas between; a weight is from -10 to 10."""

    def __call__(self, text: str) -> tuple[Adapter, ...]:
        return tuple(map(self._one, filter(None, map(str.strip, text.split(",")))))

    def _one(self, text: str) -> Adapter:
        name, colon, weight = text.rpartition(":")
        if not colon:
            return Adapter(Place()(text))
        number = re.fullmatch(r"[+-]?([0-9]{1,2}(\.[0-9]{0,6})?|\.[0-9]{1,6})", weight)
        if not (name and number and abs(float(weight)) <= 10):
            raise ValueError(f"not NAME:WEIGHT with a weight from -10 to 10: {text!r}")
        return Adapter(Place()(name), float(weight))


class Text:
    """Any text."""

    def __call__(self, text: str) -> str:
        return text


class Place:
    """A path, or a name that is none; `~` and `~user` included."""

    def __call__(self, text: str) -> str:
        return os.path.expanduser(text)  # noqa: PTH111  (pathlib's raises an error for a user who does not exist)


class Folder:
    """A path of a folder or file, `~` and `~user` included."""

    def __call__(self, text: str) -> Path:
        return Path(Place()(text))


class Switch:
    """On unless 0."""

    def __call__(self, text: str) -> bool:
        return text != "0"


class Language:
    """A language code as Whisper wants it: `en-GB` is `en`."""

    def __call__(self, text: str) -> str:
        code = re.split("[-_]", text.lower())[0]
        if not re.fullmatch("[a-z]{2,4}", code):
            raise ValueError(f"not a language code such as en or de, and not auto: {text!r}")
        return code


@dataclass(frozen=True)
class Option:
    """One option. `flags` are its spellings for the shell and for argparse; without flags it is a variable only."""

    kind: Callable[[str], Any]
    help: str
    flags: tuple[str, ...] = ()
    metavar: str = ""


def _option(kind: Callable[[str], Any], default: Any, help: str, *flags: str, metavar: str = "") -> Any:
    """A field of Settings, in the shape of dataclasses.field."""
    return field(default=default, metadata={"option": Option(kind, help, flags, metavar)})


@dataclass(frozen=True)
class Settings:
    """The settings of one program. None and "" mean that the model, the machine or the stage decides."""

    # what is drawn
    prompt: str = _option(Text(), "", "draw TEXT, no audio", "-p", "--prompt", metavar="TEXT")
    input: str = _option(Place(), "", "draw what a recording says", "-i", "--input", metavar="FILE")
    again: str = _option(
        Place(), "", "draw a picture again from the settings in its PNG file", "--again", metavar="FILE"
    )
    # the microphone
    time: float | None = _option(
        Number(0.1, LONGEST_WINDOW, whole=False),
        None,
        "longest recording, in seconds (microphone 10, files all of it)",
        "-t", "--time", metavar="SECONDS",
    )  # fmt: skip
    silence: float = _option(
        Number(0.2, 10, whole=False), 0.8, "silence that ends a recording", "--silence", metavar="SECONDS"
    )
    fixed_window: bool = _option(Switch(), False, "record all of the time", "--fixed-window")
    loop: bool = _option(Switch(), False, "keep listening: a picture of each thing you say", "--loop")
    talk: bool = _option(Switch(), False, "talk to the picture: darker, number two, make it blue, back", "--talk")
    confirm: bool = _option(Switch(), False, "show the text before it is drawn", "--confirm")
    say: bool = _option(Switch(), False, "read aloud what was heard", "--say")
    device: str = _option(Text(), "", "microphone, by name", "-d", "--device", metavar="NAME")
    speakers: bool = _option(Switch(), False, "of a file: a picture of what each person says, labelled", "--speakers")
    # speech recognition
    language: str = _option(Language(), "en", "spoken language, or auto", "-l", "--language", metavar="CODE")
    translate: bool | None = _option(Switch(), None, "translate to English (by default where it helps)", "--translate")
    whisper: str = _option(
        Place(), "", "speech model: a name of the catalogue, a file, or builtin", "-w", "--whisper", metavar="NAME"
    )
    # the picture
    model: str = _option(
        Place(), "", "image model: a name of the catalogue or a folder", "-m", "--model", metavar="NAME"
    )
    plain_prompt: bool = _option(Switch(), False, "read brackets and <lora:…> as ordinary text", "--plain-prompt")
    lora: tuple[Adapter, ...] = _option(
        Adapters(),
        (),
        "a LoRA to add to the model: a name or a file; several with commas",
        "--lora",
        metavar="NAME[:WEIGHT]",
    )
    steps: int | None = _option(Number(1, 1000), None, "sampling steps", "-n", "--steps", metavar="N")
    seed: int | None = _option(Seed(), None, "the same seed, the same picture; -1: any", "-s", "--seed", metavar="N")
    guidance: float | None = _option(
        Number(0, 100, whole=False), None, "guidance scale", "-g", "--guidance", metavar="X"
    )
    sampler: str = _option(
        Choice(("ddim", "euler", "euler-ancestral", "dpm++", "lcm")), "", "sampler", "--sampler", metavar="NAME"
    )
    decoder: str = _option(
        Choice(("full", "small")), "", "what turns the result into pixels; by machine", "--decoder", metavar="KIND"
    )
    count: int = _option(Number(1, 1000), 1, "number of pictures", "-c", "--count", metavar="N")
    negative: str = _option(Text(), "", "negative prompt", "--negative", metavar="TEXT")
    size: tuple[int, int] | None = _option(Size(), None, "size in pixels", "--size", metavar="WxH")
    safe: bool = _option(Switch(), False, "leave out pictures that the safety filter flags", "--safe")
    # the result
    output: Path = _option(Folder(), ROOT / "outputs", "where runs are kept", "-o", "--output", metavar="DIR")
    open: bool | None = _option(Switch(), None, "show the picture", "--open")
    json: bool = _option(Switch(), False, "print run.json's content instead of the path", "--json")
    quiet: bool = _option(Switch(), False, "only errors", "-q", "--quiet")
    verbose: bool = _option(Switch(), False, "tracebacks and timings", "-v", "--verbose")
    # variables only: for machines, models and programs
    engine: str = _option(Text(), "", "the engine that draws")
    precision: str = _option(Text(), "", "f32, bf16, int8 or f16; by engine")
    models: Path = _option(Folder(), ROOT / "models" / "downloaded", "where downloaded models are kept")
    search: Path | None = _option(Folder(), None, "a folder with models of your own, or of another program")
    vocabulary: Path = _option(Folder(), ROOT / "vocabulary.txt", "a file of names for the recogniser, one a line")
    replacements: Path = _option(Folder(), ROOT / "replacements.csv", "a file: heard,meant")
    styles: Path = _option(Folder(), ROOT / "styles.csv", "a file of styles: name,prompt,negative_prompt")
    style: str = _option(Text(), "", "auto: more words for a plain prompt; or a name of a style, for each picture")
    llm: str = _option(Text(), "", "the address of a language model, for A2I_STYLE=auto")
    llm_model: str = _option(Text(), "", "the name of the model there")
    llm_key: str = _option(Text(), "", "the key that it wants")
    spoken_options: bool = _option(Switch(), True, "take options out of what is said: four of them, wide, no people")
    voice: str = _option(Place(), "", "the voice that speaks, a name or a file")
    low_memory: bool | None = _option(Switch(), None, "keep only what computes in memory; by default if it is short")
    compute_units: str = _option(Text(), "", "compute units of Core ML, or OpenVINO's CPU, GPU or NPU")
    apple_python: str = _option(Place(), "", "the Python that has Apple's python_coreml_stable_diffusion")
    allow_pickle: bool = _option(Switch(), False, "open weights that are Python pickles")
    events: str = _option(Place(), "", "a file or fifo that gets each event as a JSON line")
    session: Path | None = _option(Folder(), None, "the working folder of the running pipe")
    control: Path | None = _option(Folder(), None, "the folder of the running pipe for errors and events")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, names: Iterable[str] = ()) -> Settings:
        """The settings from the `A2I_…` variables; an empty variable counts as not set. names: the options to read,
        by default all.

        Raises: UserError 64 with the variable, the problem, and the valid values.
        """
        environ = os.environ if environ is None else environ
        values = {}
        for name in names or OPTIONS:
            option = OPTIONS[name]
            if text := environ.get(variable(name)):
                try:
                    values[name] = option.kind(text)
                except ValueError as error:
                    remedy = "./pipeline.sh --help shows the options." if option.flags else "Correct it, or unset it."
                    raise UserError(os.EX_USAGE, f"{variable(name)}: {error}", remedy) from error
        settings = cls(**values)
        # A stage that the user starts in their own pipe has a session but no control folder
        return settings if settings.control else dataclasses.replace(settings, control=settings.session)


OPTIONS: dict[str, Option] = {field.name: field.metadata["option"] for field in fields(Settings)}


def variable(name: str) -> str:
    """The environment variable of an option: `fixed_window` → `A2I_FIXED_WINDOW`."""
    return f"A2I_{name.upper()}"


def add_options(parser: argparse.ArgumentParser, settings: Settings, *names: str) -> None:
    """Give `parser` the options called `names`, with the values of `settings` as defaults."""
    for name in names:
        option = OPTIONS[name]
        flags = option.flags or (f"--{name.replace('_', '-')}",)
        if isinstance(option.kind, Switch):
            parser.add_argument(
                *flags, action="store_true", dest=name, default=getattr(settings, name), help=option.help
            )
        else:
            parser.add_argument(
                *flags, dest=name, type=argument_type(option.kind), default=getattr(settings, name),
                metavar=option.metavar or name.upper(), help=option.help,
            )  # fmt: skip


def with_arguments(settings: Settings, arguments: argparse.Namespace) -> Settings:
    """`settings`, changed by the options that `add_options` added."""
    return dataclasses.replace(settings, **{key: value for key, value in vars(arguments).items() if key in OPTIONS})


def argument_type(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """`kind` as a type for argparse, which shows only the text of an ArgumentTypeError."""

    def parse(text: str) -> Any:
        try:
            return kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse
