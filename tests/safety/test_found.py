"""What fuzzing found, each once mended: files that raised something else than a sentence, or crashed."""

import gzip
import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from drgn.analysis.history import losses
from drgn.data.prepared import PreparedStack
from drgn.errors import InputError
from drgn.formats.atoms import read_atoms
from drgn.formats.cryodrgn import read_ctf, read_indices
from drgn.formats.particles import Particles
from drgn.run import Run


def told(match, read, *given):
    with pytest.raises(InputError, match=match):
        read(*given)


def test_an_optics_block_without_rows(tmp_path):
    (tmp_path / "p.star").write_text(
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n\ndata_particles\nloop_\n_rlnImageName\n1@s.mrcs\n"
    )
    told(r"p\.star: the block data_optics has no rows", Particles.from_file, tmp_path / "p.star")


def test_atoms_with_odd_names_or_numbers(stranger):
    path = stranger / "formats" / "a.pdb"
    sound = path.read_text()
    path.write_bytes(sound.replace(" N   ALA", " \xff   ALA").encode("latin1"))
    told(r"a\.pdb has a name that is not text", read_atoms, path)
    path.write_text(sound.replace("ALA A   1", "ALA A    "))  # a residue without a number
    assert len(read_atoms(path)) == 3


def test_a_compressed_model_with_zeros_behind_it(stranger):
    """gemmi 0.7.5 does not come to an end on it."""
    path = stranger / "formats" / "a.cif.gz"
    path.write_bytes(gzip.compress(b"data_x\nloop_\n_atom_site.group_PDB\n") + bytes(17))
    told(r"a\.cif\.gz", read_atoms, path)


def test_a_residue_number_of_many_digits(stranger):
    path = stranger / "formats" / "a.psf"
    path.write_text(path.read_text().replace("1 A 1 ALA", f"1 A {1 << 80} ALA"))
    told(r"a\.psf: the section !NATOM", read_atoms, path, [path.with_suffix(".dcd")])


def test_a_text_with_characters_that_there_are_not(stranger):
    path = stranger / "formats" / "ctf.npz"
    arrays = dict(np.load(path))
    odd = np.array(["a", "b"])
    odd.view("u4")[0] = 0x7FFFFFFF
    np.savez(path, **{**arrays, "particle": odd})
    told(r"ctf\.npz.*characters that there are not", read_ctf, path, 2, "x", np.zeros(2, int))
    (stranger / "formats" / "ind.pkl").write_bytes(pickle.dumps(odd))
    told(r"ind\.pkl.*characters that there are not", read_indices, stranger / "formats" / "ind.pkl")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("lattice_args", "D"), 1),
        (("lattice_args", "D"), 1 << 40),
        (("lattice_args", "D"), float("inf")),
        (("model_args", "players"), 10**9),
        (("model_args", "zdim"), float("inf")),
        (("dataset_args", "norm"), []),
        (("dataset_args", "norm"), {"a": 1}),
    ],
)
def test_a_network_of_cryodrgn_that_no_run_has(stranger, place, value):
    path = stranger / "foreign" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[place[0]][place[1]] = value
    path.write_text(yaml.safe_dump(config))
    run = Run.open(stranger / "foreign")
    assert not run.decodes
    assert 0 < run.box_size <= 4096


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"epoch\xff,x\n", None),
        (b"epoch,train/loss_epoch\nnan,1\n0,2\n", 1),
        (b"epoch,train/loss_epoch\n1e300,1\n", 0),
    ],
)
def test_a_table_of_losses(stranger, content, rows):
    run = stranger / "run"
    for path in (run / "tensorboard").iterdir():
        path.unlink()
    (run / "metrics.csv").write_bytes(content)
    if rows is None:
        told(r"metrics\.csv is not a table of losses", losses, run)
    else:
        assert len(losses(run)) == rows


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("n", 10**9), ("n", -1), ("n", "12"), ("box_size", "16"), ("box_size", 1 << 40), ("fields", [])],
        *[("fields", [{}]), ("sources", [[{}, 1, 2]]), ("signal", ["x"]), ("rejected", [99]), ("more", 1)],
    ],
)
def test_a_prepared_stack_that_says_what_it_is_not(stranger, name, value):
    path = stranger / "prepared" / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    told(r"prepared", PreparedStack, path.parent)


@pytest.mark.parametrize("spoil", ["bytes", "columns", "types", "empty"])
def test_the_table_of_a_prepared_stack(stranger, spoil):
    path = stranger / "prepared" / "particles.parquet"
    table = pd.read_parquet(path)
    if spoil == "bytes":
        path.write_bytes(path.read_bytes()[:-9])
    elif spoil == "columns":
        table.drop(columns="image_index").to_parquet(path)
    elif spoil == "types":
        table.assign(stack="x").to_parquet(path)
    else:
        table.iloc[:0].to_parquet(path)
    particles = Particles.from_file(stranger / "set" / "particles.star")
    told(r"particles\.parquet (cannot be read|is damaged)", PreparedStack(path.parent).find, particles)


def test_images_that_were_cut(stranger):
    path = stranger / "prepared" / "images.f16"
    path.write_bytes(path.read_bytes()[:-1])
    told(r"images\.f16 is not \d+ bytes long", PreparedStack, path.parent)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        *[("trainer", "precision", ...), ("model", "encoding", ...), ("model", "hidden_dim", 1 << 70)],
        *[
            ("latent", "zdim", -1),
            ("latent", "zdim", "2"),
            ("dataset", "name", []),
            ("dataset", "cache", [[[]]]),
        ],
    ],
)
def test_the_configuration_of_a_run(stranger, group, name, value):
    path = stranger / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    if value is ...:
        del config[group][name]
    else:
        config[group][name] = value
    path.write_text(yaml.safe_dump(config))
    told(r"config\.yaml", lambda: Run.open(stranger / "run").particles())


@pytest.mark.parametrize(
    "content", [{"state_dict": None}, {"state_dict": {1: 2}}, {}, [1], {"state_dict": {"a": "b"}}]
)
def test_a_checkpoint_of_something_else(stranger, content):
    path = stranger / "run" / "checkpoints" / "best.ckpt"
    torch.save(content, path)
    told(r"best\.ckpt", Run.open(stranger / "run").model)


@pytest.mark.parametrize(
    "arrays", [{}, {"z": np.zeros((12, 3), np.float32)}, {"z": np.zeros(12)}, {"key": np.zeros(12)}]
)
def test_latents_of_something_else(stranger, arrays):
    path = stranger / "run" / "latents.npz"
    whole = dict(np.load(path))
    np.savez(path, **({**whole, **arrays} if arrays else {"x": whole["z"]}))
    told(r"latents\.npz", Run.open(stranger / "run").latents)
