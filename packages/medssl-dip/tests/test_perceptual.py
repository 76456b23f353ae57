"""LPIPS against the package of its authors on the same trunks; ranges, sizes, missing files."""

import hashlib
import importlib

import pytest
import torch
import torchvision
from medssl_dip.errors import ImageRangeError, ImageSizeError, LibraryError, TrunkError
from medssl_dip.perceptual.lpips import LPIPS, load_lpips, nets_here
from medssl_dip.perceptual.metrics import NETS
from medssl_models.errors import CheckpointError, MissingWeightsError
from medssl_models.hub import lpips_trunks
from medssl_models.hub.lpips_trunks import TrunkFile

BUILDERS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


def trunk(net):
    """Seeded random weights by torchvision's names, scaled so that every layer stays alive."""
    with torch.device("meta"):
        shapes = getattr(torchvision.models, BUILDERS[net])(weights=None).features.state_dict()
    generator = torch.Generator().manual_seed(3)
    return {
        f"features.{name}": torch.randn(shape.shape, generator=generator)
        * (2 / max(shape[0].numel(), 1)) ** 0.5
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module", params=NETS)
def ours(request):
    return LPIPS(request.param, trunk(request.param))


def reference(net):
    """The authors' own LPIPS with our trunk's weights and its bundled heads."""
    lpips = pytest.importorskip("lpips")
    metric = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    weights = trunk(net)
    own = metric.net.state_dict()
    numbered = {name: f"features.{name.split('.', 1)[1]}" for name in own}
    metric.net.load_state_dict({name: weights[source] for name, source in numbered.items()})
    return metric.eval()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of lpips
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_it_is_the_distance_of_the_authors_package(ours, pictures):
    first, second = pictures(3, side=64), pictures(3, side=64, seed=9)

    with torch.no_grad():
        expected = reference(ours.net)(first, second, normalize=True).flatten()

    assert float(expected.min()) > 0.001
    torch.testing.assert_close(ours(first, second), expected, rtol=1e-5, atol=1e-6)


def test_a_picture_is_at_no_distance_from_itself(ours, pictures):
    x = pictures(2, side=48)

    assert ours(x, x).tolist() == [0, 0]
    assert not any(parameter.requires_grad for parameter in ours.parameters())


@pytest.mark.parametrize("value", [-0.01, 1.5, 255.0, float("nan"), float("inf")])
def test_what_is_not_in_0_to_1_is_refused(ours, pictures, value):
    wrong = pictures(1, side=48)
    wrong[0, 0, 0, 0] = value

    with pytest.raises(ImageRangeError, match=r"second: values from .* outside"):
        ours(pictures(1, side=48), wrong)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ((1, 3, 48, 48), (1, 3, 48, 40), "48 x 48 and 40 x 48"),
        ((1, 3, 16, 16), (1, 3, 16, 16), "at least 32 x 32"),
        ((1, 1, 48, 48), (1, 1, 48, 48), r"expected floating \(N, 3, H, W\)"),
    ],
)
def test_sizes_that_cannot_be_compared(ours, first, second, told):
    with pytest.raises(ImageSizeError, match=told):
        ours(torch.zeros(first), torch.zeros(second))


@pytest.mark.parametrize("fault", ["missing", "shape"])
def test_another_networks_tensors_are_refused(fault):
    weights = trunk("alex")
    if fault == "missing":
        del weights["features.3.weight"]
    else:
        weights["features.3.weight"] = torch.zeros(2)

    with pytest.raises(TrunkError, match=r"not torchvision's alex: features\.3\.weight"):
        LPIPS("alex", weights)


# -------------------------------------------------------------------------------------- local files


@pytest.fixture
def alex_file(tmp_path, monkeypatch):
    """A file of random AlexNet weights, named by its hash, in the local library."""
    path = tmp_path / "home" / "measures" / "weights"
    path.parent.mkdir(parents=True)
    torch.save(trunk("alex") | {"classifier.1.bias": torch.zeros(4)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = TrunkFile("lpips-alex", f"alexnet-{digest[:8]}.pth", 10)
    monkeypatch.setitem(lpips_trunks.TRUNKS, "lpips-alex", known)
    return path.rename(path.with_name(known.filename))


def test_a_trunk_of_the_local_library_is_used(alex_file, pictures):
    x, y = pictures(1, side=48), pictures(1, side=48, seed=2)

    found = load_lpips(["alex"])

    assert nets_here() == ("alex",)
    assert torch.equal(found["alex"](x, y), LPIPS("alex", trunk("alex"))(x, y))


def test_missing_trunks_are_named_with_what_brings_them(alex_file):
    with pytest.raises(MissingWeightsError, match="medssl-models import lpips-vgg") as caught:
        load_lpips()

    assert caught.value.exit_code == 4
    assert "alexnet" not in str(caught.value)


def test_a_damaged_trunk_is_not_used(alex_file):
    alex_file.write_bytes(alex_file.read_bytes()[:-1])

    with pytest.raises(CheckpointError, match="SHA-256 begins with"):
        load_lpips(["alex"])


@pytest.mark.parametrize("fault", ["gone", "other-arguments"])
def test_a_torchmetrics_that_builds_lpips_otherwise_is_named(monkeypatch, fault):
    module = importlib.import_module("torchmetrics.functional.image.lpips")
    if fault == "gone":
        monkeypatch.delattr(module, "_LPIPS")
    else:
        monkeypatch.setattr(module, "_LPIPS", lambda net: None)

    with pytest.raises(LibraryError, match=r"needs torchmetrics from 1\.4 to 1\.9") as caught:
        LPIPS("alex", trunk("alex"))

    assert caught.value.exit_code == 4
