import datetime

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drgn.errors import InputError
from drgn.formats.cryosparc_group import load, write_group
from drgn.formats.cryosparc_records import read_records, take_fields, write_records
from drgn.formats.particles import Particles

MAIN, PASSED = "J24_003_particles.cs", "J24_passthrough_particles.cs"


@pytest.fixture
def split(tmp_path, records):
    """A job's own file and its passthrough, of the same particles in another order."""
    own = ["uid", *(name for name in records.dtype.names if name.startswith(("alignments3D", "ctf")))]
    passed = ["uid", *(name for name in records.dtype.names if name.startswith(("blob", "location", "ctf")))]
    write_records(tmp_path / MAIN, take_fields(records, own))
    passthrough = take_fields(records, passed)[[2, 0, 3, 1]]
    passthrough["ctf/bfactor"] = 99  # of an earlier job: the main file's is used
    write_records(tmp_path / PASSED, passthrough)
    return tmp_path


def result(file, kind, n=4):
    return {"metafile": file, "num_items": n, "type": f"particle.{kind}"}


def csg(path, results, **group):
    content = {
        "created": datetime.datetime(2026, 1, 31),
        "group": {"type": "particle", "name": "particles", "title": "All particles", **group},
        "results": results,
        "version": "v4.7.1",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def results(main=f">{MAIN}", passed=f">{PASSED}"):
    return {
        "alignments3D": result(main, "alignments3D"),
        "blob": result(passed, "blob"),
        "ctf": result(main, "ctf"),
        "location": result(passed, "location"),
    }


def same_particles(particles, records):
    """Whether the table is that of the records, which stand in one file, row by row."""
    assert particles.table["key"].tolist() == records["uid"].astype(str).tolist()
    assert particles.table["image_index"].tolist() == records["blob/idx"].tolist()
    assert particles.table["shift_x_A"].tolist() == (records["alignments3D/shift"][:, 0] * 3).tolist()
    assert set(particles.table["b_factor_A2"]) == {20.0}
    assert set(particles.table["micrograph"]) == {"J1/m.mrc"}


def test_a_given_passthrough_is_joined_by_uid(split, records):
    (split / PASSED).rename(split / "elsewhere.cs")
    same_particles(Particles.from_file(split / MAIN, passthrough=split / "elsewhere.cs"), records)
    with pytest.raises(InputError, match="no fields blob/path and blob/idx"):
        Particles.from_file(split / MAIN)


def test_a_passthrough_is_found_by_its_name(split, records):
    same_particles(Particles.from_file(split / MAIN), records)


@pytest.mark.parametrize(
    ("main", "passthrough", "found"),
    [
        ("cryosparc_P12_J24_001_particles.cs", "P12_J24_passthrough_particles.cs", True),
        ("particles_selected.cs", "J9_passthrough_particles_selected.cs", True),
        ("J25_003_particles.cs", "J24_passthrough_particles.cs", False),
        ("particles_selected.cs", "J9_passthrough_particles_excluded.cs", False),
    ],
)
def test_names_of_one_output_of_one_job(split, records, main, passthrough, found):
    (split / MAIN).rename(split / main)
    (split / PASSED).rename(split / passthrough)
    if found:
        same_particles(Particles.from_file(split / main), records)
    else:
        with pytest.raises(InputError, match="no fields blob/path"):
            Particles.from_file(split / main)


def test_a_file_of_other_particles_is_no_passthrough_of_a_complete_one(split, records):
    write_records(split / MAIN, records[:2])  # a subset made by hand, complete without a passthrough
    assert len(Particles.from_file(split / MAIN)) == 2
    with pytest.raises(InputError, match=rf"{MAIN} has 2 particles and .*{PASSED} has 4"):
        Particles.from_file(split / MAIN, passthrough=split / PASSED)


def test_files_of_different_particles_are_named_both(split, records):
    other = read_records(split / PASSED)
    other["uid"][1] = 12345
    write_records(split / PASSED, other)
    sentence = rf"{MAIN}, particle row 1: .*{PASSED} has no particle of uid 7 \(1 are missing"
    for options in ({}, {"passthrough": split / PASSED}):
        with pytest.raises(InputError, match=sentence):
            Particles.from_file(split / MAIN, **options)
    other["uid"][1] = other["uid"][0]
    write_records(split / PASSED, other)
    with pytest.raises(InputError, match=rf"{PASSED} has the particle of uid 9 more than once"):
        Particles.from_file(split / MAIN)
    write_records(split / PASSED, take_fields(other, ["blob/path", "blob/idx"]))
    with pytest.raises(InputError, match=rf"{PASSED} has no field uid"):
        Particles.from_file(split / MAIN)
    with pytest.raises(InputError, match=r"a\.star has no passthrough"):
        Particles.from_file(split / "a.star", passthrough=split / PASSED)


@pytest.mark.parametrize("prefix", [">", "", "J24/"])
def test_a_csg_is_read_with_all_its_files(split, records, prefix):
    path = csg(split / "any.csg", results(prefix + MAIN, prefix + PASSED))
    same_particles(Particles.from_file(path), records)


def test_the_csg_beside_a_cs_says_what_belongs_to_it(split, records):
    (split / PASSED).rename(split / "other.cs")
    csg(split / "broken.csg", {})
    csg(split / "any.csg", results(passed=">other.cs"))
    same_particles(Particles.from_file(split / MAIN), records)


def test_a_group_of_more_than_two_files(split, records):
    passed = read_records(split / PASSED)
    write_records(split / "passthrough_blob.cs", take_fields(passed, ["uid", "blob/path", "blob/idx"]))
    kept = [name for name in passed.dtype.names if name.startswith(("uid", "location"))]
    write_records(split / "passthrough_location.cs", take_fields(passed, kept)[::-1])
    three = {
        **results(),
        "blob": result(">passthrough_blob.cs", "blob"),
        "location": result(">passthrough_location.cs", "location"),
    }
    same_particles(Particles.from_file(csg(split / "any.csg", three)), records)


def test_a_prefix_is_read_from_the_file_that_the_csg_says(split):
    swapped = {**results(), "ctf": result(f">{PASSED}", "ctf")}
    particles = Particles.from_file(csg(split / "any.csg", swapped))
    assert set(particles.table["b_factor_A2"]) == {99.0}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"results": {}}, "it has no results"),
        ({"results": [1]}, "it has no results"),
        ({"group": {"type": "exposure"}}, "a group of type exposure, where particles"),
        ({"results": {"blob": {"num_items": 4}}}, "the result blob names no metafile"),
        ({"results": {"blob": result(">gone.cs", "blob")}}, r"gone\.cs cannot be read"),
        ({"results": {"blob": result(f">{PASSED}", "blob", 5)}}, rf"says that .*{PASSED} has 5 particles"),
        (
            {"results": {"a": result(f">{PASSED}", "a", 5), "b": result(f">{PASSED}", "b", 4)}},
            "two counts of particles, 5 and 4",
        ),
    ],
)
def test_a_csg_that_cannot_be_used_is_a_sentence(split, change, sentence):
    path = csg(split / "any.csg", results())
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(InputError, match=sentence):
        Particles.from_file(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: [",
        "- 1",
        "a: 2026-99-99",
        "[" * 5000,
        "\x00",
        "x" * (2**20 + 1),
    ],
)
def test_a_file_that_is_no_csg_is_a_sentence(tmp_path, text):
    (tmp_path / "any.csg").write_text(text)
    with pytest.raises(InputError, match=r"any\.csg"):
        Particles.from_file(tmp_path / "any.csg")


