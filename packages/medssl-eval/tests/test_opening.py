"""Which labels and splits an experiment is given: stand-ins in the real layouts."""

import numpy as np
import pytest
from medssl_data.opening import open_datasets
from medssl_data.synthetic.stand_ins import write_layout
from medssl_eval.experiments.declarations import LINEAR


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("chexpert", "diabetic_retinopathy"):
        write_layout(name, folder / name)
    return folder


def test_the_study_trained_on_other_labels_than_it_drew_episodes_from(root):
    def opened(protocol, **options):
        (data,) = open_datasets(["chexpert"], root=root, protocol=protocol, **options)
        return data

    def of(protocol):
        settings = LINEAR.settings_for(protocol)
        return {"of_card": lambda card: LINEAR.of_dataset(card, settings)}

    assert opened("published").manifest.label_policy.startswith("u-ones")
    assert opened("published").targets is None
    training = opened("published", **of("published"))
    soft = training.targets
    assert np.isin(soft[(soft > 0) & (soft < 1)] > 0.5, True).all()
    assert ((soft > 0.5) & (soft < 0.9)).any()
    assert opened("corrected", **of("corrected")).targets is None
    assert opened("published", **of("published"), labels="u-zeros").targets is None


def test_a_chosen_split_is_passed_on(root):
    (published,) = open_datasets(["diabetic_retinopathy"], root=root, split="published")
    assert published.manifest.split_policy == "published"
    cuts = [
        open_datasets(["diabetic_retinopathy"], root=root, split="patient", seed=seed)[0].splits
        for seed in (0, 0, 1)
    ]
    assert cuts[0] == cuts[1] != cuts[2]
    assert published.card.ordered
