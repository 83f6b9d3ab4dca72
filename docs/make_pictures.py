"""Draw the pictures of docs/concepts.md and docs/choosing.md into docs/pictures.

    python docs/make_pictures.py [NAME ...]

What is measured in them is measured here, on the model `bundled-small`, or read from
benchmarks/results. The same versions give the same files.
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch, Rectangle

from alphaedit import Editor, Fact
from alphaedit.linalg.solve import System
from alphaedit.linalg.subspace import null_space
from alphaedit.methods.steps.keys import keys_and_values
from alphaedit.world.facts import World
from alphaedit.world.records import records

FOLDER = Path(__file__).resolve().parent / "pictures"
RESULTS = FOLDER.parents[1] / "benchmarks" / "results"
INK, SOFT, LINE = "#1f2328", "#59636e", "#8c959f"
BLUE, ORANGE, GREEN, RED = "#0969da", "#bc4c00", "#1a7f37", "#cf222e"
PALE = {BLUE: "#ddf4ff", ORANGE: "#fff1e5", GREEN: "#dafbe1", RED: "#ffebe9", LINE: "#f6f8fa"}
LAYER, ENERGY = 2, 0.95
"""The last edited layer of `bundled-small`, and what its preset protects."""
FACTS = 480

mpl.rcParams.update(
    {
        "backend": "svg",
        "svg.fonttype": "none",
        "svg.hashsalt": "alphaedit",
        "font.size": 10.5,
        "font.family": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": LINE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "axes.titlesize": 11.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
    }
)


def save(figure: Any, name: str) -> None:
    """Write a picture on white, with nothing in it that changes from run to run."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.svg"
    figure.savefig(path, facecolor="white", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", "utf-8")
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches without axes; one unit is a hundredth of an inch."""
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width * 100), ylim=(0, height * 100))
    axes.axis("off")
    return figure, axes


def box(axes: Any, at: Sequence[float], text: str, colour: str = LINE, **more: Any) -> None:
    """A box with text in its middle; `at` is its left, bottom, width and height."""
    x, y, width, height = at
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=7", lw=1.3)
    shape.set(facecolor=PALE[colour], edgecolor=colour)
    axes.add_patch(shape)
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", **more)


def arrow(axes: Any, start: Sequence[float], end: Sequence[float], colour: str = SOFT) -> None:
    """An arrow."""
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


@cache
def editor() -> Editor:
    """The small bundled model."""
    return Editor.from_pretrained("bundled-small", progress=False)


@cache
def fact_keys() -> torch.Tensor:
    """Keys [d_in, n] of facts of the bundled world at the layer, float64."""
    world = World.load().largest(500)
    rows = [row["requested_rewrite"] for row in records(world, FACTS, seed=0)]
    facts = [Fact(row["prompt"], row["subject"], row["target_new"]["str"]) for row in rows]
    return keys_and_values(editor().handle, facts, (), LAYER, LAYER)[0].double()


def keys_and_values_picture() -> None:
    """A fact's way through one MLP."""
    figure, axes = canvas(8.6, 3.5)
    words = ("The mother tongue of Danielle Darri", "eux", " is  …")
    for x, word, colour in zip((20, 303, 352), words, (LINE, BLUE, LINE), strict=True):
        width = {0: 280, 1: 45}.get(words.index(word), 55)
        axes.add_patch(
            Rectangle((x, 298), width, 30, facecolor=PALE[colour], edgecolor=colour, lw=1)
        )
        axes.text(x + width / 2, 313, word, ha="center", va="center")
    axes.text(420, 313, "the subject's last token", color=BLUE, va="center")
    arrow(axes, (325, 296), (325, 262), BLUE)
    axes.text(335, 279, "its hidden state", color=SOFT, va="center")
    axes.plot((60, 820), (250, 250), color=LINE, lw=5, solid_capstyle="round")
    axes.text(60, 262, "stream of hidden states", color=SOFT)
    arrow(axes, (110, 247), (110, 172))
    box(axes, (50, 110, 120, 62), "norm, up,\nactivation")
    arrow(axes, (170, 141), (238, 141))
    box(axes, (240, 110, 110, 62), "key  k", BLUE, fontweight="bold")
    axes.text(295, 92, "“who is spoken of”", color=SOFT, ha="center")
    arrow(axes, (350, 141), (408, 141))
    box(axes, (410, 82, 130, 118), "W", LINE, fontsize=20)
    axes.text(475, 63, "output projection", color=SOFT, ha="center")
    arrow(axes, (540, 141), (598, 141))
    box(axes, (600, 110, 130, 62), "value  W k", ORANGE, fontweight="bold")
    axes.text(665, 92, "“French”", color=SOFT, ha="center")
    arrow(axes, (732, 150), (790, 245))
    axes.text(782, 200, "added", color=SOFT)
    axes.text(50, 40, "The edit: W becomes W + Δ,", color=GREEN, fontweight="bold")
    axes.text(
        270, 40, "with (W + Δ) k = the value from which the model says “English”,", color=GREEN
    )
    axes.text(270, 18, "and ΔK0 = 0 for the keys K0 of everything else", color=GREEN)
    save(figure, "keys-and-values")


def null_space_picture() -> None:
    """The spectrum of a second moment, and whose keys lie in the null space."""
    editor().statistics.prepare([LAYER])
    spectrum = editor().statistics.spectrum(LAYER)
    values = spectrum.values.double().flip(0).clamp_min(1e-12)
    space = null_space(spectrum, energy=ENERGY)
    size, null = len(values), space.dim
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.5), width_ratios=(1.7, 1))
    left.semilogy(range(1, size + 1), values, color=BLUE, lw=2)
    left.axvspan(size - null, size, color=PALE[GREEN], zorder=0)
    left.axvline(size - null, color=GREEN, lw=1.3)
    left.set(xlabel="directions, longest first", ylabel="eigenvalue of C", xlim=(1, size))
    left.set_title("How long keys of text are, by direction")
    top = float(values[0])
    left.text(size - null - 8, top * 0.6, f"{size - null} protected\n{ENERGY:.0%} of the energy",
              ha="right", va="top", color=SOFT)  # fmt: skip
    left.text(size - null + 8, top * 0.6, f"null space:\n{null} directions", va="top", color=GREEN)
    keys = fact_keys()
    inside = space.project(keys).square().sum() / keys.square().sum()
    text = float(values[size - null :].sum() / values.sum())
    shares = (100 * text, 100 * float(inside))
    bars = right.barh((1, 0), shares, color=(LINE, GREEN), height=0.5)
    right.bar_label(bars, [f"{share:.0f} %" for share in shares], padding=4)
    right.set(yticks=(1, 0), yticklabels=("keys of\ntext", "keys of\nfacts"), xlim=(0, 20))
    right.set(xlabel="% of squared length in the null space", ylim=(-0.6, 1.6))
    right.set_title("Who is left in it")
    figure.tight_layout(w_pad=2.5)
    save(figure, "null-space")


