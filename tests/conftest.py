"""Shared by all tests."""

import os

import pytest
import torch
from hypothesis import settings

# The models of the tests are small: a second thread costs more than it brings on a busy machine,
# in commands that tests start too.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# Nothing is asserted about time: a busy machine must not fail a test.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Statistics of the test run lie in a folder of its own."""
    os.environ["ALPHAEDIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
