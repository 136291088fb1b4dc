"""What is fuzzed: a sound file of every kind that is read, and what reads it; and how a file is spoilt.

A target is right when it returns, or raises `drgn.errors.InputError` with one line. Used by `test_readers.py`
(some examples), `experiments/fuzz/run.py` (many, and atheris).
"""

import bz2
import gzip
import io
import json
import pickle
import random
import resource
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from scipy.spatial.transform import Rotation

from drgn.analysis import points, selection
from drgn.analysis.history import losses
from drgn.command import compose
from drgn.data.prepared import PreparedStack, prepare
from drgn.errors import InputError
from drgn.formats import star
from drgn.formats.atoms import read_atoms
from drgn.formats.cryodrgn import load_pickles, read_ctf, read_indices, read_poses
from drgn.formats.cryosparc_group import write_group
from drgn.formats.mrc import StackWriter, read_cubic, read_volume, write_volume
from drgn.formats.particles import Particles, read_images
from drgn.run import Run, build_reconstructor
from drgn.scoring.subject import read_latents
from drgn.simulate import simulate
from drgn.training.encode import Encoded

N, BOX = 12, 16
CTF = np.array([64, 1.5, 15000, 14000, 25, 300, 2.7, 0.1, 0])
PDB = (
    "MODEL        1\n"
    "ATOM      1  N   ALA A   1      11.104   6.134  -6.504  1.00  0.00           N\n"
    "ATOM      2  CA  ALA A   1      11.639   6.071  -5.147  1.00  0.00           C\n"
    "HETATM    3 MG    MG B   2       8.639   6.071  -5.147  1.00  0.00          MG\n"
    "ENDMDL\nEND\n"
)
CIF = (
    "data_x\nloop_\n_atom_site.group_PDB\n_atom_site.id\n_atom_site.type_symbol\n_atom_site.label_atom_id\n"
    "_atom_site.label_alt_id\n_atom_site.label_comp_id\n_atom_site.label_asym_id\n_atom_site.label_seq_id\n"
    "_atom_site.Cartn_x\n_atom_site.Cartn_y\n_atom_site.Cartn_z\n_atom_site.occupancy\n"
    "_atom_site.B_iso_or_equiv\n_atom_site.auth_seq_id\n_atom_site.auth_asym_id\n"
    "_atom_site.pdbx_PDB_model_num\nATOM 1 N N . ALA A 1 11.1 6.1 -6.5 1 0 1 A 1\n"
    "ATOM 2 C CA . ALA A 1 11.6 6.0 -5.1 1 0 1 A 1\n"
)
PSF = "PSF\n\n       2 !NATOM\n 1 A 1 ALA N NH1 -0.3 14.007 0\n 2 A 1 ALA CA CT1 0.1 12.011 0\n"


def make_seeds(folder: Path) -> None:
    """Write sound files into a folder: formats/, foreign/ (a run of cryoDRGN), run/ and prepared/."""
    options = compose("simulate", [f"n_particles={N}", f"box_size={BOX}", "pixel_size_A=12"])
    table = simulate(**{**options, "output": folder / "set"})
    _formats(folder / "formats")
    _foreign(folder / "foreign")
    _run(folder / "run", table)
    particles = Particles.from_file(table)
    stack = prepare(particles, box_size=BOX, window=True, cache=folder / "cache")
    shutil.copytree(stack.folder, folder / "prepared")


