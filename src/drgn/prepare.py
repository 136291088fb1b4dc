"""Prepare images for training, once: window, Fourier-crop, normalise, and keep what training reads.

    drgn prepare dataset=custom dataset.particles=run_data.star dataset.box_size=128
    drgn prepare dataset=empiar10076 dataset.cache=/scratch/prepared
    drgn prepare dataset=custom dataset.particles=run_data.star dataset.box_size=128 output=small.star
    drgn prepare dataset=custom dataset.particles=run_data.star check_only=true dataset.consensus=map.mrc

Says first what there is in the inputs. Then a preflight back-projects two thousand images and asks whether
they fit better under another reading of the file (sign of the data, hand, transposed rotations, sign and unit
of the shifts, rows out of step); it stops where they do, and names the option to set. Then it says what
preparing will cost in time, disk and memory, and prepares. `drgn train` does the same on first use; the stack
serves every later run on these images or on a selection of them. With output= it writes the smaller images as
a new .mrcs and .star instead, for any program.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drgn.command import command
from drgn.errors import say
from drgn.signature import build


def prepare(*, dataset: Mapping[str, Any], check_only: bool, output: Path | None, trust: list[str]) -> Path:
    """Make the prepared stack of a data set, or write its images smaller.

    Parameters
    ----------
    dataset
        Node of the configuration: `_target_` and keyword arguments, see conf/dataset.
    check_only
        Count and check the inputs, no more.
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
    from drgn.simulate import make_missing

    make_missing(dataset)
    data = build({k: v for k, v in dataset.items() if k != "simulate"}, trust=trust, key="dataset")
    particles = data.particles
    for what, how_many in input_counts(particles, dataset):
        say(f"{what:<14}{how_many}")
    box_size = data.box_size
    say(f"{'training box':<14}{box_size} px", flush=True)
    if particles.source.mapping:
        say(particles.source.mapping)
    if not dataset.get("preflight", True):
        say("preflight=false: the conventions are not checked")
    elif particles.has_poses:
        report = data.preflight(anew=True)
        say(f"{'score':>10}  against as read, in standard errors")
        say(f"{report.gain:10.3g}  {'':>6}  as the file is read")
        for choice in report.choices:
            say(f"{choice.gain:10.3g}  {choice.z:+6.0f}  {choice.name}")
    else:
        say("no poses: the conventions are not checked")
    if check_only:
        return data.cache
    if output is not None:
        with PrepareProgress() as shown:
            write_downsampled(data.particles, output, box_size, progress=shown.update)
        dark = (data.particles.table["data_sign"] < 0).all()
        say(f"written: {output}" + ("; protein is dark in it: dataset.data_sign=-1" if dark else ""))
        return output
    stack = data.prepare()
    rejected = len(stack.meta.rejected)
    say(
        f"prepared: {stack.folder}, {stack.meta.n:,} images of {stack.meta.pixel_size_A:.4g} A per pixel"
        + (f", {rejected:,} of them constant, not finite or too loud and left out" if rejected else "")
    )
    return Path(stack.folder)


main = command(prepare)
if __name__ == "__main__":
    main()
