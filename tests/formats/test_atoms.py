"""Atomic models: real files of four kinds, and damaged ones."""

import numpy as np
import pytest

from drgn.errors import InputError
from drgn.formats.atoms import read_atoms, read_dcd

PDB = """\
ATOM      1  N   GLY A   7      10.000  20.000  30.000  1.00  0.00           N
ATOM      2  CA AGLY A   7      11.000  20.000  30.000  0.50  0.00           C
ATOM      3  CA BGLY A   7      11.500  20.000  30.000  0.50  0.00           C
ATOM      4  P     U B   8       1.000   2.000   3.000  1.00  0.00           P
HETATM    5 CA    CA B   9       4.000   2.000   3.000  1.00  0.00          CA
HETATM    6  O   HOH B  10       9.000   9.000   9.000  1.00  0.00           O
END
"""


@pytest.fixture
def pdb(tmp_path):
    pytest.importorskip("gemmi")
    (tmp_path / "x.pdb").write_text(PDB)
    return tmp_path / "x.pdb"


def test_a_pdb_gives_places_elements_chains_and_residues(pdb):
    model = read_atoms(pdb)
    np.testing.assert_array_equal(model.frames_A[0], [[10, 20, 30], [11, 20, 30], [1, 2, 3], [4, 2, 3]])
    assert model.electrons.tolist() == [7, 6, 15, 20]  # carbon of glycine, and the ion calcium
    assert model.chain.tolist() == ["A", "A", "B", "B"]
    assert model.residue.tolist() == [7, 7, 8, 9]


def test_parts_are_chains_groups_patterns_and_ranges(tmp_path):
    np.savez(
        tmp_path / "x.npz",
        coords=np.zeros((4, 3)),
        element=["C", "N", "O", "Mg"],
        chain=["AA", "AA", "AB", "BA"],
        resnum=[1, 5, 5, 5],
        group=["30S", "30S", "30S", "50S"],
    )
    model = read_atoms(tmp_path / "x.npz")
    assert model.electrons.tolist() == [6, 7, 8, 12]
    assert model.select(["30S"]).tolist() == [True, True, True, False]
    assert model.select(["A*:2-9"]).tolist() == [False, True, True, False]
    assert model.select(["AA:1-1", "BA"]).tolist() == [True, False, False, True]
    assert model.keep(model.select(["50S"])).electrons.tolist() == [12]
    with pytest.raises(InputError, match=r"no atoms in 40S; there are 30S, 50S, AA, AB, BA"):
        model.select(["40S"])
    with pytest.raises(InputError, match="AA:5: a range"):
        model.select(["AA:5"])


def test_the_ribosome_is_one_model_in_both_files(shared):
    pytest.importorskip("gemmi")
    folder = shared / "ribosome-4v5a"
    npz, cif = read_atoms(folder / "4V5A_copy1.npz"), read_atoms(folder / "4V5A_copy1.cif.gz")
    assert len(npz) == len(cif) == 144_500
    assert npz.select(["30S"]).sum() == 51_486
    assert npz.select(["50S"]).sum() == 89_303
    np.testing.assert_allclose(np.sort(cif.frames_A[0, :, 0]), np.sort(npz.frames_A[0, :, 0]), atol=2e-3)
    assert cif.electrons.sum() == npz.electrons.sum()


def test_a_trajectory_opens_adenylate_kinase(shared):
    pytest.importorskip("gemmi")
    folder = shared / "adk-dims"
    model = read_atoms(folder / "adk.psf", [folder / "adk_dims.dcd"])
    assert model.frames_A.shape == (98, 3341, 3)
    rmsd_A = np.sqrt(((model.frames_A - model.frames_A[0]) ** 2).sum(2).mean(1))
    assert (np.diff(rmsd_A)[1:] > -0.15).all()
    assert rmsd_A[-1] == pytest.approx(6.8, abs=0.2)
    # its first atom and the pdb of its start agree, and so do the elements, which that pdb does not name
    start = read_atoms(folder / "adk_closed.pdb")
    np.testing.assert_array_equal(start.electrons, model.electrons)
    for path, n in ((folder / "adk_closed.pdb", 1), (folder / "adk_open.pdb", 1)):
        assert len(read_atoms(folder / "adk.psf", [path]).frames_A) == n


def _dcd(path, xyz, order="<", fixed=0):
    """A trajectory as CHARMM writes it, without unit cells."""
    n = xyz.shape[1]
    control = np.zeros(20, order + "i4")
    control[0], control[8] = len(xyz), fixed

    def record(content):
        mark = np.array(len(content), order + "i4").tobytes()
        return mark + content + mark

    title = np.array(1, order + "i4").tobytes() + b" " * 80
    parts = [record(b"CORD" + control.tobytes()), record(title), record(np.array(n, order + "i4").tobytes())]
    parts += [record(frame[:, axis].astype(order + "f4").tobytes()) for frame in xyz for axis in range(3)]
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_dcd_in_both_byte_orders(tmp_path, order):
    xyz = np.arange(30.0).reshape(2, 5, 3)
    np.testing.assert_array_equal(read_dcd(_dcd(tmp_path / "x.dcd", xyz, order)), xyz)


def test_damaged_and_foreign_files_are_one_sentence(tmp_path, pdb):
    xyz = np.zeros((2, 5, 3))
    whole = _dcd(tmp_path / "x.dcd", xyz).read_bytes()
    (tmp_path / "cut.dcd").write_bytes(whole[:-7])
    (tmp_path / "head.dcd").write_bytes(whole[:100])
    (tmp_path / "not.dcd").write_bytes(b"x" * 500)
    _dcd(tmp_path / "fixed.dcd", xyz, fixed=3)
    np.savez(tmp_path / "empty.npz", coords=xyz[0])
    np.savez(tmp_path / "odd.npz", coords=xyz[0], element=["Xx"] * 5)
    np.savez(tmp_path / "nan.npz", coords=xyz[0] + np.nan, element=["C"] * 5)
    np.savez(tmp_path / "few.npz", coords=xyz[0], element=["C"] * 4)
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    (tmp_path / "bad.psf").write_text("PSF\n\n 2 !NATOM\n 1 A 1 GLY\n")
    (tmp_path / "none.pdb").write_text("END\n")
    for name, sentence in {
        "cut.dcd": "truncated",
        "head.dcd": "truncated",
        "not.dcd": r"is not a \.dcd",
        "fixed.dcd": "keeps atoms fixed",
    }.items():
        with pytest.raises(InputError, match=sentence) as error:
            read_dcd(tmp_path / name)
        assert "\n" not in str(error.value)
    for name, sentence in {
        "empty.npz": "no array element",
        "odd.npz": "the elements XX are not known",
        "nan.npz": "not finite",
        "few.npz": "but 4 elements",
        "bad.npz": "cannot be read as an .npz",
        "bad.psf": "not a CHARMM atom",
        "none.pdb": "no atoms",
        "missing.pdb": r"is not there; .* molecule\.model\.file=",
        "x.dcd": "is not an atomic model",
    }.items():
        with pytest.raises(InputError, match=sentence) as error:
            read_atoms(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"has 5 atoms, but .* has 4"):
        read_atoms(pdb, [tmp_path / "x.dcd"])