def _formats(folder: Path) -> None:
    folder.mkdir()
    images = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
    with StackWriter(folder / "s.mrcs", 2, 8, 1.5) as stack:
        stack.write(images)
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnVoltage": [300.0], "rlnImagePixelSize": [1.5]})
    optics["rlnSphericalAberration"], optics["rlnAmplitudeContrast"] = 2.7, 0.1
    rows = pd.DataFrame({"rlnImageName": ["1@s.mrcs", "2@s.mrcs"], "rlnMicrographName": ["a b", "'c"]})
    for name in ("AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst", "DefocusU", "DefocusV"):
        rows[f"rln{name}"] = [1.5, -2.5]
    rows["rlnDefocusAngle"], rows["rlnOpticsGroup"] = 3.5, 1
    star.write_blocks(folder / "p.star", {"optics": optics, "particles": rows})
    records = np.zeros(
        2,
        [
            *[("uid", "u8"), ("blob/path", "S8"), ("blob/idx", "u4"), ("blob/shape", "u4", 2)],
            *[("alignments3D/pose", "f4", 3), ("alignments3D/shift", "f4", 2), ("blob/psize_A", "f4")],
        ],
    )
    records["uid"], records["blob/path"], records["blob/idx"] = [5, 6], b"s.mrcs", [0, 1]
    records["blob/shape"], records["blob/psize_A"] = 8, 1.5
    write_group(folder / "p.cs", records)
    (folder / "s.txt").write_text("# stacks\ns.mrcs\n")
    rotation = Rotation.random(2, random_state=0).as_matrix()
    (folder / "poses.pkl").write_bytes(pickle.dumps((rotation, np.zeros((2, 2)))))
    np.savez(folder / "poses.npz", rot=rotation, trans=np.zeros((2, 2)))
    (folder / "ctf.pkl").write_bytes(pickle.dumps(np.tile(CTF, (2, 1)), protocol=2))
    np.savez(folder / "ctf.npz", ctf=np.tile(CTF, (2, 1)), dose=[1.0, 2.0], particle=["a", "b"])
    (folder / "ind.pkl").write_bytes(pickle.dumps([1, 0]))
    np.save(folder / "ind.npy", np.array([1]))
    (folder / "ind.txt").write_text("1\n")
    write_volume(folder / "v.mrc", np.random.default_rng(0).normal(size=(3, 4, 5)), 1.5)
    content = (folder / "v.mrc").read_bytes()
    (folder / "v.mrc.gz").write_bytes(gzip.compress(content))
    (folder / "v.mrc.bz2").write_bytes(bz2.compress(content))
    (folder / "a.pdb").write_text(PDB)
    (folder / "a.cif").write_text(CIF)
    (folder / "a.cif.gz").write_bytes(gzip.compress(CIF.encode()))
    np.savez(folder / "a.npz", coords=np.ones((2, 3)), element=["C", "N"], chain=["A", "A"], resnum=[1, 2])
    (folder / "a.psf").write_text(PSF)
    head = struct.pack("<i4s20ii", 84, b"CORD", 1, *[0] * 19, 84) + struct.pack(
        "<ii80sii", 84, 1, b"t", 84, 4
    )
    axis = struct.pack("<i2fi", 8, 1.0, 2.0, 8)
    (folder / "a.dcd").write_bytes(head + struct.pack("<ii", 2, 4) + 3 * axis)
    (folder / "z.txt").write_text("0.5 1\n-2,3e-1\n")
    (folder / "z.csv").write_text("key,z1,z2\na,1,2\nb,3,4\n")


def _foreign(folder: Path) -> None:
    folder.mkdir()
    with StackWriter(folder / "s.mrcs", 2, 8, 1.5) as stack:
        stack.write(np.ones((2, 8, 8), np.float32))
    config: dict[str, Any] = {
        "dataset_args": {"particles": "s.mrcs", "norm": [0.0, 1.0], "invert_data": True, "ind": None},
        "lattice_args": {"D": 9},
        "model_args": {"zdim": 2, "players": 1, "pe_type": "gaussian", "activation": "relu"},
        "version": "3.4.0",
    }
    config["model_args"]["domain"] = "fourier"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    z = np.random.default_rng(0).normal(size=(2, 2)).astype(np.float32)
    (folder / "z.1.pkl").write_bytes(pickle.dumps(z) + pickle.dumps(z))
    weights = {"decoder.rand_freqs": torch.rand(4, 3)}
    for name, shape in (("0", (6, 10)), ("2.linear", (6, 6)), ("4", (2, 6))):
        weights[f"decoder.decoder.main.{name}.weight"] = torch.rand(shape)
        weights[f"decoder.decoder.main.{name}.bias"] = torch.rand(shape[0])
    torch.save({"epoch": 1, "model_state_dict": weights}, folder / "weights.1.pkl")
    analysis = folder / "analyze.1" / "kmeans2"
    analysis.mkdir(parents=True)
    (analysis / "labels.pkl").write_bytes(pickle.dumps(np.array([0, 1])))
    (analysis.parent / "umap.pkl").write_bytes(pickle.dumps(z.astype(float)))


