"""tests/data/utterances.tsv, what a grammar makes of it, and the half that no grammar is written with."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from helpers.words.grammar import Grammar
from helpers.words.said import LAST, Command, Options

FILE = Path(__file__).with_name("data") / "utterances.tsv"
PROMPTS = {"en": "a red car and a dog on the beach", "de": "ein rotes Auto und ein Hund am Strand"}  # of the picture


class Utterance(NamedTuple):
    language: str
    text: str
    meaning: str

    @property
    def held_out(self) -> bool:
        """Whether it is of the half that the grammars were not written with."""
        return hashlib.sha256(self.text.encode()).digest()[0] % 2 == 1


def utterances() -> list[Utterance]:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return [Utterance(*line.split("\t")) for line in lines if not line.startswith("#")]


def understood(utterance: Utterance) -> str:
    """What is made of it, in the words of the file."""
    grammar = _grammar(utterance.language)
    if command := grammar.command(utterance.text, PROMPTS[utterance.language]):
        return _command(command)
    spoken = grammar.options(utterance.text)
    return f"{spoken.text} | {', '.join(_options(spoken.options))}" if spoken.options else "prompt"


@lru_cache
def _grammar(language: str) -> Grammar:
    grammar = Grammar.of(language)
    assert grammar
    return grammar


def _command(command: Command) -> str:
    if command.kind == "change":
        return ", ".join(_options(command.options))
    number = [] if command.number is None else ["last" if command.number == LAST else str(command.number)]
    words = [command.kind, *number]
    if command.kind == "swap":
        words += [command.thing, ">", command.text]
    else:
        words += [part for part in (command.thing, command.text) if part]
    return ", ".join([" ".join(words), *_options(command.options)])


def _options(options: Options) -> list[str]:
    return [
        *([f"count {options.count}"] if options.count else []),
        *([f"shape {options.shape}"] if options.shape else []),
        *([f"size {options.size[0]}x{options.size[1]}"] if options.size else []),
        *([f"seed {options.seed}"] if options.seed is not None else []),
        *(["seed same"] if options.same_seed else []),
        *[f"without {what}" for what in options.without],
        *([f"style {options.style}"] if options.style else []),
        *(["fancy"] if options.fancy else []),
        *([f"model {options.model}"] if options.model else []),
    ]


def same(understood: str, meant: str) -> bool:
    """Whether both say the same: the order of options does not matter."""
    return [sorted(part.split(", ")) for part in understood.split(" | ")] == [
        sorted(part.split(", ")) for part in meant.split(" | ")
    ]
