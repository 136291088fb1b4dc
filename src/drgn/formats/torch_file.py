"""What is in a file of torch.save, without loading it.

Since torch 1.6 such a file is a zip archive: a pickle that names the tensors, and the numbers of each tensor
as an entry of its own. The names are read from the opcodes of the pickle, of which none is carried out.
"""

import os
import pickletools
import re
import zipfile
from dataclasses import dataclass

from drgn.errors import InputError

_LARGEST_PICKLE = 1 << 26  # bytes; that of a model of 1024x3 has some thousand
_NAME = re.compile(r"(?!torch\.|collections\.)[A-Za-z_]\w*(\.\w+)*\.(weight|bias)")


@dataclass(frozen=True)
class TorchFile:
    """Contents of a file of torch.save.

    Attributes
    ----------
    names : of the layers' weights and biases, in order, each once
    bytes : of all tensors, an optimizer's included
    """

    names: tuple[str, ...]
    bytes: int

    @property
    def parts(self) -> tuple[str, ...]:
        """The first words of the names ("encoder", "decoder"), each once."""
        return tuple(dict.fromkeys(name.removeprefix("module.").partition(".")[0] for name in self.names))


def look_into(path: str | os.PathLike[str]) -> TorchFile:
    """Return what a file of torch.save holds.

    Raises
    ------
    InputError
        When it is not such a file, or one of torch before 1.6.
    """
    name = os.fspath(path)
    try:
        with zipfile.ZipFile(name) as archive:
            entries = archive.infolist()
            pickle = next(entry for entry in entries if entry.filename.endswith("/data.pkl"))
            if pickle.file_size > _LARGEST_PICKLE:
                raise ValueError("its pickle is too large")
            texts = [argument for _, argument, _ in pickletools.genops(archive.read(pickle))]
    except Exception as error:  # a damaged archive or pickle can raise nearly anything
        raise InputError(
            f"{name} is not a file of weights that torch 1.6 or later wrote ({error})."
        ) from error
    names = dict.fromkeys(text for text in texts if isinstance(text, str) and _NAME.fullmatch(text))
    return TorchFile(tuple(names), sum(e.file_size for e in entries if "/data/" in e.filename))