def test_a_csg_runs_no_code(tmp_path):
    (tmp_path / "any.csg").write_text(f"!!python/object/apply:os.mkdir ['{tmp_path / 'harm'}']")
    with pytest.raises(InputError, match="is not YAML that can be read"):
        Particles.from_file(tmp_path / "any.csg")
    assert not (tmp_path / "harm").exists()


def test_a_metafile_may_start_from_the_project(split, records):
    (split / "P1" / "J24").mkdir(parents=True)
    (split / "P1" / "J25").mkdir()
    for name in (MAIN, PASSED):
        (split / name).rename(split / "P1" / "J24" / name)
    path = csg(split / "P1" / "J25" / "any.csg", results(f"J24/{MAIN}", f"J24/{PASSED}"))
    same_particles(Particles.from_file(path), records)


def test_a_passthrough_of_a_csg_is_not_given(split):
    with pytest.raises(InputError, match="names its passthrough itself"):
        Particles.from_file(csg(split / "any.csg", results()), passthrough=split / PASSED)


def test_a_selection_is_a_group_with_everything_kept(split, records):
    path = csg(split / "any.csg", results(), description="All of them")
    kept = Particles.from_file(path).select(np.array([3, 1]))
    kept.save(split / "kept.cs")
    content = yaml.safe_load((split / "kept.csg").read_text())
    assert content["group"] == {
        "type": "particle",
        "name": "particles",
        "title": "All particles",
        "description": "All of them",
    }
    assert content["version"] == "v4.7.1"
    assert isinstance(content["created"], datetime.datetime)
    assert content["results"] == {
        "alignments3D": result(">kept.cs", "alignments3D", 2),
        "blob": result(">kept_passthrough.cs", "blob", 2),
        "ctf": result(">kept.cs", "ctf", 2),
        "location": result(">kept_passthrough.cs", "location", 2),
    }
    own, passed = read_records(split / "kept.cs"), read_records(split / "kept_passthrough.cs")
    assert own.dtype == read_records(split / MAIN).dtype
    np.testing.assert_array_equal(own, read_records(split / MAIN)[[3, 1]])
    assert passed["uid"].tolist() == own["uid"].tolist()
    assert passed["blob/idx"].tolist() == records["blob/idx"][[3, 1]].tolist()
    for name in ("kept.csg", "kept.cs"):
        same_particles(Particles.from_file(split / name), records[[3, 1]])
    assert not list(split.glob(".*"))


