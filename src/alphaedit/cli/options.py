"""Options that commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from alphaedit.cli import complete
from alphaedit.cli.groups import grouped as grouped
from alphaedit.cli.output import Session

_COMMON = "Common options"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete.models,
        help="A model directory or .gguf file, a hub name (owner/name), 'bundled', "
        "'bundled-small' or 'bundled-reader'.",
        show_default=False,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object on standard output, and nothing else there.",
        rich_help_panel=_COMMON,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        max=2**32 - 1,
        help="Seed of everything random.",
        rich_help_panel=_COMMON,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where to compute: cpu, cuda:0, or auto (spread over all devices).",
        rich_help_panel=_COMMON,
        show_default="cpu",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        autocompletion=complete.dtypes,
        help="Dtype of the weights: float32, bfloat16, float16; 4bit or 8bit by bitsandbytes.",
        rich_help_panel=_COMMON,
        show_default="as stored; float32 on a CPU",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python code that comes with MODEL: it then has all the rights that you have.",
        rich_help_panel=_COMMON,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=_COMMON)]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Show the traceback of an error (also: ALPHAEDIT_DEBUG=1).",
        rich_help_panel=_COMMON,
    ),
]

Method = Annotated[
    str,
    typer.Option(
        "--method",
        "-m",
        metavar="METHOD",
        autocompletion=complete.methods,
        help="Editing method (see `alphaedit methods`). auto: gated, or alphaedit-weighted for "
        "what gated is not for (docs/best-default.md).",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="PRESET",
        autocompletion=complete.presets,
        help="Hyperparameters: a name, a file that `alphaedit tune` wrote, or `measured` for what "
        "the model itself shows.",
        show_default="the one that fits the model, else measured on it",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one hyperparameter, such as layers=3,4 or clamp=1.5. Repeatable.",
        show_default=False,
    ),
]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="PLUGIN[:KEY=VALUE,...]",
        autocompletion=complete.plugins,
        help="Add a plug-in, such as project or sphere:strength=0.8 (see `alphaedit methods`). "
        "Repeatable.",
        show_default=False,
    ),
]
Guard = Annotated[
    str | None,
    typer.Option(
        "--guard",
        metavar="ACTION[:KEY=VALUE,...]",
        autocompletion=complete.guards,
        help="After each batch measure held-out text, and past a limit warn, stop (keep the batch) "
        "or rollback (undo it): rollback:max_kl=0.05,max_perplexity=1.1,text=FILE.",
        show_default=False,
    ),
]
CorpusName = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        metavar="CORPUS",
        autocompletion=complete.corpora,
        help="Text for the second moments: a .txt or .jsonl file, hf:NAME, 'general' (ours), "
        "'bundled', or 'self' (sampled from the model).",
        show_default="bundled for bundled models, general for those that read it, else self",
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option(
        "--tokens",
        min=1,
        help="Token budget of the second moments.",
        show_default="40 a direction, at most 1,000,000",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        min=0,
        help="Stop before the budget once doubling the text changes no second moment by more than "
        "this share, such as 0.05.",
        show_default="the whole budget",
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        metavar="DIR",
        help="Where second moments are kept.",
        show_default="$ALPHAEDIT_CACHE, or ~/.cache/alphaedit",
    ),
]
Chat = Annotated[
    bool,
    typer.Option(
        "--chat", help="Prompts are a user's turn, by the chat template of an instruct model."
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace what alphaedit wrote at the output path before.")
]
ReportFile = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write an HTML report.", show_default=False),
]
NoGeneration = Annotated[
    bool,
    typer.Option("--no-generation", help="Skip fluency and consistency, which sample text."),
]

Generation = Annotated[
    bool | None,
    typer.Option(
        "--generation/--no-generation",
        help="Measure fluency and consistency too, which sample text. By default with --report, "
        "and for bundled models.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Loading:
    """How a command loads its model.

    Attributes:
        device: where to compute; the CPU by default.
        dtype: of the weights; as stored by default, float32 on a CPU.
        trust_remote_code: run code that comes with the model.
    """

    device: Device = None
    dtype: Dtype = None
    trust_remote_code: TrustRemoteCode = False

    def check(self) -> None:
        """Refuse a device or dtype that there is not; PyTorch is imported only for other ones.

        Raises:
            ConfigError: naming those there are.
        """
        if self.device not in (None, "cpu"):
            from alphaedit.model.devices import check_device

            check_device(self.device)
        if self.dtype is not None:
            from alphaedit.model.load import as_dtype
            from alphaedit.model.quantised import BITS

            if self.dtype not in BITS:
                as_dtype(self.dtype)


AS_STORED = Loading()


class _Says:
    """What a command with --json and --quiet says, and where."""

    json: bool
    quiet: bool

    @property
    def session(self) -> Session:
        """The output of the command."""
        return Session(json=self.json, quiet=self.quiet)


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Common options of a command that is done at once."""

    json: Json = False
    debug: Debug = False

    @property
    def session(self) -> Session:
        """The output of the command."""
        return Session(json=self.json, quiet=False)


@dataclass(frozen=True, kw_only=True)
class Common(_Says):
    """Common options of a command that loads no model."""

    json: Json = False
    quiet: Quiet = False
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class WithModel(_Says):
    """Common options of a command that loads a model."""

    json: Json = False
    loading: Loading = AS_STORED
    quiet: Quiet = False
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class Seeded(_Says):
    """Common options of a command that loads a model and draws at random."""

    json: Json = False
    seed: Seed = 0
    loading: Loading = AS_STORED
    quiet: Quiet = False
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Where the second moments come from, and where they are kept."""

    corpus: CorpusName = None
    tokens: Tokens = None
    tolerance: Tolerance = None
    cache_dir: CacheDir = None


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """How a method is set."""

    preset: Preset = None
    settings: Settings = None
    plugins: Plugins = None

    def given(self, method: str) -> dict[str, Any]:
        """Hyperparameters of `method` that were given one by one, with their plug-ins."""
        from alphaedit.cli.prepare import overrides
        from alphaedit.editor.standard import before_a_model

        return overrides(self.settings, self.plugins, method=before_a_model(method))


def examples(*lines: str) -> str:
    """Text for the foot of a help page."""
    # In help pages, a blank line stands for a line break and square brackets for markup.
    shown = [line.replace("[", "\\[") for line in lines]
    return "\n\n".join(["[bold]Examples:[/bold]", *(f"[cyan]$ {line}[/cyan]" for line in shown)])
