import os
import pickle

import numpy as np
import pandas as pd
import pytest

from drgn.errors import InputError
from drgn.formats.cryosparc_records import write_records
from drgn.formats.mrc import write_volume
from drgn.formats.particles import COLUMNS, Particles, read_images
from drgn.formats.relion import matrix_to_euler


def names(*images):
    return {"rlnImageName": list(images), "rlnImagePixelSize": [2.0] * len(images)}


def test_every_source_gives_the_same_columns_and_types(shared, make_star):
    folder = shared / "cryodrgn-tests"
    for path in (
        "toy.star",
        "relion31.star",
        "cryosparc_P12_J24_001_particles.cs",
        "hand.mrcs",
        "toy_projections.txt",
    ):
        table = Particles.from_file(folder / path).table
        assert list(table.columns) == list(COLUMNS)
        assert isinstance(table.index, pd.RangeIndex)
        for name, (dtype, _) in COLUMNS.items():
            assert table[name].dtype.name == dtype, (path, name)


def test_images_in_any_order_from_several_stacks(make_stack, make_star):
    a, b = make_stack("a.mrcs", 3), make_stack("sub/b.mrcs", 4)
    particles = Particles.from_file(make_star(names("2@a.mrcs", "4@sub/b.mrcs", "1@a.mrcs", "1@sub/b.mrcs")))
    expected = np.stack([a[1], b[3], a[0], b[0]])
    images = read_images(particles, np.array([3, 0, 0, 2, 1]))
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, expected[[3, 0, 0, 2, 1]])
    reader = pickle.loads(pickle.dumps(particles.image_reader()))
    np.testing.assert_array_equal(reader([1]), expected[[1]])
    np.testing.assert_array_equal(
        read_images(particles.select(np.array([3, 1])), np.arange(2)), expected[[3, 1]]
    )


def test_many_stacks_do_not_hold_many_files(make_stack, make_star, monkeypatch):
    monkeypatch.setattr("drgn.formats.stacks.OPEN_STACKS", 2)
    stacks = [make_stack(f"s{i}.mrcs", 1 + i) for i in range(5)]
    reader = Particles.from_file(make_star(names(*(f"1@s{i}.mrcs" for i in range(5))))).image_reader()
    for _ in range(2):
        np.testing.assert_array_equal(reader(np.arange(5)), np.stack([s[0] for s in stacks]))
    assert len(reader._open) == 2


def test_a_prefix_that_is_not_there_is_taken_off(shared):
    particles = Particles.from_file(shared / "tomodrgn" / "10076_both_32_sim.star")
    assert len(particles) == 1296
    expected = {str(shared / "tomodrgn" / f"10076_class{c}_32_sim.mrcs") for c in "DE"}
    assert set(particles.table["image_path"]) == expected
    assert particles.table["group"].nunique() == 144
    assert read_images(particles, np.array([0, 1295])).shape == (2, 32, 32)


def test_where_a_stack_is_looked_for(tmp_path, make_stack, make_star, monkeypatch):
    (tmp_path / "Select/job2").mkdir(parents=True)
    star = make_star(names("1@Extract/job1/a.mrcs"), name="Select/job2/p.star")
    data = tmp_path / "elsewhere"
    for place, datadir in [
        ("Extract/job1/a.mrcs", None),  # under a parent of the table's folder
        ("Select/job2/Extract/job1/a.mrcs", None),
        ("Select/job2/a.mrcs", None),
        ("elsewhere/Extract/job1/a.mrcs", data),
        ("elsewhere/job1/a.mrcs", data),
        ("elsewhere/a.mrcs", data),
    ]:
        make_stack(place, 1)
        found = Particles.from_file(star, datadir=datadir)
        assert found.table["image_path"].tolist() == [str(tmp_path / place)]
        (tmp_path / place).unlink()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    make_stack("cwd/Extract/job1/a.mrcs", 1)
    particles = Particles.from_file(os.path.relpath(star))
    assert particles.table["image_path"].tolist() == [str(tmp_path / "cwd/Extract/job1/a.mrcs")]


def test_a_missing_stack_is_named_when_images_are_needed(tmp_path, make_stack, make_star):
    make_stack("a.mrcs", 1)
    path = make_star(names("1@a.mrcs", "3@J7/b.mrcs"))
    particles = Particles.from_file(path, datadir=tmp_path / "d")
    assert particles.table["box_size_px"].tolist() == [8, 0]
    sentence = (
        rf"{path}, particle row 2: the image stack J7/b\.mrcs was not found \(looked in "
        rf"{tmp_path}/d, {tmp_path}, .*; 1 of the 2 stacks .* were found\); set dataset\.datadir=FOLDER"
    )
    for needs_images in (
        particles.require_images,
        particles.image_reader,
        lambda: particles.box_size,
    ):
        with pytest.raises(InputError, match=sentence):
            needs_images()
    with pytest.raises(
        InputError, match=r"row 2: the image stack J7/b\.mrcs was not found .*/d does not exist\); set"
    ):
        particles.select(np.array([1])).require_images()
    particles.select(np.array([0])).require_images()