@pytest.mark.parametrize("name", ["kept.csg", "kept.cs"])
def test_a_result_in_both_files_goes_to_one(split, records, name):
    passed = [n for n in records.dtype.names if not n.startswith("alignments3D") and n != "ctf/bfactor"]
    write_records(split / MAIN, take_fields(records, ["uid", "alignments3D/pose", "ctf/bfactor"]))
    write_records(split / PASSED, take_fields(records, passed))
    kept = Particles.from_file(split / MAIN).select(np.array([3, 1]))
    kept.save(split / "kept.cs")
    again = Particles.from_file(split / name)
    for particles in (kept, again):
        assert particles.table["b_factor_A2"].tolist() == [20.0, 20.0]
        assert particles.table["phase_shift_deg"].tolist() == [pytest.approx(180)] * 2
    assert yaml.safe_load((split / "kept.csg").read_text())["results"] == {
        "alignments3D": result(">kept.cs", "alignments3D", 2),
        "blob": result(">kept_passthrough.cs", "blob", 2),
        "ctf": result(">kept.cs", "ctf", 2),
        "location": result(">kept_passthrough.cs", "location", 2),
    }


def test_types_of_results_where_no_csg_says_them(tmp_path, records):
    prefixes = ["alignments_class_0", "alignments_class3D_12", "components_mode_1", "alignments3D_multi"]
    added = np.dtype([*records.dtype.descr, *((f"{p}/x", "f4") for p in [*prefixes, "unheard_of"])])
    write_group(tmp_path / "p.cs", np.zeros(1, added))
    types = {k: v["type"] for k, v in yaml.safe_load((tmp_path / "p.csg").read_text())["results"].items()}
    assert types == {
        "blob": "particle.blob",
        "alignments3D": "particle.alignments3D",
        "location": "particle.location",
        "ctf": "particle.ctf",
        "alignments_class_0": "particle.alignments3D",
        "alignments_class3D_12": "particle.alignments3D",
        "components_mode_1": "particle.components",
        "alignments3D_multi": "particle.alignments3D_multi",
    }
    assert "unheard_of/x" in read_records(tmp_path / "p.cs").dtype.names


def test_added_columns_are_in_the_cs_but_no_result(tmp_path, records):
    extra = {
        "latent": np.arange(8, dtype=np.float16).reshape(4, 2),
        "cluster": np.array([3, 1, 0, 2]),
        "kept": np.array([True, False, True, True]),
        "name": np.array(["a", "ä", "", "long name"], dtype=object),
    }
    write_group(tmp_path / "p.cs", records, extra=extra)
    written = read_records(tmp_path / "p.cs")
    assert written["drgn/latent"].tolist() == extra["latent"].tolist()
    assert written["drgn/cluster"].tolist() == [3, 1, 0, 2]
    assert written["drgn/kept"].tolist() == [1, 0, 1, 1]
    assert written["drgn/name"][1].decode() == "ä"
    assert written.dtype["drgn/latent"].base == np.float32
    assert "drgn" not in yaml.safe_load((tmp_path / "p.csg").read_text())["results"]
    write_group(tmp_path / "p.cs", written, extra={"cluster": np.zeros(4)})  # an older one is replaced
    assert read_records(tmp_path / "p.cs")["drgn/cluster"].tolist() == [0, 0, 0, 0]


