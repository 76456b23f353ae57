"""What is known about a model before it is loaded: frozen records, read from TOML.

Nothing here touches a weights file or imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medssl_models.preprocessing import Normalisation, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "Container",
    "DropRule",
    "FrozenRecord",
    "KeyMap",
    "ModelCard",
    "Padding",
    "Rename",
    "Scheme",
    "WeightFile",
]

Container = Literal["torch", "safetensors", "haiku_pickle", "tf_bundle"]
Padding = Literal["torchvision", "tf_same", "tf_same_pool"]
Scheme = Literal["torchvision", "haiku_resnet", "tf_resnet"]
# Namespaces, such as timm: and random:timm:, may stand in front.
Name = Annotated[str, Field(pattern=r"^([a-z]+:)*[A-Za-z0-9][A-Za-z0-9._-]*$")]
# What fields were called in version 0.1, whose converted folders and plug-ins are still read.
_FORMER = {
    "study_padding": "published_padding",
    "study_preprocessing": "published_preprocessing",
}


class FrozenRecord(BaseModel):
    """A record that cannot be changed and has no other fields than its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _compiled(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        message = f"not a regular expression: {pattern!r} ({error})"
        raise ValueError(message) from error
    return pattern


class WeightFile(FrozenRecord):
    """One published file of weights and the addresses that serve it.

    Args:
        filename: Name under which the file is kept.
        urls: Addresses in the order in which they are tried; may need a browser.
        container: How the bytes are laid out; decided by content when the file is read.
        sha256: Hash of the file where it is known.
        sha256_start: Its first digits, where only they are known: torchvision's names end in them.
        size: Bytes of the file where they are known.
    """

    filename: str
    urls: tuple[str, ...] = Field(min_length=1)
    container: Container
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    sha256_start: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")
    size: int | None = Field(default=None, ge=1)

    @property
    def hash_start(self) -> str:
        """What is known of the file's SHA-256, from its first digit on; empty if nothing is."""
        return self.sha256 or self.sha256_start or ""


class DropRule(FrozenRecord):
    """Source tensors that are left out.

    Args:
        name: What they are, such as `projection head`.
        pattern: A regular expression that must match the whole name.
    """

    name: str
    pattern: str

    _check = field_validator("pattern")(_compiled)


class Rename(FrozenRecord):
    """A change of names.

    Args:
        pattern: A regular expression over names without prefix.
        replacement: What takes the place of each match.
    """

    pattern: str
    replacement: str

    _check = field_validator("pattern")(_compiled)


class KeyMap(FrozenRecord):
    r"""From the names in the source file to torchvision's.

    A source tensor is used when its name begins with `prefix` (then the prefix goes and the
    renames apply in order), or dropped by the first rule that matches its whole source name.
    Anything else is an error. Drop rules are asked before the prefix.

    Args:
        top_level: Entry of the file that holds the tensors; empty for a flat state dict.
        prefix: What is stripped from the names of the tensors that are used.
        drops: Rules for tensors that are not used.
        renames: Regular expressions for old names such as `denselayer1.norm.1`.
        scheme: How the source framework names layers and lays out tensors (`key_maps.SCHEMES`).
    """

    top_level: str = ""
    prefix: str = ""
    drops: tuple[DropRule, ...] = ()
    renames: tuple[Rename, ...] = ()
    scheme: Scheme = "torchvision"


class ModelCard(FrozenRecord):
    """All that is known about a model before it is loaded.

    Args:
        name: Canonical name, as it is typed and as records bear it.
        summary: One sentence for people.
        architecture: Name in `architectures.ARCHITECTURES`, `timm:NAME`, or a plug-in's own.
        width: Channels of the first layer, 64 in every published network.
        feature_dim: Dimension of the pooled features.
        padding: Of strided layers, as the source network pads.
        published_padding: Padding that the 2022 study used.
        preprocessing: The model's own, from its source.
        published_preprocessing: Normalisation that the 2022 study fed where it differs.
        weights: Files that hold the weights, all of them needed; none where the network is made
            with its weights, from a seed or by a plug-in.
        key_map: From the names in those files to ours.
        licence: Of the weights, in words.
        licence_source: Address at which the licence is stated.
        non_commercial: The licence forbids commercial use, so it must be accepted to fetch.
        citation: Paper, with its identifier.
        origin: Address of the project that published the model.
        aliases: Other names that mean this model.
        pretraining: Names of the data sets it was trained on.
        imagenet_top1: Accuracy of exactly these weights on ImageNet's validation part, in percent,
            where whoever published them states it.
        control: Made from `seed` instead of read from a file.
        seed: Of the weights of a control.
        notes: What a user should know.
    """

    name: Name
    summary: str
    architecture: str
    width: int = Field(default=64, ge=1)
    feature_dim: int = Field(ge=1)
    padding: Padding = "torchvision"
    published_padding: Padding = "torchvision"
    preprocessing: Preprocessing
    published_preprocessing: Normalisation | None = None
    weights: tuple[WeightFile, ...] = ()
    key_map: KeyMap = KeyMap()
    licence: str
    licence_source: str = ""
    non_commercial: bool = False
    citation: str = ""
    origin: str = ""
    aliases: tuple[Name, ...] = ()
    pretraining: tuple[str, ...] = ()
    imagenet_top1: float | None = Field(default=None, gt=0, le=100)
    control: bool = False
    seed: int | None = Field(default=None, ge=0)
    notes: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _translate_former_names(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        return {_FORMER.get(name, name): value for name, value in values.items()}

    @model_validator(mode="after")
    def _control_has_a_seed(self) -> Self:
        if self.control != (self.seed is not None) or (self.control and self.weights):
            message = f"{self.name}: a control has a seed and no weights, any other model no seed"
            raise ValueError(message)
        return self

    def __repr_args__(self) -> Iterator[tuple[str, object]]:
        """Show only what tells models apart: a card has some twenty fields."""
        return ((name, getattr(self, name)) for name in ("name", "architecture", "feature_dim"))

    @property
    def needs_file(self) -> bool:
        """Whether weights must be brought: neither made from a seed nor by a plug-in's builder."""
        return bool(self.weights)

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its aliases."""
        return self.name, *self.aliases

    def replace(self, **changes: object) -> ModelCard:
        """Return a new, validated card with some fields changed.

        Raises:
            pydantic.ValidationError: A value is not allowed.
        """
        return ModelCard.model_validate(dict(self) | changes)

    def addresses(self) -> Iterable[str]:
        """Return every address of every file, the preferred ones first."""
        return (url for file in self.weights for url in file.urls)
