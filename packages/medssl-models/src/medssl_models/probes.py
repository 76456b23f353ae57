"""The old address of `medssl_models.experiments.former.probes`, kept for one minor version."""

from medssl_models.experiments.former.probes import GROUP, ProbePlugin, ProtocolName, Work

__all__ = ["GROUP", "ProbePlugin", "ProtocolName", "Work"]
