"""cryoSPARC's results groups: a .csg (YAML) that says which .cs file holds which property of the particles.

An output of a job is often in two files or more: what the job made, and the passthrough of what it was given.
They are joined by uid. A `>` before a path means that the path starts from the folder of the .csg.
"""

import datetime
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats.atomic import replacing
from drgn.formats.cryosparc_records import (
    Records,
    StrPath,
    check_uids,
    describe,
    join,
    read_records,
    take_fields,
    write_records,
)
from drgn.formats.documents import read_yaml

_LAYOUT_VERSION = "v4.4.1"  # whose layout is written where the source does not say its own
# results of particles that cryoSPARC knows by the name that their fields begin with
_RESULTS = re.compile(
    r"(?P<same>blob|ctf|location|alignments2D|alignments3D|alignments3D_multi|pick_stats|ml_properties"
    r"|sym_expand|filament|motion)|(?P<alignments3D>alignments_class(3D)?_\d+)|(?P<components>components_mode_\d+)"
)


@dataclass(frozen=True)
class Group:
    """How cryoSPARC keeps a set of particles, beyond the records themselves.

    Attributes
    ----------
    folder : that paths with a `>` start from
    passthrough : fields that are in a passthrough file
    types : type of each result ("particle.ctf") by the prefix of its fields ("ctf"), where a .csg says it
    name, title, description, version : as in the .csg
    """

    folder: str
    passthrough: tuple[str, ...] = ()
    types: dict[str, str] = field(default_factory=dict)
    name: str = "particles"
    title: str = "Particles"
    description: str = "Particles selected with drgn"
    version: str = _LAYOUT_VERSION


def load(path: StrPath, passthrough: StrPath | None = None) -> tuple[Records, Group]:
    """Read particles from a .csg, or from a .cs with its passthrough.

    Without `passthrough`, the .csg beside a .cs that names it says what belongs to it; without such a .csg,
    the passthrough is found by its name (J24_passthrough_particles.cs beside J24_003_particles.cs), and used
    when it is of the same particles.

    Raises
    ------
    InputError
        When files that belong together are not of the same particles, or the .csg is not one of particles.
    """
    name = os.fspath(path)
    if Path(name).suffix == ".csg":
        if passthrough is not None:
            raise InputError(f"{name} names its passthrough itself; leave out passthrough={passthrough}.")
        return _load_csg(_Csg.read(name), None)
    if passthrough is None:
        csg = _csg_of(name)
        if csg is not None:
            return _load_csg(csg, name)
    records = read_records(name)
    group = Group(folder=str(Path(os.path.abspath(name)).parent))
    others = _passthroughs_by_name(name) if passthrough is None else [os.fspath(passthrough)]
    for other in others:
        try:
            return _add(records, name, other, group, {})
        except InputError:
            if passthrough is not None or "blob/path" not in (records.dtype.names or ()):
                raise
    return records, group


def write_group(
    path: StrPath,
    records: Records,
    group: Group | None = None,
    extra: Mapping[str, NDArray[Any]] | None = None,
) -> list[Path]:
    """Write NAME.cs and NAME.csg, which cryoSPARC's job "Import Result Group" takes.

    Fields that came from a passthrough file go to NAME_passthrough.cs, but not where NAME.cs has others of
    their prefix: a .csg names one file for each. All fields and types are kept.

    Parameters
    ----------
    path : NAME.cs
    records : (N,) records with a uid
    group : where they come from, as `load` gives it
    extra : (N, ...) values by name ("cluster"), added to NAME.cs as fields "drgn/cluster". The .csg does not
        name them, so that cryoSPARC leaves them alone; cryosparc-tools reads them

    Returns
    -------
    list of Path
        What was written, NAME.cs first and NAME.csg last.

    Raises
    ------
    InputError
        When the records have no unique uid, or paths in them start from another folder than NAME.csg would.
    """
    target = Path(path)
    group = group or Group(folder=str(Path(os.path.abspath(target)).parent))
    check_uids(records, os.fspath(path))
    _check_folder(target, records, group)
    names = records.dtype.names or ()
    of_file = {_prefix(name) for name in names if name not in group.passthrough}
    passed = [name for name in names if _prefix(name) not in of_file]
    own = [name for name in names if _prefix(name) in of_file]
    files = {target: _with_extra(take_fields(records, own), extra or {})}
    if passed:
        files[target.with_name(f"{target.stem}_passthrough.cs")] = take_fields(records, ["uid", *passed])
    results = {}
    for file, content in files.items():
        for prefix in dict.fromkeys(_prefix(name) for name in content.dtype.names or ()):
            kind = group.types.get(prefix) or _type_of(prefix)
            if kind:
                results[prefix] = {"metafile": f">{file.name}", "num_items": len(records), "type": kind}
    document = {
        "created": datetime.datetime.now(),
        "group": {
            "description": group.description,
            "name": group.name,
            "title": group.title,
            "type": "particle",
        },
        "results": dict(sorted(results.items())),
        "version": group.version,
    }
    for file, records_of_file in files.items():
        write_records(file, records_of_file)
    csg = target.with_suffix(".csg")
    with replacing(csg) as temporary:
        temporary.write_text(yaml.safe_dump(document), encoding="utf-8")
    return [*files, csg]


