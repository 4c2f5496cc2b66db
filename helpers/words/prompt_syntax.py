"""Other programs' prompt syntax: weights, adapters, switches. It has no effect here, so it must not be drawn either.

    plain("a (red:1.3) apple <lora:x:0.8> --ar 16:9")   # ("a red apple", ["(red:1.3)", "<lora:x:0.8>", "--ar 16:9"])

The grammars: AUTOMATIC1111's web UI (modules/prompt_parser.py, modules/extra_networks.py, and the settings that it
copies with a prompt), ComfyUI's `embedding:`, dynamic prompts' {2$$a|b}, Compel's `word++` and `.blend()`, SwarmUI's
`<segment:…>`, NovelAI's `1.2::words::`, and the parameters of Midjourney, also after its `/imagine` and with the dash
that a Mac or a phone makes of `--`.
"""

from __future__ import annotations

import re

_WEIGHT = r"[+-]?(?:\d?\.\d{1,4}|\d(?:\.\d{0,4})?)"
_NETWORK = re.compile(r"<(?!random:|alternate:)[a-z]\w{0,30}(?:\[[^\[\]<>]{0,99}\])?:[^<>]{0,200}>", re.I)
_LORA_TAG = re.compile(rf"<lora:([^:<>]{{1,200}})(?::\s*({_WEIGHT}))?\s*>", re.I)
_RANDOM = re.compile(r"<(?:random|alternate):([^<>|,]*)[^<>]{0,200}>", re.I)
_NAME = r"embedding:[\w./\\-]+"
_EMBEDDING = re.compile(rf"\(\s*{_NAME}\s*(?::\s*{_WEIGHT}\s*)?\)|\b{_NAME}(?::{_WEIGHT})?", re.I)
_COMMAND = re.compile(r"^\s*(?:/imagine(?:\s+prompt:?)?(?!\S)|!dream(?!\S))\s*", re.I)
_SETTINGS = re.compile(r"[\s,]*(?<!\S)(?:Negative prompt:|Steps: \d+, \w[\w ]*: ).*$", re.DOTALL)
_SWITCH = re.compile(
    r"(?<!\S)(?:--|[—–])(?:(?:ar|aspect|chaos|c|cref|cw|exp|h|iw|niji|oref|ow|p|profile|quality|q|repeat|r|seed|sameseed"
    r"|sref|stop|style|stylize|s|sv|sw|version|v|weird|w|uplight|upbeta)\s+[\w.:/-]+|(?:no)\s+(?:(?!\s(?:--|[—–])).)+"
    r"|(?:hd|tile|turbo|fast|relax|video|raw|creative|draft|test|testp|uplight|upbeta|niji)(?!\S))"
    r"|(?<!\S)-[sSWHCn] ?\d+(?:\.\d+)?(?!\S)"
)
_JOINED = re.compile(r'\(\s*("[^"]*"(?:\s*,\s*"[^"]*")*)\s*\)\.(?:blend|and)\([^()]*\)')
_SWAPPED = re.compile(r'(\w+|"[^"]*")\.swap\([^()]*\)')
_LORA = re.compile(r"\b(?:with|use)Lora\([^()]*\)")
_WEIGHTED = re.compile(rf"\(([^()]*):\s*({_WEIGHT})\s*\)")
_COMPEL = re.compile(rf"\(([^()]+)\)(?:{_WEIGHT}|[+]+|-+)(?!\w)")
_LOUDER = re.compile(r"(?<![\w+])([^\W\d_]{2,})(?:\+{2,}|-{2,})(?![\w+-])")
_DOUBLED = re.compile(r"((?:\(\s*)+\()([^()]*)(\)(?:\s*\))+)")
_SCHEDULED = re.compile(rf"\[([^\[\]:|]*):(?:([^\[\]:|]*):)?\s*{_WEIGHT}\d?\s*\]")
_SQUARE = re.compile(r"\[([^\[\]]*)\]")
_ALTERNATIVES = re.compile(r"\[([^\[\]|]*\|[^\[\]]*)\]")
_CURLY = re.compile(rf"\{{(?:[\d-]+\$\$(?:[^$|{{}}]*\$\$)?)?([^{{}}]*?)(?::\s*{_WEIGHT})?\}}")
_SHARE = re.compile(r"(?<![\w.:])[+-]?(?:\d?\.\d+|\d+)::(?=[^\s:])")
_PARTS = re.compile(rf"::\s*{_WEIGHT}(?![\w.])|::(?=\s|$)")
_WILDCARD = re.compile(r"__([A-Za-z][\w/*-]*?)__")
_BREAK = re.compile(r"\s*,?\s*(?<!\S)(?:BREAK|ADDCOMM|ADDROW|ADDCOL|ADDBASE)(?!\w)\s*,?")
_AND = re.compile(r"\s+AND(?=\s)")
_MOST = 50  # passes: one for each level of nested brackets


