import pickle
import struct

import mrcfile
import numpy as np
import pytest

from drgn.errors import InputError
from drgn.formats.mrc import StackReader, StackWriter, read_volume, write_volume
from drgn.formats.mrc_header import read_header


def volume(shape=(5, 6, 7)):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_a_volume_comes_back_and_an_independent_reader_agrees(tmp_path):
    path = tmp_path / "v.mrc"
    write_volume(path, volume(), 1.35, origin_A=(1.0, 2.0, 3.0), label="drgn 0.1 generate")
    array, pixel_size_A = read_volume(path)
    np.testing.assert_array_equal(array, volume())
    assert pixel_size_A == 1.35
    with mrcfile.open(path) as other:
        np.testing.assert_array_equal(other.data, volume())
        assert other.header.ispg == 1
        assert other.header.mz == 5
        assert other.voxel_size.z == pytest.approx(1.35)
        assert other.header.origin.tolist() == (1.0, 2.0, 3.0)
        assert other.header.label[0] == b"drgn 0.1 generate"
        assert other.header.dmin == volume().min()
        assert other.header.rms == pytest.approx(volume().std(), rel=1e-5)
    assert mrcfile.validate(path)
    assert [p.name for p in tmp_path.iterdir()] == ["v.mrc"]


def test_a_stack_is_streamed_and_an_independent_reader_agrees(tmp_path):
    images = volume((5, 6, 6))
    path = tmp_path / "s.mrcs"
    with StackWriter(path, n=5, box=6, pixel_size_A=2.5) as stack:
        stack.write(images[0])
        assert not path.exists()
        stack.write(images[1:])
    with mrcfile.open(path) as other:
        np.testing.assert_array_equal(other.data, images)
        assert other.is_image_stack()
        assert (other.header.ispg, other.header.mz) == (0, 1)
        assert other.voxel_size.x == pytest.approx(2.5)
        assert other.header.dmax == images.max()
        assert other.header.dmean == pytest.approx(images.mean(), abs=1e-7)
        assert other.header.rms == pytest.approx(images.std(), rel=1e-5)
    assert mrcfile.validate(path)


def test_an_unfinished_stack_leaves_no_file(tmp_path):
    def write(n, interrupt):
        with StackWriter(tmp_path / "s.mrcs", n, 6, 1.0) as stack:
            stack.write(volume((1, 6, 6)))
            if interrupt:
                raise KeyboardInterrupt

    with pytest.raises(ValueError, match="1 of 3 images"):
        write(3, interrupt=False)
    with pytest.raises(KeyboardInterrupt):
        write(1, interrupt=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(1, 5, 5), (4, 6, 6)])
def test_images_that_do_not_fit_the_stack_are_refused(tmp_path, shape):
    with StackWriter(tmp_path / "s.mrcs", 3, 6, 1.0) as stack:
        with pytest.raises(ValueError, match="do not fit"):
            stack.write(volume(shape))
        stack.write(volume((3, 6, 6)))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["i1", "i2", "f4", "u2", "f2"])
def test_every_mode_in_both_byte_orders(tmp_path, dtype, order):
    values = np.arange(2 * 4 * 4).reshape(2, 4, 4).astype(order + dtype)
    with mrcfile.new(tmp_path / "s.mrcs", data=values) as file:
        assert file.header.mode.dtype.byteorder in ("=", "|", order)
    reader = StackReader(tmp_path / "s.mrcs")
    np.testing.assert_array_equal(reader.read(np.array([1, 0])), values[[1, 0]].astype(np.float32))


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_empty_machine_stamp_is_worked_out(tmp_path, order):
    values = volume((2, 4, 4)).astype(order + "f4")
    path = tmp_path / "s.mrcs"
    mrcfile.new(path, data=values).close()
    raw = bytearray(path.read_bytes())
    raw[212:216] = b"\0\0\0\0"
    path.write_bytes(raw)
    np.testing.assert_array_equal(StackReader(path).read(np.array([0, 1])), values)


def test_an_extended_header_is_skipped(tmp_path):
    path = tmp_path / "s.mrcs"
    with mrcfile.new(path, data=volume((2, 4, 4))) as file:
        file.set_extended_header(np.zeros(100, dtype="V1"))
    np.testing.assert_array_equal(StackReader(path).read(np.array([1])), volume((2, 4, 4))[1:])


