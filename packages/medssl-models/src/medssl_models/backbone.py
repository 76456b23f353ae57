"""A backbone: a trunk, its preprocessing and its identity; frozen unless it is to be trained."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from medssl_models.errors import InputRangeError
from medssl_models.hub.library import load_weights, locate
from medssl_models.networks.build import build_network, is_drawn
from medssl_models.networks.controls import initialise
from medssl_models.networks.trunks import TrunkLike, resolve_layers

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from medssl_models.card import ModelCard
    from medssl_models.preprocessing import Preprocessing
    from medssl_models.protocols import ProtocolName

__all__ = ["Backbone", "create_model", "fingerprint_of"]

# Half-precision inputs and normalisation in another order of operations move the ends a little.
SLACK = 0.01


class Backbone(nn.Module):
    """A network without its head, with all that belongs to it.

    Frozen, it stays in eval mode even when an enclosing module is put into training mode: a
    BatchNorm that sees batches of one would drift without notice.

    Args:
        card: What is known about the model.
        trunk: The network, its weights loaded.
        name: How it was asked for, where that is not the card's name.
        trainable: Gradients on and training mode; else gradients off and eval mode for good.

    Attributes:
        preprocessing: The model's own.
        checks_input: Refuse tensors that are not finite or outside the normalised range.

    Example:
        >>> backbone = create_model("random_r18")
        >>> backbone(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 512])
    """

    def __init__(
        self,
        card: ModelCard,
        trunk: nn.Module,
        *,
        name: str | None = None,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.card = card
        self.name = name or card.name
        self.trunk = trunk
        self.preprocessing = card.preprocessing
        self.checks_input = True
        self.trainable = trainable
        self.requires_grad_(trainable).train(trainable)

    @property
    def feature_dim(self) -> int:
        """Dimension of the pooled features."""
        return self.card.feature_dim

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers from the input on; the last is `pooled`."""
        return self._network.layers

    @property
    def fingerprint(self) -> str:
        """SHA-256 over architecture, padding and every tensor; computed anew at each access."""
        return fingerprint_of(self.card, self.trunk)

    def forward(self, x: Tensor) -> Tensor:
        """Compute pooled features.

        Args:
            x: `(N, 3, H, W)` float32, normalised by the model's preprocessing.

        Returns:
            `(N, feature_dim)`.

        Raises:
            InputRangeError: `x` is not finite or outside what the preprocessing can give.
        """
        return self.forward_layers(x, ("pooled",))["pooled"]

    def forward_layers(self, x: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Compute named layers; nothing deeper than the deepest of them runs.

        Args:
            x: As in `forward`.
            layers: Names in `layers`, or `conv1`, `layer1` ... `layer4` for every architecture.

        Returns:
            Outputs by the names that were asked for: maps `(N, C, h, w)`, `pooled` `(N, D)`.

        Raises:
            LayerError: A name is not a layer of this network.
            InputRangeError: As in `forward`.
        """
        asked = resolve_layers(self._network, layers)
        if self.checks_input and not torch.compiler.is_compiling():
            self._check(x)
        taps = self._network.run(x, asked.values())
        return {name: taps[layer] for name, layer in asked.items()}

    def train(self, mode: bool = True) -> Backbone:  # noqa: FBT001, FBT002 # nn.Module's signature
        """Switch training mode; a frozen backbone stays in eval mode."""
        super().train(mode and self.trainable)
        return self

    def preprocessing_for(
        self,
        protocol: ProtocolName,
        *,
        resize: int | tuple[int, int] | None = None,
        crop: int | None = None,
        interpolation: Literal["bilinear", "bicubic"] | None = None,
    ) -> Preprocessing:
        """Return the preprocessing of a protocol.

        Args:
            protocol: `corrected` is the model's own; `published` takes the normalisation that
                the 2022 study fed to this model.
            resize: The experiment's geometry, where it sets one.
            crop: The same.
            interpolation: The same.
        """
        geometry = {"resize": resize, "crop": crop, "interpolation": interpolation}
        changes: dict[str, object] = {k: v for k, v in geometry.items() if v is not None}
        if protocol == "published" and self.card.published_preprocessing is not None:
            changes["normalisation"] = self.card.published_preprocessing
        return self.preprocessing.replace(**changes) if changes else self.preprocessing

    def __repr__(self) -> str:
        state = "trainable" if self.trainable else "frozen"
        facts = f"feature_dim={self.feature_dim}, padding={self.card.padding}, {state}"
        return f"Backbone({self.name}, {facts})"

    @property
    def _network(self) -> TrunkLike:
        return self.trunk  # type: ignore[return-value]  # nn.Module hides the protocol

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            message = f"x: expected floating (N, 3, H, W), got {x.dtype} {tuple(x.shape)}"
            raise InputRangeError(message)
        if not x.numel():
            return
        # Under `published` another normalisation is fed on purpose.
        ranges = [self.preprocessing_for(p).normalised_range for p in ("corrected", "published")]
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        slack = SLACK * (high - low)
        smallest, largest = (float(value) for value in torch.aminmax(x.detach()))
        if not (low - slack <= smallest and largest <= high + slack):
            message = (
                f"x: values from {smallest:.4g} to {largest:.4g} are not finite or outside "
                f"[{low:.4g}, {high:.4g}], which {self.name} expects; "
                "apply backbone.preprocessing, or set backbone.checks_input = False"
            )
            raise InputRangeError(message)


def create_model(
    name: str,
    *,
    trainable: bool = False,
    protocol: ProtocolName = "corrected",
    library: Path | None = None,
) -> Backbone:
    """Create a backbone by name.

    Args:
        name: As for `catalog.resolve`: `moco-v2`, `byol:torchvision`, `timm:NAME`, `random_r50`,
            `random:timm:NAME`, or the path of a converted folder, `./NAME`.
        trainable: Gradients and training mode on; otherwise both are off.
        protocol: `published` takes the padding that the 2022 study used where `name` chooses none.
        library: Folder of models instead of `home() / "models"`.

    Returns:
        The model with its weights, on the CPU.

    Raises:
        UnknownModelError: No such name; close matches are listed.
        SettingsError: The network has no choice of paddings.
        MissingWeightsError: The weights are not here; says where they are and how to import them.
        CheckpointError: The weights that are here are damaged or of another model.

    Example:
        >>> create_model("random_r18").feature_dim
        512
    """
    model = locate(name, protocol=protocol, library=library)
    trunk = build_network(model.card)
    if model.folder is not None:
        load_weights(trunk, model.folder)
    elif is_drawn(model.card):
        initialise(trunk, seed=model.card.seed or 0)
    return Backbone(model.card, trunk, name=model.name, trainable=trainable)


def fingerprint_of(card: ModelCard, trunk: nn.Module) -> str:
    """Hash architecture, padding and the sorted tensors: names, dtypes, shapes, bytes."""
    digest = hashlib.sha256(json.dumps([card.architecture, card.padding]).encode())
    for name, tensor in sorted(trunk.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
