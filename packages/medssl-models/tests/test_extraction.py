"""Extraction: the same features every way, resumed after kill -9, shared between processes."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pytest
import torch
from medssl_models.backbone import Backbone
from medssl_models.card import ModelCard
from medssl_models.console import Console
from medssl_models.errors import (
    FeatureError,
    InputRangeError,
    LayerError,
    SettingsError,
    StoreError,
    UnreadableSourceError,
)
from medssl_models.features.extraction import ExtractionSettings, extract
from medssl_models.features.runtime import threads
from medssl_models.features.store import FeatureStore
from medssl_models.networks.controls import initialise
from medssl_models.networks.tapped import TappedNetwork
from medssl_models.preprocessing import Normalisation, Preprocessing
from medssl_models.testing import tiny_card
from medssl_models.testing.sources import NoiseSource
from PIL import Image
from torch import nn

CPU = {"device": "cpu", "workers": 0}


class TinyBackbone(nn.Module):
    """The attributes that extraction uses of a `Backbone`, on a network of two convolutions."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        with torch.no_grad():
            for tensor in self.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
        self.name = "tiny"
        self.layers = ("conv1", "pooled")
        self.feature_dim = 16
        self.checks_input = True
        self.preprocessing = Preprocessing(
            resize=32, crop=32, normalisation=Normalisation(kind="imagenet")
        )
        self.fingerprint = f"tiny:{seed}"
        self.card = ModelCard.model_construct(padding="torchvision")
        self.eval().requires_grad_(requires_grad=False)

    layer_aliases: ClassVar = {"stem": "conv1"}

    @property
    def trunk(self):
        return self

    def forward_layers(self, x, layers):
        inner = torch.relu(self.bn1(self.conv1(x)))
        outputs = {"conv1": inner, "pooled": torch.relu(self.bn2(self.conv2(inner))).mean((2, 3))}
        return {layer: outputs[layer] for layer in layers}

    def forward(self, x):
        return self.forward_layers(x, ("pooled",))["pooled"]


@pytest.fixture
def backbone():
    return TinyBackbone()


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "features")


def settings(**changes) -> ExtractionSettings:
    return ExtractionSettings(**(CPU | changes))


def reference(backbone, source) -> np.ndarray:
    """Features image by image, the plain way."""
    with torch.inference_mode():
        rows = [backbone(backbone.preprocessing(source[i][0])[None]) for i in range(len(source))]
    return torch.cat(rows).numpy()


# ------------------------------------------------------------------------------- the same features


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 64, None])
def test_features_are_those_of_single_images(backbone, workers, batch_size):
    source = NoiseSource(rows=9)
    table = extract(backbone, source, settings=settings(workers=workers, batch_size=batch_size))
    expected = reference(backbone, source)
    np.testing.assert_allclose(table.features, expected, rtol=1e-4)
    assert table.features.dtype == np.float32
    assert table.readable.all()
    assert table.computed == 9


def test_store_gives_what_memory_gives(backbone, store):
    source = NoiseSource(rows=9)
    plain = extract(backbone, source, settings=settings(batch_size=4))
    kept = extract(backbone, source, settings=settings(batch_size=4), store=store)
    again = extract(backbone, NoiseSource(rows=9), settings=settings(), store=store)
    np.testing.assert_array_equal(plain.features, kept.features)
    np.testing.assert_array_equal(plain.features, again.features)
    assert plain.key == kept.key == again.key
    assert (kept.computed, again.computed) == (9, 0)


def test_the_backbone_is_left_as_it_was(backbone):
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    extract(backbone, NoiseSource(rows=2), settings=settings())
    assert backbone.training
    assert backbone.checks_input
    assert isinstance(backbone.bn1, nn.BatchNorm2d)
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


