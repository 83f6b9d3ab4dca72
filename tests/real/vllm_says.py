"""Run by the interpreter of vLLM's own environment: answers of a model without and with a LoRA.

The arguments are the model's directory, the adapter's, its rank, and prompts; standard output's
last line is a JSON object.
"""

import json
import sys
from typing import Any


def main(model: str, adapter: str, rank: str, *prompts: str) -> None:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    engine = LLM(
        model=model,
        dtype="float32",
        max_model_len=256,
        enable_lora=True,
        max_lora_rank=int(rank),
        enforce_eager=True,
        max_num_seqs=4,
    )
    greedy = SamplingParams(temperature=0, max_tokens=6)

    def says(lora: Any) -> list[str]:
        found = engine.generate(list(prompts), greedy, lora_request=lora, use_tqdm=False)
        return [answer.outputs[0].text for answer in found]

    said = {"base": says(None), "edited": says(LoRARequest("edited", 1, adapter))}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
