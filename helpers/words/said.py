"""What an utterance says besides its prompt, or asks of the current picture: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

LAST = -1  # number of the last picture


@dataclass(frozen=True)
class Options:
    """What an utterance says about the picture besides its prompt. None and "" : nothing."""

    count: int | None = None
    shape: str = ""  # wide, tall or square
    size: tuple[int, int] | None = None
    seed: int | None = None
    same_seed: bool = False
    without: tuple[str, ...] = ()
    style: str = ""  # a name of styles.csv; "none": no style any more
    model: str = ""
    fancy: bool = False  # with more words than were said

    def __bool__(self) -> bool:
        return self != Options()

    def and_(self, more: Options) -> Options:
        """These, changed by `more`."""
        changed = {one.name: value for one in fields(more) if (value := getattr(more, one.name))}
        return replace(self, **{**changed, "without": self.without + more.without})


@dataclass(frozen=True)
class Spoken:
    """An utterance: its prompt, and what it says besides."""

    text: str
    options: Options = Options()


@dataclass(frozen=True)
class Command:
    """A change of the current picture. kind: a key of `commands` in a file of `languages/`."""

    kind: str
    number: int | None = None  # of a picture, from 1; LAST
    text: str = ""  # the colour, what is added, what comes instead, what is to be missing
    thing: str = ""  # the word of the prompt that it is about
    strong: bool = False  # "much darker"
    options: Options = field(default_factory=Options)


_NUMBERS = ("", "one picture", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def in_words(options: Options) -> str:
    """What was understood, for the line on the terminal: "wide, four pictures, without people"."""
    parts = []
    if options.shape:
        parts.append(options.shape)
    if options.size:
        parts.append("{} by {}".format(*options.size))
    if options.count:
        number = _NUMBERS[options.count] if options.count < len(_NUMBERS) else str(options.count)
        parts.append(number if options.count == 1 else f"{number} pictures")
    parts += [f"without {what}" for what in options.without]
    if options.style:
        parts.append("no style" if options.style == "none" else f"as {options.style}")
    if options.fancy:
        parts.append("fancy")
    if options.same_seed or options.seed is not None:
        parts.append("the same seed" if options.same_seed else f"seed {options.seed}")
    if options.model:
        parts.append(f"with {options.model}")
    return ", ".join(parts)
