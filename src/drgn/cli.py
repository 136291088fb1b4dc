"""The `drgn` program: `drgn VERB ...` is `python -m drgn.VERB ...`.

It imports no verb: the verb's module is run as the main program, so that everything that starts it again
(Lightning's launcher of distributed processes) repeats the right command.
"""

import os
import runpy
import sys
from difflib import get_close_matches

from drgn import __version__

VERBS = {
    "simulate": "make images of a molecule in known states, with known poses, CTF and noise",
    "prepare": "crop and normalise images once for training, or write them smaller as .mrcs and .star",
    "train": "learn the ensemble of maps behind a set of particle images",
    "encode": "write the latent coordinates of a run's particles",
    "generate": "make volumes from a run, at given latent coordinates or at cluster centres",
    "analyze": "PCA, UMAP, clusters, volumes, pictures and a report of a run's latents",
    "cluster": "part the particles by a mixture, k-means, HDBSCAN, or classes that were given",
    "compare": "how replicates of a run, other runs or published classes agree, particle by particle",
    "traverse": "a path through the latent space: its maps, a movie and a ChimeraX script",
    "discover": "find discrete states, tell them from continuous motion, write each for refinement",
    "landscape": "cluster the maps of a run, place all particles among them by volume components",
    "explore": "see a run in the browser: latents, particles, volumes, paths, evidence",
    "filter": "select particles of a run and write them as .star, .cs or row indices",
    "backproject": "reconstruct voxel maps of two half sets, and say to what resolution they agree",
    "validate": "back-project the particles of states, and say to what resolution they support the maps",
    "fsc": "correlate two maps shell by shell",
    "mask": "make a soft mask of a map",
    "score": "compare a run on simulated particles with the truth",
    "bench": "measure the speed on this machine, alone or beside cryoDRGN",
}

USAGE = f"""drgn {__version__}: heterogeneous cryo-EM reconstruction

usage: drgn VERB key=value ...        (the same as python -m drgn.VERB)
       drgn VERB --help               what the verb does, its options and examples
       drgn --version

verbs:
{chr(10).join(f"  {verb:<12}{line}" for verb, line in VERBS.items())}

first steps:
  drgn train                                                    a toy set, simulated on first use
  drgn train dataset=custom dataset.particles=particles.star    your own particles
"""


def main() -> None:
    """Run the verb that the command line names."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    if words[0] in ("-V", "--version"):
        print(f"drgn {__version__}")
        return
    verb = words[0]
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}."
        print(f"drgn: {verb} is not a verb; {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"drgn {verb}", *words[1:]]
    # trust=[myparts] may mean a module in the current folder; otherwise that folder, perhaps a stranger's
    # with a numpy.py in it, is not looked into
    if not sys.flags.safe_path and any(word.lstrip("+").startswith("trust=") for word in words):
        sys.path.insert(0, os.getcwd())
    runpy.run_module(f"drgn.{verb}", run_name="__main__", alter_sys=True)
