"""Other programs' prompt syntax: weights, adapters, switches. It has no effect here, so it must not be drawn either.

    plain("a (red:1.3) apple <lora:x:0.8> --ar 16:9")   # ("a red apple", ["(red:1.3)", "<lora:x:0.8>", "--ar 16:9"])

The grammars: AUTOMATIC1111's web UI (modules/prompt_parser.py, modules/extra_networks.py), ComfyUI's `embedding:`,
dynamic prompts' {a|b}, Compel's `(word)1.3`, and the parameters of Midjourney.
"""

from __future__ import annotations

import re

_WEIGHT = r"[+-]?(?:\d?\.\d{1,4}|\d(?:\.\d{0,4})?)"
_NETWORK = re.compile(
    r"<(?:lora|lyco|locon|lokr|loha|hypernet|hypernetwork|ti|embedding|controlnet):[^<>]{0,200}>", re.I
)
_EMBEDDING = re.compile(r"\bembedding:(?=\w)", re.I)
_SWITCH = re.compile(
    r"(?<!\S)--(?:(?:ar|aspect|chaos|c|cref|cw|iw|niji|profile|quality|q|repeat|r|seed|sameseed|sref|stop|style|stylize|s"
    r"|sw|version|v|weird|w|uplight|upbeta)\s+[\w.:/-]+|(?:no)\s+(?:(?!\s--).)+"
    r"|(?:hd|tile|turbo|fast|relax|video|raw|creative|test|testp|uplight|upbeta|niji)(?!\S))"
)
_WEIGHTED = re.compile(rf"\(([^()]*):\s*({_WEIGHT})\s*\)")
_COMPEL = re.compile(rf"\(([^()]+)\)(?:{_WEIGHT}|[+]+|-+)(?!\w)")
_DOUBLED = re.compile(r"\(\s*\(([^()]*)\)\s*\)")
_SCHEDULED = re.compile(rf"\[([^\[\]:|]*):(?:([^\[\]:|]*):)?\s*{_WEIGHT}\d?\s*\]")
_SQUARE = re.compile(r"\[([^\[\]]*)\]")
_CURLY = re.compile(r"\{([^{}]*)\}")
_PARTS = re.compile(rf"::\s*{_WEIGHT}(?![\w.])|::(?=\s|$)")
_WILDCARD = re.compile(r"__([A-Za-z][\w/-]*?)__")
_BREAK = re.compile(r"\s*,?\s*(?<!\S)(?:BREAK|ADDCOMM|ADDROW|ADDCOL|ADDBASE)(?!\w)\s*,?")
_AND = re.compile(r"\s+AND(?=\s)")
_MOST = 50  # passes: one for each level of nested brackets


def plain(prompt: str) -> tuple[str, list[str]]:
    """`prompt` without such syntax, its words kept, and the pieces that have no effect. A prompt without any is
    returned as it is; ordinary (brackets) and 10:30 are none. Of alternatives, the first one is kept."""
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
            return inner.split("|")[0] if pattern in (_SQUARE, _CURLY) else inner

        return pattern.sub(change, text)

    escaped = prompt.replace(r"\(", "\ue000").replace(r"\)", "\ue001")
    text = drop(_WILDCARD, drop(_SWITCH, drop(_NETWORK, escaped)))
    text = drop(_EMBEDDING, text, "")
    for _ in range(_MOST):
        before = text
        for pattern in (_WEIGHTED, _COMPEL, _DOUBLED, _SCHEDULED, _SQUARE, _CURLY):
            text = keep(pattern, text)
        if text == before:
            break
    text = drop(_PARTS, text, ", ")
    if re.search("[a-z]", text):  # else all of it is in capitals, and these are words
        text = drop(_BREAK, text, ", ")
        text = drop(_AND, text, " and")
    if not ignored and text == prompt:
        return prompt, []
    text = text.replace("\ue000", "(").replace("\ue001", ")")
    text = re.sub(r"\s+([,.;])", r"\1", re.sub(r"(?:\s*,){2,}", ",", text))
    shown = [piece.replace("\ue000", r"\(").replace("\ue001", r"\)") for piece in ignored]
    return " ".join(text.split()).strip(", "), _outermost(shown)


def _is_time(text: str, weight: str) -> bool:
    """Whether `10` and `30` of "(at 10:30)" are a time or a ratio and no weight."""
    return text[-1:].isdigit() and "." not in weight


def _outermost(pieces: list[str]) -> list[str]:
    """Without those that are a part of a piece that was found later, around them."""
    return [piece for index, piece in enumerate(pieces) if not any(piece in later for later in pieces[index + 1 :])]