def test_two_names_never_lead_to_one_file(make_stack, make_star):
    make_stack("a.mrcs", 2)
    path = make_star(names("1@J1/a.mrcs", "1@J2/a.mrcs"))
    with pytest.raises(InputError, match=r"names both J1/a\.mrcs and J2/a\.mrcs, but only one file"):
        Particles.from_file(path)


def test_stack_and_list_of_stacks(tmp_path, make_stack, monkeypatch):
    a, b = make_stack("a.mrcs", 3, pixel_size_A=2.5), make_stack("b/b.mrcs", 2, pixel_size_A=2.5)
    (tmp_path / "list.txt").write_text("# two of them\nb/b.mrcs\n\n  a.mrcs \n")
    both = Particles.from_file(tmp_path / "list.txt")
    np.testing.assert_array_equal(read_images(both, np.arange(5)), np.concatenate([b, a]))
    assert both.table["key"].tolist()[2] == "000001@a.mrcs"
    assert both.pixel_size_A == 2.5
    assert not both.has_poses
    assert not both.has_ctf
    (tmp_path / "other").mkdir()
    make_stack("other/a.mrcs", 1)
    monkeypatch.chdir(tmp_path / "other")  # holds another stack of the same name
    np.testing.assert_array_equal(read_images(Particles.from_file("../a.mrcs"), np.arange(3)), a)
    (tmp_path / "list.txt").write_text("b/b.mrcs\nc.mrcs\n")
    with pytest.raises(InputError, match=r"list\.txt, particle row 2: the image stack c\.mrcs was not found"):
        Particles.from_file(tmp_path / "list.txt")


def test_the_pixel_size_that_is_given_is_the_one_used(make_stack, make_star, tmp_path):
    make_stack("s.mrcs", 2, pixel_size_A=7.0)
    columns = {"rlnImageName": ["1@s.mrcs", "2@s.mrcs"], "rlnOriginX": [1, 2], "rlnOriginY": [0, 0]}
    path = make_star(columns)
    assert Particles.from_file(path).table["shift_x_A"].tolist() == [7.0, 14.0]  # of the stack's header
    assert Particles.from_file(path, pixel_size_A=3.0).table["shift_x_A"].tolist() == [3.0, 6.0]
    path = make_star({"rlnImageName": ["1@s.mrcs"], "rlnOriginXAngst": [4], "rlnOriginYAngst": [5]})
    particles = Particles.from_file(path, pixel_size_A=3.0)
    assert particles.table[["shift_x_A", "shift_y_A"]].to_numpy().tolist() == [[4.0, 5.0]]
    assert particles.pixel_size_A == 3.0
    particles.save(tmp_path / "saved.star")
    assert Particles.from_file(tmp_path / "saved.star").pixel_size_A == 3.0
    path = make_star(columns | {"rlnImageName": ["1@none.mrcs", "2@none.mrcs"]})
    with pytest.raises(InputError, match="shifts in pixels but no pixel size"):
        Particles.from_file(path)
    with pytest.raises(InputError, match=r"pixel_size_A is -1\.0, but it must be positive"):
        Particles.from_file(path, pixel_size_A=-1)


def test_a_stack_of_another_box_than_described_needs_its_pixel_size(make_stack, make_star):
    make_stack("s.mrcs", 2, box=8)
    path = make_star(names("1@s.mrcs", "2@s.mrcs") | {"rlnImageSize": [16, 16]})
    with pytest.raises(InputError, match=r"row 1: images of 16 pixels are described, but the stack .* has 8"):
        Particles.from_file(path)
    particles = Particles.from_file(path, pixel_size_A=4.0)
    assert (particles.box_size, particles.pixel_size_A) == (8, 4.0)


def test_mixed_boxes_and_pixel_sizes_are_held_but_not_taken_for_one(make_stack, make_star):
    make_stack("a.mrcs", 1, box=8)
    make_stack("b.mrcs", 1, box=10)
    particles = Particles.from_file(
        make_star(names("1@a.mrcs", "1@b.mrcs") | {"rlnImagePixelSize": [2.0, 3.0]})
    )
    with pytest.raises(InputError, match="images of 8, 10 pixels"):
        _ = particles.box_size
    with pytest.raises(InputError, match="2 to 3 A per pixel"):
        _ = particles.pixel_size_A
    with pytest.raises(InputError, match="of 10 pixels, others of the same table have 8"):
        read_images(particles, np.arange(2))
    assert particles.select(np.array([False, True])).box_size == 10


