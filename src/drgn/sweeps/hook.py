"""What Hydra calls when a sweep is over."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drgn.errors import say


class Page:
    """Write the page that compares the runs of a sweep."""

    def on_multirun_start(self, config: Any, **known: Any) -> None:
        """Make the folder: a search keeps its study there from the beginning."""
        Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)

    def on_multirun_end(self, config: Any, **known: Any) -> None:
        """Write it, where there are runs to compare and matplotlib to draw them with."""
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError:
            return
        from drgn.sweeps.page import write_page

        try:
            page = write_page(Path(str(config.hydra.sweep.dir)))
        except Exception as error:  # the runs are there all the same
            say(f"no page of the sweep: {type(error).__name__}: {error}", file=sys.stderr)
            return
        if page is not None:
            say(f"Sweep: {page}", flush=True)

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Nothing is done at other times."""
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *_, **__: None
