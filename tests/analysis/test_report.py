import re
from html.parser import HTMLParser

import pytest

from drgn.analysis.report import Picture, Section, Table, write_report

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8ffff3f0005fe02fe"
    "dccc59e70000000049454e44ae426082"
)


class Reader(HTMLParser):
    """Counts tags and checks that they are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    sections = [
        Section("First", ["Words with < & >."], [Picture(tmp_path / "a.png", 'A "caption".')]),
        Section("Second", [], tables=[Table(("a", "b"), [("1", "2"), ("3", "4")])]),
    ]
    return write_report(tmp_path / "report.html", "Title", "Subtitle", sections).read_text()


def test_the_page_is_well_formed_and_complete(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.seen.count("h2") == 2
    assert reader.seen.count("td") == 4
    assert reader.seen.count("img") == 1
    assert "Words with &lt; &amp; &gt;." in page


def test_the_page_needs_nothing_else(page):
    assert "://" not in page
    assert "<script" not in page
    assert "@import" not in page
    reader = Reader()
    reader.feed(page)
    assert all(re.match("data:image/png;base64,|#s", link) for link in reader.links)


def test_the_contents_lead_to_the_sections(page):
    for number, title in enumerate(("First", "Second")):
        assert f'<a href="#s{number}">{title}</a>' in page
        assert f'<section id="s{number}"><h2>{title}' in page