def test_indices_choose_rows_of_the_file(tmp_path, make_stack, make_star):
    make_stack("s.mrcs", 5)
    path = make_star(names(*(f"{i}@s.mrcs" for i in range(1, 6))))
    poses = tmp_path / "p.npz"
    np.savez(poses, rot=np.tile(np.eye(3), (5, 1, 1)), trans=np.arange(10).reshape(5, 2) / 100)
    np.save(tmp_path / "i.npy", np.array([4, 1]))
    chosen = Particles.from_file(path, poses=poses, indices=tmp_path / "i.npy")
    assert chosen.table["source_row"].tolist() == [4, 1]
    assert chosen.table["image_index"].tolist() == [4, 1]
    np.testing.assert_allclose(chosen.table["shift_x_A"], np.array([0.08, 0.02]) * 8 * 2.0)
    mask = np.array([False, True, False, False, True])
    assert Particles.from_file(path, indices=mask).table["source_row"].tolist() == [1, 4]
    for bad, sentence in [
        ([0, 5], r"selects row 5, but the 5 rows of .* are numbered 0 to 4"),
        ([-1], "selects row -1"),
        ([1, 1], "1 rows of .* more than once"),
        ([], "selects none"),
    ]:
        with pytest.raises(InputError, match=sentence):
            Particles.from_file(path, indices=np.array(bad, dtype=int))
    with pytest.raises(InputError, match="a mask of 3 values"):
        Particles.from_file(path, indices=np.ones(3, dtype=bool))
    for suffix in (".pkl", ".npy", ".txt"):  # rows are saved so that they choose the same again
        chosen.select(np.array([1])).save(tmp_path / f"rows{suffix}")
        again = Particles.from_file(path, indices=tmp_path / f"rows{suffix}")
        assert again.table["key"].tolist() == ["000002@s.mrcs"]


def test_poses_of_another_number_of_particles_are_refused(tmp_path, make_stack):
    make_stack("s.mrcs", 5)
    np.savez(tmp_path / "p.npz", rot=np.tile(np.eye(3), (4, 1, 1)))
    with pytest.raises(InputError, match=r"p\.npz has 4 poses, but .*s\.mrcs has 5 particles"):
        Particles.from_file(tmp_path / "s.mrcs", poses=tmp_path / "p.npz")


def test_shifts_in_fractions_of_the_box_of_the_ctf_table(tmp_path, make_star):
    """The stack is elsewhere: the box, and with it the length of the shifts, is known from the CTF alone."""
    star = make_star({"rlnImageName": ["1@away.mrcs", "2@away.mrcs"]})
    np.savez(tmp_path / "p.npz", rot=np.tile(np.eye(3), (2, 1, 1)), trans=[[0.25, 0], [0, -0.5]])
    with pytest.raises(InputError, match=r"row 1: the image stack away\.mrcs was not found"):
        Particles.from_file(star, poses=tmp_path / "p.npz", pixel_size_A=2)
    np.savez(tmp_path / "c.npz", ctf=np.tile([64, 1.5, 15000, 14000, 25, 300, 2.7, 0.1, 0], (2, 1)))
    particles = Particles.from_file(star, poses=tmp_path / "p.npz", ctf=tmp_path / "c.npz")
    assert particles.box_size == 64
    assert particles.table[["shift_x_A", "shift_y_A"]].to_numpy().tolist() == [[24, 0], [0, -48]]


@pytest.mark.parametrize("kind", ["star", "cs"])
def test_original_columns_left_in_the_file_are_found_by_key(tmp_path, make_star, records, kind):
    if kind == "star":
        columns = names("1@s.mrcs", "2@s.mrcs", "3@s.mrcs", "4@s.mrcs") | {"rlnMine": [10, 20, 30, 40]}
        path = make_star(columns)
    else:
        path = tmp_path / "particles.cs"
        write_records(path, records)
    whole = Particles.from_file(path)
    lean = whole.leaving_rows().leaving_rows()
    assert lean.source.rows is None
    lean.select(np.array([3, 1])).save(tmp_path / f"lean.{kind}")
    whole.select(np.array([3, 1])).save(tmp_path / f"whole.{kind}")
    assert (tmp_path / f"lean.{kind}").read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    if kind == "star":  # other rows, another order: still the same particles
        make_star({name: values[::-1] for name, values in columns.items()})
    else:
        write_records(path, records[::-1])
    lean.select(np.array([3, 1])).save(tmp_path / f"lean.{kind}")
    assert (tmp_path / f"lean.{kind}").read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    if kind == "star":
        make_star({name: values[:3] for name, values in columns.items()})
    else:
        write_records(path, records[:3])
    with pytest.raises(InputError, match=r"has changed since it was read: .* is not in it any more"):
        lean.save(tmp_path / f"lean.{kind}")


