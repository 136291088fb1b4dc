"""Atomic models: .pdb and .cif (through gemmi), .npz of coordinates, CHARMM's .psf with .dcd trajectories."""

import fnmatch
import gzip
import os
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats.npz import read_npz

StrPath = str | os.PathLike[str]

_UNPACKED_BYTES = 1 << 28  # of a compressed model; a ribosome has 30 million

# the elements of proteins, nucleic acids and their ions; weight in daltons, for files that give masses only
_ELEMENTS = {
    "H": (1, 1.008), "C": (6, 12.011), "N": (7, 14.007), "O": (8, 15.999), "F": (9, 18.998),
    "NA": (11, 22.990), "MG": (12, 24.305), "P": (15, 30.974), "S": (16, 32.06), "CL": (17, 35.45),
    "K": (19, 39.098), "CA": (20, 40.078), "MN": (25, 54.938), "FE": (26, 55.845), "ZN": (30, 65.38),
    "SE": (34, 78.971),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class AtomicModel:
    """Atoms in one or more conformations.

    Attributes
    ----------
    frames_A : (F, N, 3) float64, x, y, z of every atom in every conformation
    electrons : (N,) float64, atomic numbers: what an atom weighs in a density
    chain : (N,) str
    residue : (N,) int64, residue numbers
    group : (N,) str, the complex or factor that the atom belongs to; "" where the file names none
    path : the file that was read, for messages
    """

    frames_A: NDArray[np.float64]
    electrons: NDArray[np.float64]
    chain: NDArray[np.str_]
    residue: NDArray[np.int64]
    group: NDArray[np.str_]
    path: str

    def __len__(self) -> int:
        return len(self.electrons)

    def select(self, parts: Sequence[str]) -> NDArray[np.bool_]:
        """Return which atoms (N,) belong to any of the parts.

        Parameters
        ----------
        parts
            Names of chains or groups, where * stands for any letters, each with or without a range of
            residues: "50S", "A*", "AA:930-1390".

        Raises
        ------
        InputError
            A part matches no atom, or its range is not two numbers.
        """
        chosen = np.zeros(len(self), dtype=bool)
        names = {name for name in (*np.unique(self.chain), *np.unique(self.group)) if name}
        for part in parts:
            pattern, _, residues = str(part).partition(":")
            matching = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
            atoms = np.isin(self.chain, matching) | np.isin(self.group, matching)
            if residues:
                first, _, last = residues.partition("-")
                if not (first.isdecimal() and last.isdecimal()):
                    raise InputError(f"{part}: a range of residues is written as CHAIN:FIRST-LAST, A:1-230.")
                atoms &= (self.residue >= int(first)) & (self.residue <= int(last))
            if not atoms.any():
                raise InputError(f"{self.path} has no atoms in {part}; there are {', '.join(sorted(names))}.")
            chosen |= atoms
        return chosen

    def keep(self, atoms: NDArray[np.bool_]) -> "AtomicModel":
        """Return the model with some of its atoms (N,) only."""
        return replace(
            self,
            frames_A=self.frames_A[:, atoms],
            electrons=self.electrons[atoms],
            chain=self.chain[atoms],
            residue=self.residue[atoms],
            group=self.group[atoms],
        )


def read_atoms(file: Path, frames: Sequence[Path] = ()) -> AtomicModel:
    """Read an atomic model. Waters and all but the first of alternative positions are left out.

    Parameters
    ----------
    file
        .pdb, .ent or .cif (also .gz): its models are the conformations. .npz: `coords` (N, 3) or (F, N, 3) in
        Angstrom and `element` (N,), and where known `chain`, `resnum` and `group` (N,). .psf: atoms without
        coordinates, which `frames` holds.
    frames
        Further conformations of the same atoms: .dcd trajectories, or files like `file`.

    Raises
    ------
    InputError
        A file is not there, is damaged or of another kind, or has another number of atoms.
    """
    model = _read_one(file)
    found = [model.frames_A]
    for path in frames:
        more = read_dcd(path) if Path(path).suffix == ".dcd" else _read_one(path).frames_A
        if more.shape[1] != len(model):
            raise InputError(
                f"{path} has {more.shape[1]} atoms, but {file} has {len(model)}; frames must be of the same"
                " atoms."
            )
        found.append(more)
    joined = np.concatenate(found)
    if not len(joined):
        raise InputError(
            f"{file} has no coordinates; name the file that has them, for instance frames=[X.dcd]."
        )
    if not np.isfinite(joined).all():
        raise InputError(f"{file} or its frames hold coordinates that are not finite numbers.")
    return replace(model, frames_A=joined)


def read_dcd(path: StrPath) -> NDArray[np.float64]:
    """Read a CHARMM, NAMD or X-PLOR trajectory of 32-bit floats: (F, N, 3) in Angstrom.

    Raises
    ------
    InputError
        The file is no such trajectory, is truncated, or keeps some atoms fixed.
    """
    name = os.fspath(path)
    raw = _bytes(name)
    order = next((o for o in "<>" if len(raw) >= 92 and np.frombuffer(raw, o + "i4", 1)[0] == 84), None)
    if order is None or raw[4:8] != b"CORD":
        raise InputError(f"{name} is not a .dcd trajectory of 32-bit records.")
    integer = np.dtype(order + "i4")
    control = np.frombuffer(raw, integer, 20, offset=8)
    fixed, has_cell, four = int(control[8]), int(control[10]), int(control[11])
    if fixed or four:
        raise InputError(
            f"{name} keeps atoms fixed or has a fourth dimension; write a .dcd of all coordinates."
        )
    try:
        at = 92
        at += max(int(np.frombuffer(raw, integer, 1, offset=at)[0]), 0) + 8  # titles
        n = int(np.frombuffer(raw, integer, 1, offset=at + 4)[0])
        if not 0 < n <= len(raw):
            raise ValueError
    except ValueError:
        raise InputError(f"{name} is truncated: it ends within its header.") from None
    at += 12
    axis = [("before", integer), ("values", order + "f4", (n,)), ("after", integer)]
    cell = [("cell", "V56")] if has_cell else []
    frame = np.dtype([*cell, *((a, axis) for a in "xyz")])
    count = (len(raw) - at) // frame.itemsize
    if count < 1 or (len(raw) - at) % frame.itemsize:
        raise InputError(
            f"{name} is truncated: {len(raw) - at} bytes follow its header, which is not a whole number of"
            f" frames of {n} atoms ({frame.itemsize} bytes); copy it again."
        )
    read = np.frombuffer(raw, frame, count, offset=at)
    if any((read[a]["before"] != 4 * n).any() or (read[a]["after"] != 4 * n).any() for a in "xyz"):
        raise InputError(f"{name} is damaged: a frame does not hold {n} coordinates; copy it again.")
    return np.stack([read[a]["values"] for a in "xyz"], axis=-1).astype(np.float64)


def _read_one(path: StrPath) -> AtomicModel:
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise InputError(
            f"{name} is not there; give the path of a .pdb, .cif, .npz or .psf file, for drgn simulate as"
            " molecule.model.file=FILE (or the folder of all such data as DRGN_DATA=FOLDER)."
        )
    kind = Path(name.removesuffix(".gz")).suffix
    if kind in (".pdb", ".ent", ".cif"):
        return _read_gemmi(name)
    if kind == ".npz":
        return _read_npz(name)
    if kind == ".psf":
        return _read_psf(name)
    raise InputError(f"{name} is not an atomic model that can be read: .pdb, .cif, .npz or .psf is expected.")


def _read_gemmi(name: str) -> AtomicModel:
    try:
        import gemmi
    except ModuleNotFoundError:
        raise InputError(f"{name}: reading .pdb and .cif needs gemmi; `pip install drgn[atoms]`.") from None
    try:
        with tempfile.TemporaryDirectory() as folder:
            plain = name
            if name.endswith(".gz"):  # gemmi's own way to unpack does not end on some damaged files
                plain = os.path.join(folder, os.path.basename(name).removesuffix(".gz"))
                Path(plain).write_bytes(_unpacked(name))
            structure = gemmi.read_structure(plain)
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise InputError(
            f"{name} cannot be read as an atomic model ({(str(error).splitlines() or ['?'])[0]})."
        ) from None
    try:
        structure.remove_alternative_conformations()
        structure.remove_waters()
        structure.remove_empty_chains()
        rows: list[list[tuple[Any, ...]]] = [
            [
                (*atom.pos.tolist(), _atomic_number(atom, residue.name), chain.name, residue.seqid.num or 0)
                for chain in model
                for residue in chain
                for atom in residue
            ]
            for model in structure
        ]
    except UnicodeDecodeError:
        raise InputError(
            f"{name} has a name that is not text in UTF-8; convert it (iconv -t UTF-8)."
        ) from None
    if not rows or not rows[0]:
        raise InputError(f"{name} has no atoms.")
    if len({len(atoms) for atoms in rows}) > 1:
        raise InputError(
            f"{name} has models of {sorted({len(a) for a in rows})} atoms; all must have the same."
        )
    unknown = sum(row[3] == 0 for row in rows[0])
    if unknown:
        raise InputError(
            f"{name} has {unknown} atoms whose element is not known; fill in the element column."
        )
    first = rows[0]
    return AtomicModel(
        frames_A=np.array([[row[:3] for row in atoms] for atoms in rows], dtype=np.float64),
        electrons=np.array([row[3] for row in first], dtype=np.float64),
        chain=np.array([row[4] for row in first], dtype=np.str_),
        residue=np.array([row[5] for row in first], dtype=np.int64),
        group=np.full(len(first), "", dtype=np.str_),
        path=name,
    )


def _unpacked(name: str) -> bytes:
    """Return what a compressed file holds; refuse one that holds more than any atomic model."""
    try:
        with gzip.open(name) as file:
            content = file.read(_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name} cannot be unpacked ({error}); fetch it again.") from None
    if len(content) > _UNPACKED_BYTES:
        raise InputError(f"{name} unpacks to more than {_UNPACKED_BYTES} bytes, which is no atomic model.")
    return content


def _atomic_number(atom: Any, residue: str) -> int:
    """Atomic number; in residues of polymers by the first letter of the atom's name.

    Files without the column of elements are read otherwise: CHARMM's CA in the wrong column is calcium then.
    """
    import gemmi

    letter = atom.name.lstrip("0123456789'")[:1].upper()
    kind = gemmi.find_tabulated_residue(residue)
    polymer = kind.is_amino_acid() or kind.is_nucleic_acid() or residue in ("HSD", "HSE", "HSP")
    if polymer and letter in _ELEMENTS and atom.name.upper() != "SE":
        return _ELEMENTS[letter][0]
    return int(atom.element.atomic_number)


def _read_npz(name: str) -> AtomicModel:
    arrays = read_npz(name)
    missing = [key for key in ("coords", "element") if key not in arrays]
    if missing:
        raise InputError(f"{name} has no array {' and no '.join(missing)}; it holds {', '.join(arrays)}.")
    frames_A = np.asarray(arrays["coords"], dtype=np.float64)
    frames_A = frames_A[None] if frames_A.ndim == 2 else frames_A
    n = len(arrays["element"])
    if frames_A.ndim != 3 or frames_A.shape[1:] != (n, 3):
        raise InputError(
            f"{name}: coords has the shape {arrays['coords'].shape}, but {n} elements are named."
        )
    for key in ("chain", "resnum", "group"):
        if len(arrays.get(key, arrays["element"])) != n:
            raise InputError(f"{name}: {key} has {len(arrays[key])} values for {n} atoms.")
    symbols = np.char.upper(np.asarray(arrays["element"], dtype=np.str_))
    unknown = sorted(set(symbols.tolist()) - set(_ELEMENTS))
    if unknown:
        raise InputError(f"{name}: the elements {', '.join(unknown)} are not known.")
    return AtomicModel(
        frames_A=frames_A,
        electrons=np.array([_ELEMENTS[symbol][0] for symbol in symbols], dtype=np.float64),
        chain=np.asarray(arrays.get("chain", np.full(n, "")), dtype=np.str_),
        residue=np.asarray(arrays.get("resnum", np.zeros(n)), dtype=np.int64),
        group=np.asarray(arrays.get("group", np.full(n, "")), dtype=np.str_),
        path=name,
    )


def _read_psf(name: str) -> AtomicModel:
    lines = _bytes(name).decode("ascii", "replace").splitlines()
    start = next((i for i, line in enumerate(lines) if "!NATOM" in line), None)
    if not lines or not lines[0].startswith("PSF") or start is None:
        raise InputError(f"{name} is not a .psf file: it has no section !NATOM.")
    try:
        n = int(lines[start].split()[0])
        rows = [line.split() for line in lines[start + 1 : start + 1 + n]]
        chain, residue, mass = zip(*((r[1], np.int64(r[2]), float(r[7])) for r in rows), strict=True)
    except (ValueError, IndexError, OverflowError):
        raise InputError(f"{name}: the section !NATOM has a line that is not a CHARMM atom.") from None
    if len(rows) != n:
        raise InputError(f"{name} is truncated: it promises {n} atoms and has {len(rows)}.")
    numbers, weights = np.array(list(_ELEMENTS.values())).T
    nearest = np.abs(np.array(mass)[:, None] - weights).argmin(1)
    return AtomicModel(
        frames_A=np.zeros((0, n, 3)),
        electrons=numbers[nearest],
        chain=np.array(chain, dtype=np.str_),
        residue=np.array(residue, dtype=np.int64),
        group=np.full(n, "", dtype=np.str_),
        path=name,
    )


def _bytes(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}).") from None
