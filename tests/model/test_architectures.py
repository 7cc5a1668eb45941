"""Train, evaluate, resume and ask tiny checkpoints of architectures chosen for their differences."""

import pytest
from helpers.architecture_runs import check_architecture
from helpers.architectures import CHOSEN, write_data

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("questions"))


@pytest.mark.parametrize("kind", CHOSEN)
def test_architecture(kind, data, tmp_path):
    """Kept model evaluated again in batches of 8 and 1, resumed to the same weights, asked."""
    outcome = check_architecture(kind, data, tmp_path)
    assert outcome.result == "ok", f"{outcome}\n{outcome.output}"
