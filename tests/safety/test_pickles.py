"""A pickle that runs a command, or forges memory, in every place where a pickle may be."""

import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch
from numpy._core import multiarray

from drgn.analysis import points, selection
from drgn.command import bind, compose
from drgn.errors import InputError
from drgn.formats.atoms import read_atoms
from drgn.formats.cryodrgn import load_pickle, load_pickles, read_ctf, read_indices, read_poses
from drgn.formats.particles import Particles
from drgn.run import Run
from drgn.scoring.subject import read_latents
from drgn.train import train


def model_of(folder):
    return Run.open(folder).model()


def resume(folder):
    """Go on with the training of a run, as the same command does."""
    shutil.copy(folder / "checkpoints" / "best.ckpt", folder / "checkpoints" / "last.ckpt")
    table = Run.open(folder).particles().source.path
    options = ["dataset=custom", f"dataset.particles={table}", "model=128x3", "model.hidden_dim=16"]
    options += ["latent.zdim=2", "warmstart=none", "trainer=cpu", "trainer.precision=32-true", "epochs=1"]
    options += ["dataset.preflight=false", "analyze=false", "logger=none", f"output={folder}"]
    options += [f"dataset.cache={folder.parent / 'cache'}"]
    train(**bind(train, compose("train", options)))


def foreign(folder):
    run = Run.open(folder)
    assert not run.decodes  # weights that are not read are no reason not to show the latents
    raise InputError("weights are refused")


