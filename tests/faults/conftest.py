"""One small project with a registered champion, and one night on it that nothing disturbed."""

import pytest
import tiny_plant


@pytest.fixture(scope="session")
def plant(tmp_path_factory, put_mlflow_database):
    root = tmp_path_factory.mktemp("plant")
    put_mlflow_database(root / "trained")
    return tiny_plant.make(root)


@pytest.fixture(scope="session")
def undisturbed(plant):
    """Evidence of an undisturbed night."""
    state = plant.fresh("undisturbed")
    plant.night(state, "run-1")
    found = plant.evidence(state)
    assert len(found.content["scores"]) == 8
    assert len(found.content["explanations"]) >= 2 * 4, "the painted defects are anomalous, and explained twice"
    assert (found.audit, found.anchored, found.twice) == ("", True, 0)
    return found
