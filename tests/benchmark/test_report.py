import json

from drgn.benchmark import report

SAMPLES = {
    "drgn.train_images_per_s": [10.0, 30.0, 20.0],
    "cryodrgn.train_images_per_s": [5.0, 5.0, 4.0],
    "drgn.encode_s": [1.0, 2.0, 1.0],
    "cryodrgn.encode_s": [4.0, 4.0, 6.0],
    "drgn.memory_GiB": [1.0, 1.0, 1.0],
    "cryodrgn.memory_GiB": [2.0, 2.0, 2.0],
    "drgn_fp32.train_images_per_s": [5.0, 6.0, 4.0],
}


def test_medians_spreads_and_ratios_of_pairs():
    found = report.summary("a", SAMPLES)
    assert found["a.drgn.train_images_per_s"] == 20
    assert found["a.drgn.train_images_per_s.spread"] == 10
    assert found["a.ratio.train_images_per_s.drgn"] == 5  # of 2, 6 and 5
    assert found["a.ratio.encode_s.drgn"] == 4  # of 4, 2 and 6: less time is more
    assert found["a.ratio.train_images_per_s.drgn_fp32"] == 1
    assert not any("ratio.memory" in name for name in found)


def test_without_the_other_program_there_are_no_ratios():
    alone = {name: values for name, values in SAMPLES.items() if "cryodrgn" not in name}
    assert not any("ratio" in name for name in report.summary("a", alone))


def test_a_report_keeps_the_cases_that_are_there(tmp_path):
    report.write(tmp_path, report.summary("a", SAMPLES), ["One."])
    report.write(tmp_path, {"b.drgn.train_images_per_s": 7.0}, ["Two."])
    report.write(tmp_path, {"b.drgn.train_images_per_s": 8.0}, ["Three."])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["a.drgn.train_images_per_s"] == 20
    assert results["b.drgn.train_images_per_s"] == 8
    text = (tmp_path / "report.md").read_text()
    assert "Three." in text
    assert "| train_images_per_s | 5 ± 0.5 | 20 ± 10 (**5.00x**) | 5 ± 1 (**1.00x**) |" in text
    assert (tmp_path / "speed.png").stat().st_size > 1000
