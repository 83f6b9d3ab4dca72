"""A LoRA adapter of a real model, served by vLLM."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from benchmarks.real_models import FOLDER, SMOLLM2
from tests.real.models import EDITED, OTHERS, edit_smollm2, need

from alphaedit.cli.app import run

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]
PYTHON = FOLDER / "vllm" / "bin" / "python"
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


def test_vllm_serves_the_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need(SMOLLM2)
    if not PYTHON.exists():
        pytest.skip("vLLM is not in .models: `make vllm` installs it there")
    ledger = edit_smollm2(SMOLLM2.checkpoint, tmp_path)
    capsys.readouterr()
    assert run(["export", str(ledger), "-o", str(tmp_path / "adapter"), "-q"]) == 0
    flag = re.search(r"--max-lora-rank (\d+)", capsys.readouterr().out)
    assert flag is not None
    script = Path(__file__).with_name("vllm_says.py")
    words = [PYTHON, script, SMOLLM2.checkpoint, tmp_path / "adapter", flag[1], *EDITED, *OTHERS]
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **SETTINGS},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    for before, after in zip(said["base"][:3], said["edited"][:3], strict=True):
        assert before.startswith(" French")
        assert after.startswith(" English")
    for answer, after in zip(OTHERS.values(), said["edited"][3:], strict=True):
        assert after.startswith(answer)
