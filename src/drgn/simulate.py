"""Simulate particle images of a molecule in many states, with the truth beside them.

    drgn simulate                                      # a toy: an arm that swings, a lobe that comes off
    drgn simulate set=uniform_small                    # the paper's set Uniform at the scale of two cores
    drgn simulate set=compositional molecule.model.file=4V5A_copy1.npz microscope.table=ctf.pkl
    drgn simulate molecule=path molecule.model.file=a.pdb molecule.model.frames=[b.pdb] pixel_size_A=2
    drgn simulate molecule=maps molecule.files=[a.mrc,b.mrc] box_size=64 pixel_size_A=3

Writes particles.mrcs, particles.star (RELION 3.1: poses, shifts, CTF), truth.csv (every particle's state, the
file of its map, and its pose where the star tells a wrong one), maps/ (the true maps, in the grey values of
the images), maps.csv (their states) and simulation.json (all options, the noise). The toy's images are exact:
it is a sum of Gaussians, and its projections are taken from their closed form. Those of other molecules are
central slices of the maps' transforms, padded twice. A set that is there already is kept.
Reading .pdb and .cif needs `pip install drgn[atoms]`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from drgn.command import bind, build, command, compose
from drgn.errors import InputError, say
from drgn.hints import leaves


def simulate(
    *,
    output: Path,
    n_particles: int,
    box_size: int,
    pixel_size_A: float,
    snr: float,
    shift_px: float,
    data_sign: Literal[1, -1],
    noise_spectrum: list[float] | None,
    seed: int,
    molecule: Mapping[str, Any],
    poses: Mapping[str, Any],
    microscope: Mapping[str, Any],
    trust: list[str],
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
    shift_px
        Shifts are uniform in [-shift_px, shift_px] along x and y.
    data_sign
        -1: protein is dark.
    noise_spectrum
        See `drgn.simulation.noise.noise_filter`.
    seed
        Of everything drawn.
    molecule
        `_target_` and options of a `drgn.simulation.molecules.Molecule`.
    poses, microscope
        Options of `drgn.simulation.poses.PoseOptions` and `drgn.simulation.microscope.Microscope`.
    trust
        Module prefixes that a `_target_` may name besides drgn's, torch's and Lightning's own.

    Returns
    -------
    Path
        particles.star.

    Raises
    ------
    InputError
        An option is out of its range, or the folder holds another set, or particles of another program.
    """
    options = {**locals()}
    if _is_made(output, options, "output"):
        say(f"{output} holds this set already, which is kept")
        return output / "particles.star"
    from drgn.simulation.files import write_set
    from drgn.simulation.microscope import Microscope
    from drgn.simulation.poses import PoseOptions

    star = write_set(
        build(molecule, trust=trust, key="molecule"),
        output,
        n_particles=n_particles,
        box_size=box_size,
        pixel_size_A=pixel_size_A,
        snr=snr,
        shift_px=shift_px,
        data_sign=data_sign,
        noise_spectrum=noise_spectrum,
        poses=PoseOptions(**bind(PoseOptions, poses, key="poses")),
        microscope=Microscope(**bind(Microscope, microscope, key="microscope")),
        seed=seed,
        options=options,
    )
    say(f"simulated {n_particles:,} images of {box_size} px: {star}")
    return star


def make_missing(dataset: Mapping[str, Any]) -> None:
    """Make the simulated set that a data set's options ask for, where it is not there yet."""
    node = dataset.get("simulate")
    if node is None:
        return
    chosen = {k: v for k, v in node.items() if k != "set"}
    options = _merged(compose("simulate", [f"set={node['set']}"] if "set" in node else []), chosen)
    star = Path(dataset["particles"])
    if star != Path(options["output"]) / "particles.star":
        raise InputError(
            f"dataset.particles={star}, where dataset={dataset['name']} is simulated; particles of your own"
            f" are dataset=custom dataset.particles={star}"
        )
    if not star.exists():
        simulate(**bind(simulate, options, key="dataset.simulate"))
    elif star.with_name("simulation.json").is_file():
        _is_made(star.parent, options, "dataset.simulate.output")


def _is_made(folder: Path, options: Mapping[str, Any], name_of_folder: str) -> bool:
    """Whether a folder holds the set of these options, complete; an InputError where it holds another one."""
    from drgn.formats.documents import read_json

    star, facts = folder / "particles.star", folder / "simulation.json"
    if not facts.is_file():
        unfinished = not star.exists() and (folder / "maps").is_dir()
        if not unfinished and (star.exists() or star.with_suffix(".mrcs").exists()):
            raise InputError(
                f"{folder} holds particles, and no simulation.json that says how they were simulated; give"
                f" {name_of_folder}=ANOTHER FOLDER"
            )
        return False
    made = dict(leaves(read_json(facts)["options"]))
    for name, value in leaves(json.loads(json.dumps(options, default=str))):
        if name.split(".")[0] not in ("output", "trust") and name in made and made[name] != value:
            raise InputError(
                f"{folder} holds a set that was simulated with {name}={made[name]}, where now {value} is"
                f" asked for; give {name_of_folder}=ANOTHER FOLDER, or delete that one"
            )
    return star.exists()


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Options with changes put in, level by level; a null changes nothing."""
    merged = dict(base)
    for name, value in changes.items():
        below = merged.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[name] = _merged(below, value)
        elif value is not None or name not in merged:
            merged[name] = value
    return merged


main = command(simulate)
if __name__ == "__main__":
    main()
