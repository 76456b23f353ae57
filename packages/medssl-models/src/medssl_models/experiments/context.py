"""RunContext: how an experiment is run, as distinct from what it measures.

Importing this module imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.record import Provenance, record_key
from medssl_models.versions import package_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from medssl_models.backbone import Backbone
    from medssl_models.console import Console, Progress
    from medssl_models.experiments.record import Record
    from medssl_models.experiments.settings import Preset
    from medssl_models.features.extraction import ExtractionSettings
    from medssl_models.features.store import FeatureStore

__all__ = ["RunContext"]

_IN_PROVENANCE = {"protocol", "seed"}


@dataclass(frozen=True)
class RunContext:
    """What an experiment may use, where it keeps things, and what is known already.

    Args:
        extraction: Device, precision, batch size and so on; None takes the defaults.
        store: Where features are kept; None computes them anew.
        results: The file that the records will be appended to, by the caller; what else an
            experiment keeps of single images lies beside it. None keeps nothing.
        output: The folder for pictures and states; None keeps none.
        progress: Shows how far it is; None shows nothing.
        say: Takes notes.
        warn: Takes warnings.
        known: Records by key; an experiment that has its records here need not run again.
        force: Do again what is done.
        options: An instance of the experiment's `options`; None takes their defaults.
        files: What was drawn or written for people, in order; experiments add to it.
    """

    extraction: ExtractionSettings | None = None
    store: FeatureStore | None = None
    results: Path | None = None
    output: Path | None = None
    progress: Progress | None = None
    say: Callable[[str], None] = lambda _: None
    warn: Callable[[str], None] = lambda _: None
    known: Mapping[str, Record] = field(default_factory=dict)
    force: bool = False
    options: Any = None
    files: list[Path] = field(default_factory=list)

    @classmethod
    def default(cls) -> RunContext:
        """What a call from Python uses: the store, and progress as on the command line."""
        from medssl_models.console import Console

        return cls.of_command(Console())

    @classmethod
    def of_command(
        cls,
        console: Console,
        *,
        results: Path | None = None,
        output: Path | None = None,
        options: Any = None,  # noqa: ANN401 # the experiment's own
        **extraction: object,
    ) -> RunContext:
        """What a command uses: the store, and the console for progress, notes and warnings.

        Args:
            console: The command's.
            results: As above.
            output: As above.
            options: As above.
            extraction: Fields of `ExtractionSettings`; with `force` records are made again too.
        """
        from medssl_models.features.extraction import ExtractionSettings as Settings
        from medssl_models.features.store import FeatureStore

        return cls(
            extraction=Settings.model_validate(extraction),
            store=FeatureStore(),
            results=results,
            output=output,
            progress=console.progress,
            say=console.say,
            warn=console.warn,
            force=bool(extraction.get("force")),
            options=options,
        )

    @property
    def extracting(self) -> ExtractionSettings:
        """The settings of the extraction, defaults where there are none."""
        from medssl_models.features.extraction import ExtractionSettings as Settings

        return self.extraction or Settings()

    @property
    def results_file(self) -> Path:
        """The file of records, or the name that it would have."""
        return self.results or Path("results.jsonl")

    def provenance(
        self,
        backbone: Backbone,
        data: Any,  # noqa: ANN401 # a data set, or picture files
        settings: Preset,
        *,
        preprocessing: str,
        **facts: Any,  # noqa: ANN401 # any field of a provenance
    ) -> Provenance:
        """Describe where numbers will come from, before the first image is opened.

        Args:
            backbone: The network.
            data: A data set, or whatever has some of its attributes.
            settings: Protocol and seed.
            preprocessing: Fingerprint of the preprocessing.
            facts: Fields of the provenance that are otherwise, such as `layer` or `split`.
        """
        extraction, manifest = self.extracting, getattr(data, "manifest", None)
        found = {
            "model": backbone.name,
            "weights": backbone.fingerprint,
            "preprocessing": preprocessing,
            "layer": extraction.layer,
            "padding": backbone.card.padding,
            "dataset": data.name,
            "selection": dict(getattr(data, "selection", {})),
            "images": getattr(data, "fingerprint", ""),
            "manifest": getattr(manifest, "fingerprint", ""),
            "label_policy": getattr(manifest, "label_policy", ""),
            "protocol": settings.protocol,
            "seed": getattr(settings, "seed", 0),
            "device": extraction.device,
            "precision": extraction.precision,
            "versions": package_versions(),
        }
        return Provenance.model_validate(found | facts)

    def settings_of(self, settings: Preset, **resolved: object) -> dict[str, object]:
        """Return settings as a record keeps them; protocol and seed are in its provenance.

        Args:
            settings: The settings.
            resolved: Fields whose value became another, such as `ways`, and further facts that
                tell the record from others, such as `transform`.
        """
        return settings.model_dump(mode="json", exclude=_IN_PROVENANCE) | resolved

    def recall(
        self,
        experiment: str,
        metrics: Sequence[str],
        settings: Mapping[str, object],
        provenance: Provenance,
    ) -> list[Record] | None:
        """Find the records of a run that was done before.

        Args:
            experiment: Its name.
            metrics: The metrics that it measures.
            settings: As in its records.
            provenance: As in its records.

        Returns:
            One record for each metric that was defined then; None where any other is missing, as
            when a process was killed while it wrote them.
        """
        keys = [record_key(experiment, name, settings, provenance) for name in metrics]
        if keys[0] not in self.known:
            return None
        undefined = self.known[keys[0]].details.get("undefined")
        expected = set(metrics) - set(undefined if isinstance(undefined, dict) else ())
        missing = (key not in self.known for key, name in zip(keys, metrics, strict=True)
                   if name in expected)  # fmt: skip
        if any(missing):
            return None
        return [self.known[key] for key in keys if key in self.known]
