"""Lightning without its advertisements."""

import logging
import threading
import warnings

from drgn.errors import REFUSALS


def quiet() -> None:
    """Keep Lightning's advertisements and its advice on loaders out of the output."""
    import pytorch_lightning  # noqa: F401  (its loggers set their own level when it is imported)

    def tell(failed: threading.ExceptHookArgs) -> None:
        if getattr(failed.exc_value, "errno", None) not in REFUSALS:  # TensorBoard's writer raises it again
            threading.__excepthook__(failed)

    threading.excepthook = tell
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
        for logger in (name, *(n for n in logging.root.manager.loggerDict if n.startswith(name + "."))):
            logging.getLogger(logger).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`training_step` returned `None`.*")  # told by BadBatches
    warnings.filterwarnings("ignore", message=".*`list` across ranks is zero.*")  # nothing is held out
    warnings.filterwarnings("ignore", message=".*litlogger.*")
    warnings.filterwarnings("ignore", message=".*run with no optimizer.*")  # volumes of a basis alone
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # `Loaders` sees to it
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