PICKLES = {
    "formats/poses.pkl": lambda p: read_poses(p, 2, "x"),
    "formats/ctf.pkl": lambda p: read_ctf(p, 2, "x", np.zeros(2, int)),
    "formats/ind.pkl": read_indices,
    "formats/latents.pkl": read_latents,
    "formats/selection.pkl": lambda p: Particles.from_file(p.parent / "p.star", indices=p),
    "foreign/z.1.pkl": lambda p: (load_pickles(p), Run.open(p.parent)),
    "foreign/z.pkl": lambda p: Run.open(p.parent),
    "foreign/config.pkl": lambda p: (p.with_name("config.yaml").unlink(), Run.open(p.parent)),
    "foreign/analyze.1/umap.pkl": lambda p: Run.open(p.parents[1])._read.umap(),
    "foreign/analyze.1/kmeans2/labels.pkl": lambda p: Run.open(p.parents[2])._read.labels(2),
}
CHECKPOINTS = {
    "foreign/weights.1.pkl": lambda p: foreign(p.parent),
    "run/checkpoints/best.ckpt": lambda p: model_of(p.parents[1]),
    "run/checkpoints/best.ckpt (resumed)": lambda p: resume(p.parents[1]),
}
ARRAYS = {
    "formats/poses.npz": ("rot", lambda p: read_poses(p, 2, "x")),
    "formats/ctf.npz": ("ctf", lambda p: read_ctf(p, 2, "x", np.zeros(2, int))),
    "formats/a.npz": ("coords", read_atoms),
    "formats/latents.npz": ("z", read_latents),
    "run/latents.npz": ("z", lambda p: Run.open(p.parent).latents()),
    "run/analysis/kmeans2/labels.npz": ("label", selection.read_partition),
    "run/analysis/embedding.npz": ("umap", lambda p: selection.umap_of_analysis(p.parent, np.array(["a"]))),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", PICKLES)
def test_a_command_in_a_pickle_does_not_run(stranger, runs, harm, name, protocol):
    (stranger / name).write_bytes(pickle.dumps([np.zeros(2), runs], protocol=protocol))
    with pytest.raises(InputError, match=r"\.pkl.* was not loaded: the pickle asks for posix\.system"):
        PICKLES[name](stranger / name)
    assert not harm.exists()


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("old", [False, True])
def test_a_command_in_a_checkpoint_does_not_run(stranger, runs, harm, name, old):
    path = stranger / name.removesuffix(" (resumed)")
    content = torch.load(path, weights_only=True)
    torch.save({**content, "x": runs}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(InputError, match=r"not loaded|not a checkpoint|refused|is damaged"):
        CHECKPOINTS[name](path)
    assert not harm.exists()
    aside = path.with_name(path.name + ".damaged")
    torch.load(aside if aside.exists() else path, weights_only=False)  # it would have
    assert harm.exists()


@pytest.mark.parametrize("name", ARRAYS)
def test_a_command_in_an_array_of_objects_does_not_run(stranger, runs, harm, name):
    key, read = ARRAYS[name]
    arrays = dict(np.load(stranger / name)) if (stranger / name).exists() else {}
    np.savez(stranger / name, **{**arrays, key: np.array([runs, runs], object)})
    with pytest.raises(InputError, match=r"\.npz.* Python objects"):
        read(stranger / name)
    assert not harm.exists()


@pytest.mark.parametrize("read", [read_indices, read_latents, lambda path: points.from_file(path, 2)])
def test_a_command_in_a_npy_does_not_run(tmp_path, runs, harm, read):
    np.save(tmp_path / "x.npy", np.array([runs], object))
    with pytest.raises(InputError, match=r"x\.npy.*Python objects"):
        read(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(pickle.dumps(runs))  # numpy would take this for one, too
    with pytest.raises(InputError, match=r"x\.npy"):
        read(tmp_path / "x.npy")
    assert not harm.exists()


def test_a_command_in_a_cs_does_not_run(stranger, runs, harm):
    records = np.zeros(2, [("uid", "u8"), ("blob/path", object)])
    records["blob/path"] = [runs, runs]
    with open(stranger / "formats" / "p.cs", "wb") as file:
        np.save(file, records)
    for name in ("p.cs", "p.csg"):
        with pytest.raises(InputError, match=r"p\.cs holds Python objects and was not loaded"):
            Particles.from_file(stranger / "formats" / name)
    assert not harm.exists()


class Forged:
    """Calls a function, and gives a state, when it is unpickled."""

    def __init__(self, function, arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


HIDDEN = Forged(  # a dtype with an object in it that does not say so
    np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
)
EMPTY = (np.ndarray, (0,), b"b")
DEEP = []
DEEP.append(DEEP)
WIDE = [0] * 100
for _ in range(8):
    WIDE = [WIDE] * 100
FORGED = {
    "objects over bytes": pickle.dumps(Forged(np.ndarray, ((2,), np.dtype("O"), b"A" * 16))),
    "objects in a dtype": pickle.dumps(
        Forged(multiarray._reconstruct, EMPTY, (1, (2,), HIDDEN, False, b"A" * 16))
    ),
    "objects in an array": pickle.dumps(np.array([None, 1], object)),
    "a longer array than its bytes": pickle.dumps(
        Forged(multiarray._reconstruct, EMPTY, (1, (1 << 40,), np.dtype("f8"), False, b"A" * 16))
    ),
    "a list in itself": pickle.dumps(DEEP),
    "10^18 numbers in a kilobyte": pickle.dumps(WIDE),
    "the 2^31st place of the memo": b"\x80\x04Nr\xff\xff\xff\x7fhq.",
    "bytes doubled forty times": b"\x80\x04X\x03\0\0\0abcq\0"
    + b"".join(
        b"c_codecs\nencode\nh" + bytes([i]) + b"X\x03\0\0\0hex\x86Rq" + bytes([i + 1]) for i in range(40)
    )
    + b".",
    "a tuple of a million tuples": b"\x80\x04)" + b"\x85" * 1_000_000 + b".",
    "the same as a key": b"\x80\x04})" + b"\x85" * 1_000_000 + b"Ns.",
    "a hundred gigabytes": b"\x80\x05\x96" + struct.pack("<Q", 10**11) + b"x.",
    "a bytearray of two gigabytes": b"\x80\x04cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
}


@pytest.mark.parametrize("what", FORGED)
def test_a_pickle_cannot_forge_memory_or_fill_it(tmp_path, what):
    (tmp_path / "x.pkl").write_bytes(FORGED[what])
    with pytest.raises(InputError, match=r"x\.pkl (is not a pickle that can be read|was not loaded)"):
        load_pickle(tmp_path / "x.pkl")


def test_a_compressed_checkpoint_is_refused(stranger):
    path = stranger / "run" / "checkpoints" / "best.ckpt"
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(InputError, match=r"best\.ckpt is damaged \(it is compressed"):
        model_of(stranger / "run")


def test_a_tensor_of_one_number_spread_over_many_is_refused(stranger):
    path = stranger / "run" / "checkpoints" / "best.ckpt"
    torch.save({"state_dict": {"x": torch.zeros(1).expand(1 << 40)}}, path)
    with pytest.raises(InputError, match="a tensor that is larger than the file"):
        model_of(stranger / "run")
