"""What stands beside what in the picture of all states."""

from types import SimpleNamespace

import numpy as np
import torch

from drgn.evidence import pictures

SIZE, STATES = 16, 6


def test_names_stand_at_the_panels_that_they_are_of(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: drawn.append(figure))
    z, y, x = np.mgrid[:SIZE, :SIZE, :SIZE] - SIZE // 2
    ball = np.exp(-(x**2 + y**2 + z**2) / 8).astype(np.float32)
    curve = torch.linspace(1, -0.5, SIZE // 2 + 1)
    found = SimpleNamespace(
        density=torch.from_numpy(ball),
        pixel_size_A=4.0,
        halves=SimpleNamespace(corrected=curve),
        agreement_curve=curve,
    )
    titles = [f"{i}: images" for i in range(STATES)]
    overview = pictures.Overview([ball] * STATES, titles, "along z")
    for number in range(STATES):
        overview.add(number, found, ball)
    overview.save(tmp_path / "x.png")
    (figure,) = drawn
    figure.canvas.draw()
    place = {panel.get_title().strip(): panel.get_position() for panel in figure.axes if panel.get_title()}
    assert list(place) == titles
    words = [(text.get_text(), panel) for panel in figure.axes for text in panel.texts if text.get_text()]
    # named once in a row, left of the panel and no higher or lower than it
    assert [name for name, _ in words] == ["network's map", "map of its images alone"] * 2
    for name, panel in words:
        box = panel.texts[0].get_window_extent()
        frame = panel.get_window_extent()
        assert box.x1 <= frame.x0, name
        assert frame.y0 < (box.y0 + box.y1) / 2 < frame.y1, name
    curves = [panel for panel in figure.axes if panel.get_lines()]
    assert len(curves) == STATES
    assert all(panel.get_xlabel() == "resolution (Å)" for panel in curves)
    assert [bool(panel.get_ylabel()) for panel in curves] == [True] + [False] * 4 + [True]
    assert len(figure.legends[0].get_texts()) == 2