def load_picture() -> None:
    """The room that earlier edits leave, and what was measured as they become more."""
    keys = fact_keys()
    editor().statistics.prepare([LAYER])
    space = null_space(editor().statistics.spectrum(LAYER), energy=ENERGY)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6))
    for own, label, colour in (
        (keys, f"all {len(keys)} directions", BLUE),
        (space.project(keys), f"the {space.dim} of the null space", GREEN),
    ):
        unit = own / own.norm(dim=0)
        test, past = unit[:, :40], unit[:, 40:]
        basis = torch.linalg.qr(past).Q
        # A column of the basis is what a key adds to those before it.
        taken = (basis.T @ test).square().cumsum(dim=0).mean(dim=1)
        counts = torch.arange(1, len(taken) + 1)
        counts = counts[counts <= (space.dim if label.startswith("the") else len(keys))]
        left.plot(counts / len(keys), 100 * (1 - taken[: len(counts)]), color=colour, label=label)
    left.set(xlabel="load, model bundled-small", ylabel="% of squared length", ylim=(0, 100))
    left.set_xlim(0, 0.6)
    left.set_title("What of a new key no earlier edit uses")
    left.legend(frameon=False, labelcolor=SOFT)
    found = json.loads((RESULTS / "projection.json").read_text("utf-8"))["results"]
    for name, colour in (("memit-history", BLUE), ("memit", ORANGE), ("ft", RED)):
        rows = found[name]["plain"]
        loads = [row["load"] for row in rows]
        right.plot(loads, [row["kept"] for row in rows], color=colour, marker="o", ms=4)
        right.text(loads[-1] + 0.008, rows[-1]["kept"], name, color=colour, va="center")
    right.set(xlabel="load, model bundled", ylabel="% of unedited facts kept", ylim=(0, 104))
    right.set_xlim(0, 0.4)
    right.set_title("What is lost meanwhile")
    figure.tight_layout(w_pad=2.5)
    save(figure, "load")