def test_permuted_axes_are_brought_into_z_y_x(tmp_path):
    path = tmp_path / "v.mrc"
    stored = volume((3, 4, 5))  # sections y, rows x, columns z
    with mrcfile.new(path, data=stored) as file:
        file.header.mapc, file.header.mapr, file.header.maps = 3, 1, 2
    array, _ = read_volume(path)
    assert array.shape == (5, 3, 4)
    assert array[4, 1, 2] == stored[1, 2, 4]


@pytest.mark.parametrize(("change", "fault"), [(-4, "truncated"), (4, "longer than it should be")])
def test_a_file_of_the_wrong_length_is_refused(tmp_path, change, fault):
    path = tmp_path / "s.mrcs"
    write_volume(path, volume((2, 4, 4)), 1.0)
    raw = path.read_bytes()
    path.write_bytes(raw[:change] if change < 0 else raw + b"\0" * change)
    with pytest.raises(InputError, match=rf"s\.mrcs is {fault}.* 1152 bytes in all.* {1152 + change};"):
        read_header(path)


def test_what_is_no_mrc_is_refused(tmp_path):
    path = tmp_path / "x.mrc"
    path.write_bytes(b"short")
    with pytest.raises(InputError, match="5 bytes long"):
        read_header(path)
    path.write_bytes(struct.pack("<4i", 4, 4, 4, 77) + b"\0" * 2000)
    with pytest.raises(InputError, match="mode 77"):
        read_header(path)
    with pytest.raises(InputError, match=r"absent\.mrc cannot be read"):
        read_header(tmp_path / "absent.mrc")


def test_images_must_be_square(tmp_path):
    write_volume(tmp_path / "s.mrcs", volume((2, 4, 6)), 1.0)
    with pytest.raises(InputError, match="6 x 4 pixels"):
        StackReader(tmp_path / "s.mrcs")


def test_a_reader_travels_to_another_process(tmp_path):
    write_volume(tmp_path / "s.mrcs", volume((3, 4, 4)), 1.0)
    reader = StackReader(tmp_path / "s.mrcs")
    reader.read(np.array([0]))
    sent = pickle.dumps(reader)
    assert len(sent) < 1000  # no image travels
    np.testing.assert_array_equal(pickle.loads(sent).read(np.array([2])), volume((3, 4, 4))[2:])


def test_real_maps(shared):
    array, pixel_size_A = read_volume(shared / "emdb" / "EMD-3197.map")
    assert array.shape == (20, 20, 20)
    assert pixel_size_A == pytest.approx(11.4)
    array, pixel_size_A = read_volume(shared / "emdb" / "EMD-3001.map")  # stored 25 x 43 x 73 as y, x, z
    assert array.shape == (73, 25, 43)
    assert pixel_size_A == pytest.approx(0.44825)
    array, pixel_size_A = read_volume(shared / "maven-10076" / "vol_018.mrc")
    assert array.shape == (64, 64, 64)
    assert pixel_size_A == 6.55
    array, pixel_size_A = read_volume(shared / "simplecryoem" / "pointmass.mrc")
    assert np.argwhere(array).tolist() == [[32, 32, 49]]
    assert np.isnan(pixel_size_A)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of mrcfile, about empty machine stamps
def test_every_real_stack_is_as_described(shared):
    expected = {
        "cryodrgn-tests/relion31.mrcs": (5, 256, 1.0),
        "cryodrgn-tests/toy_projections.mrcs": (1000, 30, 1.0),
        "cryodrgn-tests/hand.mrcs": (100, 64, 1.0),
        "cryodrgn-tests/ay19102021_L3_position6_ribo_it09_bin8_1.82A.mrcs": (220, 64, 1.0),
        "tomodrgn/10076_classD_32_sim.mrcs": (576, 32, 13.1),
        "tomodrgn/10076_classE_32_sim.mrcs": (720, 32, 13.1),
        "warptools-flat/warptools_flat_050_076.mrcs": (720, 32, 12.0),
        "simplecryoem/relion_proj_batch_pfac2.mrcs": (24, 64, 3.54),
        "aspire/sample.mrcs": (17, 200, None),
        "aspire/rln_proj_65.mrcs": (5, 65, None),
    }
    for name, (n, box, pixel_size_A) in expected.items():
        reader = StackReader(shared / name)
        assert (reader.n, reader.box_size_px) == (n, box), name
        if pixel_size_A is None:
            assert np.isnan(reader.header.pixel_size_A[0]), name
        else:
            assert reader.header.pixel_size_A[0] == pixel_size_A, name
        with mrcfile.mmap(shared / name, mode="r", permissive=True) as other:
            np.testing.assert_array_equal(reader.read(np.array([n - 1]))[0], other.data[n - 1])
