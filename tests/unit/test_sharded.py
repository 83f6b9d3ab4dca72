"""Models split over processes by FSDP2 and by tensor parallelism give what one process gives."""

import json
from pathlib import Path

import pytest
from tests.tiny import SENTENCES, save_tiny
from tests.unit.test_ranks import FACTS, launch

WORKER = """
import json, os, sys, torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers import AutoModelForCausalLM, AutoTokenizer
from alphaedit import Editor, Fact
from alphaedit.core.errors import AlphaEditError

kind, place, corpus, out, facts = sys.argv[1:6]
model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(place)
if kind != "whole":
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
if kind == "fsdp":
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
if kind == "tensor":
    up, down = ColwiseParallel(), RowwiseParallel()
    plan = {"q_proj": up, "k_proj": up, "v_proj": up, "o_proj": down}
    plan = {f"self_attn.{name}": style for name, style in plan.items()}
    plan |= {"mlp.gate_proj": up, "mlp.up_proj": up, "mlp.down_proj": down}
    for block in model.model.layers:
        parallelize_module(block, mesh, plan)
editor = Editor.from_pretrained(model, tokenizer, corpus=corpus, tokens=400, cache_dir=out)
sharded = isinstance(next(iter(model.model.layers[1].mlp.down_proj.parameters())), DTensor)
assert sharded is (kind != "whole"), sharded
before = editor.handle.weight(1)
over = dict(layers=(1, 2), steps=3, contexts=1, energy=0.9, ridge=1.0, search_dtype=None)
edit = editor.edit([Fact(**fact) for fact in json.loads(facts)], **over)
after = editor.handle.weight(1)
editor.revert()
result = {
    "p": [a.p_target for a in edit.after],
    "text": [a.text for a in edit.after],
    "moved": float((after - before).norm()),
    "back": bool(torch.equal(editor.handle.weight(1), before)),
    "base": editor.base,
}
if kind != "whole":
    every = [None] * dist.get_world_size()
    dist.all_gather_object(every, float(after.double().sum()))
    result["same"] = len(set(every)) == 1
if kind == "whole" or dist.get_rank() == 0:
    print(json.dumps(result))
sys.stdout.flush()
if kind != "whole":
    # PyTorch's functional collectives over gloo now and then abort while the process ends.
    dist.barrier()
    os._exit(0)
"""


@pytest.mark.parametrize("kind", ["fsdp", "tensor"])
def test_split_model_equals_whole_one(kind: str, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "model")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(SENTENCES * 20), encoding="utf-8")
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    found = {}
    for name, ranks in (("whole", 1), (kind, 2)):
        argv = [name, str(tmp_path / "model"), str(corpus), str(tmp_path / name)]
        done = launch(ranks, str(script), *argv, json.dumps(FACTS))
        assert done.returncode == 0, done.stderr[-6000:]
        found[name] = json.loads(done.stdout.splitlines()[-1])
    one, split = found["whole"], found[kind]
    assert split["same"]
    assert split["back"]
    assert split["moved"] == pytest.approx(one["moved"], rel=1e-3)
    assert split["p"] == pytest.approx(one["p"], rel=1e-3)
    assert split["text"] == one["text"]
    assert split["base"] == one["base"]
