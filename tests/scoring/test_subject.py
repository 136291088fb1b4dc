import pickle

import numpy as np
import pandas as pd
import pytest

from drgn.errors import InputError
from drgn.formats.particles import Particles
from drgn.run import Run
from drgn.scoring.poses import summary
from drgn.scoring.scores import of_poses
from drgn.scoring.subject import of_files, of_run, of_truth, read_latents, subject_of
from drgn.scoring.truth import Truth

Z = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)


def test_latents_of_every_kind_are_the_same_numbers(tmp_path):
    np.save(tmp_path / "z.npy", Z)
    np.savez(tmp_path / "z.npz", z=Z, key=np.arange(200).astype(str))
    with open(tmp_path / "z.3.pkl", "wb") as file:  # cryoDRGN: means, then log-variances
        pickle.dump(Z, file)
        pickle.dump(0 * Z, file)
    pd.DataFrame(Z, columns=["a", "b"]).assign(key=np.arange(200)).to_csv(tmp_path / "z.csv", index=False)
    np.savetxt(tmp_path / "z.txt", Z)
    for name in ("z.npy", "z.npz", "z.3.pkl", "z.csv", "z.txt"):
        z, key = read_latents(tmp_path / name)
        np.testing.assert_allclose(z, Z, rtol=1e-5)
        assert (key is not None) == (name in ("z.npz", "z.csv"))
    np.save(tmp_path / "z.npy", Z[:, 0])
    assert read_latents(tmp_path / "z.npy")[0].shape == (200, 1)


def test_latents_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_latents(tmp_path / "z.npy")
    np.save(tmp_path / "z.npy", np.where(np.arange(200)[:, None] == 7, np.nan, Z))
    with pytest.raises(InputError, match="row 8 is not finite"):
        read_latents(tmp_path / "z.npy")
    (tmp_path / "z.txt").write_text("a b\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_latents(tmp_path / "z.txt")
    np.save(tmp_path / "z.npy", Z[None])
    with pytest.raises(InputError, match=r"\(1, 200, 2\)"):
        read_latents(tmp_path / "z.npy")


def test_rows_are_joined_by_key_or_by_the_order_of_a_file(tmp_path, noisy):
    truth = Truth(noisy)
    order = np.random.default_rng(1).permutation(200)[:150]
    keys = truth.table.index.to_numpy(str)[order]
    np.savez(tmp_path / "z.npz", z=Z[order], key=keys)
    truth.particles.select(order).save(tmp_path / "selected.star")
    np.save(tmp_path / "z.npy", Z[order])
    by_key = of_files(tmp_path / "z.npz", noisy, None)
    by_order = of_files(tmp_path / "z.npy", noisy, tmp_path / "selected.star")
    for subject in (by_key, by_order):
        np.testing.assert_array_equal(subject.z, Z[subject.rows])
        np.testing.assert_array_equal(subject.key, keys)
    with pytest.raises(InputError, match=r"150 rows, but .* has 200 particles"):
        of_files(tmp_path / "z.npy", noisy, None)


def test_a_particle_that_is_there_twice_is_named(tmp_path, noisy):
    keys = Truth(noisy).table.index.to_numpy(str)[[3, 5, 3]]
    np.savez(tmp_path / "z.npz", z=Z[:3], key=keys)
    with pytest.raises(InputError, match=rf"z\.npz: particle {keys[0]} is there twice"):
        of_files(tmp_path / "z.npz", noisy, None)


def test_images_of_one_particle_count_once(tmp_path, simulated):
    folder = simulated()
    truth = Truth(folder)
    particles = truth.particles
    particles.table["group"] = [str(i // 4) for i in range(200)]
    subject = subject_of(truth, particles, Z, None)
    assert len(subject.z) == 50
    assert len(subject.all_rows) == 200
    np.testing.assert_array_equal(subject.z, Z[::4])


def test_a_run_and_its_truth(run, noisy):
    subject = of_run(Run.open(run), None)
    assert subject.truth.folder == noisy
    np.testing.assert_array_equal(subject.rows, np.arange(200))
    assert list(subject.states) == ["motion"]
    with pytest.raises(InputError, match=r"truth .* not known.*drgn simulate"):
        of_run(Run.open(run), run)


def test_true_poses_are_no_error_and_wrong_ones_are_found(tmp_path, simulated):
    exact, wrong = simulated(), simulated("poses.error_deg=5", "poses.error_A=12", "n_particles=1000")
    assert of_poses(of_truth(exact), None, tmp_path) is None
    found = summary(of_poses(of_truth(wrong), None, tmp_path), 24)
    assert found["rotation_error_rms_deg"] == pytest.approx(5, rel=0.07)
    assert found["shift_error_rms_A"] == pytest.approx(12, rel=0.07)
    assert found["shift_error_rms_px"] == pytest.approx(0.5, rel=0.07)
    assert len(pd.read_csv(tmp_path / "poses.csv")) == 1000
    # refined poses of some of the particles, in another order
    truth = Truth(wrong)
    rows = np.random.default_rng(0).permutation(1000)[:400]
    truth.particles.posed_as(_true(truth), np.arange(1000)).select(rows).save(tmp_path / "refined.star")
    found = summary(of_poses(of_truth(wrong), tmp_path / "refined.star", tmp_path), 24)
    assert found["rotation_error_rms_deg"] < 1e-2
    assert found["shift_error_rms_A"] < 1e-2


def _true(truth: Truth) -> Particles:
    import dataclasses

    rotation, shift_A = truth.poses
    table = truth.particles.table.assign(shift_x_A=shift_A[:, 0], shift_y_A=shift_A[:, 1])
    return dataclasses.replace(truth.particles, rotation=rotation, table=table)
