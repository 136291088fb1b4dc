"""A served run and a page on it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 60_000  # ms


@pytest.fixture(scope="module")
def serve(environment):
    """Return a function that starts drgn explore on a folder as a person does, and returns its address."""
    servers = []
    yield lambda folder: started(folder, environment, servers)
    for server in servers:
        server.terminate()
        server.communicate(timeout=30)


def started(folder: Path, environment: dict[str, str], servers: list[subprocess.Popen[str]]) -> str:
    command = [sys.executable, "-m", "drgn.explore", f"run={folder}", "port=0", "browser=false"]
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    servers.append(server)
    lines = []
    for line in server.stdout:
        lines.append(line)
        if line.startswith("http://127.0.0.1:"):
            return line.strip()
    pytest.fail("".join(lines))


@pytest.fixture
def open_page(browser):
    """Return a function that opens an address; a page's errors and requests to other hosts fail the test."""
    wrong, contexts = [], []

    def open_(address: str, ready: str = "globalThis.explorer?.scatter?.x && explorer.volumes.plugin"):
        context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
        context.set_default_timeout(SECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda r: (
                None if re.match(r"(http://127\.0\.0\.1:\d+/|blob:|data:)", r.url) else wrong.append(r.url)
            ),
        )
        page.goto(address)
        page.wait_for_function(ready)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []
