from types import SimpleNamespace

import mrcfile
import numpy as np

from drgn.analysis.volumes import VolumeFiles, write_volumes


def run(zdim=2):
    def volumes(z, device):
        for point in z:
            yield np.full((8, 8, 8), point.sum(), np.float32)

    return SimpleNamespace(name="2026-01-31_12-00-00", pixel_size_A=2.5, volumes=volumes)


def test_volumes_have_names_pixel_size_and_label(tmp_path):
    z = np.array([[1, 2], [3, 4.5]], np.float32)
    written = write_volumes(run(), z, tmp_path / "new" / "folder")
    assert [path.name for path in written.paths] == ["vol_000.mrc", "vol_001.mrc"]
    with mrcfile.open(written.paths[1]) as file:
        assert float(file.voxel_size.x) == 2.5
        assert file.data[0, 0, 0] == 7.5
        assert "2026-01-31_12-00-00 z=3 4.5" in file.get_labels()[0]
    np.testing.assert_array_equal(np.loadtxt(written.paths[0].parent / "z_values.txt"), z)


def test_a_shorter_series_leaves_nothing_of_a_longer_one(tmp_path):
    (tmp_path / "vol_mine.mrc").write_text("not ours")
    write_volumes(run(), np.zeros((4, 2), np.float32), tmp_path)
    write_volumes(run(), np.ones((2, 2), np.float32), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "vol_000.mrc", "vol_001.mrc", "vol_mine.mrc", "z_values.txt",
    ]  # fmt: skip


def test_a_run_without_a_latent(tmp_path):
    written = write_volumes(run(), np.zeros((1, 0), np.float32), tmp_path)
    assert len(written) == 1
    with mrcfile.open(written.paths[0]) as file:
        assert "z=" not in file.get_labels()[0]


def test_volume_files_are_a_sequence(tmp_path):
    z = np.arange(6, dtype=np.float32).reshape(3, 2)
    files = write_volumes(run(), z, tmp_path)
    assert [volume[0, 0, 0] for volume in files] == [1, 5, 9]
    assert isinstance(files[1:], VolumeFiles)
    assert files[1:][0][0, 0, 0] == 5