def _run(folder: Path, table: Path) -> None:
    particles = Particles.from_file(table)
    overrides = ["dataset=custom", f"dataset.particles={table}", "model=128x3", "model.hidden_dim=16"]
    overrides += ["latent.zdim=2", "warmstart=none", f"output={folder}", "dataset.preflight=false"]
    overrides.append(f"dataset.cache={folder.parent / 'cache'}")
    config = compose("train", overrides)
    run = Run.create(folder, config, box_size=BOX, pixel_size_A=12.0, particles=particles)
    model = build_reconstructor(config, box_size=BOX, n_particles=N)
    weights = {f"reconstructor.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights}, run.folder("checkpoints") / "best.ckpt")
    z = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
    run.save_latents(Encoded(z, np.zeros_like(z), np.ones(N, np.float32)), np.arange(N) % 10 == 0)
    key = particles.table["key"].to_numpy(str)
    np.savez(run.folder("analysis", "kmeans2") / "labels.npz", key=key, label=np.arange(N) % 2)
    np.savez(run.folder("analysis") / "embedding.npz", key=key, umap=z)
    (folder / "metrics.csv").write_text(
        "epoch,step,train/loss_epoch,heldout/loss\n0,9,1.5,1.4\n1,19,1.2,1.3\n"
    )
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder / "tensorboard") as writer:
        for epoch in range(2):
            writer.add_scalar("epoch", epoch, epoch)
            writer.add_scalar("heldout/loss", 1.0, epoch)


def _read_run(folder: Path) -> None:
    """Everything that verbs ask of a run, short of its images."""
    run = Run.open(folder)
    _ = (run.name, run.trained, run.box_size, run.pixel_size_A, run.zdim, run.info)
    run.particles()
    run.latents()
    run.model()
    run.autocast_type("cpu")


def _read_foreign(folder: Path) -> None:
    run: Any = Run.open(folder)
    _ = (run.name, run.trained, run.box_size, run.pixel_size_A, run.zdim, run.latents())
    if run.decodes:
        next(iter(run.volumes(np.zeros((1, run.zdim)), box_size=8)))
    run._read.labels(2)
    run._read.umap()


def _read_labels(path: Path) -> None:
    key = Run.open(path.parents[2]).particles().table["key"].to_numpy(str)
    selection.in_clusters(selection.read_labels(path, key), [0])


def _read_umap(path: Path) -> None:
    selection.umap_of_analysis(path.parent, np.array(["a"]))


def _read_prepared(folder: Path) -> None:
    stack = PreparedStack(folder)
    stack.read(np.arange(min(2, stack.meta.n)))
    stack.find(Particles.from_file(folder.parent / "set" / "particles.star"))


def _read_star(path: Path) -> None:
    star.read_blocks(path)
    Particles.from_file(path)


