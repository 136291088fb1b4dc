"""Simulate particle images of a molecule with a swinging arm and a lobe that comes off.

    drgn simulate output=outputs/simulate n_particles=5000 box_size=32 snr=0.1

Writes particles.mrcs and particles.star (RELION 3.1: poses, shifts, CTF), truth.csv (the state of every
particle), and maps/ (the true map of a few states). Images are exact: the molecule is a sum of Gaussians and
its projections are taken from their closed form, not interpolated.
"""

from pathlib import Path

from drgn.command import command


def simulate(
    *,
    output: Path,
    n_particles: int,
    box_size: int,
    pixel_size_A: float,
    snr: float,
    attached_fraction: float,
    shift_px: float,
    seed: int,
) -> Path:
    """Write a simulated particle set with its ground truth.

    Parameters
    ----------
    output
        Folder to write to.
    n_particles, box_size, pixel_size_A
        Size of the set.
    snr
        Variance of the noise-free images over all pixels and images, divided by the noise variance (P33).
    attached_fraction
        Share of the particles that have the lobe.
    shift_px
        Shifts are uniform in [-shift_px, shift_px] along x and y.
    seed
        Of everything drawn.

    Returns
    -------
    Path
        particles.star.
    """
    from drgn.data.simulation import Experiment, write_toy

    experiment = Experiment(
        n_particles=n_particles,
        box_size=box_size,
        pixel_size_A=pixel_size_A,
        snr=snr,
        attached_fraction=attached_fraction,
        shift_px=shift_px,
        seed=seed,
    )
    star = write_toy(experiment, output)
    print(f"simulated {n_particles:,} images of {box_size} px: {star}")
    return star


main = command(simulate)
if __name__ == "__main__":
    main()
