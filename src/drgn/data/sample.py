"""Some of many rows, for what is measured on a few."""

import numpy as np
from numpy.typing import NDArray


def spread(rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """At most n of the rows, evenly spread over them: files are in the order of their sessions."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), n)).astype(np.int64))]
