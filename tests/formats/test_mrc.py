import bz2
import gzip
import struct
import warnings

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn.errors import InputError
from drgn.formats.mrc import StackReader, StackWriter, read_cubic, read_volume, write_volume
from drgn.formats.mrc_header import PADDING_BYTES, read_header


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


@pytest.mark.parametrize(
    ("change", "fault", "whole"),
    [(-4, "truncated", 1), (-128, "truncated", 0), (4, "longer than it should be", 2), (64, "longer", 3)],
)
def test_a_file_of_the_wrong_length_is_refused(tmp_path, change, fault, whole):
    path = tmp_path / "s.mrcs"
    write_volume(path, volume((2, 4, 4)), 1.0)
    raw = path.read_bytes()
    path.write_bytes(raw[:change] if change < 0 else raw + b"\1" * change)
    sentence = rf"s\.mrcs is {fault}.* 1152 bytes in all.* {1152 + change}; these are {whole} whole sections"
    with pytest.raises(InputError, match=sentence):
        read_header(path)


def test_zeros_at_the_end_are_padding(tmp_path):
    path = tmp_path / "s.mrcs"
    write_volume(path, volume((2, 4, 4)), 1.0)
    raw = path.read_bytes()
    path.write_bytes(raw + b"\0" * PADDING_BYTES)
    np.testing.assert_array_equal(read_volume(path)[0], volume((2, 4, 4)))
    np.testing.assert_array_equal(StackReader(path).read(np.arange(2)), volume((2, 4, 4)))
    path.write_bytes(raw + b"\0" * (PADDING_BYTES + 1))
    with pytest.raises(InputError, match="longer than it should be"):
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


def write_raw(path, shape, mode, data, **fields):
    """Write a little-endian file field by field; `fields` are byte offsets -> (struct format, values)."""
    raw = bytearray(1024)
    struct.pack_into("<4i", raw, 0, *reversed(shape), mode)
    raw[212:216] = b"DD\0\0"
    for offset, (form, *values) in fields.items():
        struct.pack_into("<" + form, raw, int(offset.removeprefix("at")), *values)
    path.write_bytes(bytes(raw) + bytes(data))
    return path


@pytest.mark.parametrize(("flags", "expected"), [(0, [200, 1]), (1, [-56, 1]), (2, [200, 1]), (5, [-56, 1])])
def test_bytes_are_signed_unless_imod_says_otherwise(tmp_path, flags, expected):
    path = write_raw(tmp_path / "v.mrc", (1, 1, 2), 0, [200, 1], at152=("2i", 1146047817, flags))
    assert read_volume(path)[0].ravel().tolist() == expected
    path = write_raw(tmp_path / "v.mrc", (1, 1, 2), 0, [200, 1], at152=("2i", 0, flags))
    assert read_volume(path)[0].ravel().tolist() == [-56, 1]


def test_values_of_four_bits(tmp_path):
    rows = [0x21, 0x43, 0x05, 0x87, 0xA9, 0x0B, 0xDC, 0xFE, 0x00]  # 3 rows of 5, each from a new byte
    path = write_raw(tmp_path / "s.mrc", (1, 3, 5), 101, rows)
    expected = [[1, 2, 3, 4, 5], [7, 8, 9, 10, 11], [12, 13, 14, 15, 0]]
    assert read_volume(path)[0][0].tolist() == expected
    path = write_raw(tmp_path / "s.mrcs", (3, 2, 2), 101, [0x21, 0x43, 0x65, 0x87, 0xA9, 0xCB])
    assert StackReader(path).read(np.array([2, 0])).tolist() == [[[9, 10], [11, 12]], [[1, 2], [3, 4]]]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"3 x 2 x 2 values of half a byte, 1030 bytes .* these are 2 whole"):
        StackReader(path)


@pytest.mark.parametrize(("mode", "size"), [(3, 4), (4, 8)])
def test_transforms_are_refused(tmp_path, mode, size):
    path = write_raw(tmp_path / "f.mrc", (2, 2, 2), mode, bytes(8 * size))
    with pytest.raises(InputError, match=rf"f\.mrc holds complex numbers \(mode {mode}"):
        read_volume(path)


def test_the_length_decides_where_both_byte_orders_make_sense(tmp_path):
    path = tmp_path / "v.mrc"
    raw = bytearray(1024)
    struct.pack_into(">4i", raw, 0, 1, 256, 256, 0)  # in the other order 2^24 x 65536 x 65536 or less
    struct.pack_into(">i", raw, 0, 256)
    values = np.arange(256**2 * 256, dtype=np.uint32).astype(np.int8)
    path.write_bytes(bytes(raw) + values.tobytes())
    assert read_header(path).shape == (256, 256, 256)