_known: dict[str, Any] = {"n": 2, "particles": "x"}
TARGETS: dict[str, Callable[[Path], Any]] = {
    "formats/p.star": _read_star,
    "formats/p.cs": Particles.from_file,
    "formats/p.csg": Particles.from_file,
    "formats/s.mrcs": lambda path: read_images(Particles.from_file(path), np.arange(1)),
    "formats/s.txt": Particles.from_file,
    "formats/v.mrc": lambda path: (read_volume(path), read_cubic(path)),
    "formats/v.mrc.gz": read_volume,
    "formats/v.mrc.bz2": read_volume,
    "formats/poses.pkl": partial(read_poses, **_known),
    "formats/poses.npz": partial(read_poses, **_known),
    "formats/ctf.pkl": partial(read_ctf, **_known, box_size_px=np.zeros(2, int)),
    "formats/ctf.npz": partial(read_ctf, **_known, box_size_px=np.zeros(2, int)),
    "formats/ind.pkl": read_indices,
    "formats/ind.npy": read_indices,
    "formats/ind.txt": read_indices,
    "formats/a.pdb": read_atoms,
    "formats/a.cif": read_atoms,
    "formats/a.cif.gz": read_atoms,
    "formats/a.npz": read_atoms,
    "formats/a.psf": lambda path: read_atoms(path, [path.with_suffix(".dcd")]),
    "formats/a.dcd": lambda path: read_atoms(path.with_suffix(".psf"), [path]),
    "formats/z.txt": lambda path: points.from_file(path, 2),
    "formats/z.csv": read_latents,
    "foreign/config.yaml": lambda path: _read_foreign(path.parent),
    "foreign/z.1.pkl": lambda path: (load_pickles(path), _read_foreign(path.parent)),
    "foreign/weights.1.pkl": lambda path: _read_foreign(path.parent),
    "foreign/analyze.1/umap.pkl": lambda path: _read_foreign(path.parents[1]),
    "foreign/analyze.1/kmeans2/labels.pkl": lambda path: _read_foreign(path.parents[2]),
    "run/config.yaml": lambda path: _read_run(path.parent),
    "run/run.json": lambda path: _read_run(path.parent),
    "run/latents.npz": lambda path: _read_run(path.parent),
    "run/checkpoints/best.ckpt": lambda path: _read_run(path.parents[1]),
    "run/analysis/kmeans2/labels.npz": _read_labels,
    "run/analysis/embedding.npz": _read_umap,
    "run/metrics.csv": lambda path: losses(path.parent),
    "run/tensorboard/events": lambda path: losses(path.parents[1]),
    "prepared/meta.json": lambda path: _read_prepared(path.parent),
    "prepared/particles.parquet": lambda path: _read_prepared(path.parent),
    "prepared/images.f16": lambda path: _read_prepared(path.parent),
}


def path_of(folder: Path, name: str) -> Path:
    """Return the sound file of a target; the name of TensorBoard's is made of the time."""
    path = folder / name
    return next(path.parent.glob("events.out*")) if path.name == "events" else path


class Wrong(AssertionError):
    """A reader did what it must not."""