@dataclass(frozen=True)
class _Csg:
    """A parsed .csg: the result groups by prefix, each with its file as it was found."""

    path: str
    group: Mapping[str, Any]
    version: str
    file: dict[str, str]  # by prefix
    types: dict[str, str]
    counts: dict[str, int]  # of particles, by file

    @classmethod
    def read(cls, path: str) -> "_Csg":
        content = _parse(path)
        results, group = content.get("results"), content.get("group")
        if not isinstance(results, dict) or not results:
            raise InputError(f"{path} is not a cryoSPARC results group: it has no results.")
        group = group if isinstance(group, dict) else {}
        kind = group.get("type", "particle")
        if kind != "particle":
            raise InputError(f"{path} is a group of type {kind}, where particles are expected.")
        file: dict[str, str] = {}
        types: dict[str, str] = {}
        counts: dict[str, int] = {}
        for prefix, result in results.items():
            metafile = result.get("metafile") if isinstance(result, dict) else None
            if not isinstance(metafile, str) or not metafile.strip(">"):
                raise InputError(f"{path}: the result {prefix} names no metafile, where a .cs is expected.")
            place = _find(metafile, path)
            file[str(prefix)] = place
            types[str(prefix)] = str(result.get("type", "") or "")
            count = result.get("num_items")
            if type(count) is int and counts.setdefault(place, count) != count:
                raise InputError(f"{path} gives two counts of particles, {counts[place]} and {count}.")
        return cls(path, group, str(content.get("version", _LAYOUT_VERSION)), file, types, counts)

    @property
    def files(self) -> list[str]:
        """Each file once, that of the job itself before its passthrough."""
        return sorted(dict.fromkeys(self.file.values()), key=lambda file: "passthrough" in Path(file).name)


def _load_csg(csg: _Csg, main: str | None) -> tuple[Records, Group]:
    """Join the files of a group; `main` is the one that was asked for, where it was not the .csg itself."""
    first = next((file for file in csg.files if main is not None and _same(file, main)), csg.files[0])
    records = read_records(first)
    _check_items(records, first, csg)
    owned = {prefix: file for prefix, file in csg.file.items() if os.path.isfile(file)}
    kept = [name for name in records.dtype.names or () if owned.get(_prefix(name), first) == first]
    texts: dict[str, Any] = {
        key: str(csg.group[key]) for key in ("name", "title", "description") if csg.group.get(key)
    }
    group = Group(
        folder=str(Path(os.path.abspath(csg.path)).parent),
        types={prefix: kind for prefix, kind in csg.types.items() if kind},
        version=csg.version,
        **texts,
    )
    records = take_fields(records, kept)
    for file in csg.files:
        if file == first or (main is not None and not os.path.isfile(file) and "blob/path" in kept):
            continue
        records, group = _add(records, first, file, group, owned, csg)
    return records, group


def _add(
    records: Records,
    path: str,
    other_path: str,
    group: Group,
    owned: Mapping[str, str],
    csg: _Csg | None = None,
) -> tuple[Records, Group]:
    """Add the fields of a passthrough file that the records lack and that no other file is said to hold."""
    other = read_records(other_path)
    if csg is not None:
        _check_items(other, other_path, csg)
    fields = [
        name
        for name in other.dtype.names or ()
        if name not in (records.dtype.names or ()) and owned.get(_prefix(name), other_path) == other_path
    ]
    joined = join(records, path, other, other_path, fields)
    return joined, Group(**{**vars(group), "passthrough": (*group.passthrough, *fields)})


def _check_items(records: Records, path: str, csg: _Csg) -> None:
    count = csg.counts.get(path, len(records))
    if count != len(records):
        raise InputError(
            f"{csg.path} says that {path} has {count} particles, but it has {len(records)}; export the group "
            "again, or correct num_items."
        )


