"""The small training data of the detectors' tests."""

from tests.detectors.conftest import small_data as small_data
