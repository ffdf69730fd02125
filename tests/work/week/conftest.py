"""The toy detector of the explainers' tests, trained once for this folder."""

from tests.explainers.conftest import trained  # noqa: F401 a fixture
