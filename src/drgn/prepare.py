"""Prepare images for training, once: window, Fourier-crop, normalise, and keep what training reads.

    drgn prepare dataset=custom dataset.particles=run_data.star dataset.box_size=128
    drgn prepare dataset=empiar10076 dataset.cache=/scratch/prepared
    drgn prepare dataset=custom dataset.particles=run_data.star dataset.box_size=128 output=small.star

Says first what there is in the inputs and what preparing will cost in time, disk and memory. `drgn train`
does the same on first use; the stack serves every later run on these images or on a selection of them. With
output= it writes the smaller images as a new .mrcs and .star instead, for any program.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drgn.command import command
from drgn.signature import build


def prepare(*, dataset: Mapping[str, Any], output: Path | None, trust: list[str]) -> Path:
    """Make the prepared stack of a data set, or write its images smaller.

    Parameters
    ----------
    dataset
        Node of the configuration: `_target_` and keyword arguments, see conf/dataset.
    output
        A star file to write, with its stack beside it, in place of the prepared stack.
    trust
        Module prefixes that a `_target_` may name besides drgn's, torch's and Lightning's own.

    Returns
    -------
    Path
        The folder of the prepared stack, or the star file.
    """
    from drgn.data.counts import input_counts
    from drgn.data.downsample import write_downsampled
    from drgn.data.progress import PrepareProgress
    from drgn.train import make_toy_set

    make_toy_set(dataset)
    data = build({k: v for k, v in dataset.items() if k != "simulate"}, trust=trust, key="dataset")
    for what, how_many in input_counts(data.particles, dataset):
        print(f"{what:<14}{how_many}")
    box_size = data.box_size
    print(f"{'training box':<14}{box_size} px", flush=True)
    # poses and conventions are checked here, before hours of preparing: preflight(data.particles, ...)
    if output is not None:
        with PrepareProgress() as shown:
            write_downsampled(data.particles, output, box_size, progress=shown.update)
        dark = (data.particles.table["data_sign"] < 0).all()
        print(f"written: {output}" + ("; protein is dark in it: dataset.data_sign=-1" if dark else ""))
        return output
    stack = data.prepare()
    rejected = len(stack.meta.rejected)
    print(
        f"prepared: {stack.folder}, {stack.meta.n:,} images of {stack.meta.pixel_size_A:.4g} A per pixel"
        + (f", {rejected:,} of them constant, not finite or too loud and left out" if rejected else "")
    )
    return Path(stack.folder)


main = command(prepare)
if __name__ == "__main__":
    main()
