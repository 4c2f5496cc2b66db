"""Parse hotkeys and lists in the format of GNOME's settings, for the installer. Commands (stdin → stdout):

add ENTRY, remove ENTRY   a list as gsettings prints it → the list with or without ENTRY
all, text                 a list or a string → its strings, one per line
owners KEY                lines `OWNER<tab>VALUE` → the OWNERs whose VALUE contains KEY (ctrl+alt+i)
"""

from __future__ import annotations

import ast
import re
import sys

# The names of modifiers in GTK's accelerator parser (gtk_accelerator_parse)
_MODIFIERS = {
    **dict.fromkeys(("control", "ctrl", "ctl", "primary"), "ctrl"),
    **dict.fromkeys(("alt", "mod1"), "alt"),
    **dict.fromkeys(("shift", "shft"), "shift"),
    **dict.fromkeys(("super", "mod4"), "cmd"),
}


def strings(value: str) -> list[str]:
    """The strings in a GVariant's text form: `'a'`, `['a', "b"]`, `@as []`; any other value has none."""
    try:
        parsed = ast.literal_eval(value.strip().removeprefix("@as").strip())
    except (ValueError, SyntaxError):
        return []
    return [text for text in (parsed if isinstance(parsed, list) else [parsed]) if isinstance(text, str)]


def chord(accelerator: str) -> frozenset[str]:
    """`<Primary><Alt>i`, or our own ctrl+alt+i, as a set of normalised names; empty for no key."""
    modifiers = re.findall("<([^<>]+)>", accelerator)
    names = [*modifiers, *re.sub("<[^<>]+>", "", accelerator).split("+")]
    return frozenset(_MODIFIERS.get(name.lower(), name.lower()) for name in names if name)


def main(arguments: list[str]) -> int:
    command, argument = arguments[0], arguments[1] if len(arguments) > 1 else ""
    if command in ("all", "text"):
        sys.stdout.writelines(f"{text}\n" for text in strings(sys.stdin.read()))
        return 0
    if command == "owners":
        for line in sys.stdin.read().splitlines():
            owner, _, value = line.partition("\t")
            if chord(argument) in map(chord, strings(value)):
                print(owner)
        return 0
    text = sys.stdin.read()
    others = [entry for entry in strings(text) if entry != argument]
    if not others and text.strip() not in ("[]", "@as []", "") and argument not in strings(text):
        return 65  # not a list of strings: do not touch it
    print([*others, argument] if command == "add" else others or "@as []")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