def history_picture() -> None:
    """One batch after another beside all at once, with history and without."""
    batches, size = 8, 20
    keys = fact_keys()[:, : batches * size]
    generator = torch.Generator().manual_seed(0)
    weight = editor().handle.weight(LAYER).double()
    wanted = torch.randn(len(weight), keys.shape[1], generator=generator, dtype=torch.float64)
    values = weight @ keys + wanted / wanted.norm(dim=0) * (weight @ keys).norm(dim=0)
    moment = editor().statistics.second_moment(LAYER).double()

    def system() -> System:
        return System(
            ridge=1e-4 * float(moment.diagonal().mean()),
            subspace=None,
            second_moment=moment,
            moment_weight=33.0,
        )

    at_once = weight + system().solve(keys, values - weight @ keys).matrix()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.5))
    change = (at_once - weight).norm()
    ages = range(1, batches + 1)
    for remember, label, colour in ((True, "with history", BLUE), (False, "without", ORANGE)):
        now, solver, distance = weight.clone(), system(), []
        for at in range(0, keys.shape[1], size):
            own, part = keys[:, at : at + size], slice(at + size)
            now = now + solver.solve(own, values[:, at : at + size] - now @ own).matrix()
            if remember:
                solver.absorb(own)
            until = (
                weight + system().solve(keys[:, part], (values - weight @ keys)[:, part]).matrix()
            )
            distance.append(100 * float((now - until).norm() / change))
        print(f"history: {label}: {distance[-1]:.2g} % from all at once")
        left.plot(ages, distance, color=colour, marker="o", ms=4, label=label)
        miss = ((now @ keys - values).norm(dim=0) / (values - weight @ keys).norm(dim=0)).view(
            batches, size
        )
        right.plot(ages, 100 * miss.mean(dim=1), color=colour, marker="o", ms=4, label=label)
    miss = ((at_once @ keys - values).norm(dim=0) / (values - weight @ keys).norm(dim=0)).view(
        batches, size
    )
    right.plot(ages, 100 * miss.mean(dim=1), "x", color=INK, label="all at once")
    left.set(xlabel="batches so far", ylabel="% of the whole change", ylim=(-2, None))
    left.set_title("Distance from all facts at once")
    right.set(xlabel="batch, oldest first", ylabel="% of the residual missed", ylim=(0, None))
    right.set_title("At the end: how far facts are off")
    for axes in (left, right):
        axes.legend(frameon=False, labelcolor=SOFT)
    figure.tight_layout(w_pad=2.5)
    save(figure, "history")


def choosing_picture() -> None:
    """Which method to try first."""
    figure, axes = canvas(8.8, 4.6)
    axes.set_ylim(85, 545)
    big = {"fontweight": "bold"}
    box(axes, (260, 480, 360, 50), "May the weights change?", BLUE, **big)
    arrow(axes, (360, 478), (215, 432))
    arrow(axes, (520, 478), (665, 432))
    axes.text(262, 462, "no, they stay as they are", color=SOFT, ha="right", va="center")
    axes.text(618, 462, "yes, in a file that any engine loads", color=SOFT, va="center")
    box(
        axes,
        (30, 375, 370, 54),
        "Is the subject named in what is asked?\nDoes the model read notes?",
        BLUE,
    )
    box(axes, (480, 375, 370, 54), "How many facts, in all,\nand how long are their objects?", BLUE)
    leaves = (
        (
            30,
            "the subject is named",
            "gated",
            "the default; other text stays;\nas a larger checkpoint, too",
        ),
        (
            30,
            "notes are read, prompts have room",
            "rag",
            "a statement in front of the\nprompt; the honest baseline",
        ),
        (
            30,
            "the edited prompts alone",
            "grace",
            "fires at its own prompts,\nfew paraphrases",
        ),
        (480, "one, or hundreds", "alphaedit-\nweighted", "adapters and GGUF\nfiles, too"),
        (480, "a sentence or more as object", "anyedit", "one value for each\nchunk of it"),
        (
            480,
            "thousands, a large model",
            "memit-history",
            "ultraedit by its paper",
        ),
    )
    rows = {30: 0, 480: 0}
    for x, condition, method, why in leaves:
        y = 290 - 90 * rows[x]
        rows[x] += 1
        above = y + (85 if rows[x] == 1 else 117)
        axes.plot((x + 12, x + 12, x + 24), (above, y + 25, y + 25), color=LINE, lw=1.3, zorder=0)
        axes.text(x + 26, y + 60, condition, color=SOFT, va="center")
        box(axes, (x + 26, y, 145, 50), method, GREEN, **big)
        axes.text(x + 181, y + 25, why, color=INK, va="center", fontsize=9.5)
    save(figure, "choosing")


PICTURES: dict[str, Callable[[], None]] = {
    "keys-and-values": keys_and_values_picture,
    "null-space": null_space_picture,
    "load": load_picture,
    "history": history_picture,
    "choosing": choosing_picture,
}


def main() -> None:
    """Draw those that are named, or all."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # fonts that lack
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]()


if __name__ == "__main__":
    main()
