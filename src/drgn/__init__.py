"""Heterogeneous cryo-EM reconstruction: from particle images to the ensemble of 3-D maps behind them.

Importing this package costs nothing: the heavy libraries are loaded by the modules that use them.
"""

import os
from pathlib import Path

# Arrow's own allocators keep what another thread has freed; see drgn.formats.memory
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

__version__ = "0.1.0"

_HERE = Path(__file__).parent
# A wheel carries conf/ inside the package; a checkout keeps it at the top level.
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parents[1] / "conf"

__all__ = ["CONF", "__version__"]