def check(name: str, path: Path) -> bool:
    """Read a spoilt file; return whether it could be read. Raises `Wrong` where it does what it must not."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about values that no sound file has
            TARGETS[name](path)
        found = True
    except InputError as error:
        text = str(error)
        if not text.isprintable() or len(text) < 10:
            raise Wrong(f"{name}: the sentence {text!r} is none") from error
        named = name.endswith("config.yaml")  # which names other files and options
        if not named and not any(part in text for part in (path.name, path.stem, path.parent.name)):
            raise Wrong(f"{name}: the sentence {text!r} does not name the file") from error
        found = False
    except Exception as error:
        raise Wrong(f"{name}: {type(error).__name__}: {error}") from error
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > 400_000:
        raise Wrong(f"{name}: {grown} KiB of memory")
    return found


WORDS = [
    *[b"", b"\0", b"\xff" * 4, b"\x80", b"nan", b"inf", b"-1", b"0", b"1e308", b"99999999999999999999"],
    *[b"1" * 50, b"null", b"true", b"[]", b"{}", b"~", b"&a [*a]", b"!!python/object/apply:os.system [a]"],
    *[b"<NA>", b"data_", b"loop_\n", b"_rlnImageName\n", b"'", b'"', b"#", b"\n", b"\t", b" ", b"1@", b"@"],
    *[b"../" * 8, b"\x1b[2J", "\u202e".encode(), "\x9b".encode(), b"MODEL", b"ENDMDL", b"\x7f\xff\xff\xff"],
    *[b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"cos\nsystem\n"],
    *[b"r\xff\xff\xff\x7f", b"\x93R", b"\x81", b"(1000000000000,)", b"'|O'", b"'<f8'", b"'>U9'"],
    *[b"PK\x01\x02", b"PK\x05\x06", b"[" * 200, b"{" * 200],
]


def spoil(content: bytes, draw: random.Random) -> bytes:
    """Return a file with one to six faults: bytes changed, words put in, lines and pieces moved."""
    if content[:4] == b"PK\x03\x04" and draw.random() < 0.7:
        return _spoil_zip(content, draw)
    if content[:2] == b"\x1f\x8b" and draw.random() < 0.7:
        return gzip.compress(spoil(gzip.decompress(content), draw))
    if content[:3] == b"BZh" and draw.random() < 0.7:
        return bz2.compress(spoil(bz2.decompress(content), draw))
    if content[:2] == b'{"' and draw.random() < 0.7:
        return _spoil_values(json.loads(content), draw, lambda value: json.dumps(value).encode())
    if b"_args:" in content or (b"\nlatent:" in content and draw.random() < 0.7):
        return _spoil_values(yaml.safe_load(content), draw, lambda value: yaml.safe_dump(value).encode())
    for _ in range(draw.choice([1, 1, 1, 2, 3, 6])):
        at = draw.randrange(len(content) + 1)
        kind = draw.randrange(8)
        if kind == 0:
            content = content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
        elif kind == 1:
            content = content[:at] + draw.choice(WORDS) + content[at:]
        elif kind == 2:
            word = draw.choice(WORDS)
            content = content[:at] + word + content[at + len(word) :]
        elif kind == 3:
            content = content[:at]
        elif kind == 4:
            content = content[:at] + content[at + draw.randrange(1, 40) :]
        elif kind == 5:
            content = content[:at] + content[max(0, at - draw.randrange(1, 200)) :]
        elif kind == 6:
            number = draw.choice(
                [0, 1, 2, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 24, draw.getrandbits(32)]
            )
            at -= at % 4
            content = content[:at] + struct.pack("<I", number) + content[at + 4 :]
        else:
            lines = content.split(b"\n")
            line = draw.randrange(len(lines))
            words = lines[line].split(b" ")
            words[draw.randrange(len(words))] = draw.choice(WORDS)
            lines[line] = b" ".join(words)
            content = b"\n".join(lines)
    return content


def _spoil_zip(content: bytes, draw: random.Random) -> bytes:
    """Spoil an entry inside the archive, whose checksums are then right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = draw.choice(list(entries))
    if draw.random() < 0.15:
        del entries[name]
    else:
        entries[name] = spoil(entries[name], draw)
    out = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if draw.random() < 0.2 else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", method) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    return out.getvalue()


VALUES: list[Any] = [None, True, 0, -1, 1, 1.5, 1 << 70, float("nan"), float("inf"), 1e300, 10**9]
VALUES += ["", "x", "../../etc", "a\x1b[2Jb", "???", [], {}, [1, 2], [[[]]]]
VALUES += [{"_target_": "os.system"}, {"_target_": "torch.nn.Linear"}]


def _spoil_values(value: Any, draw: random.Random, write: Callable[[Any], bytes]) -> bytes:
    """Put other values into a tree, or take some away."""
    for _ in range(draw.randint(1, 3)):
        node = value
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.7:
                node = node[key]
                continue
            if draw.random() < 0.2:
                del node[key]
            else:
                node[key] = draw.choice(VALUES)
            break
    return write(value)
