"""Any network that gives pooled features, as a trunk: its inner modules become named layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from medssl_models.errors import InputRangeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["TappedNetwork"]

_INNER = "network."


class TappedNetwork(nn.Module):
    """A network whose inner modules can be read, and whose state dict keeps its own names.

    Args:
        network: Returns `(N, D)` pooled features for `(N, 3, H, W)` images.
        paths: Layer name to the path of the module that ends it, from the input on. What the
            module gives is the layer's output as it is: maps `(N, C, h, w)` of a convolutional
            network, tokens `(N, T, C)` of a transformer.
        feature_dim: D.
        fixed_side: The only side of images that the network takes; None where any will do.
        channels_last: Its modules give maps as `(N, h, w, C)`; they are turned round.

    Attributes:
        layers: The names in `paths`, then `pooled`.

    Example:
        >>> body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> TappedNetwork(body, {"stem": "0"}, feature_dim=8).layers
        ('stem', 'pooled')
    """

    def __init__(
        self,
        network: nn.Module,
        paths: Mapping[str, str],
        *,
        feature_dim: int,
        fixed_side: int | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.paths = dict(paths)
        self.layers = (*self.paths, "pooled")
        self.layer_aliases: dict[str, str] = {}
        self.feature_dim = feature_dim
        self.fixed_side = fixed_side
        self.channels_last = channels_last
        self.register_state_dict_post_hook(_shorten)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_lengthen)  # type: ignore[no-untyped-call]

    def run(self, x: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Compute some layers; the network stops behind the deepest of them.

        Args:
            x: `(N, 3, H, W)` floating.
            layers: Names out of `layers`.

        Raises:
            InputRangeError: The images do not have the side that the network needs.
        """
        self._check_side(x)
        wanted = set(layers)
        taps: dict[str, Tensor] = {}
        inner = wanted - {"pooled"}
        handles = [
            self.network.get_submodule(self.paths[name]).register_forward_hook(
                _Tap(name, taps, None if "pooled" in wanted else inner)
            )
            for name in inner
        ]
        try:
            pooled = self.network(x)
        except _AllTapped:
            return self._turned(taps)
        finally:
            for handle in handles:
                handle.remove()
        return self._turned(taps) | ({"pooled": pooled} if "pooled" in wanted else {})

    def forward(self, x: Tensor) -> Tensor:
        """Compute the pooled features, `(N, D)`."""
        return self.run(x, ("pooled",))["pooled"]

    def _turned(self, taps: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.channels_last:
            return taps
        return {name: t.permute(0, 3, 1, 2) if t.ndim == 4 else t for name, t in taps.items()}

    def _check_side(self, x: Tensor) -> None:
        side = self.fixed_side
        if side is not None and x.shape[-2:] != (side, side):
            message = (
                f"x: images of {x.shape[-2]} x {x.shape[-1]} pixels, this network takes only "
                f"{side} x {side}; use its own preprocessing"
            )
            raise InputRangeError(message)


class _AllTapped(Exception):  # noqa: N818 # no error: the rest of the network is not needed
    """Ends a forward pass once every layer that is wanted has been seen."""


class _Tap:
    """A forward hook that keeps a layer's output, and stops when all in `until` are kept."""

    def __init__(self, name: str, taps: dict[str, Tensor], until: set[str] | None) -> None:
        self.name, self.taps, self.until = name, taps, until

    def __call__(self, _: nn.Module, __: object, output: Tensor) -> None:
        self.taps[self.name] = output.clone()  # what follows may work in place
        if self.until is not None and self.until <= self.taps.keys():
            raise _AllTapped


def _shorten(_: nn.Module, state: dict[str, Tensor], prefix: str, __: object) -> None:
    """Name tensors in a state dict as the network itself does, so that its own files fit."""
    for name in _under(state, prefix + _INNER):
        state[prefix + name.removeprefix(prefix + _INNER)] = state.pop(name)


def _lengthen(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: object) -> None:
    for name in _under(state, prefix):
        state[prefix + _INNER + name.removeprefix(prefix)] = state.pop(name)


def _under(state: Mapping[str, Tensor], prefix: str) -> Iterator[str]:
    return iter([name for name in state if name.startswith(prefix)])
