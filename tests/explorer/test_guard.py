"""Whom the guard lets through, asked with requests made by hand, as no client sends them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.datastructures import URL
from starlette.requests import Request

from drgn.explorer.guard import Guard


def answer(host, path="/api/run", token=""):
    """Status that a request gets, and what is said; 200 where it is handed on."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"handed on"})

    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "server": ("127.0.0.1", 80),
        "headers": [(b"host", host.encode()), (b"x-drgn-token", token.encode())],
    }
    with ThreadPoolExecutor(1) as pool:  # a browser that other tests opened runs a loop in this thread
        pool.submit(asyncio.run, Guard(app, "secret")(scope, receive, send)).result()
    return sent[0]["status"], sent[1]["body"].decode()


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:80/x", "localhost:80/?", "localhost:80#", "localhost:80?", "[::1]:80/x", "localhost:"),
        *(
            "127.0.0.1:x",
            "localhost:8000:8000",
            "evil@localhost:80",
            "localhost:80\n",
            "127a0.0.1",
            "[::1",
            "",
        ),
    ],
)
def test_a_host_that_is_more_than_a_name_and_a_port_is_refused(host):
    for token in ("", "secret"):
        status, said = answer(host, token=token)
        assert status == 403
        assert "is not this machine" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.0.0.1:8000", "[::1]:8000"])
def test_a_loopback_host_is_let_through_with_the_token(host):
    assert answer(host, token="secret") == (200, "handed on")
    assert answer(host)[0] == 403
    assert answer(host, path="/")[0] == 200


def test_the_path_is_that_of_the_routes_whatever_a_url_is_made_of(monkeypatch):
    monkeypatch.setattr(Request, "url", URL("http://127.0.0.1/x/api/run"))
    status, said = answer("127.0.0.1:80")
    assert status == 403
    assert "token" in said
