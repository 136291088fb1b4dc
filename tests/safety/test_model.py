"""Files of strangers are opened in one place."""

import ast
from pathlib import Path

import drgn

ONE_PLACE = {
    "torch.load": {"training/run_files.py"},
    "yaml.load": set(),
    "yaml.safe_load": set(),
    "np.load": set(),
    "pickle.load": set(),
    "pickle.loads": set(),
    "zipfile.ZipFile": {
        "formats/npz.py",
        "formats/seal.py",
        "formats/torch_file.py",
        "training/run_files.py",
    },
}


def test_files_of_strangers_are_opened_in_one_place():
    root = Path(drgn.__file__).parent
    found: dict[str, set[str]] = {name: set() for name in ONE_PLACE}
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            writes = name == "zipfile.ZipFile" and [ast.unparse(a) for a in node.args[1:2]] == ["'w'"]
            if name in found and not writes:
                found[name].add(path.relative_to(root).as_posix())
    assert found == ONE_PLACE