def _csg_of(path: str) -> _Csg | None:
    """Return what the .csg files beside a .cs say of it, or None where they say nothing or contradict."""
    found: list[_Csg] = []
    for place in sorted(Path(os.path.abspath(path)).parent.glob("*.csg")):
        if not place.is_file():  # a named pipe would be waited for
            continue
        try:
            csg = _Csg.read(str(place))
        except InputError:  # it was not asked for, and may be of something else
            continue
        if any(_same(file, path) for file in csg.files):
            found.append(csg)
    return found[0] if found and all(csg.files == found[0].files for csg in found) else None


def _passthroughs_by_name(path: str) -> list[str]:
    """Return the one passthrough beside a .cs whose name says that it is of the same job and output."""
    place = Path(os.path.abspath(path))
    job = re.search(r"(?:^|_)J(\d+)_", place.name)
    found = []
    for other in sorted(place.parent.glob("*passthrough_*.cs")):
        match = re.search(r"(?:(?:^|_)J(\d+)_)?passthrough_(.+)$", other.stem)
        same_job = match and (job is None or match[1] is None or job[1] == match[1])
        if match and same_job and place.stem.endswith(match[2]) and other != place and other.is_file():
            found.append(str(other))
    return found if len(found) == 1 else []


def _parse(path: str) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a cryoSPARC results group: it has no results.")
    return content


def _find(metafile: str, csg: str) -> str:
    """Return the path of a file that a .csg names; where it is not found, the first place looked in."""
    folder = Path(os.path.abspath(csg)).parent
    name = metafile.lstrip(">")
    places = [folder / name, folder / Path(name).name]
    if not metafile.startswith(">"):
        places[1:1] = [above / name for above in folder.parents]
    return str(next((place for place in places if place.is_file()), places[0]))


def with_images(records: Records, path: str) -> Records:
    """Return the records with their images in one stack, in their order."""
    name = np.asarray(path.encode())
    parts = records.dtype.names or ()
    result = np.empty(
        len(records), dtype=[(p, name.dtype if p == "blob/path" else records.dtype[p]) for p in parts]
    )
    for part in parts:
        result[part] = name if part == "blob/path" else records[part]
    result["blob/idx"] = np.arange(len(records))
    return result


def _prefix(name: str) -> str:
    """Return the name of the result that a field is of: "ctf" of "ctf/df1_A"."""
    return name.partition("/")[0]


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _type_of(prefix: str) -> str:
    match = _RESULTS.fullmatch(prefix)
    if match is None:
        return ""
    return f"particle.{prefix if match.lastgroup == 'same' else match.lastgroup}"


def _check_folder(target: Path, records: Records, group: Group) -> None:
    """Refuse to carry paths that start from the folder of the .csg into another folder."""
    if os.path.realpath(target.parent) == os.path.realpath(group.folder):
        return
    for name in _path_fields(records):
        first = records[name].astype("U1")
        if (first == ">").any():
            raise InputError(
                f"{target}: the paths of these particles start from {group.folder} ({name} begins with >), "
                f"and would be lost elsewhere; write the selection to {Path(group.folder) / target.name}."
            )


def _path_fields(records: Records) -> Iterator[str]:
    for name in records.dtype.names or ():
        if name.endswith("path") and records.dtype[name].kind in "SU":
            yield name


def _with_extra(records: Records, extra: Mapping[str, NDArray[Any]]) -> Records:
    """Return the records with `extra` added as fields, in types that cryoSPARC's own reader knows."""
    columns: dict[str, NDArray[Any]] = {}
    for name, values in extra.items():
        array = np.asarray(values)
        if len(array) != len(records):
            raise ValueError(f"{name} has {len(array)} values for {len(records)} particles")
        if array.dtype.kind in "OUT":
            array = np.char.encode(array.astype("U"), "utf-8")
        elif array.dtype.kind == "b":
            array = array.astype(np.uint8)
        elif array.dtype == np.float16:
            array = array.astype(np.float32)
        columns[name if "/" in name else f"drgn/{name}"] = array
    added = [(name, array.dtype, array.shape[1:]) for name, array in columns.items()]
    fields = [(name, dtype) for name, dtype in describe(records) if name not in columns]
    result = np.empty(len(records), dtype=[*fields, *added])
    for name, _ in fields:
        result[name] = records[name]
    for name, array in columns.items():
        result[name] = array
    return result