def test_a_header_that_says_nothing_of_the_pixel_size(tmp_path):
    def pixel_A(m, cell_A):
        path = write_raw(tmp_path / "v.mrc", (1, 1, 1), 0, [1], at28=("3i3f", *m, *cell_A))
        return read_header(path).pixel_size_A

    assert pixel_A((2, 4, 5), (3, 3, 3)) == (1.5, 0.75, 0.6)
    for m, cell_A in [((0, 0, 0), (64, 64, 64)), ((-1, -1, -1), (1, 1, 1)), ((1, 1, 1), (0, -1, np.nan))]:
        assert np.isnan(pixel_A(m, cell_A)).all()
    assert np.isnan(pixel_A((1, 1, 1), (np.inf, 1, 1))[0])


def test_where_the_first_voxel_is(tmp_path):
    geometry = {"at28": ("3i3f", 3, 4, 5, 6.0, 6.0, 6.0), "at64": ("3i", 3, 1, 2)}  # columns z, rows x
    path = write_raw(tmp_path / "v.mrc", (1, 1, 1), 0, [1], **geometry, at16=("3i", 10, 20, 30))
    assert read_header(path).origin_A == pytest.approx((40, 45, 12))  # x, y, z: 20 * 2, 30 * 1.5, 10 * 1.2
    path = write_raw(tmp_path / "v.mrc", (1, 1, 1), 0, [1], **geometry, at196=("3f", 7, 8, 9))
    assert read_header(path).origin_A == (7, 8, 9)
    path = write_raw(tmp_path / "v.mrc", (1, 1, 1), 0, [1], **geometry, at196=("3f", np.nan, 8, 9))
    assert read_header(path).origin_A == (0, 0, 0)


def test_axes_that_are_none_are_refused(tmp_path):
    path = write_raw(tmp_path / "v.mrc", (1, 1, 1), 0, [1], at64=("3i", 1, 2, 7))
    with pytest.raises(InputError, match=r"its axes are \(1, 2, 7\)"):
        read_volume(path)


def test_a_file_of_volumes_is_refused(tmp_path):
    with mrcfile.new(tmp_path / "v.mrc", data=np.zeros((3, 4, 4, 4), dtype=np.float32)) as file:
        assert file.header.ispg == 401
    with pytest.raises(InputError, match="holds 3 volumes"):
        read_volume(tmp_path / "v.mrc")
    with mrcfile.new(tmp_path / "one.mrc", data=volume((1, 4, 4, 4))):
        pass
    np.testing.assert_array_equal(read_volume(tmp_path / "one.mrc")[0], volume((1, 4, 4, 4))[0])


@pytest.mark.parametrize(("suffix", "module"), [("gz", gzip), ("bz2", bz2)])
def test_a_compressed_map(tmp_path, suffix, module):
    write_volume(tmp_path / "v.mrc", volume(), 2.0)
    raw = (tmp_path / "v.mrc").read_bytes()
    path = tmp_path / f"v.map.{suffix}"
    path.write_bytes(module.compress(raw))
    array, pixel_size_A = read_volume(path)
    np.testing.assert_array_equal(array, volume())
    assert (pixel_size_A, array.flags.writeable) == (2.0, True)
    with pytest.raises(InputError, match="is compressed, and only a single map may be"):
        StackReader(path)
    path.write_bytes(module.compress(raw)[:-20])
    with pytest.raises(InputError, match="cannot be unpacked"):
        read_volume(path)
    path.write_bytes(module.compress(raw[:-20]))
    with pytest.raises(InputError, match="is truncated"):
        read_volume(path)
    path.write_bytes(module.compress(raw + bytes(1 << 25)))  # more than is read
    with pytest.raises(InputError, match=f"longer than it should be.* but the file has {len(raw) + 65537}"):
        read_volume(path)


