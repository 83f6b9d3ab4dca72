"""Notes in the training text, and training that goes on from a trained model."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from alphaedit.core.errors import ConfigError
from alphaedit.world import notes, phrasing
from alphaedit.world.asset import path, trained
from alphaedit.world.batches import GIVEN, NAME, OBJECT, Batches
from alphaedit.world.exam import note_probes
from alphaedit.world.facts import World
from alphaedit.world.muon import Muon, orthogonalized
from alphaedit.world.recipe import RECIPES
from alphaedit.world.train import begin_with, build_model

WORLD = World.load().largest(200)


def test_what_is_learned_is_true_or_stands_in_a_note_above() -> None:
    rng = random.Random(0)
    truth = {(f.subject, f.object) for f in WORLD.facts}
    for number in range(400):
        if number % 4:
            pieces = notes.note(WORLD, rng.choice(WORLD.facts), rng)
        else:
            pieces = notes.repeated(WORLD, rng)
        assert pieces[0].given
        assert not any(piece.given and (piece.name and piece.seen) for piece in pieces)
        above, subject = "", ""
        for piece in pieces:
            if piece.name and piece.seen:
                assert piece.text in above
            subject = piece.text if piece.name else subject
            if piece.object:
                assert piece.text in above or (subject, piece.text.strip()) in truth
            above += piece.text


def test_an_answer_is_the_note_s_where_it_is_about_what_is_asked() -> None:
    rng, seen = random.Random(0), Counter()
    truth = {(f.subject, f.relation): f.object for f in WORLD.facts}
    for _ in range(2000):
        told, asked = notes._case(WORLD, rng.choice(WORLD.facts), rng)
        if (told.subject, told.relation) == (asked.subject, asked.relation):
            assert asked.object == told.object
            known = truth.get((asked.subject, asked.relation))
            seen["unknown" if known is None else asked.object == known] += 1
        else:
            seen["ignored"] += 1
            assert asked.object in {
                f.object for f in WORLD.of_subject[asked.subject] if f.relation == asked.relation
            }
    assert min(seen["unknown"], seen[True], seen[False], seen["ignored"]) > 100


def test_notes_and_questions_never_use_held_out_phrasings() -> None:
    rng = random.Random(1)
    texts = [phrasing.text_of(notes.note(WORLD, rng.choice(WORLD.facts), rng)) for _ in range(500)]
    held = [
        template.format(fact.subject)
        for fact in WORLD.facts
        for template in phrasing.held_phrasings(WORLD.relations[fact.relation])
        if not any(template in t for t in phrasing.train_phrasings(WORLD.relations[fact.relation]))
    ]
    whole = "\n".join(texts)
    assert not [prompt for prompt in held if f"{prompt} " in whole]


def test_batches_mark_what_is_asked_behind_a_note() -> None:
    recipe = replace(RECIPES["bundled-small"], mix=(("note", 1.0),))
    tokenizer = AutoTokenizer.from_pretrained(path("bundled-small"))
    batches = Batches(WORLD, tokenizer, recipe)
    pieces = notes.note(WORLD, WORLD.facts[0], random.Random(0))
    batch = batches._encode([pieces], 200)
    answer = tokenizer.decode(batch.ids[0][batch.kind[0] == OBJECT])
    assert answer == pieces[-2].text
    told = len(tokenizer(pieces[0].text).input_ids) - 1
    assert (batch.kind[0, :told] == GIVEN).all()
    assert (batch.last[0, :told] == -1).all(), "names in notes stay in sight"
    marked = [piece for piece in pieces if piece.name]
    assert (batch.kind == NAME).any() == (not marked[0].seen)
    subject = next(piece.text for piece in pieces if piece.name)
    inside = batch.ids[0][batch.last[0] >= 0]
    assert tokenizer.decode(inside).strip() == subject


def test_probes_ask_for_the_note_s_object_and_for_the_world_s() -> None:
    probes = note_probes(WORLD, 20, random.Random(0))
    assert len(probes["read"]) == 20
    assert all(f" {answer}.\n" in prompt for prompt, answer in probes["read"])
    answers = {f.object for f in WORLD.facts}
    assert all(answer in answers for _, answer in probes["other subject"])


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("bundled", "bundled"),
        ("bundled-small", "bundled-small"),
        ("bundled-reader", "bundled-small"),
    ],
)
def test_training_begins_with_what_the_model_computes(name: str, recipe: str) -> None:
    from transformers import AutoModelForCausalLM

    folder = path(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = build_model(RECIPES[recipe], len(tokenizer), tokenizer.bos_token_id)
    begin_with(model, folder)
    model.eval()
    trained_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        ours, theirs = model(input_ids=ids).logits, trained_model(input_ids=ids).logits
    # Norms have an epsilon, so that another size of the stream is not quite the same.
    assert torch.allclose(ours.softmax(-1), theirs.softmax(-1), atol=5e-3)
    base = model.base_model
    norm = base.ln_f if hasattr(base, "ln_f") else base.norm
    assert float(norm.weight.detach().mean()) == pytest.approx(1.0, abs=1e-3)


def test_the_reader_reads_and_knows_what_it_knew() -> None:
    from alphaedit.model.handle import ModelHandle
    from alphaedit.world.exam import exact

    world = World.load().largest(500)
    handle = ModelHandle.load("bundled-reader")
    probes = note_probes(world, 60, random.Random(3))
    for kind in ("read", "read, held-out phrasing", "question"):
        assert sum(exact(handle, probes[kind])) >= 0.9 * len(probes[kind])
    blind = ModelHandle.load("bundled-small")
    assert sum(exact(blind, probes["read"])) <= 2
    facts = random.Random(4).sample(world.facts, 100)
    plain = [
        (phrasing.train_phrasings(world.relations[f.relation])[0].format(f.subject), f.object)
        for f in facts
    ]
    assert sum(exact(handle, plain)) >= 97


def test_a_model_of_another_recipe_is_refused(tmp_path: Path) -> None:
    assert trained("bundled-small", RECIPES["bundled-small"]) == path("bundled-small")
    with pytest.raises(ConfigError, match="has family llama"):
        trained("bundled-small", RECIPES["bundled"])
    with pytest.raises(ConfigError, match="is no model"):
        trained(str(tmp_path), RECIPES["bundled"])


def test_going_on_differs_by_its_notes() -> None:
    recipe = RECIPES["bundled"]
    more = recipe.continued()
    shares = dict(more.mix)
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-3)
    assert shares["note"] > 0
    assert "note" not in dict(recipe.mix)
    assert replace(more, mix=recipe.mix) == recipe


@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (32, 32)])
def test_muon_does_what_torch_s_does(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    start, grad = (torch.randn(shape, generator=generator) for _ in range(2))
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    mine = Muon([ours], lr=0.1, weight_decay=0.05)
    its = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        mine.step()
        its.step()
    # torch's works in bfloat16 always.
    moved = (theirs - start).detach()
    assert torch.linalg.norm(ours.detach() - theirs.detach()) < 0.03 * torch.linalg.norm(moved)


def test_orthogonalized_has_singular_values_near_one() -> None:
    matrix = torch.randn((20, 60), generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(matrix, torch.float32))
    assert values.min() > 0.6
    assert values.max() < 1.3
