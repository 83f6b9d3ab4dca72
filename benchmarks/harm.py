"""Which tokens of other text pay for edits: pieces of rare words, names, or all alike?

    python -m benchmarks.harm --model MODEL --records FILE --text TEXT [--preset NAME]
        [--targets DIR]

Edits all of FILE's facts in batches, as `benchmarks.loads` does with the default method and targets
of the unedited model, and compares the next-token distributions on held-out text before and after,
token by token. Writes results/harm.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphaedit.core.defaults import WEIGHTS
from alphaedit.core.fact import Fact
from alphaedit.editor.session import Editor
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.drift import held_out, kl
from benchmarks.loads import Ground, bare, draws, planned, searched, shared
from benchmarks.machine import RESULTS, write

ROWS, AT_ONCE = 8, 512
"""Rows of a pass, and tokens that are compared at once."""
TOP = (0.01, 0.05, 0.1)
"""Shares of the tokens that move most."""


@torch.no_grad()
def predicted(handle: ModelHandle, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities [tokens, vocabulary] in half precision, and the losses [tokens]."""
    said, losses = [], []
    for at in range(0, len(rows), ROWS):
        ids = rows[at : at + ROWS]
        logits = handle.forward(ids, torch.ones_like(ids))[:, :-1].flatten(0, 1).float()
        log_p = logits.log_softmax(-1)
        losses.append(-log_p.gather(1, ids[:, 1:].flatten()[:, None])[:, 0])
        said.append(log_p.half())
    return torch.cat(said), torch.cat(losses)


def apart(before: Tensor, now: Tensor) -> Tensor:
    """KL(before || now) of each token, in nats: [tokens]."""
    parts = [slice(at, at + AT_ONCE) for at in range(0, len(now), AT_ONCE)]
    return torch.cat([kl(before[part].float(), now[part].float()) for part in parts])


def kinds(handle: ModelHandle, rows: Tensor, facts: Sequence[Fact]) -> dict[str, Tensor]:
    """Which of the tokens that are predicted from belong to what, [tokens] bool; all of them once.

    Those that end the subject of an edited fact; pieces that go on with a word; words with a
    capital letter; the rest.
    """
    ids = rows[:, :-1].flatten()
    ends = set()
    for fact in facts:
        encoded = handle.tokens.encode_with_subject(fact.text, fact.subject_span)
        ends.add(encoded.ids[encoded.subject_last])
    words = [handle.tokens.decode([token]) for token in ids.tolist()]
    of_subject = torch.isin(ids, torch.tensor(sorted(ends)))
    piece = torch.tensor([word.isalpha() for word in words])
    capital = torch.tensor([word.strip()[:1].isupper() for word in words])
    piece, capital = piece & ~of_subject, capital & ~of_subject
    return {
        "ends a subject": of_subject,
        "goes on with a word": piece,
        "begins with a capital": capital & ~piece,
        "other": ~(of_subject | piece | capital),
    }


def told(mask: Tensor, moved: Tensor, losses: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Figures of the tokens in `mask`."""
    before, now = (float(loss[mask].double().mean().exp()) for loss in losses)
    return {
        "tokens": float(mask.double().mean()),
        "of_kl": float(moved[mask].sum() / moved.sum()),
        "kl": float(moved[mask].mean()),
        "perplexity_before": before,
        "perplexity": now,
    }


def main() -> None:
    """Edit, compare, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--records", type=Path, required=True, help="records to edit")
    parser.add_argument("--text", type=Path, required=True, help="held-out text")
    parser.add_argument("--preset", help="by default the one that fits the model")
    parser.add_argument("--targets", type=Path, help="folder to keep target values in")
    args = parser.parse_args()
    torch.set_num_threads(1)
    editor = Editor.from_pretrained(args.model, seed=0, progress=False)
    plan = planned(editor.handle.d_in(0), real=True, quick=False)
    _, records = next(draws(editor, plan, args.records, 1))
    facts = [bare(record.fact) for record in records]
    text = held_out(editor.handle, str(args.text), seed=0)
    name = Path(args.model).name
    ground = Ground(editor, plan, args.preset, text, {"model": name}, RESULTS / "harm.json")
    known = searched(ground, facts, args.targets, args.preset)
    before, losses = predicted(editor.handle, text.rows)
    batches = [facts[at : at + plan.size] for at in range(0, len(facts), plan.size)]
    with shared(known):
        for batch in editor.edit_in_batches(batches, WEIGHTS, preset=args.preset):
            print(WEIGHTS, len(batch.facts), flush=True)
    after, losses_now = predicted(editor.handle, text.rows)
    moved = apart(before, after)
    most = moved.sort(descending=True).values.cumsum(0)
    result: dict[str, Any] = {
        "model": name,
        "edits": len(facts),
        "method": WEIGHTS,
        "kinds": {
            kind: told(mask, moved, (losses, losses_now))
            for kind, mask in kinds(editor.handle, text.rows, facts).items()
        },
        "of_kl_in_the_most_moved": {
            f"{share:g}": float(most[round(share * len(most)) - 1] / most[-1]) for share in TOP
        },
        "median_kl": float(moved.median()),
        "kl": float(moved.mean()),
    }
    print(write("harm", result, quick=False))


if __name__ == "__main__":
    main()
