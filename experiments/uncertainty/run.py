"""Is a latent's posterior as wide as its error? On simulated sets; write results.json, calibration.png.

    drgn simulate set=uniform_small output=uniform_small
    drgn train dataset=custom dataset.particles=uniform_small/particles.star latent.zdim=1 epochs=1 output=run
    python experiments/uncertainty/run.py --run run --name uniform_64

The latent (of one dimension) is mapped to the true coordinate by a monotone regression on one half of the
particles. On the other half: how often the truth lies within the central p of the posterior, for p from
0.05 to 0.95, and how often a particle's true tenth of the motion is the one that its posterior gives a
probability to.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression

from drgn.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--name", default=None, help="of the set in the results; by default the run's folder")
    given = parser.parse_args()
    run = Run.open(given.run)
    latents, truth = run.latents(), run.truth()
    assert truth is not None
    assert run.zdim == 1
    z, sd = latents.z[:, 0].astype(float), np.exp(0.5 * latents.logvar[:, 0].astype(float))
    motion = truth["motion"].to_numpy()
    rng = np.random.default_rng(0)
    # the truth is one of so many maps: spread over its step, it is a number like any other
    step = np.diff(np.unique(motion)).min()
    motion = motion + step * (rng.random(len(motion)) - 0.5)
    fitted = rng.random(len(z)) < 0.5
    # of the posteriors' draws, so that ends are not pulled inwards
    regression = IsotonicRegression(increasing="auto", out_of_bounds="clip").fit(
        (z + sd * rng.standard_normal(len(z)))[fitted], motion[fitted]
    )
    test = ~fitted
    p = np.linspace(0.05, 0.95, 19)
    observed, widths = [], norm.ppf(0.5 + p / 2)
    for width in widths:
        ends = np.sort([regression.predict(z[test] + side * width * sd[test]) for side in (-1, 1)], axis=0)
        observed.append(((motion[test] >= ends[0]) & (motion[test] <= ends[1])).mean())
    drawn = z[test, None] + sd[test, None] * rng.standard_normal((test.sum(), 64))
    tenth = np.clip(regression.predict(drawn.ravel()).reshape(drawn.shape) * 10, 0, 9.999).astype(int)
    chance = np.stack([(tenth == k).mean(1) for k in range(10)], axis=1)
    right = np.clip(motion[test] * 10, 0, 9.999).astype(int)[:, None] == np.arange(10)
    edges = np.linspace(0, 1, 11)
    which = np.clip(np.digitize(chance.ravel(), edges) - 1, 0, 9)
    said = np.array([chance.ravel()[which == k].mean() for k in range(10)])
    came = np.array([right.ravel()[which == k].mean() for k in range(10)])
    # what the standard deviations are to be multiplied by
    error = motion[test] - regression.predict(z[test])
    slope = (regression.predict(z[test] + sd[test]) - regression.predict(z[test] - sd[test])) / 2
    factor = float(np.sqrt(np.mean(error**2) / np.mean(slope**2)))

    figure, (left, middle) = plt.subplots(1, 2, figsize=(8, 3.8))
    left.plot(p, observed, "o-", color="#0072b2")
    left.set(xlabel="central interval of the posterior", ylabel="truths within it", title="Latent")
    middle.plot(said, came, "o-", color="#0072b2")
    middle.set(xlabel="probability said", ylabel="share that was right", title="Tenth of the motion")
    for panel in (left, middle):
        panel.plot([0, 1], [0, 1], color="0.6", ls="--")
    figure.tight_layout()
    here = Path(__file__).parent
    figure.savefig(here / "calibration.png", dpi=150)
    name = given.name or given.run.name
    path = here / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results.update(
        {f"{name}.drgn.within_{q:.2f}": round(float(o), 3) for q, o in zip(p, observed, strict=True)}
    )
    results[f"{name}.drgn.error_over_posterior_sd"] = round(factor, 3)
    results[f"{name}.drgn.membership_error"] = round(float(np.nanmean(np.abs(said - came))), 3)
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    for key, value in results.items():
        print(key, value)


if __name__ == "__main__":
    main()
