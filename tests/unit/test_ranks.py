"""Processes that share the work: the same bits on each, one process's result to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.tiny import SENTENCES, save_tiny

from alphaedit.core.errors import ConfigError
from alphaedit.core.ranks import ALONE, Ranks, from_environment
from alphaedit.ledger.check import verify
from alphaedit.ledger.ledger import Ledger

FACTS = [
    {"prompt": "The capital of {} is", "subject": f"Land {i}", "target": city}
    for i, city in enumerate(["Paris", "Madrid", "Rome", "Berlin", "London"])
]
WORKER = """
import hashlib, json, sys, torch
from alphaedit import Editor, Fact
from alphaedit.core.ranks import from_environment, leave
ranks = from_environment()
model, corpus, out, facts, method = sys.argv[1:6]
cache = out + "/cache"
editor = Editor.from_pretrained(model, corpus=corpus, tokens=400, cache_dir=cache, ranks=ranks)
layers = (1,) if method in ("rome", "ft") else (1, 2)
over = dict(layers=layers, steps=3, contexts=1, energy=0.9, ridge=1.0)
if sys.argv[6] == "die" and ranks.rank == 1:
    sys.exit(3)
for batch in json.loads(facts):
    editor.edit([Fact(**fact) for fact in batch], method, **over)
state = {k: v.clone() for k, v in editor.handle.model.state_dict().items()}
digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()
every = ranks.objects(digest)
if ranks.first:
    after = [a for e in editor.edits for a in e.after]
    print(json.dumps({"digests": every, "answers": [a.text for a in after],
                      "p": [a.p_target for a in after], "tokens": editor.statistics.counted(1)}))
leave()
"""


def launch(ranks: int, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a script under torchrun, or plainly with one rank."""
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
        start += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*start, *argv], capture_output=True, text=True, env=environment, timeout=200
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_tiny("gpt2", tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    return tmp_path


def test_shares() -> None:
    for size in (1, 2, 3, 7):
        for count in (0, 1, 2, 5, 21):
            parts = [list(Ranks(rank, size).share(count)) for rank in range(size)]
            assert [i for part in parts for i in part] == list(range(count))
            lengths = [len(part) for part in parts]
            assert max(lengths) - min(lengths) <= 1


def test_alone() -> None:
    x = torch.randn(3, 4)
    assert ALONE.columns(x, 3, 4, x) is x
    assert ALONE.sum(x) is x
    assert ALONE.objects(1) == [1]
    assert ALONE.from_first("a") == "a"
    assert ALONE.map([1, 2], lambda items: [i * 2 for i in items]) == [2, 4]
    ALONE.agree({"facts": 1})


@pytest.mark.parametrize(
    ("method", "sizes"),
    [
        ("alphaedit", [3, 2]),
        pytest.param("rome", [1], marks=pytest.mark.slow),
        pytest.param("memit", [1], marks=pytest.mark.slow),
        pytest.param("ft", [2], marks=pytest.mark.slow),
    ],
)
def test_two_ranks_and_one(method: str, sizes: list[int], place: Path) -> None:
    """Also where facts do not divide evenly, or are fewer than ranks."""
    batches, at = [], 0
    for size in sizes:
        batches.append(FACTS[at : at + size])
        at += size
    found = []
    for ranks in (1, 2):
        out = place / f"out-{ranks}"
        out.mkdir()
        argv = [str(place / "model"), str(place / "text.txt"), str(out), json.dumps(batches)]
        done = launch(ranks, str(place / "worker.py"), *argv, method, "live")
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    one, two = found
    assert len(set(two["digests"])) == 1
    assert len(two["digests"]) == 2
    assert two["answers"] == one["answers"]
    assert two["tokens"] == one["tokens"]
    assert two["p"] == pytest.approx(one["p"], rel=1e-3, abs=1e-6)


def test_a_rank_that_dies_ends_the_others(place: Path) -> None:
    argv = [str(place / "model"), str(place / "text.txt"), str(place), json.dumps([FACTS[:2]])]
    done = launch(2, str(place / "worker.py"), *argv, "alphaedit", "die")
    assert done.returncode != 0
    assert "digests" not in done.stdout


@pytest.mark.parametrize("different", [False, True])
def test_the_command(different: bool, place: Path) -> None:
    for rank in (0, 1):
        facts = FACTS[:3] if not different else FACTS[rank : rank + 3]
        text = "\n".join(json.dumps(fact) for fact in facts)
        (place / f"facts-{rank}.jsonl").write_text(text, encoding="utf-8")
    script = place / "command.py"
    script.write_text(
        "import os, sys\nfrom alphaedit.cli.app import main\n"
        "sys.argv[3] = sys.argv[3].replace('RANK', os.environ.get('RANK', '0'))\nmain()\n"
    )
    out = place / "ledger"
    argv = ["edit", str(place / "model"), str(place / "facts-RANK.jsonl"), "-o", str(out), "--json"]
    for pair in ("layers=1,2", "steps=2", "contexts=1", "energy=0.9", "ridge=1"):
        argv += ["--set", pair]
    argv += ["--corpus", str(place / "text.txt"), "--tokens", "400", "--no-generation", "-q"]
    argv += ["--cache-dir", str(place / "cache"), "--batch-size", "2"]
    done = launch(2, str(script), *argv)
    objects = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if different:
        assert done.returncode != 0
        assert len(objects) == 1  # one rank speaks
        assert "different facts" in objects[0]["error"]["message"]
        assert not Ledger.at(out)
    else:
        assert done.returncode == 0, done.stderr
        assert len(objects) == 1
        assert len(objects[0]["edits"]) == 2
        assert Ledger(out).head.size == 2
        assert verify(Ledger(out)).problems == []


def test_ranks_do_not_spread_their_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="spread a model"):
        from_environment("auto")
