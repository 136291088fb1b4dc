"""Files that promise, or unpack to, far more than they are: refused before memory is filled."""

import bz2
import gzip
import io
import json
import resource
import struct
import time
import zipfile

import pytest
import yaml
from numpy.lib import format as npy

from drgn.analysis import points, selection
from drgn.errors import InputError
from drgn.formats import star
from drgn.formats.atoms import read_atoms
from drgn.formats.cryodrgn import read_indices, read_poses
from drgn.formats.mrc import read_volume
from drgn.formats.mrc_header import new_header
from drgn.formats.particles import Particles
from drgn.run import Run
from drgn.scoring.subject import read_latents

MOST_MB, MOST_S = 300, 15


@pytest.fixture(autouse=True)
def modest():
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MB * 1000
    assert time.process_time() - start < MOST_S


def npy_header(shape, dtype="<f4"):
    out = io.BytesIO()
    npy.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue()


def archive(path, entries, size=0):
    """Write a .npz whose arrays end in `size` zeros, compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, head in entries.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                entry.write(head)
                for _ in range(size >> 24):
                    entry.write(bytes(1 << 24))
    return path


READERS = {
    "poses": (("rot",), lambda p: read_poses(p, 2, "x")),
    "latents of any program": (("z",), read_latents),
    "labels": (("key", "label"), selection.read_partition),
    "atoms": (("coords", "element"), read_atoms),
}


@pytest.mark.parametrize("what", READERS)
def test_an_archive_that_unpacks_to_a_gigabyte(tmp_path, what):
    names, read = READERS[what]
    path = archive(tmp_path / "x.npz", dict.fromkeys(names, npy_header((1 << 28,))), 1 << 30)
    assert path.stat().st_size < 3e6
    with pytest.raises(InputError, match=r"x\.npz would unpack to .* out of proportion"):
        read(path)


@pytest.mark.parametrize("what", READERS)
def test_an_array_that_promises_a_million_million_numbers(tmp_path, what):
    names, read = READERS[what]
    path = archive(tmp_path / "x.npz", dict.fromkeys(names, npy_header((10**12,))))
    with pytest.raises(InputError, match=r"x\.npz"):
        read(path)


@pytest.mark.parametrize("read", [read_indices, read_latents, lambda path: points.from_file(path, 2)])
@pytest.mark.parametrize("shape", [(10**12,), (10**9,), (2**62, 4), (0, 10**12)])
def test_a_npy_that_promises_more_than_it_has(tmp_path, read, shape):
    (tmp_path / "x.npy").write_bytes(npy_header(shape) + bytes(100))
    with pytest.raises(InputError, match=r"x\.npy"):
        read(tmp_path / "x.npy")


@pytest.mark.parametrize("n", [(1, 1, (1 << 24) - 1), (4096, 4096, 59604), ((1 << 24) - 1,) * 3])
def test_a_stack_that_promises_a_million_million_pixels(tmp_path, n):
    header = new_header(n, (n[0], n[1], 1), 1.5, "x")
    (tmp_path / "s.mrcs").write_bytes(header.tobytes() + bytes(1000))
    (tmp_path / "p.star").write_text("data_\nloop_\n_rlnImageName\n1@s.mrcs\n")
    for name in ("s.mrcs", "p.star"):
        with pytest.raises(InputError, match=r"s\.mrcs"):
            Particles.from_file(tmp_path / name)


def test_a_cs_that_promises_a_million_million_particles(tmp_path):
    head = npy_header((10**12,), [("uid", "<u8"), ("blob/path", "S8")])
    (tmp_path / "p.cs").write_bytes(head + bytes(100))
    with pytest.raises(
        InputError, match=r"p\.cs has 100 bytes of records, where its header says 1000000000000"
    ):
        Particles.from_file(tmp_path / "p.cs")


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_a_map_that_unpacks_to_gigabytes(tmp_path, suffix, pack):
    header = new_header((2048, 2048, 512), (2048, 2048, 512), 1.5, "x")
    (tmp_path / f"v.mrc{suffix}").write_bytes(pack(header.tobytes() + bytes(1 << 24)))
    with pytest.raises(InputError, match="would unpack to 8589935616 bytes"):
        read_volume(tmp_path / f"v.mrc{suffix}")


def test_atoms_that_unpack_to_gigabytes(tmp_path):
    with gzip.open(tmp_path / "a.pdb.gz", "wb") as file:
        for _ in range(40):
            file.write(bytes(1 << 24))
    with pytest.raises(InputError, match=r"a\.pdb\.gz unpacks to more than"):
        read_atoms(tmp_path / "a.pdb.gz")


def laughing(levels):
    """Each list nine times the one before; 9^levels values in some hundred bytes."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


MERGED = "b0: &b0 {x: 1}\n" + "".join(
    f"b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
)
YAML = {
    "lists of lists": laughing(12),
    "merged mappings": MERGED,
    "a list in itself": "a: &a [*a]\n",
    "ten thousand brackets": "a: " + "[" * 10_000,
    "a megabyte": "a: " + "x" * (1 << 20),
    "a number of base sixty": "a: " + "1:" * 100_000 + "1",
}


@pytest.mark.parametrize("what", YAML)
@pytest.mark.parametrize("name", ["formats/p.csg", "foreign/config.yaml", "run/config.yaml"])
def test_yaml_that_is_endless(stranger, what, name):
    (stranger / name).write_text(YAML[what])
    read = Particles.from_file if name.endswith("csg") else lambda path: Run.open(path.parent)
    with pytest.raises(InputError, match=r"(p\.csg|config\.yaml) is (not|no|larger)"):
        read(stranger / name)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "{}", "[]", json.dumps({"box_size": 1 << 70}), "1" * 10_000]
)
def test_json_that_is_endless_or_no_object(stranger, content):
    (stranger / "run" / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json"):
        _ = Run.open(stranger / "run").info


def test_networks_that_fill_memory(stranger):
    path = stranger / "run" / "config.yaml"
    for name, value in (("hidden_dim", 100_000), ("layers", 10_000_000), ("hidden_dim", 1 << 70)):
        config = yaml.safe_load(path.read_text())
        config["model"][name] = value
        (stranger / "run" / "config.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(InputError, match=r"config\.yaml"):
            Run.open(stranger / "run").model()


def test_stars_of_a_million_columns_or_blocks(tmp_path):
    path = tmp_path / "p.star"
    path.write_text("data_\nloop_\n" + "".join(f"_c{i}\n" for i in range(1_000_000)))
    with pytest.raises(InputError, match=r"p\.star, line 5003: more than 5000 columns"):
        star.read_blocks(path)
    path.write_text("".join(f"data_{i}\n" for i in range(110_000)))
    with pytest.raises(InputError, match="more than 100000 blocks"):
        star.read_blocks(path)


def test_a_list_that_names_a_stack_again_and_again(stranger):
    (stranger / "formats" / "s.txt").write_text("s.mrcs\n" * 100_000)
    with pytest.raises(InputError, match=r"s\.txt lists s\.mrcs more than once"):
        Particles.from_file(stranger / "formats" / "s.txt")


def test_a_dcd_of_more_atoms_than_bytes(stranger):
    path = stranger / "formats" / "a.dcd"
    content = bytearray(path.read_bytes())
    content[188:192] = struct.pack("<i", (1 << 31) - 1)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.dcd is truncated"):
        read_atoms(path.with_suffix(".psf"), [path])
