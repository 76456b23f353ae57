"""The tests see none of the models of the machine that runs them, and two toy experiments.

Without these no record could be made where no package declares an experiment.
"""

import atexit
import os
import shutil
import tempfile
from contextlib import ExitStack

from medssl_models.experiments.metric import Metric
from medssl_models.experiments.registry import declared
from medssl_models.testing.experiments import COUNT_IMAGES, declared_metrics

os.environ["MEDSSL_HOME"] = tempfile.mkdtemp(prefix="medssl-models-tests-")
atexit.register(shutil.rmtree, os.environ["MEDSSL_HOME"], ignore_errors=True)

TOY = declared_metrics(
    "toy",
    Metric("accuracy", "accuracy", "higher", bounds=(0, 1)),
    Metric("loss", "loss", "lower", bounds=(0, None)),
    Metric("share", "share", "neither", "%"),
)
OTHER = declared_metrics("another-toy", Metric("accuracy", "accuracy", "higher"))
_DECLARED = ExitStack()
_DECLARED.enter_context(declared(TOY, OTHER, COUNT_IMAGES))


def pytest_unconfigure():
    _DECLARED.close()
