"""How a name is probably said in English: its phones, in the set of the CMU dictionary, which pocketsphinx knows.

A name in that dictionary is said as it says there. For others there are rules from letters to sounds, in the manner of
Elovitz et al., Letter-to-Sound Rules for Automatic Translation of English Text to Phonetics (IEEE Transactions on
Acoustics, Speech, and Signal Processing 24, 1976), but with several sounds where English has several: a recogniser
chooses the one that it hears.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

MOST = 8  # pronunciations of a word

# (letters with what must stand around them, sounds: the likeliest first). The first rule that fits is used.
_RULES = [
    (re.compile(pattern), [sound.split() for sound in sounds.split("|")])
    for pattern, sounds in (
        (r"tion\b", "SH AH N"), (r"sion\b", "ZH AH N|SH AH N"), (r"\bps|\bpt(?=[aeiou])", "S|T"),
        (r"tch", "CH"), (r"sch", "SH|S K"), (r"ch(?=[rl])", "K"), (r"ch", "CH|K"), (r"sh", "SH"), (r"th", "TH"),
        (r"ph", "F"), (r"\bwh", "W"), (r"\bgh", "G"), (r"gh", ""), (r"ck", "K"), (r"qu", "K W"), (r"q", "K"),
        (r"\bkn", "N"), (r"\bwr", "R"), (r"\bgn", "N"), (r"mb\b", "M"), (r"dg(?=[eiy])", "JH"),
        (r"ng(?![aeiouyr])", "NG"), (r"(?<=[^aeiouy])[oe]n\b", "AH N|AA N|EH N"),
        (r"(?<=[^aeiouy])el\b", "AH L|EH L"), (r"n(?=[kgqx](?![eiy]))", "NG|N"), (r"\bx", "Z"), (r"x", "K S"),
        (r"cc(?=[eiy])", "K S"), (r"(?<=[^aeiouy])le\b", "AH L"),
        (r"([bdfklmnprtvz])\1", r"\1"), (r"ss", "S"), (r"gg", "G"), (r"cc", "K"), (r"sc(?=[eiy])", "S"),
        (r"c(?=[eiy])", "S"), (r"c", "K"), (r"g(?=[eiy])", "JH|G"), (r"g", "G"),
        (r"(?<=[aeiouy])s(?=[aeiouy])", "Z|S"), (r"(?<=[bdgvmnlrw])s\b", "Z"), (r"s", "S"),
        (r"j", "JH"), (r"h(?=[aeiouy])", "HH"), (r"h", ""),
        (r"\by(?=[aeiou])", "Y"), (r"(?<=[aeiou])y(?=[aeiou])", "Y"),
        (r"eigh", "EY"), (r"igh", "AY"), (r"augh", "AO"), (r"ough", "OW|AO"),
        (r"ee", "IY"), (r"ear(?![aeiou])", "IH R|ER"), (r"ea", "IY|EH"), (r"a[iy]r", "EH R"), (r"a[iy]", "EY|AY"),
        (r"e[iy]\b", "IY|EY"), (r"e[iy]", "EY|AY|IY"), (r"ie\b", "IY"), (r"ie", "IY"), (r"oa", "OW"), (r"oo", "UW"),
        (r"ou", "AW|UW"), (r"ow", "OW|AW"), (r"o[iy]", "OY"), (r"a[uw]", "AO|AW"), (r"[eu]w(?![aeiou])|eu", "UW|Y UW"),
        (r"ue\b|ui", "UW"), (r"aa", "AA"), (r"ae", "EY|IY"), (r"ia", "IY AH"), (r"io", "IY OW|IY AH"), (r"eo", "IY OW"),
        (r"are\b", "EH R"),
        (r"ar(?![aeiouyr])", "AA R"), (r"or(?![aeiouyr])|or(?=i[ao])", "AO R|ER"), (r"ore\b", "AO R"),
        (r"[eiu]r(?![aeiouyr])", "ER"), (r"ire\b", "AY ER"), (r"ure\b", "Y UH R|ER"),
        (r"a(?=[^aeiouywhx]e\b)", "EY"), (r"i(?=[^aeiouywhx]e\b)", "AY"), (r"o(?=[^aeiouywhx]e\b)", "OW"),
        (r"u(?=[^aeiouywhx]e\b)", "UW"), (r"(?<=[^\W_])e\b", "|IY"),
        (r"a\b", "AH"), (r"o\b", "OW"), (r"[iy]\b", "IY"), (r"u\b", "UW"),
        (r"a(?=[^aeiouy][aeiouy])", "AA|AE|EY|AH"), (r"a", "AE|AA|AH"),
        (r"e(?=[^aeiouy][aeiouy])", "EH|IY|AH"), (r"e", "EH|AH"),
        (r"[iy](?=[^aeiouy][aeiouy])", "IH|IY|AY"), (r"[iy]", "IH"),
        (r"o(?=[^aeiouy][aeiouy])", "OW|AA|AH"), (r"o", "AA|OW|AO"),
        (r"u(?=[^aeiouy][aeiouy])", "UW|AH"), (r"u", "AH|UW|UH"),
    )
]  # fmt: skip


def letters(word: str) -> str:
    """The letters a to z of `word`, without accents; empty if it has letters of another script, or digits."""
    plain = unicodedata.normalize("NFKD", word.casefold().replace("ø", "o").replace("ł", "l").replace("æ", "ae"))
    plain = re.sub(r"[^\w]|_", "", plain)
    return plain if re.fullmatch("[a-z]+", plain) else ""


def by_rule(word: str) -> list[str]:
    """Up to MOST pronunciations of `word` (a to z), the likeliest first, each as phones with spaces between them."""
    sounds: list[list[list[str]]] = []
    at = 0
    while at < len(word):
        for pattern, choices in _RULES:
            if found := pattern.match(word, at):
                sounds.append([found.expand(" ".join(c)).upper().split() for c in choices] or [[]])
                at = found.end()
                break
        else:
            sounds.append([[word[at].upper()]])
            at += 1
    others = [(at, i) for at, choices in enumerate(sounds) for i in range(1, len(choices))]
    changes = itertools.chain([()], ((other,) for other in others), itertools.combinations(others, 2))
    variants = (
        " ".join(phone for at, choices in enumerate(sounds) for phone in choices[dict(change).get(at, 0)])
        for change in sorted(changes, key=lambda change: sum(i for _, i in change))
    )  # each takes the likeliest sounds, but for one or two letters
    return list(itertools.islice(dict.fromkeys(filter(None, variants)), MOST))


def pronunciations(words: Iterable[str]) -> dict[str, list[str]]:
    """The pronunciations of each word that has some: those of the CMU dictionary, or by rule. An abbreviation without
    vowels is spelt."""
    import pocketsphinx

    wanted = {word: letters(word) for word in words}
    known: dict[str, list[str]] = {plain: [] for plain in wanted.values() if plain}
    spelt = {f"{letter}.": letter for letter in "abcdefghijklmnopqrstuvwxyz"}
    names: dict[str, str] = {}
    with Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict")).open(encoding="utf-8") as dictionary:
        for line in dictionary:
            word, _, phones = line.partition(" ")
            word = word.partition("(")[0]
            if word in known:
                known[word].append(phones.strip())
            elif word in spelt:
                names.setdefault(spelt[word], phones.strip())
    for plain, found in known.items():
        if not found:
            no_vowel = not re.search("[aeiouy]", plain)
            found += [" ".join(names[letter] for letter in plain)] if no_vowel else by_rule(plain)
    return {word: known[plain] for word, plain in wanted.items() if plain}