def test_selection_keeps_everything_in_step(make_star):
    columns = names(*(f"{i}@s.mrcs" for i in range(1, 5))) | {
        "rlnAngleRot": [1, 2, 3, 4],
        "rlnAngleTilt": [0, 10, 20, 30],
        "rlnAnglePsi": [0, 0, 0, 0],
    }
    particles = Particles.from_file(make_star(columns))
    chosen = particles.select(np.array([3, 1])).select(np.array([True, False]))
    assert chosen.table["key"].tolist() == ["000004@s.mrcs"]
    assert chosen.source.rows["rlnAngleRot"].tolist() == [4]
    np.testing.assert_array_equal(chosen.rotation, particles.rotation[[3]])
    assert len(particles) == 4
    with pytest.raises(ValueError, match="selected twice"):
        particles.select(np.array([1, 1]))
    with pytest.raises(ValueError, match="a mask of shape"):
        particles.select(np.array([True]))


def test_other_suffixes_are_refused(tmp_path, make_stack):
    make_stack("s.mrcs", 1)
    with pytest.raises(InputError, match=r"x\.csv is not a particle file"):
        Particles.from_file(tmp_path / "x.csv")
    with pytest.raises(InputError, match=r"saved as \.star, \.cs"):
        Particles.from_file(tmp_path / "s.mrcs").save(tmp_path / "x.csv")
    with pytest.raises(InputError, match=r"data_sign is \[2.0\]"):
        Particles.from_file(tmp_path / "s.mrcs", data_sign=2)


def test_a_stack_that_shrank_is_noticed(tmp_path, make_stack):
    make_stack("s.mrcs", 3)
    particles = Particles.from_file(tmp_path / "s.mrcs")
    write_volume(tmp_path / "s.mrcs", np.zeros((2, 8, 8)), 2.0)
    with pytest.raises(InputError, match="has 2 images, but image 3 is asked for"):
        read_images(particles, np.array([2]))


def test_a_selection_is_rows_of_the_original_file_or_particles_by_name(make_stack, make_star, tmp_path):
    make_stack("s.mrcs", 8)
    names = [f"{i + 1}@s.mrcs" for i in range(8)]
    path = make_star({"rlnImageName": names})
    used = Particles.from_file(path, indices=np.array([7, 3, 5]))
    np.save(tmp_path / "rows.npy", np.array([3, 7]))
    assert used.rows_of(tmp_path / "rows.npy").tolist() == [1, 0]
    mask = np.zeros(8, bool)
    mask[5] = True
    assert used.rows_of(mask).tolist() == [2]
    chosen = make_star({"rlnImageName": ["000006@s.mrcs", "8@s.mrcs"]}, name="chosen.star")
    assert used.rows_of(chosen).tolist() == [2, 0]
    assert Particles.from_file(path, indices=chosen).table["image_index"].tolist() == [5, 7]
    with pytest.raises(InputError, match=r"names row 0 of .*particles\.star, which is not among the 3"):
        used.rows_of(np.array([0]))
    chosen = make_star({"rlnImageName": ["1@s.mrcs"]}, name="chosen.star")
    with pytest.raises(InputError, match=r"particles\.star does not hold the particles of .*chosen\.star"):
        used.rows_of(chosen)


def test_poses_and_ctf_from_another_particle_file_are_joined_by_name(make_stack, make_star):
    make_stack("s.mrcs", 4)
    names = [f"{i + 1}@s.mrcs" for i in range(4)]
    optics = {
        "rlnOpticsGroup": [1],
        "rlnVoltage": [300],
        "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
    }
    refined = make_star(
        {
            "rlnImageName": names[::-1],
            "rlnAngleRot": [40, 30, 20, 10],
            "rlnAngleTilt": [0, 0, 0, 0],
            "rlnAnglePsi": [0, 0, 0, 0],
            "rlnOriginXAngst": [4.0, 3.0, 2.0, 1.0],
            "rlnOriginYAngst": [0, 0, 0, 0],
            "rlnDefocusU": [14000, 13000, 12000, 11000],
            "rlnOpticsGroup": [1, 1, 1, 1],
        },
        optics,
        name="refined.star",
    )
    plain = make_star({"rlnImageName": names})
    particles = Particles.from_file(plain, poses=refined, ctf=refined)
    assert particles.table["shift_x_A"].tolist() == [1, 2, 3, 4]
    assert particles.table["defocus_v_A"].tolist() == [11000, 12000, 13000, 14000]
    assert particles.has_ctf
    np.testing.assert_allclose(matrix_to_euler(particles.rotation).sum(1), [10, 20, 30, 40])
    with pytest.raises(InputError, match=r"particles\.star has no poses; give the file of the refinement"):
        Particles.from_file(refined, poses=plain)
