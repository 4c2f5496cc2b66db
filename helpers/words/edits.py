"""Changes of a prompt by what was said: another colour, another thing, something more, something less.

recoloured(english, "a red car on the beach", "blue")           # "a blue car on the beach"
swapped(english, "a small dog at sea", "dog", "an owl")         # "a small owl at sea"
added(english, "a car at sunset", "at night")                   # "a car at night"
removed(english, "a car and a dog on the beach", "dog")         # "a car on the beach"
"""

from __future__ import annotations

import re

from helpers.words.grammar import Grammar

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_FAR = 3  # words between an article and its noun


class _Words:
    """A prompt as words with their places."""

    def __init__(self, grammar: Grammar, prompt: str) -> None:
        self.prompt, self._grammar = prompt, grammar
        self.found = list(_WORD.finditer(prompt))
        self.words = [one[0].casefold() for one in self.found]

    def at(self, thing: str) -> int:
        """The number of the first word of `thing`, which is in the prompt as it stands; -1 if it is not."""
        start = self.prompt.find(thing) if thing else -1
        return next((index for index, one in enumerate(self.found) if one.start() == start), -1)

    def first_of(self, index: int) -> int:
        """The first word of the noun phrase that ends at word `index`: its article, or the word itself."""
        for before in range(index - 1, max(index - _FAR - 2, -1), -1):
            between = self.prompt[self.found[before].end() : self.found[before + 1].start()]
            if between.strip() or self.words[before] in self._grammar.joints:
                return before + 1
            if self.words[before] in self._grammar.articles:
                return before
        return index if index == 0 or self.words[index - 1] in self._grammar.joints else max(index - 1, 0)

    def replaced(self, first: int, last: int, new: str) -> str:
        """The prompt with the words from first to last replaced."""
        return self.prompt[: self.found[first].start()] + new + self.prompt[self.found[last].end() :]


def recoloured(grammar: Grammar, prompt: str, colour: str, thing: str = "") -> str:
    """`prompt` with another colour, of `thing`, or of the first thing that has one, or of the first thing."""
    words = _Words(grammar, prompt)
    index = words.at(thing)
    if index > 0 and (shade := _shade(grammar, words.words[index - 1])) is not None:
        return _tidy(grammar, words.replaced(index - 1, index - 1, colour + shade))
    if index < 0:
        for at, word in enumerate(words.words):
            if (shade := _shade(grammar, word)) is not None:
                return _tidy(grammar, words.replaced(at, at, colour + shade))
    if not grammar.colour_first:  # an adjective that would have to agree with its noun
        return f"{prompt}, {thing} {colour}" if thing else f"{prompt}, {colour}"
    first = index if index >= 0 else 0
    while index < 0 and first < len(words.words) - 1 and words.words[first] in grammar.articles:
        first += 1
    if not words.found:
        return colour
    place = words.found[first].start()
    return _tidy(grammar, f"{prompt[:place]}{colour} {prompt[place:]}")


def _shade(grammar: Grammar, word: str) -> str | None:
    """The ending of a word that is a colour: "" of red, "es" of rotes; None for another word."""
    endings = [""] if grammar.colour_first else ["", "e", "er", "es", "en", "em"]
    return next((end for end in endings if word.endswith(end) and word.removesuffix(end) in grammar.colours), None)


def swapped(grammar: Grammar, prompt: str, thing: str, new: str) -> str:
    """`prompt` with `new` in the place of `thing`, which keeps its adjectives."""
    words = _Words(grammar, prompt)
    index = words.at(thing)
    if index < 0:
        return prompt
    last = index + len(thing.split()) - 1
    first = words.first_of(index)
    article, _, noun = new.partition(" ")
    if not noun or article.casefold() not in grammar.articles:
        article, noun = "", new
    has_article = words.words[first] in grammar.articles and first < index
    if article and has_article and words.words[first] in grammar.definite:
        article = prompt[words.found[first].start() : words.found[first].end()]
    middle = prompt[words.found[first + has_article].start() : words.found[index].start()] if first < index else ""
    return _tidy(grammar, words.replaced(first, last, " ".join(f"{article} {middle} {noun}".split())))


def added(grammar: Grammar, prompt: str, what: str) -> str:
    """`prompt` with `what`; of times of the day, weathers and seasons it has one each."""
    plain = what.casefold()
    for group in grammar.settings:
        if plain in group:
            for old in sorted(group, key=len, reverse=True):
                prompt = re.sub(rf"[,\s]*(?<!\w){re.escape(old)}(?!\w)", "", prompt, flags=re.IGNORECASE)
    prompt = prompt.rstrip(" .,;")
    first = plain.split()[0] if plain else ""
    if first in grammar.articles or first in grammar.determiners:
        return f"{prompt} {grammar.say['and'].format(what)}".strip()
    joint = " " if first in grammar.joints or any(plain in group for group in grammar.settings) else ", "
    return f"{prompt}{joint if prompt else ''}{what}"


def removed(grammar: Grammar, prompt: str, what: str) -> str:
    """`prompt` without `what`, its article and adjectives, and the word that joined it; `prompt` itself if it is not in
    there, or if nothing would be left of it."""
    thing = grammar.word_of(prompt, what)
    words = _Words(grammar, prompt)
    index = words.at(thing)
    if index < 0:
        return prompt
    first, last = words.first_of(index), index + len(thing.split()) - 1
    if first:
        first -= words.words[first - 1] in grammar.joints
    elif last + 1 < len(words.words) and words.words[last + 1] in grammar.conjunctions:
        last += 1
    elif last + 1 == len(words.words) or words.words[last + 1] in grammar.joints:
        return prompt
    return _tidy(grammar, words.replaced(first, last, "").strip(" ,;"))


def _tidy(grammar: Grammar, prompt: str) -> str:
    """Spaces and commas in order, and "a" or "an" as the word after it wants."""
    prompt = re.sub(r"\s+([,.;])", r"\1", " ".join(prompt.split()))
    if grammar.colour_first:
        prompt = re.sub(r"\b([Aa])n?(?= [aeioAEIO])", r"\1n", prompt)
        prompt = re.sub(r"\b([Aa])n(?= (?![aeiouhAEIOUH])\w)", r"\1", prompt)
    return re.sub(r"(?:, ?){2,}", ", ", prompt)
