"""A prompt rewritten by a language model behind any address that speaks OpenAI's protocol: Ollama, llama.cpp's server,
LM Studio, vLLM, OpenAI, Gemini. The user names the address; without one, nothing is sent anywhere.

    model = LanguageModel("http://localhost:11434/v1", "llama3.2")
    model.rewritten("a dog on the beach")      # a longer line; "" if there was no good one within two seconds

The answer is data: one line, bounded, without control characters, and only if it keeps what was said. POST
{address}/chat/completions: https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from typing import Any
from urllib.parse import urlsplit

from helpers.core.errors import UserError
from helpers.core.text import printable

log = logging.getLogger(__name__)

PATIENCE = 2.0  # seconds for an answer; then the plain text is drawn
LARGEST = 1 << 16  # bytes of an answer
LONGEST = 400  # characters of a line; models read 77 tokens
KEPT = 0.6  # share of the words of a prompt, at least, that must be in the line
TASK = (
    "Rewrite the description of a picture as one line for an image model. Keep every thing, colour and place that it "
    "names. Add at most 20 words about light, view and mood. Answer with this line alone."
)
_SMALL = frozenset("a an the of in on at with and to for by from is are der die das ein eine und".split())  # noqa: SIM905
_THOUGHT = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL | re.IGNORECASE)
_LABEL = re.compile(r"^(?:[#*\s]*(?:prompt|answer|description|rewritten)[^:]{0,30}:)?[\s*\"“”'`]*", re.IGNORECASE)


class LanguageModel:
    """One model at one address."""

    def __init__(self, address: str, model: str = "", key: str = "") -> None:
        """address: up to /v1; model: its name there, which some servers do not need; key: sent as a bearer token.

        Raises: UserError 64 for an address that is none.
        """
        parts = urlsplit(address)
        try:
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if parts.scheme not in ("http", "https") or not host:
            remedy = "For example A2I_LLM=http://localhost:11434/v1"
            raise UserError(os.EX_USAGE, f"A2I_LLM is no address: {printable(address)[:200]!r}", remedy)
        self.host, self._url = host, f"{address.rstrip('/')}/chat/completions"
        self._model, self._key = model, key

    def rewritten(self, prompt: str) -> str:
        """The model's line for `prompt`, or "". One line says why there is none."""
        found: list[str] = []
        problem = [f"no answer within {PATIENCE:g} seconds"]

        def ask() -> None:
            try:
                found.append(line_of(self._answer(prompt)))
                problem[0] = ""
            except Exception as error:  # whatever a server can do
                problem[0] = printable(str(error) or type(error).__name__)[:200]

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(PATIENCE)
        if not found or problem[0]:
            log.warning("%s: %s; the plain text is drawn", self.host, problem[0])
            return ""
        if lost := missing(prompt, found[0]):
            log.warning("%s: the answer leaves out %s; the plain text is drawn", self.host, ", ".join(lost[:5]))
            return ""
        return found[0]

    def _answer(self, prompt: str) -> str:
        """What the server says. Raises: ValueError, and the client's errors."""
        import httpx2  # a tenth of a second

        messages = [{"role": "system", "content": TASK}, {"role": "user", "content": prompt}]
        body = {"model": self._model or "default", "messages": messages, "max_tokens": 200, "stream": False}
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # No redirect, no proxy of the environment: the prompt goes to this address and to no other
        with (
            httpx2.Client(timeout=PATIENCE, follow_redirects=False, trust_env=False) as client,
            client.stream("POST", self._url, json=body, headers=headers) as response,
        ):
            data = b""
            for piece in response.iter_raw():  # compressed data could become any length
                data += piece
                if len(data) > LARGEST:
                    raise ValueError("the answer is too long")
            if response.status_code != 200:
                raise ValueError(f"it refused (HTTP {response.status_code})")
        return _content(json.loads(data))


def _content(answer: Any) -> str:
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        content = None
    if not isinstance(content, str):
        raise ValueError("the answer has no text")
    return content


def line_of(answer: str) -> str:
    """The first line of an answer that has words, without thoughts, labels and quotes; LONGEST characters at most."""
    for line in _THOUGHT.sub("", answer).splitlines():
        text = printable(_LABEL.sub("", line)).rstrip("\"“”'`* ")
        if re.search(r"[^\W\d_]{2}", text):
            return text if len(text) <= LONGEST else text[:LONGEST].rpartition(" ")[0]
    raise ValueError("the answer has no words")


def missing(prompt: str, line: str) -> list[str]:
    """The words of `prompt` that `line` leaves out, if these are too many; [] if it keeps enough."""
    said = [word for word in re.findall(r"[^\W\d_]+", prompt.casefold()) if word not in _SMALL]
    there = line.casefold()
    lost = [word for word in said if word.rstrip("s") not in there]
    return lost if said and 1 - len(lost) / len(said) < KEPT else []
