"""Texts to attack with: what a shell, a terminal, a file system, a format or a parser would take for more than text.

Each is a line of bytes, the same for a number each time. Where one would run a program, that program is `canary`.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

# What no text may bring to a terminal: control characters but a line's end, directions, separators
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
LONGEST = 1_000_000  # bytes; one line of 20,000 is that long

_SHELL = """$(canary) `canary` ;canary; |canary| &&canary&& $(<canary) <(canary) ${x:-$(canary)} a[$(canary)] $((1/0))
$'\\x1b' ' '' " \\ \\\\ \\" '"'"' * ? [!a] {a,b} ~root !! #x $IFS $0 ${PATH} $@ > /dev/full 2>&1 & () {
:;};canary eval source exec"""
_PROGRAMS = """%s%n%x %(canary)s %% {0.__class__} {canary} {{}} \\n\\033[2J \\x1b[2J \\u001b \\0 \\c &#27; &lt;b&gt;
&amp; <b> </b> <img/src=x/onerror=canary> <!ENTITY> <![CDATA[ ]]> <span/foreground="red"> "}}],{"a":" \\"}, null
NaN 1e999 'OR'1'='1 --x "&(do/shell/script"canary")&" end/tell ¬ `+canary+` #{canary} <?canary?> {%canary%}
@canary \\include{canary}"""
_NAMES = """../../etc/passwd /etc/passwd ~ ~/x . .. ... / // - -- --open -rf --output=/tmp/canary -p --json --stop -h
@/etc/passwd C:\\Windows\\canary \\\\server\\share con CON.png nul aux com1 lpt9 file:///etc/passwd
http://127.0.0.1:9/ A2I_GENERATE=canary .session.x image.png run.json desktop.ini Icon x.app x:y|z*?"<>"""
_OURS = """[BLANK_AUDIO] (music) *sighs* <|endoftext|> ♪ >> stop/listening heard:/x press:/ended/0 Steps:/3,/Seed:/1
drawing: Negative/prompt:/x {"stage":/"record",/"event":/"ready"} {"stage":"generate"} generate:/ended
taken/back parameters"""
_LETTERS = """é ñ ß İ ı ſ K ﬁ ﷺ Ω 日本語 한국어 العربية עברית ไทย 🍔 \U0001f468\u200d\U0001f469\u200d\U0001f467
\U0001f3f3️\u200d\U0001f308 e\u0301 \u0301 Z\u0337\u0321\u031b \ufeff \u200b \u200d � \uffff \U0010ffff
\U000e0041 \u202etxt.exe \u2066x\u2069 \u200f \u061c a b a b \x9b31m \x9d0;x\x9c \ufff9x\ufffa"""
_SEPARATORS = ["a\u2028b", "a\u2029b", "\u0085", "\u00a0", "\u3000", "Icon\r", "a\rb", "\ta"]
_ESCAPES = (
    b"\x1b[2J \x1b[31337m \x1b]0;canary\x07 \x1b]52;c;Y2FuYXJ5\x07 \x1b]8;;x\x1b\\ \x1bPx\x1b\\ \x1bc \x1b[6n "
    b"\x1b[?1049h \x9b31337m \x07 \x08\x08\x08\x08 \x0b \x0c \x7f \x00 \x1b(0 \x0e \x1c \x01 \x1b \x1b[K"
).split(b" ")
_BROKEN = (  # no UTF-8
    b"\xff\xfe \xc0\xaf \xed\xa0\x80 \xed\xb2\x80\xed\xb0\x80 \xf8\x88\x80\x80\x80 \xe2\x82 \xf4\x90\x80\x80 \x80 \xc3 "
    b"\xf0\x9f\x8d"
).split(b" ")
_WORDS = "a cat|a delicious burger on a blue background|draw|red|at night|the|reboot|rm|you"
_FRAGMENTS = [text.replace("/", " ").encode() for text in _OURS.split()]
_FRAGMENTS += [text.encode() for texts in (_SHELL, _PROGRAMS, _NAMES, _LETTERS) for text in texts.split()]
_FRAGMENTS += [text.encode() for text in _WORDS.split("|") + _SEPARATORS] + _ESCAPES + _BROKEN


def line(number: int) -> bytes:
    """Line number n: not empty, without a line's end."""
    chance = random.Random(number)
    parts = chance.choices(_FRAGMENTS, k=chance.randint(1, 8))
    if chance.random() < 0.1:
        parts.append(chance.randbytes(chance.randint(1, 40)))
    if chance.random() < 0.05:
        parts.append(chance.choice(parts) * chance.randint(2, 300))
    text = chance.choice([b"", b" ", b" "]).join(parts)
    if number % 20_000 == 7:
        text = (text * LONGEST)[:LONGEST]
    return text.replace(b"\n", b" ") or b" "


def canaries(folder: Path) -> Path:
    """A folder for PATH with the programs that no text may start; each leaves the file `folder`/started."""
    programs = folder / "canaries"
    programs.mkdir()
    for name in ("canary", "reboot"):
        (programs / name).write_text(f"#!/bin/sh\necho {name} >>'{folder}/started'\n")
        (programs / name).chmod(0o755)
    return programs
