"""drgn train that waits when a function, MODULE:NAME.NAME, is first called until a file is there.

    python paused.py FUNCTION FOLDER OPTIONS...

It writes FOLDER/reached.RANK and waits for FOLDER/go.
"""

import importlib
import os
import sys
import time
from pathlib import Path

import drgn.train


def pause_at(function, folder):
    module, _, names = function.partition(":")
    owner = importlib.import_module(module)
    *path, name = names.split(".")
    for part in path:
        owner = getattr(owner, part)
    original = getattr(owner, name)

    def paused(*args, **kwargs):
        (folder / f"reached.{os.environ['RANK']}").touch()
        while not (folder / "go").exists():
            time.sleep(0.05)
        return original(*args, **kwargs)

    setattr(owner, name, paused)


pause_at(sys.argv[1], Path(sys.argv[2]))
sys.argv[1:3] = []
sys.modules["__main__"] = drgn.train
drgn.train.main()
