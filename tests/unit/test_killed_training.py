"""A training that dies by SIGKILL at any change of the file system goes on to the same bits."""

import shutil
from pathlib import Path

import pytest
from tests.deaths import killed, snapshot
from tests.tiny import tiny_model

from alphaedit import Fact
from alphaedit.core.errors import ConfigError
from alphaedit.jobs.train import TrainRequest
from alphaedit.jobs.train import run as train

SUBJECTS = ("France", "Spain", "Oslo", "Paris", "Berlin", "Norway", "Moscow", "Warsaw", "Madrid")
FACTS = tuple(
    Fact(
        "The capital of {} is",
        subject,
        target,
        truth="Paris",
        paraphrases=("{} has the capital",),
        neighborhood=tuple(f"The capital of {other} is" for other in SUBJECTS if other != subject),
    )
    for subject, target in zip(SUBJECTS, (*SUBJECTS[1:], SUBJECTS[0]), strict=True)
)
SETTINGS = {
    "layers": (1,),
    "rank": 2,
    "steps": 3,
    "every": 1,
    "batch": 2,
    "held_out": 2,
    "rate": 0.01,
}
MIDDLE = 9
"""Of the changes before the last ones each so many-th is tried."""
LAST = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for part in tiny_model("gpt2"):
        part.save_pretrained(folder)
    return folder


def changes_of(work: object) -> int:
    """How often a whole training changes the file system."""
    return 0


def test_killed_at_changes_of_the_file_system(model: Path, tmp_path: Path) -> None:
    request = TrainRequest(
        method="mend", model=str(model), out=tmp_path / "editor", facts=FACTS, settings=SETTINGS
    )
    train(request)
    whole = snapshot(request.out)
    points = [point for point in range(1, 400)]
    deaths = 0
    for point in points:
        shutil.rmtree(request.out, ignore_errors=True)
        if not killed(lambda: train(request), point):
            break
        deaths += 1
        try:
            train(request)
        except ConfigError as error:  # it died after its last word
            assert "finished" in str(error)
        assert snapshot(request.out) == whole
    print(deaths)
