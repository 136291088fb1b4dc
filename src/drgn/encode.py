"""Infer the latents of all particles of a run once more.

    drgn encode                                 # the newest run
    drgn encode run=outputs/train/toy/2026-01-31_12-00-00

Training ends with this; do it again after a run was stopped early. Writes latents.npz to the run folder.
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import say


def encode(*, run: Path, trust: list[str]) -> Path:
    """Write the latents of the best checkpoint.

    Parameters
    ----------
    run
        The run folder, or "latest".
    trust
        Module prefixes that the run's config may name besides drgn's, torch's and Lightning's own.

    Returns
    -------
    Path
        latents.npz.
    """
    import torch

    from drgn.data.readers import told_when_ended
    from drgn.run import Run
    from drgn.training.encode import complete
    from drgn.training.encode import encode as infer

    opened = Run.open(run, trust)
    data = opened.datamodule
    data.prepare_data()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with told_when_ended("then start it again"):
        encoded = infer(
            opened.model(device),
            data.predict_dataloader(),
            n=len(opened.particles()),
            autocast=opened.autocast_type(device),
            fit=data.heldout,
        )
    complete(encoded, data.dataset)
    path = opened.save_latents(encoded, data.heldout)
    say(f"latents of {len(encoded.z):,} particles: {path}")
    return path


main = command(encode)
if __name__ == "__main__":
    main()