def plain(prompt: str, emphasis: bool = False) -> tuple[str, list[str]]:
    """`prompt` without such syntax, its words kept, and the pieces that have no effect. A prompt without any is
    returned as it is; ordinary (brackets) and 10:30 are none. Of alternatives, the first one is kept.

    emphasis: keep the syntax of helpers.words.emphasis.
    """
    ignored: list[str] = []

    def drop(pattern: re.Pattern[str], text: str, by: str = " ") -> str:
        def change(found: re.Match[str]) -> str:
            ignored.append(found[0].strip(" ,"))
            return by

        return pattern.sub(change, text)

    def keep(pattern: re.Pattern[str], text: str) -> str:
        def change(found: re.Match[str]) -> str:
            inner = next((part for part in found.groups()[:2] if part and part.strip()), "")
            if pattern is _WEIGHTED and (not re.search(r"[^\W\d]", inner) or _is_time(inner, found[2])):
                return found[0]
            if not inner.strip():
                return found[0]
            ignored.append(found[0])
            if pattern is _DOUBLED:
                opened, closed = found[1].count("("), found[3].count(")")
                return "(" * (opened - closed) + found[2] + ")" * (closed - opened)
            if pattern in (_JOINED, _SWAPPED):
                return inner.replace('"', "")
            return inner.split("|")[0] if pattern in (_SQUARE, _ALTERNATIVES, _CURLY) else inner

        return pattern.sub(change, text)

    escaped = prompt.replace(r"\(", "\ue000").replace(r"\)", "\ue001")
    text = escaped
    for dropped in (_SETTINGS, _COMMAND, _NETWORK, _LORA, _SWITCH, _WILDCARD, _EMBEDDING):
        text = drop(dropped, text)
    for kept in (_RANDOM, _JOINED, _SWAPPED):
        text = keep(kept, text)
    for _ in range(_MOST):
        before = text
        emphatic = () if emphasis else (_WEIGHTED, _DOUBLED)
        square = _ALTERNATIVES if emphasis else _SQUARE
        for pattern in (*emphatic, _COMPEL, _LOUDER, _SCHEDULED, square, _CURLY):
            text = keep(pattern, text)
        if text == before:
            break
    text = drop(_PARTS, drop(_SHARE, text, ""), ", ")
    if re.search("[a-z]", text):  # else all of it is in capitals, and these are words
        text = text if emphasis else drop(_BREAK, text, ", ")
        text = drop(_AND, text, " and")
    if not ignored and (text == prompt or emphasis):
        return prompt, []
    marks = (r"\(", r"\)") if emphasis else ("(", ")")
    text = text.replace("\ue000", marks[0]).replace("\ue001", marks[1])
    text = re.sub(r"\s+([,.;])", r"\1", re.sub(r"(?:\s*,){2,}", ",", text))
    shown = [piece.replace("\ue000", r"\(").replace("\ue001", r"\)") for piece in ignored]
    return " ".join(text.split()).strip(", "), _outermost(shown)


def loras(prompt: str) -> tuple[str, list[tuple[str, float]]]:
    """`prompt` without its `<lora:name:weight>`, and what they name; without a weight it is 1. A LoRA with other
    arguments stays in the prompt."""
    found = [(one[1].strip(), float(one[2] or 1)) for one in _LORA_TAG.finditer(prompt)]
    return (" ".join(_LORA_TAG.sub(" ", prompt).split()).strip(", "), found) if found else (prompt, [])


def _is_time(text: str, weight: str) -> bool:
    """Whether `10` and `30` of "(at 10:30)" are a time or a ratio and no weight."""
    return text[-1:].isdigit() and "." not in weight


def _outermost(pieces: list[str]) -> list[str]:
    """Without those that are a part of a piece that was found later, around them."""
    return [piece for index, piece in enumerate(pieces) if not any(piece in later for later in pieces[index + 1 :])]
