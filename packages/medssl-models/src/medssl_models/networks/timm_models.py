"""`timm:NAME`: any network of timm with pretrained weights, through the extra `timm`.

Architecture, preprocessing, licence and addresses come from timm's own configuration. timm's
downloader is not used: its weights are fetched or imported, converted and verified as any others.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from medssl_models.card import DropRule, KeyMap, ModelCard, WeightFile
from medssl_models.errors import MissingExtraError, SettingsError, UnknownModelError, did_you_mean
from medssl_models.networks.tapped import TappedNetwork
from medssl_models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Normalisation, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from medssl_models.card import Padding

__all__ = ["build_timm", "full_name", "timm_card"]


class _Config(Protocol):
    """What we read of timm's `PretrainedCfg`; timm is not typed."""

    architecture: str
    tag: str
    input_size: tuple[int, int, int]
    fixed_input_size: bool
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: Sequence[float]
    std: Sequence[float]
    classifier: str | tuple[str, ...] | None
    license: str | None
    paper_ids: str | list[str] | None
    origin_url: str | None
    url: str | None
    hf_hub_id: str | None
    hf_hub_filename: str | None


_HUB = "https://huggingface.co/{repository}/resolve/main/{file}"


def full_name(name: str, *, pretrained: bool = True) -> str:
    """Complete a name by the tag of timm's default weights, where it has none.

    Args:
        name: Such as `timm:resnet18` or `timm:resnet18.a1_in1k`.
        pretrained: Ask for a network with published weights.

    Raises:
        MissingExtraError: timm is not installed.
        UnknownModelError: timm has no such network, or no weights for it.
    """
    config = _config(name.removeprefix("timm:"), pretrained=pretrained)
    return f"timm:{config.architecture}" + (f".{config.tag}" if config.tag else "")


@cache
def timm_card(name: str, *, pretrained: bool = True) -> ModelCard:
    """Describe a network of timm.

    Args:
        name: Such as `timm:vit_small_patch14_dinov2.lvd142m`; without a tag timm's default weights.
        pretrained: Ask for a network with published weights.

    Raises:
        MissingExtraError: timm is not installed.
        UnknownModelError: timm has no such network, or no weights for it.
        SettingsError: The network does not take square colour images.
    """
    full = full_name(name, pretrained=pretrained)
    config = _config(full.removeprefix("timm:"), pretrained=pretrained)
    channels, height, width = config.input_size
    if channels != 3 or height != width:
        message = f"model: {name} takes images of {config.input_size}, not square colour ones"
        raise SettingsError(message)
    network = _network(full)
    return ModelCard(
        name=full,
        summary=f"{config.architecture} of timm, weights {config.tag or 'of its first version'}",
        architecture=full,
        feature_dim=_feature_dim(network),
        padding=_padding(network),
        published_padding=_padding(network),
        preprocessing=_preprocessing(config),
        weights=(_weight_file(config),) if _addresses(config) else (),
        key_map=_key_map(config),
        licence=config.license or "not stated by timm",
        non_commercial="nc" in re.split(r"[^a-z]+", (config.license or "").lower()),
        citation=", ".join(_listed(config.paper_ids)),
        origin=config.origin_url or f"https://huggingface.co/{config.hf_hub_id}",
    )


def build_timm(card: ModelCard) -> TappedNetwork:
    """Build a network of timm without its head; its weights are random.

    Layers are those that timm lists for feature extraction: stages of a convolutional network
    (maps), blocks of a transformer (tokens). torch's global generator is left as it was.

    Raises:
        MissingExtraError: timm is not installed.
        UnknownModelError: This version of timm does not have the network.
    """
    config = _config(card.architecture.removeprefix("timm:"), pretrained=False)
    network = _network(card.architecture)
    inner = dict(network.named_modules())
    names = [info.get("module", "") for info in getattr(network, "feature_info", ())]
    return TappedNetwork(
        network,
        {name: name for name in names if name in inner},
        feature_dim=_feature_dim(network),
        fixed_side=config.input_size[1] if config.fixed_input_size else None,
        channels_last=getattr(network, "output_fmt", "NCHW") == "NHWC",
    )


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        message = "timm is not installed; run: pip install 'medssl-models[timm]'"
        raise MissingExtraError(message) from error
    module: ModuleType = timm
    return module


def _config(short: str, *, pretrained: bool) -> _Config:
    timm = _timm()
    config: _Config | None = timm.get_pretrained_cfg(short) if timm.is_model(short) else None
    if config is None or (pretrained and not _addresses(config)):
        known = timm.list_models(pretrained=pretrained)
        message = f"model: timm:{short} is unknown{did_you_mean(short, known, close_only=True)}"
        raise UnknownModelError(message)
    return config


def _network(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=()):  # timm draws weights
        network: nn.Module = _timm().create_model(
            name.removeprefix("timm:"), pretrained=False, num_classes=0
        )
    return network


def _padding(network: nn.Module) -> Padding:
    """Tell how strided layers pad; timm's layers that pad as TensorFlow does are called so."""
    same = [module for module in network.modules() if type(module).__name__.endswith("Same")]
    if any(isinstance(module, nn.Conv2d) for module in same):
        return "tf_same"
    return "tf_same_pool" if same else "torchvision"


def _feature_dim(network: nn.Module) -> int:
    """Return the dimension behind the pooling, where some networks have a layer before the head."""
    return int(getattr(network, "head_hidden_size", None) or network.num_features)  # type: ignore[arg-type]


def _preprocessing(config: _Config) -> Preprocessing:
    side = int(config.input_size[1])
    short = int(side / config.crop_pct)
    mean, std = tuple(config.mean), tuple(config.std)
    imagenet = (mean, std) == (IMAGENET_MEAN, IMAGENET_STD)
    return Preprocessing(
        resize=(short, short) if config.crop_mode == "squash" else short,
        crop=side,
        interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
        normalisation=Normalisation(kind="imagenet")
        if imagenet
        else Normalisation(kind="constant", mean=mean, std=std),
    )


def _addresses(config: _Config) -> tuple[str, ...]:
    file = config.hf_hub_filename or "model.safetensors"
    hub = config.hf_hub_id and _HUB.format(repository=config.hf_hub_id, file=file)
    return tuple(url for url in (hub, config.url) if url)


def _weight_file(config: _Config) -> WeightFile:
    filename = f"{config.architecture}.{config.tag}.safetensors"
    return WeightFile(filename=filename, urls=_addresses(config), container="safetensors")


def _key_map(config: _Config) -> KeyMap:
    heads = "|".join(re.escape(name) for name in _listed(config.classifier))
    rules = [DropRule(name="mask token of pretraining", pattern="mask_token")]
    if heads:
        rules.append(DropRule(name="classification head", pattern=rf"(?:{heads})\..*"))
    return KeyMap(drops=tuple(rules))


def _listed(value: str | tuple[str, ...] | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