class Tokens(nn.Module):
    """A patch embedding: maps of 5 channels as (N, T, 5) tokens."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 5, 8, stride=8)

    def forward(self, x):
        return self.patches(x).flatten(2).transpose(1, 2)


class Mean(nn.Module):
    def forward(self, tokens):
        return tokens.mean(1)


def test_tokens_of_a_transformer_are_averaged_over_positions():
    """Their number is not their width, and the network takes images of one side only."""
    body = nn.Sequential(Tokens(), Mean())
    network = TappedNetwork(body, {"block": "0"}, feature_dim=5, fixed_side=32)
    transformer = Backbone(tiny_card().replace(feature_dim=5), initialise(network, seed=0))
    source = NoiseSource(rows=2)
    same = Preprocessing(resize=32, crop=32, normalisation=Normalisation(kind="imagenet"))

    table = extract(transformer, source, preprocessing=same, settings=settings(layer="block"))

    pooled = extract(transformer, source, preprocessing=same, settings=settings())
    assert table.features.shape == (2, 5)
    np.testing.assert_allclose(table.features, pooled.features, rtol=1e-5)


def test_inner_layer_is_averaged_over_positions(backbone):
    source = NoiseSource(rows=3)
    table = extract(backbone, source, settings=settings(layer="conv1"))
    image = backbone.preprocessing(source[1][0])[None]
    expected = backbone.forward_layers(image, ("conv1",))["conv1"].mean((2, 3))[0]
    np.testing.assert_allclose(table.features[1], expected.numpy(), rtol=1e-4)
    assert table.features.shape == (3, 8)
    assert extract(backbone, source, settings=settings(layer="stem")).key == table.key


def test_bf16_is_near_and_tells_its_error(backbone, store):
    source = NoiseSource(rows=5)
    exact = extract(backbone, source, settings=settings(), store=store)
    rounded = extract(backbone, source, settings=settings(precision="bf16"), store=store)
    error = np.linalg.norm(rounded.features - exact.features) / np.linalg.norm(exact.features)
    assert 0 < error < 0.05
    assert float(rounded.provenance["precision_error"]) == pytest.approx(error, rel=0.1)
    assert rounded.key != exact.key
    assert exact.provenance["precision_error"] == "nan"


def test_emulated_bf16_is_told_before_it_runs(backbone, caplog, monkeypatch):
    monkeypatch.setattr("medssl_models.features.extraction.multiplies_in_bf16", lambda _: False)
    for precision in ("fp32", "bf16"):
        assert "emulates" not in caplog.text
        extract(backbone, NoiseSource(rows=2), settings=settings(precision=precision))
    assert "emulates bf16" in caplog.text


def test_own_preprocessing_counts(backbone, store):
    source = NoiseSource(rows=3)
    other = backbone.preprocessing.replace(normalisation=Normalisation(kind="none"))
    default = extract(backbone, source, settings=settings(), store=store)
    changed = extract(backbone, source, settings=settings(), preprocessing=other, store=store)
    assert default.key != changed.key
    assert not np.allclose(default.features, changed.features)


def test_ten_line_source_is_enough(backbone, tmp_path):
    class Folder:
        def __init__(self, folder):
            self.paths = sorted(folder.glob("*.png"))
            self.fingerprint = "|".join(path.name for path in self.paths)
            self.unpicklable = lambda: None

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, i):
            return Image.open(self.paths[i]).convert("RGB"), 0

    for i in range(4):
        NoiseSource(rows=4)[i][0].save(tmp_path / f"{i}.png")
    for workers in (0, 2):
        table = extract(backbone, Folder(tmp_path), settings=settings(workers=workers))
        np.testing.assert_allclose(
            table.features, reference(backbone, NoiseSource(rows=4)), rtol=1e-4
        )


def test_reading_ahead_is_bounded(backbone):
    source = NoiseSource(rows=60)
    seen = []

    class Watching(type(backbone)):
        def forward_layers(self, x, layers):
            seen.append(len(source.reads))
            return super().forward_layers(x, layers)

    extract(Watching(), source, settings=settings(batch_size=4, workers=2))
    assert seen[3] <= 3 * 4 + 2 * 4 + 2 + 4
    assert sorted(source.reads) == list(range(60))


def test_one_thread_at_a_time_unless_the_source_allows_more(backbone):
    class Meeting(NoiseSource):
        """Whoever reads a row waits inside until somebody else has come in too."""

        met = False

        def __getitem__(self, index):
            with suppress(threading.BrokenBarrierError):
                two.wait(60 if self.thread_safe else 0.5)
                self.met = True
            return super().__getitem__(index)

    for thread_safe in (False, True):
        source, two = Meeting(rows=12), threading.Barrier(2)
        source.thread_safe = thread_safe
        extract(backbone, source, settings=settings(workers=4))
        assert source.met is thread_safe


def test_a_source_may_keep_prepared_images_and_nothing_changes(backbone):
    class Keeping(NoiseSource):
        def derive(self, index, recipe, make):
            if (index, recipe) not in kept:
                kept[index, recipe] = make(self[index][0])
            return kept[index, recipe]

    kept = {}
    plain = extract(backbone, NoiseSource(rows=5), settings=settings()).features
    for size in (backbone.preprocessing.resize, 40):
        own = backbone.preprocessing.replace(resize=size)
        for _ in range(2):
            table = extract(backbone, Keeping(rows=5), preprocessing=own, settings=settings())
        expected = extract(backbone, NoiseSource(rows=5), preprocessing=own, settings=settings())
        np.testing.assert_array_equal(table.features, expected.features)
    assert len(kept) == 10
    assert {image.size for image in kept.values()} == {(own.crop, own.crop)}
    assert not np.array_equal(plain, table.features)


def test_compute_threads_are_left_alone(backbone):
    with threads(3):
        extract(backbone, NoiseSource(rows=3), settings=settings(workers=2))
        assert torch.get_num_threads() == 3


def test_progress_counts_every_row(backbone, store, monkeypatch):
    counted = []

    class Bar(Console):
        def progress(self, description, total):
            counted.append((description, total))
            return super().progress(description, total)

    extract(backbone, NoiseSource(rows=3), settings=settings(), progress=Bar().progress)
    assert counted == [("tiny: features", 3)]


# ------------------------------------------------------------------------------------- bad input


def test_unreadable_image_is_named(backbone, store):
    source = NoiseSource(rows=9, broken=frozenset({6}))
    with pytest.raises(UnreadableSourceError, match=r"noise-6\.png.*set skip_unreadable") as caught:
        extract(backbone, source, settings=settings(batch_size=2), store=store)
    assert caught.value.exit_code == 3


def test_skipped_images_are_marked_listed_and_counted(backbone, store, caplog):
    source = NoiseSource(rows=5, broken=frozenset({1, 4}))
    skipping = settings(skip_unreadable=True)
    with caplog.at_level(logging.WARNING, "medssl"):
        table = extract(backbone, source, settings=skipping, store=store)
    assert table.readable.tolist() == [True, False, True, True, False]
    assert np.isnan(table.features[1]).all()
    assert np.isfinite(table.features[table.readable]).all()
    assert "2 of 5 images" in caplog.text
    assert "noise-4.png): cannot identify" in caplog.text

    again = extract(backbone, source, settings=skipping, store=store)
    assert again.computed == 0
    repaired = extract(backbone, NoiseSource(rows=5), settings=settings(), store=store)
    assert repaired.computed == 2
    assert repaired.readable.all()


def test_nothing_readable_is_an_error(backbone, store):
    source = NoiseSource(rows=2, broken=frozenset({0, 1}))
    with pytest.raises(UnreadableSourceError, match="none of its 2 images"):
        extract(backbone, source, settings=settings(skip_unreadable=True), store=store)


def test_empty_source_is_an_error(backbone):
    with pytest.raises(UnreadableSourceError, match="no images"):
        extract(backbone, NoiseSource(rows=0))


def test_defects_of_a_source_are_not_skipped(backbone):
    class Wrong(NoiseSource):
        def __getitem__(self, index):
            return super().__getitem__(index)[0]

    class Buggy(NoiseSource):
        def __getitem__(self, index):
            return self.no_such_attribute

    skipping = settings(skip_unreadable=True, workers=2)
    with pytest.raises(SettingsError, match=r"source\[0\] gave Image: a pair"):
        extract(backbone, Wrong(rows=2), settings=skipping)
    with pytest.raises(AttributeError) as caught:
        extract(backbone, Buggy(rows=2), settings=skipping)
    assert caught.value.__notes__ == ["image 0 (noise-0.png)"]


def test_value_outside_the_range_names_the_image(backbone):
    class Deep(NoiseSource):
        def __getitem__(self, index):
            return Image.fromarray(np.full((32, 32), 40_000, np.uint16)), 0

    with pytest.raises(InputRangeError) as caught:
        extract(backbone, Deep(rows=2), settings=settings(skip_unreadable=True))
    assert caught.value.__notes__ == ["image 0 (noise-0.png)"]


def test_features_that_are_not_finite_name_the_image(backbone, store):
    backbone.conv2.weight[0] = math.nan
    with pytest.raises(FeatureError, match=r"noise-0\.png.*not finite"):
        extract(backbone, NoiseSource(rows=2), settings=settings(), store=store)


def test_unknown_layer_and_absent_device_and_missing_fingerprint(backbone):
    source = NoiseSource(rows=2)
    with pytest.raises(LayerError, match="conv1, pooled"):
        extract(backbone, source, settings=settings(layer="layer9"))
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="choose device auto"):
            extract(backbone, source, settings=settings(device="cuda"))
    with pytest.raises(SettingsError, match="list has no fingerprint"):
        extract(backbone, [source[0]], settings=settings())


# ------------------------------------------------------------------------------------ what is kept


def test_only_rows_with_another_stamp_are_computed_again(backbone, store):
    stamps = [f"stamp {row}" for row in range(11)]
    extract(backbone, NoiseSource(rows=11, stamps=stamps), settings=settings(), store=store)
    changed = [*stamps[:3], "new", *stamps[4:7], "newer", *stamps[8:]]
    source = NoiseSource(rows=11, stamps=changed)
    table = extract(backbone, source, settings=settings(), store=store)
    assert table.computed == 2
    assert source.reads == [3, 7]
    np.testing.assert_allclose(table.features, reference(backbone, source), rtol=1e-4)
    assert extract(backbone, source, settings=settings(), store=store).computed == 0
    whole = extract(backbone, source, settings=settings(force=True), store=store)
    np.testing.assert_allclose(whole.features, table.features, rtol=1e-5)  # other places in a batch
    old = [row for row in range(11) if row not in {3, 7}]
    np.testing.assert_array_equal(whole.features[old], table.features[old])


def test_stamps_must_be_one_a_row(backbone):
    with pytest.raises(SettingsError, match="1 stamps for 2 images"):
        extract(backbone, NoiseSource(rows=2, stamps=["x"]))


def test_force_computes_anew(backbone, store):
    extract(backbone, NoiseSource(rows=3), settings=settings(), store=store)
    table = extract(backbone, NoiseSource(rows=3), settings=settings(force=True), store=store)
    assert table.computed == 3


def test_key_follows_what_features_depend_on(backbone, store):
    def key(network=backbone, rows=2, **changes):
        return extract(network, NoiseSource(rows=rows), settings=settings(**changes)).key

    assert key() == key(batch_size=1) == key(workers=2)
    different = [key(), key(TinyBackbone(1)), key(rows=3), key(layer="conv1")]
    assert len({*different, key(precision="bf16")}) == 5


def test_error_in_between_keeps_finished_batches(backbone, store):
    with pytest.raises(UnreadableSourceError):
        extract(
            backbone,
            NoiseSource(rows=9, broken=frozenset({6})),
            settings=settings(batch_size=2),
            store=store,
        )
    source = NoiseSource(rows=9)
    table = extract(backbone, source, settings=settings(batch_size=5), store=store)
    assert source.reads == [6, 7, 8]
    assert table.computed == 3


def test_interrupt_says_what_is_kept(backbone, store):
    class Stopping(NoiseSource):
        def __getitem__(self, index):
            if index == 4:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt) as caught:
        extract(backbone, Stopping(rows=6), settings=settings(batch_size=2), store=store)
    assert caught.value.__notes__[-1].startswith("4 of 6 rows of features are kept")


def test_read_only_store_reads_and_otherwise_computes_in_memory(
    backbone, store, caplog, monkeypatch
):
    extract(backbone, NoiseSource(rows=2), settings=settings(), store=store)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(store, "lock", None)
    assert extract(backbone, NoiseSource(rows=2), settings=settings(), store=store).computed == 0
    assert extract(backbone, NoiseSource(rows=3), settings=settings(), store=store).computed == 3
    assert "computed but not kept" in caplog.text


def test_full_disk_is_one_error_and_the_store_stays_readable(backbone, store, monkeypatch):
    extract(backbone, NoiseSource(rows=2), settings=settings(), store=store)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", no_space)
        with pytest.raises(StoreError, match=r"No space left on device.*MEDSSL_HOME"):
            extract(backbone, NoiseSource(rows=3), settings=settings(), store=store)
    assert extract(backbone, NoiseSource(rows=2), settings=settings(), store=store).computed == 0
    assert extract(backbone, NoiseSource(rows=3), settings=settings(), store=store).computed == 3


# -------------------------------------------------------------------------------- other processes


class Pixels:
    """A preprocessing without torchvision, whose import takes longer than these tests."""

    crop = 32
    fingerprint = "pixels"

    def __call__(self, image):
        return torch.from_numpy(np.asarray(image, np.float32) / 255).movedim(-1, 0)


class Killing(NoiseSource):
    """Kills its process in the middle of the sixth batch."""

    def __getitem__(self, index):
        if index == 22:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def extract_to(root: Path, source: NoiseSource):
    return extract(
        TinyBackbone(),
        source,
        preprocessing=Pixels(),
        settings=settings(batch_size=4),
        store=FeatureStore(root),
    )


def run_here(root: str, kind: str) -> None:
    """What the processes below do: one extraction; says how many rows it computed."""
    torch.set_num_threads(1)
    source = Killing(rows=40) if kind == "killing" else NoiseSource(rows=40, delay=0.01)
    sys.stdout.write(json.dumps(extract_to(Path(root), source).computed))


def start(store: FeatureStore, kind: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, str(store.root), kind]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no kill -9")
def test_killed_extraction_goes_on_and_gives_the_same_bits(store, tmp_path):
    with start(store, "killing") as process:
        assert process.wait() == -signal.SIGKILL
    (partial,) = store.root.glob("*.partial.h5")
    with h5py.File(partial) as file:  # any HDF5 program can look at what was begun
        kept = np.count_nonzero(file["states"])
    assert kept in (16, 20)  # the fifth batch may not have been written yet
    source = NoiseSource(rows=40)
    with threads(1):  # as many as the process that was killed had
        resumed = extract_to(store.root, source)
        whole = extract_to(tmp_path / "other", NoiseSource(rows=40))
    assert resumed.computed == len(source.reads) == 40 - kept
    np.testing.assert_array_equal(resumed.features, whole.features)


def test_two_processes_share_the_work_of_one(store):
    with start(store, "slow") as one, start(store, "slow") as other:
        computed = [json.loads(process.communicate(timeout=300)[0]) for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0]
    assert sorted(computed) == [0, 40]


if __name__ == "__main__":
    run_here(*sys.argv[1:])
