"""Property lists as the stand-ins of `defaults` and PlistBuddy read and print them."""

from __future__ import annotations

import plistlib
import re
import sys
from typing import Any, NoReturn


def refuse(message: str, code: int = 1) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


class OldStyle:
    """A property list in the old style, as `defaults` takes it: {a=1; "b c"=("x", y);}. Every scalar is a string."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def fail(self) -> NoReturn:
        refuse(f"Could not parse: {self.text}.  Try single-quoting it.")

    def peek(self) -> str:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def expect(self, character: str) -> None:
        if self.peek() != character:
            self.fail()
        self.at += 1

    def whole(self) -> Any:
        value = self.value()
        if self.peek():
            self.fail()
        return value

    def value(self) -> Any:
        if self.peek() == "{":
            return self.dictionary()
        if self.peek() == "(":
            return self.array()
        return self.string()

    def dictionary(self) -> dict[str, Any]:
        self.expect("{")
        result: dict[str, Any] = {}
        while self.peek() != "}":
            key = self.string()
            self.expect("=")
            result[key] = self.value()
            self.expect(";")
        self.expect("}")
        return result

    def array(self) -> list[Any]:
        self.expect("(")
        result = []
        while self.peek() != ")":
            result.append(self.value())
            if self.peek() != ")":
                self.expect(",")
        self.expect(")")
        return result

    def string(self) -> str:
        if self.peek() == '"':
            match = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S).match(self.text, self.at)
            if not match:
                self.fail()
            self.at = match.end()
            return re.sub(r"\\(?:U([0-9a-fA-F]{4})|(.))", lambda m: chr(int(m[1], 16)) if m[1] else m[2], match[1])
        match = re.compile(r"[A-Za-z0-9_$/:.-]+").match(self.text, self.at)
        if not match:
            self.fail()
        self.at = match.end()
        return match[0]


def argument_value(text: str) -> Any:
    if text.lstrip().startswith("<"):
        body = text if "<plist" in text else f'<plist version="1.0">{text}</plist>'
        try:
            return plistlib.loads(body.encode())
        except Exception:
            refuse(f"Could not parse: {text}.  Try single-quoting it.")
    return OldStyle(text).whole()


def printed(value: Any, indent: str = "") -> str:
    match value:
        case dict():
            lines = [f"{indent}    {key} = {printed(item, indent + '    ')}\n" for key, item in value.items()]
            return "Dict {\n" + "".join(lines) + indent + "}"
        case list():
            return (
                "Array {\n"
                + "".join(f"{indent}    {printed(item, indent + '    ')}\n" for item in value)
                + indent
                + "}"
            )
        case bool():
            return str(value).lower()
        case bytes():
            return value.decode("latin-1")
        case _:
            return str(value)
