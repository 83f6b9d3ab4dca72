"""A training that dies by SIGKILL at any change of the file system goes on to the same bits."""

import shutil
from pathlib import Path

from tests.deaths import CHANGES, MORE, acting, killed, snapshot
from tests.tiny import tiny_model

from alphaedit import Fact
from alphaedit.jobs.train import TrainRequest
from alphaedit.jobs.train import run as train
from alphaedit.methods.learned.record import ABOUT, TENSORS
from alphaedit.methods.learned.run import TRAINING

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
    "rank": 1,
    "steps": 3,
    "every": 1,
    "batch": 2,
    "held_out": 2,
    "rate": 0.01,
}
EVERY, LAST = 23, 7
"""Of the file system's changes each so many-th is tried, and of the last ones all."""


def test_killed_at_changes_of_the_file_system(tmp_path: Path) -> None:
    for part in tiny_model("gpt2"):
        part.save_pretrained(tmp_path / "model")
    request = TrainRequest(
        method="mend",
        model=str(tmp_path / "model"),
        out=tmp_path / "editor",
        facts=FACTS,
        settings=SETTINGS,
    )
    with acting(-1, lambda: None, CHANGES + MORE) as count:
        train(request)
    changes = -1 - count.left
    whole = snapshot(request.out)
    assert set(whole) == {ABOUT, TENSORS}
    points = [*range(1, changes - LAST, EVERY), *range(changes - LAST, changes + 1)]
    for point in points:
        shutil.rmtree(request.out)
        assert killed(lambda: train(request), point), point
        found = snapshot(request.out) if request.out.is_dir() else {}
        if not (whole.items() <= found.items() and not (request.out / TRAINING).is_dir()):
            train(request)
        shown = {name: data for name, data in snapshot(request.out).items() if name[0] != "."}
        assert shown == whole, point
