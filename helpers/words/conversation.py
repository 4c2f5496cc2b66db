"""A conversation about pictures, as a pure state: an utterance in, an intent out. No sound, no drawing, no files.

    talk = Conversation([Grammar.of("en")])
    talk.hear("a red car on the beach")   # Intent("draw", said="…"); the host draws talk.now.request and calls:
    talk.drew([(5, None)])                 # the noise of each of its pictures
    talk.hear("make it blue")              # Intent("draw"): a blue car on the beach, seed 5
    talk.hear("back")                      # Intent("show"): the red one again

What the host has of a step (files, pixels) it keeps itself, by the step's `number`. A step whose drawing failed or was
stopped is taken back with `failed`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from helpers.words import edits
from helpers.words.grammar import Grammar
from helpers.words.said import LAST, Command, Options, Spoken

TONES = ("darker", "lighter", "warmer", "colder", "contrast", "bigger")  # changes of the pixels
VARIATIONS = 4  # pictures, unless another number is said
LONGEST_CHANGE = 200  # characters kept of what was said

Noise = tuple[int, int | None]  # a seed, and that of the variation
Kind = Literal["draw", "tone", "show", "save", "copy", "say", "stop"]


@dataclass(frozen=True)
class Request:
    """What a step shows. noise: of its first picture; None: by chance. tones: changes of the pixels, in this order.
    varied: pictures that are like that of the noise instead of those of the next seeds."""

    prompt: str
    options: Options = field(default_factory=Options)  # of the picture; without count and seed
    count: int = 1
    noise: Noise | None = None
    tones: tuple[str, ...] = ()
    varied: bool = False


@dataclass(frozen=True)
class Step:
    """One picture of a conversation, or several of them at once, of which `picture` is the current one, from 1."""

    number: int  # of the drawing; steps that choose among its pictures share it
    request: Request
    change: str = ""  # what was said
    before: Step | None = field(default=None, repr=False)  # the picture that it was made from
    picture: int = 1
    drawn: tuple[Noise, ...] = ()  # its pictures; empty until they are there

    @property
    def noise(self) -> Noise | None:
        """Of the current picture."""
        return self.drawn[self.picture - 1] if self.drawn else self.request.noise


@dataclass(frozen=True)
class Intent:
    """What the host is to do with `Conversation.now`. said: a line for the user; step: the one to save or copy."""

    kind: Kind
    said: str = ""
    step: Step | None = None


class Conversation:
    """See above. Steps are walked with back and forward; a new step after back drops those that were ahead."""

    def __init__(self, grammars: Iterable[Grammar], takes_options: bool = True) -> None:
        """grammars: of the languages that are spoken; takes_options: out of new prompts."""
        self._grammars, self._takes_options = list(grammars), takes_options
        self._steps: list[Step] = []
        self._at, self._drawings, self._heard = -1, 0, ""
        self.model = ""  # said; it stays for the next prompts

    @property
    def now(self) -> Step | None:
        """The current step; None before the first picture."""
        return self._steps[self._at] if self._at >= 0 else None

    def hear(self, utterance: str) -> Intent:
        """What is to be done about an utterance."""
        grammar, command = self.understood(utterance)
        if not command or command.kind != "heard":
            self._heard = utterance
        if not command or not grammar:
            return self._new(utterance)
        now = self.now
        if command.kind == "stop":
            return Intent("stop", "stopped")
        if command.kind == "heard":
            prompt = f"; the prompt: {now.request.prompt}" if now else ""
            return Intent("say", f"heard: {self._heard}{prompt}")
        if not now:
            return Intent("say", "there is no picture yet: say what you want to see")
        return self._changed(now, grammar, command, utterance)

    def understood(self, utterance: str) -> tuple[Grammar | None, Command | None]:
        """The command in an utterance, and the grammar that found it. Nothing changes."""
        prompt = self.now.request.prompt if self.now else ""
        for grammar in self._grammars:
            command = grammar.command(utterance, prompt) or self._with_options(grammar, utterance, prompt)
            if command and (prompt or command.kind not in ("add", "style", "without", "change", "detail", "colour")):
                return grammar, command
        return None, None

    def drew(self, pictures: Iterable[Noise]) -> None:
        """The pictures of the current step are there; pictures: the noise of each."""
        assert self.now
        self._steps[self._at] = replace(self.now, drawn=tuple(pictures))

    def failed(self) -> None:
        """The current step has no picture: it is taken back, with the steps after it."""
        del self._steps[self._at :]
        self._at -= 1

    def opened(self, step: Step) -> None:
        """Go on from pictures of earlier: `step`, and what it was made from."""
        chain: list[Step] = []
        at: Step | None = step
        while at:
            chain.insert(0, at)
            at = at.before
        self._steps, self._at = chain, len(chain) - 1
        self._drawings = max(one.number for one in chain)

    def in_words_of(self, tone: str) -> Request | None:
        """The request that draws the current step's last change of pixels in words instead, with the same seed."""
        now = self.now
        words = next((one.say[tone] for one in self._grammars if tone in one.say), "")
        if not now or not words:
            return None
        base = now.before.request.tones if now.before else ()
        prompt = edits.added(self._grammars[0], now.request.prompt, words)
        return replace(now.request, prompt=prompt, tones=base)

    def go_on(self, request: Request, change: str) -> None:
        """A new step, made from the current one."""
        del self._steps[self._at + 1 :]
        self._drawings += 1
        self._steps.append(Step(self._drawings, request, change[:LONGEST_CHANGE], self.now))
        self._at += 1

    # ---- what an utterance does

    def _with_options(self, grammar: Grammar, utterance: str, prompt: str) -> Command | None:
        """The command that remains without the options at its end: "at night, two of them"."""
        spoken = grammar.options(utterance) if self._takes_options else Spoken(utterance)
        command = grammar.command(spoken.text, prompt) if spoken.options else None
        return replace(command, options=command.options.and_(spoken.options)) if command else None

    def _new(self, utterance: str) -> Intent:
        spoken = Spoken(utterance)
        if self._takes_options:
            found = (grammar.options(utterance) for grammar in self._grammars)
            spoken = next((one for one in found if one.options), spoken)
        options = spoken.options
        self.model = options.model or self.model
        noise: Noise | None = None if options.seed is None else (options.seed, None)
        if options.same_seed and self.now:
            noise = self.now.noise
        request = Request(spoken.text, _of_picture(replace(options, model=self.model)), options.count or 1, noise)
        del self._steps[self._at + 1 :]
        self._drawings += 1
        self._steps.append(Step(self._drawings, request, utterance[:LONGEST_CHANGE]))
        self._at += 1
        return Intent("draw")

    def _changed(self, now: Step, grammar: Grammar, command: Command, utterance: str) -> Intent:
        kind, asked = command.kind, now.request
        if kind in ("back", "forward"):
            return self._walk(-1 if kind == "back" else 1)
        if command.number is not None:
            many = len(now.drawn)
            number = many if command.number == LAST else command.number
            if not 1 <= number <= many:
                are = "is one picture" if many == 1 else f"are {many} pictures"
                return Intent("say", f"there {are}, no number {number}")
            chosen = replace(now, picture=number)
            if kind == "number":
                del self._steps[self._at + 1 :]
                self._steps.append(chosen)
                self._at += 1
                return Intent("show", f"number {number}")
            if kind in ("save", "copy"):
                return Intent("save" if kind == "save" else "copy", step=chosen)
            now = chosen
        if kind in ("save", "copy", "show"):
            kinds: dict[str, Kind] = {"save": "save", "copy": "copy", "show": "show"}
            return Intent(kinds[kind], step=now)
        said = command.options
        self.model = said.model or self.model
        options = asked.options.and_(_of_picture(said))
        if said.shape or said.size:  # the last one counts
            options = replace(options, shape=said.shape, size=said.size)
        noise = now.noise if said.seed is None else (said.seed, None)
        request = replace(asked, noise=noise, options=options, count=said.count or 1, varied=False)
        if kind in TONES:
            tones = asked.tones + (kind,) * (2 if command.strong else 1)
            self.go_on(replace(request, tones=tones), utterance)
            return Intent("tone", kind)
        changed = self._edited(request, grammar, command, now)
        if not changed:
            return Intent("say", f"nothing to change: {asked.prompt}")
        self.go_on(changed, utterance)
        return Intent("draw")

    def _walk(self, way: int) -> Intent:
        if not 0 <= self._at + way < len(self._steps):
            return Intent("say", "this is the first picture" if way < 0 else "this is the last picture")
        self._at += way
        return Intent("show", "back" if way < 0 else "forward")

    def _edited(self, request: Request, grammar: Grammar, command: Command, now: Step) -> Request | None:
        """`request`, changed by a command; None if there is nothing to change."""
        prompt, options, kind = request.prompt, request.options, command.kind
        if kind == "again":
            return replace(request, noise=None, count=command.options.count or now.request.count)
        if kind == "more":
            return replace(request, count=command.options.count or VARIATIONS, varied=True)
        if kind == "change":
            return request
        if kind == "style":
            return replace(request, options=replace(options, style=command.text))
        if kind == "colour":
            prompt = edits.recoloured(grammar, prompt, command.text, command.thing)
        elif kind == "swap":
            prompt = edits.swapped(grammar, prompt, command.thing, command.text)
        elif kind == "add":
            prompt = edits.added(grammar, prompt, command.text)
        elif kind == "detail":
            prompt = edits.added(grammar, prompt, grammar.say["detail"])
        elif kind == "without":
            prompt = edits.removed(grammar, prompt, command.text)
            if command.text not in options.without:
                options = replace(options, without=(*options.without, command.text))
        changed = replace(request, prompt=prompt, options=options)
        return None if (changed.prompt, changed.options) == (now.request.prompt, now.request.options) else changed


def _of_picture(options: Options) -> Options:
    """The part of the options that each picture of a conversation inherits."""
    return replace(options, count=None, seed=None, same_seed=False)
