"""Compare what drgn discover and drgn landscape wrote to runs/ with the truth; prints JSON.

The truth is used here only. A coordinate is cut half way between the modes of its set, at maps 17.5 and
32.5 of 50.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.metrics import adjusted_rand_score

from drgn.analysis.selection import read_labels
from drgn.run import Run

results = {}
for place in sorted(Path("runs").iterdir()):
    run = Run.open(place)
    truth, key = run.truth(), run.latents().key
    facts = json.loads((place / "discover" / "discovery.json").read_text())
    wide = json.loads((place / "landscape" / "landscape.json").read_text())
    modes = truth["state"] if "state" in truth else np.digitize(truth["motion"] * 49 + 1, [17.5, 32.5])
    labels = {name: read_labels(place / name / "labels.npz", key) for name in ("discover", "landscape")}
    at = f"{place.name}.drgn"
    found = {
        "particles": len(key),
        "states": facts["states"],
        "ari_with_truth": round(adjusted_rand_score(modes, labels["discover"]), 4),
        "stability_mean_ari": round(facts["stability_mean_ari"], 4),
        "share_of_resamples_with_as_many": round(
            facts["states_in_resamples"].get(str(facts["states"]), 0)
            / sum(facts["states_in_resamples"].values()),
            2,
        ),
        "landscape_clusters": wide["clusters"],
        "landscape_ari_with_truth": round(adjusted_rand_score(modes, labels["landscape"]), 4),
        "landscape_r2": round(wide["held_out_r2"][wide["regression"]], 4),
        "share_of_first_two_components": round(sum(wide["share_of_variance"][:2]), 3),
    }
    results.update({f"{at}.{name}": value for name, value in found.items()})
print(json.dumps(results, indent=1))
