"""Whom the bytes are taken from, and who gets to see the token."""

from __future__ import annotations

import httpx2
import pytest
from huggingface_hub import constants, utils

from helpers.catalog import hub
from helpers.core.errors import UserError

PATIENCE = hub.Patience(1, 1, 1, 1)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[httpx2.Request]:
    """Every request that would go out; /away is redirected to the hub's store."""
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        if request.url.path == "/away":
            return httpx2.Response(302, headers={"Location": "https://cas-bridge.xethub.hf.co/x"})
        return httpx2.Response(206, headers={"Content-Range": "bytes 7-8/9"}, content=b"ab")

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    monkeypatch.setattr(utils, "get_session", lambda: client)
    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return requests


def test_the_token_stays_with_the_hub(asked: list[httpx2.Request]) -> None:
    with hub._open("https://huggingface.co/away", 7, PATIENCE) as response:
        assert response.read() == b"ab"
    assert [str(request.url) for request in asked] == [
        "https://huggingface.co/away",
        "https://cas-bridge.xethub.hf.co/x",
    ]
    assert [request.headers.get("Authorization") for request in asked] == ["Bearer hf_secret", None]
    assert {request.headers["Range"] for request in asked} == {"bytes=7-"}


@pytest.mark.parametrize(
    "url",
    ["https://evil.example/x", "https://nothf.co/x", "http://cdn.hf.co/x", "https://hf.co.evil.example/x", "file:///x"],
)
def test_foreign_and_open_hosts_are_refused(asked: list[httpx2.Request], url: str) -> None:
    with pytest.raises(UserError, match="not one of its hosts"), hub._open(url, 0, PATIENCE):
        pass
    assert not asked


def test_a_circle_of_redirects_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(302, headers={"Location": "/again"})

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    monkeypatch.setattr(utils, "get_session", lambda: client)
    with pytest.raises(UserError, match="circles"), hub._open("https://huggingface.co/x", 0, PATIENCE):
        pass