def test_paths_that_start_from_the_csg_are_not_carried_away(split, records):
    particles = Particles.from_file(split / MAIN)
    with pytest.raises(InputError, match=r"would be lost elsewhere; write the selection to .*/kept\.cs"):
        particles.save(split / "sub" / "kept.cs")
    assert not (split / "sub").exists()
    for field in ("blob/path", "location/micrograph_path"):
        particles.source.rows[field] = np.char.lstrip(particles.source.rows[field], b">")
    particles.save(split / "sub" / "kept.cs")  # paths in the project start from the project


def test_records_without_uids_make_no_group(tmp_path, records):
    with pytest.raises(InputError, match=r"p\.cs has no field uid"):
        write_group(tmp_path / "p.cs", take_fields(records, ["blob/path", "blob/idx"]))
    records["uid"] = 1
    with pytest.raises(InputError, match="uid 1 more than once"):
        write_group(tmp_path / "p.cs", records)
    assert not list(tmp_path.iterdir())


@st.composite
def random_records(draw):
    kinds = st.sampled_from(["<f4", "<f8", "<u4", "<i8", "<u8", "S7", "<U5", ">f4", "u1"])
    names = draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True))
    fields = [(f"{n}/{n}", draw(kinds), draw(st.sampled_from([(), (2,), (3, 2)]))) for n in names]
    n = draw(st.integers(1, 6))
    dtype = np.dtype([("uid", "<u8"), *fields])
    seed = draw(st.integers(0, 2**32 - 1))
    records = np.zeros(n, dtype)
    random = np.random.default_rng(seed)
    for name in dtype.names:
        kind = dtype[name].base
        shape = (n, *dtype[name].shape)
        if kind.kind in "SU":
            records[name] = random.integers(0, 10**5, shape).astype(kind)
        elif kind.kind == "f":
            records[name] = random.normal(size=shape)
        else:
            records[name] = random.integers(0, np.iinfo(kind).max, shape, dtype=kind.newbyteorder("="))
    records["uid"] = random.permutation(10)[:n].astype("u8") + np.uint64(2**63)
    return records, [name for name, *_ in fields if draw(st.booleans())]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=random_records())
def test_any_records_come_back(tmp_path, case):
    records, passed = case
    own = [name for name in records.dtype.names if name not in passed]
    write_records(tmp_path / "a.cs", take_fields(records, own))
    write_records(tmp_path / "b.cs", take_fields(records, ["uid", *passed])[::-1])
    joined, group = load(tmp_path / "a.cs", tmp_path / "b.cs")
    write_group(tmp_path / "c.cs", joined, group)
    again, _ = load(tmp_path / "c.cs", tmp_path / "c_passthrough.cs" if passed else None)
    assert set(again.dtype.names) == set(records.dtype.names)
    for name in records.dtype.names:
        assert again.dtype[name] == records.dtype[name]
        np.testing.assert_array_equal(again[name], records[name])


def test_cryosparcs_own_reader_reads_what_is_written(split, records, shared):
    dataset = pytest.importorskip("cryosparc.dataset", reason="cryosparc-tools is not installed").Dataset
    selected = Particles.from_file(split / MAIN).select(np.array([2, 0]))
    extra = {"cluster": np.array([4, 5])}
    write_group(split / "kept.cs", selected.source.rows, selected.source.group, extra)
    own, passed = dataset.load(split / "kept.cs"), dataset.load(split / "kept_passthrough.cs")
    assert own["uid"].tolist() == passed["uid"].tolist() == [9, 7]
    assert own["drgn/cluster"].tolist() == [4, 5]
    together = dataset.innerjoin(own, passed)
    for name in records.dtype.names:
        expected = records[name][[2, 0]]
        values = np.array(together[name].tolist())
        np.testing.assert_array_equal(
            values, expected.astype("U") if expected.dtype.kind == "S" else expected
        )

    real = Particles.from_file(shared / "cryodrgn-tests" / "cryosparc_P12_J24_001_particles.cs")
    real.select(np.arange(0, 2019, 7)).save(split / "real.cs")
    written = dataset.load(split / "real.cs")
    assert written["uid"].tolist() == real.source.rows["uid"][::7].tolist()
    assert len(written.fields()) == len(real.source.rows.dtype.names)
    np.testing.assert_array_equal(written["alignments3D/pose"], real.source.rows["alignments3D/pose"][::7])
