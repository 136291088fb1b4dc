"""The decoder of a cryoDRGN run, from its weights: P2 and P3 with random Gaussian frequencies."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from drgn.errors import InputError
from drgn.physics import fourier


class ForeignDecoder:
    """Maps of a network that cryoDRGN trained, as its eval_vol makes them.

    A frequency k (cycles per pixel) is encoded as the sines and cosines of its products with learnt random
    frequencies times D / 2, and the latent appended; layers with residual connections give real and imaginary
    part. The half space z > 0 (then y > 0, then x > 0) is read at -k and conjugated. Real minus imaginary
    part is the Hartley transform of the map.

    Parameters
    ----------
    weights
        `model_state_dict` of weights.pkl.
    config
        config.yaml of the run.

    Raises
    ------
    InputError
        The network is of another kind, or its weights are not those that the config tells of.
    """

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        model = config["model_args"]
        expected = {"pe_type": "gaussian", "activation": "relu", "domain": "fourier"}
        for name, value in expected.items():
            if model.get(name) != value:
                raise InputError(f"a network with {name}={model.get(name)}, where only {value} is known here")
        side, players, norm = config["lattice_args"]["D"], model["players"], config["dataset_args"]["norm"]
        if not (type(side) is int and 3 <= side <= 4097 and type(players) is int and 0 <= players <= 100):
            raise InputError(f"a network of {players} layers for boxes of {side}, which no run has")
        if type(model["zdim"] or 0) is not int:
            raise InputError(f"a network with zdim={model['zdim']}, where a whole number is expected")
        self.box_size = side - 1
        self.zdim = int(model["zdim"] or 0)
        self._mean, self._scale = float(norm[0]), float(norm[1])
        layers = [f"decoder.decoder.main.{2 * i}" for i in range(players + 2)]
        names = [layers[0], *(f"{name}.linear" for name in layers[1:-1]), layers[-1]]
        try:
            self._frequencies = weights["decoder.rand_freqs"].float() * (self.box_size / 2)
            self._layers = [(weights[f"{n}.weight"].float(), weights[f"{n}.bias"].float()) for n in names]
        except KeyError as error:
            raise InputError(f"the weights have no {error.args[0]}, which config.yaml tells of") from None
        wide = 2 * len(self._frequencies) + self.zdim
        if self._layers[0][0].shape[1] != wide:
            raise InputError(f"the first layer takes {self._layers[0][0].shape[1]} numbers, expected {wide}")

    @torch.no_grad()
    def volume(self, z: Tensor, box_size: int | None = None) -> Tensor:
        """Map (D, D, D) at a latent (Z,); a smaller D leaves out frequencies beyond its own."""
        side = box_size or self.box_size
        axis = (torch.arange(side) - side // 2) / self.box_size
        place_z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        at = torch.stack([x, y, place_z], dim=-1).reshape(-1, 3)
        within = at.norm(dim=1) <= side / self.box_size / 2
        values = torch.zeros(side**3)
        values[within] = torch.cat([self._decoded(part, z) for part in at[within].split(1 << 16)])
        density = fourier.hartley(values.reshape(side, side, side), 3) / self.box_size**3
        return density * self._scale + self._mean

    def _decoded(self, at: Tensor, z: Tensor) -> Tensor:
        x, y, place_z = at.unbind(1)
        mate = (place_z > 0) | ((place_z == 0) & ((y > 0) | ((y == 0) & (x > 0))))
        phase = torch.where(mate[:, None], -at, at) @ self._frequencies.T
        values = torch.cat([phase.sin(), phase.cos(), z.expand(len(at), -1)], dim=1)
        for number, (weight, bias) in enumerate(self._layers[:-1]):
            values = torch.relu(values @ weight.T + bias + (values if number else 0.0))
        real, imaginary = (values @ self._layers[-1][0].T + self._layers[-1][1]).unbind(1)
        return real - torch.where(mate, -imaginary, imaginary)  # the Hartley transform