@pytest.mark.parametrize("shape", [(4, 5, 6), (7, 7, 2), (3, 8, 8), (5, 5, 5)])
def test_a_map_is_padded_to_a_cube_about_its_middle(tmp_path, shape):
    write_volume(tmp_path / "v.mrc", np.ones(shape, dtype=np.float32), 1.5, origin_A=(10.0, 20.0, 30.0))
    with mrcfile.open(tmp_path / "v.mrc", mode="r+") as file:
        middle = tuple(n // 2 for n in shape)
        file.data[middle] = 9
        inside = [slice(1, -1)] * 3
        file.data[tuple(inside)] += 1  # not on the faces
        faces = np.concatenate(
            [np.take(file.data, end, axis).ravel() for axis in range(3) for end in (0, -1)]
        )
    cube, pixel_size_A, origin_A = read_cubic(tmp_path / "v.mrc")
    side = max(shape)
    assert (cube.shape, pixel_size_A) == ((side,) * 3, 1.5)
    assert np.unravel_index(cube.argmax(), cube.shape) == (side // 2,) * 3
    start = [side // 2 - m for m in middle]
    assert origin_A == (10 - 1.5 * start[2], 20 - 1.5 * start[1], 30 - 1.5 * start[0])
    window = tuple(slice(b, b + n) for b, n in zip(start, shape, strict=True))
    np.testing.assert_array_equal(cube[window], read_volume(tmp_path / "v.mrc")[0])
    outside = np.ones(cube.shape, dtype=bool)
    outside[window] = False
    np.testing.assert_allclose(cube[outside], faces.mean(), rtol=1e-6)


def test_what_is_no_cube_is_refused(tmp_path, shared):
    path = tmp_path / "v.mrc"
    write_volume(path, volume((2, 17, 2)), 1.0)
    with pytest.raises(InputError, match=r"2 x 17 x 2 voxels, one side more than eight times"):
        read_cubic(path)
    with pytest.raises(InputError, match=r"EMD-3001\.map has voxels of 0\.44825 x 0\.3925 x 0\.45875 A"):
        read_cubic(shared / "emdb" / "EMD-3001.map")
    write_volume(path, volume((2, 3, 2)), 1.0)
    with mrcfile.open(path, mode="r+") as file:
        file.header.cellb.beta = 94
    with pytest.raises(InputError, match=r"angles \(90\.0, 94\.0, 90\.0\)"):
        read_cubic(path)
    write_volume(path, volume((2, 3, 2)), np.nan, origin_A=(1, 2, 3))
    cube, pixel_size_A, origin_A = read_cubic(path)
    assert cube.shape == (3, 3, 3)
    assert np.isnan(pixel_size_A)
    assert origin_A == (1, 2, 3)


def test_a_stack_of_more_than_two_gibibytes(tmp_path):
    path = tmp_path / "s.mrcs"
    write_raw(path, (2100, 1024, 1024), 0, b"")
    with open(path, "r+b") as file:  # the disk holds only what is written
        file.truncate(1024 + 2100 * 1024**2)
        file.seek(-1, 2)
        file.write(b"\x07")
    image = StackReader(path).read(np.array([2099]))
    assert (image[0, -1, -1], image.sum()) == (7, 7)
    path.unlink()


EDITS = st.lists(st.tuples(st.integers(0, 260), st.integers(0, 255)), max_size=6)
WORDS = st.sampled_from([0, 1, 2, 3, 4, 6, 12, 101, -1, 2**31 - 1, -(2**31), 1 << 24, 0x7FC00000, 16, 401])


@given(
    edits=EDITS, words=st.lists(st.tuples(st.integers(0, 55), WORDS), max_size=4), extra=st.integers(-9, 9)
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_damaged_header_gives_a_sentence_or_what_an_independent_reader_gives(
    tmp_path_factory, edits, words, extra
):
    path = tmp_path_factory.getbasetemp() / "damaged.mrc"
    write_volume(path, volume((4, 4, 4)), 1.5)
    raw = bytearray(path.read_bytes())
    for place, value in words:
        struct.pack_into("<i", raw, 4 * place, value)
    for place, value in edits:
        raw[place] = value
    raw = raw + bytes(extra) if extra >= 0 else raw[:extra]
    path.write_bytes(raw)
    for read in (read_volume, read_cubic, lambda path: [StackReader(path).read(np.arange(1))]):
        try:
            result = read(path)[0]
        except InputError as error:
            assert "damaged.mrc" in str(error)  # noqa: PT017
            continue
        assert result.dtype == np.float32
        if read is read_volume:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with mrcfile.open(path, permissive=True) as other:
                    if other.data is not None and other.header.mode != 0:
                        assert sorted(result.ravel()) == sorted(other.data.ravel().astype(np.float32))
                    header = other.header
                    if header.mx > 0 and np.isfinite(header.cella.x) and header.cella.x > 0:
                        pixel_size_A = float(f"{float(header.cella.x) / int(header.mx):.7g}")
                        assert read(path)[1] == pixel_size_A


@given(
    content=st.binary(max_size=2000), start=st.sampled_from([b"", b"\x1f\x8b\x08", b"BZh9", b"\1\0\0\0" * 3])
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_random_bytes_give_a_sentence(tmp_path_factory, content, start):
    path = tmp_path_factory.getbasetemp() / "random.mrc"
    path.write_bytes(start + content)
    with pytest.raises(InputError, match=r"random\.mrc"):
        read_volume(path)


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
