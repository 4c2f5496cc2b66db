"""Removes Whisper's repetition loops: "a burger a burger a burger a burger a".

The decoder reads its own output, so a phrase that it wrote twice is more likely to come a third time (Holtzman et al.,
The Curious Case of Neural Text Degeneration, 2020, figure 4). People say a word two or three times, not four.
"""

from __future__ import annotations

import re

LEAST = 4  # times
LONGEST = 40  # words of a repeated phrase
FASTEST = 7.0  # words per second; people read aloud at 2 to 4, and hurried speech has 6
IMPOSSIBLE = 14.0  # words per second; the world record is 11 (655 words per minute, Guinness)
_TOO_LONG = 10_000  # letters; a window of 30 s holds far fewer

# A word, or one letter of a script without spaces: Thai, Lao, Burmese, Khmer, Japanese, Chinese.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}](?:[^\s.,;:!?…\"“”«»()\[\]。、，！？।{UNSPACED}]*[^\W_{UNSPACED}])?")


def collapse(text: str, least: int = LEAST) -> str:
    """`text`, but each phrase that comes `least` times or more in a row is written once. Case and punctuation between
    the words do not matter. A loop at the end may stop in the middle of its phrase. Repeated digits stay.
    """
    if len(text) > _TOO_LONG:
        return text
    words = [(found[0].casefold(), *found.span()) for found in _WORD.finditer(text)]
    spoken = [word for word, _, _ in words]
    kept, copied, at = [], 0, 0
    while at < len(spoken):
        size, end = _loop(spoken, at, least)
        if size:
            kept.append(text[copied : words[at + size - 1][2]])
            copied = words[end - 1][2]
        at = max(end, at + 1)
    collapsed = "".join([*kept, text[copied:]])
    return collapsed if collapsed == text else collapse(collapsed, least)  # a loop of loops


def _loop(spoken: list[str], at: int, least: int) -> tuple[int, int]:
    """(words of the phrase that is repeated from word `at` on, word after the loop), or (0, 0) where no loop starts."""
    for size in range(1, min(LONGEST, (len(spoken) - at) // least) + 1):
        if spoken[at] != spoken[at + size]:
            continue
        phrase, end = spoken[at : at + size], at + size
        while spoken[end : end + size] == phrase:
            end += size
        if end - at >= least * size and any(word[0].isalpha() for word in phrase):
            rest = spoken[end:]
            return size, end + (len(rest) if len(rest) < size and rest == phrase[: len(rest)] else 0)
    return 0, 0


def sayable(text: str, seconds: float) -> str:
    """`text`, recognised in a recording of `seconds`, without what nobody can say in that time.

    At more than 7 words per second, each repetition counts as a loop. What then still has more than 14 words per second
    is not speech: the result is "".
    """
    text, most = collapse(text), max(1.0, seconds)
    if len(text.split()) > FASTEST * most:
        text = collapse(text, 2)
    return text if len(text.split()) <= IMPOSSIBLE * most else ""


# One consonant, vowels, and what a voice may end with: la, da, bum, oh, hey, waa. Words have this form, too, so only a
# few of them, one after the other, are no words.
_SYLLABLE = re.compile(r"[^\W\d_aeiou]?[aeiou]+[hmny]?")
_HELD = re.compile(r"\w?(\w{1,3}?)\1{3,}\w?|(\w)")  # Mmmm, Hmmmm, Aaaah, Jajajaja; or one letter


def has_words(text: str) -> bool:
    """Whether `text` is more than punctuation, and than what a recogniser makes of humming and singing: "La la la",
    "A-E-E-O", "Mmmm", "Oh, hey, oh, hey". Digits and other scripts than Latin are words.
    """
    said = re.findall(r"[^\W_]+", text.casefold())
    if not said or not "".join(said).isascii() or any(word.isdigit() for word in said):
        return bool(said)
    different = set(said)
    syllables = {word for word in different if _SYLLABLE.fullmatch(word)}
    sung = len(said) >= 3 and len(different) <= 2 and syllables == different
    sung = sung or (len(said) >= 6 and len(different) == 2 and bool(syllables))  # la Allah la Allah la Allah
    return not (sung or all(map(_HELD.fullmatch, said)))
