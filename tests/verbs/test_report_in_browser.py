"""The report of drgn analyze as a reader sees it: in Chromium, without a network."""

import shlex
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from drgn.analysis.report import Section, Table, write_report
from drgn.analyze import analyze
from drgn.command import compose

WIDTH, HEIGHT = 1280, 800


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    options = {**compose("analyze"), "run": finished, "kmeans": 4, "evidence": False, "output": folder}
    return analyze(**options)


@pytest.fixture(scope="module")
def page(browser, report):
    """The opened report; what it asked for and complained of lies in its attributes `asked` and `said`."""
    context = browser.new_context(offline=True, viewport={"width": WIDTH, "height": HEIGHT})
    page = context.new_page()
    page.asked, page.said = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.goto(report.as_uri())
    page.wait_for_load_state("load")
    yield page
    context.close()


def test_nothing_is_asked_of_anyone_and_nothing_complains(page, report):
    assert [url for url in page.asked if not url.startswith("data:")] == [report.as_uri()]
    assert page.said == []
    assert report.stat().st_size < 30e6


def test_every_picture_is_decoded(page):
    widths = page.evaluate("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
    assert len(widths) >= 8
    assert min(widths) > 100


def test_every_movie_has_many_pictures(page):
    counts = page.evaluate("""async () => {
      const movies = [...document.images].filter(i => i.src.startsWith("data:image/gif"));
      return Promise.all(movies.map(async movie => {
        const bytes = Uint8Array.from(atob(movie.src.split(",")[1]), c => c.charCodeAt(0));
        const decoder = new ImageDecoder({data: bytes, type: "image/gif"});
        await decoder.tracks.ready;
        await decoder.completed;
        await decoder.decode({frameIndex: decoder.tracks.selectedTrack.frameCount - 1});
        return decoder.tracks.selectedTrack.frameCount;
      }));
    }""")
    assert len(counts) == 2
    assert min(counts) > 5


def test_every_link_leads_somewhere(page, report):
    links = page.evaluate("[...document.links].map(a => a.getAttribute('href'))")
    assert len(links) > 5
    for link in links:
        if link.startswith("#"):
            assert page.locator(f"[id='{link[1:]}']").count() == 1
        else:
            assert (report.parent / link).is_file()
    assert {"kmeans4/vol_003.mrc", "pc1/vol_000.mrc"} <= set(links)


@pytest.mark.parametrize("width", [WIDTH, 700])
def test_nothing_runs_over_the_side(page, width):
    page.set_viewport_size({"width": width, "height": HEIGHT})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_lines_of_text_can_be_read(page):
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    widths = page.evaluate("[...document.querySelectorAll('main p')].map(p => p.clientWidth)")
    assert 200 < max(widths) < 800


def test_the_commands_can_be_pasted(page, finished):
    """Every command of the last section is a verb with options that it has."""
    lines = page.locator("pre").all_inner_texts()
    assert len(lines) >= 2  # clusters of an analysis elsewhere are not found by filter and traverse
    for line in lines:
        program, verb, *options = shlex.split(line)
        assert program == "drgn"
        assert str(compose(verb, options)["run"]) == str(finished)


def test_names_are_text_and_no_markup(browser, tmp_path):
    name = "<script>alert(1)</script>&\"'"
    (tmp_path / "a & b#.mrc").write_bytes(b"")
    section = Section(
        name, [name], tables=[Table([name], [[name], [Path("a & b#.mrc")]])], commands=[(name, name)]
    )
    page = browser.new_context(offline=True).new_page()
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.goto(write_report(tmp_path / "r.html", name, name, [section]).as_uri())
    assert page.title() == name
    for place in ("h1", "h2", "th", "pre", "nav b"):
        assert page.locator(place).inner_text() == name
    assert page.locator("script").count() == 0
    link = page.locator("td a").evaluate("a => a.href")
    assert Path(url2pathname(urlsplit(link).path)) == tmp_path / "a & b#.mrc"
    page.context.close()
