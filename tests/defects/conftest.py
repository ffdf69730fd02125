"""The small problem of the detectors' tests, for batches to train on."""

from tests.detectors.conftest import small_data  # noqa: F401 a fixture
