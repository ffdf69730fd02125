"""The small problem of the detectors' tests, for networks that are tried inside one."""

from tests.detectors.conftest import small_data  # noqa: F401 a fixture
