"""Command lines from a grammar of all commands and options, as they are: told, in time, harmless.

New commands and options take part by themselves; values go by what help calls them.
"""

import json
import os
import random
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz import both, profile, run_cli
from tests.ledgers import make
from tests.tiny import SENTENCES, save_tiny

from alphaedit import Editor, Fact
from alphaedit.cli.app import app
from alphaedit.core.errors import AlphaEditWarning, ModelError, ResourceError
from alphaedit.ledger.archive import pack
from alphaedit.ledger.ledger import Ledger

ROOT: Any = typer.main.get_command(app)
NOT_TRIED = ("--debug", "--install-completion", "--show-completion")
"""The first shows tracebacks on purpose, the others write into the files of a shell."""
LIGHT = ("ask", "check", "init", "apply", "revert", "export", "diff", "verify", "stats")
"""Commands that are also run with a model, a tiny one."""
FACT = {"prompt": "The capital of {} is", "subject": "France", "target": "Rome", "truth": "Paris"}
MAY_CHANGE = ("work", "cache", "template", ".cache", ".config")
"""Ours, and where matplotlib keeps what it found out."""
ODD_TEXTS = (
    *("", " ", "0", "-", "--", "-1", "a\nb", "\x1b[31m", "\0", "\ud800", "\udcff", "\u202e"),
    *("東京", "é" * 300, "x" * 5000, "9" * 5000, "%s%n", "{}", "{x}", "[bold]", "[/]", "$HOME"),
    *("null", "~", "~nobody/x", "..", "a=b", "=", ":", ",", "hf:", "hf:a/b", "@", "@0", "@99"),
)
WHOLE = ("1", "2", "3", "0", "-1", "99999999999", "9" * 5000, "1.5", "nan", "", "0x1", "٣", "1_0")
REAL = ("0.5", "0.98", "1", "0", "-0.1", "nan", "inf", "1e999", "9" * 5000, "", "1,5", "0.5.5")
PATHS = (
    *("model", "ledger", "other-ledger", "facts.jsonl", "facts.csv", "records.json", "text.txt"),
    *("preset.yaml", "archive.tar.gz", "thesis", "thesis/thesis.txt", "empty", "notes.md"),
    *("adapter", "fifo", "socket-like", "link", "loop", "dangling", "linked-model", "/dev/null"),
    *("new", "new/deep/er", "new.html", "new.svg", "new.png", "new.xml", "new.tar.gz", "new.gguf"),
    *("new.yaml", "new.json", "new.doc", "facts.jsonl/x", "./model/", "model/config.json"),
    *("ledger/journal.jsonl", "ledger/edits", "ledger/new", "model/new", "n" * 300, "a\x1bb\nc"),
    *("caf\udce9", "/dev/zero", "/dev/full", "/proc/self/mem", "/nowhere/new", "~nobody/x"),
)
BY_NAME: dict[str, tuple[str, ...]] = {
    "MODEL": (
        "model",
        "bundled",
        "bundeld",
        "bundled-small",
        "./nowhere",
        "a/b",
        "a/b/c",
        "thesis",
    ),
    "FACTS": ("facts.jsonl", "facts.csv", "-", "world", "records.json", "text.txt"),
    "LEDGER": ("ledger", "ledger", "other-ledger", "new", "empty", "model"),
    "LEDGER|ARCHIVE": ("other-ledger", "archive.tar.gz", "ledger", "text.txt"),
    "LEDGER|DIR": ("ledger", "adapter", "thesis"),
    "ARCHIVE": ("archive.tar.gz", "new.tar.gz", "new.zip", "text.txt"),
    "EDIT": ("last", "EDIT0", "EDIT1", "0", "zzz", "head", "base"),
    "EDIT=SIDE": ("EDIT0=ours", "EDIT1=theirs", "EDIT0=mine", "EDIT0", "=ours"),
    "VERSION": ("head", "base", "head~1", "head~99", "@0", "@1", "@99", "@-1", "EDIT0", "head~x"),
    "RECORDS": ("records.json", "world", "world:zsre", "world:nope", "facts.jsonl", "hf:a/b:c:d"),
    "EXPERIMENT": ("main-table", "mian-table", "preset.yaml", "threshold", "new.yaml"),
    "COMMAND": ("log", "world", "facts", "nope"),
    "PROMPT": ("The capital of France is", "x"),
    "TEXT": ("The capital of {} is", "France", "Rome", "why not"),
    "METHOD": ("alphaedit", "memit", "ROME", "none", "alfaedit", "ft"),
    "PRESET": ("bundled", "gpt2-xl", "preset.yaml", "facts.jsonl", "bunlded", "new.yaml"),
    "CORPUS": ("text.txt", "bundled", "self", "hf:", "fifo", "/dev/zero", "records.json"),
    "SCHEMA": ("counterfact", "zsre", "conterfact"),
    "RELATION": ("P103", "P0"),
    "DEVICE": ("cpu", "cuda", "banana", "auto", "cpu:7", "meta", "cuda:99999999999999999999"),
    "DTYPE": ("float32", "bfloat16", "float8", "4bit", "int8", "float"),
    "FORMAT": ("tsv", "json", "jsonl", "csv", "yaml", "lora", "delta", "checkpoint", "gguf"),
    "TYPE": ("F16", "Q8_0", "same", "Q9"),
    "KIND": ("hidden", "mlp", "all", "heads"),
    "SIDE": ("ours", "theirs", "mine"),
    "GPU": ("h100", "t4", "h1000"),
    "LAYERS": ("1", "1-2", "1,2", "2-1", "99", "-1", "0-99999999999", "²", "[1]", "1-", "-"),
    "REPO": ("me/my-edits", "me", "a/b/c", "../x"),
    "REVISION": ("main",),
    "NAME,...": ("sst2", "sst2,rte", "nope", ","),
    "URL|MODEL": ("http://127.0.0.1:9/v1", "model", "ftp://x"),
    "KEY=VALUE": (
        *("clamp=1.5", "layers=1,2", "steps=2", "clamp=nan", "clamp=", "=1", "clamp", "nope=1"),
        *("steps=1.5", f"steps={'9' * 4000}", "layers=0-9999999999", "threshold=0.1", "energy=0.9"),
        *("plugins=project", "graph=/dev/zero", "edits=3", "methods=[alphaedit,memit]", "seeds=[["),
        *("methods={a: b}", "models=bundeld", "vary={name: clamp}", "edits=2024-13-45"),
    ),
    "PLUGIN[:KEY=VALUE,...]": (
        *("project", "sphere:strength=0.8", "sphere:strength=9", "spere", "sphere:a=1", "sphere:"),
        *("sphere:strength", "queue:alpha=[", "early-stop:steps=nan", ":", "ridge:weight=1e999"),
    ),
    "ACTION[:KEY=VALUE,...]": (
        *("warn", "stop:max_kl=0.1", "rollback:max_kl=nan", "sotp", "warn:text=/dev/zero"),
        *(
            "warn:max_kl",
            "warn:max_perplexity=-1",
            "warn:text=fifo",
            "warn:text=text.txt",
            "warn:=",
        ),
    ),
}


def commands(group: Any = ROOT, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


COMMANDS = dict(commands())


def values(param: Any) -> tuple[str, ...]:
    """What may be given for a parameter, the reasonable first."""
    metavar = param.metavar or ""
    if metavar == "N":
        return WHOLE
    if metavar in ("X", "GB"):
        return REAL
    known = BY_NAME.get(metavar, ())
    paths = metavar in ("DIR", "FILE", "DIR|FILE", "LEDGER", "FACTS", "ARCHIVE", "MODEL", "PRESET")
    return (*known, *PATHS) if paths or not known else known


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[tuple[str, ...], list[str]]:
    """A command, and words behind it."""
    rng = draw(st.randoms(use_true_random=True))  # by a seed of hypothesis; evenly distributed
    path = rng.choice(sorted(COMMANDS))
    params = [p for p in COMMANDS[path].params if not set(p.opts) & set(NOT_TRIED)]

    careful = rng.random() < 0.5
    """Half of the lines are mostly right, so that they come further."""

    def value(param: Any) -> str:
        known = values(param)
        dice = rng.random()
        if careful and dice < 0.9:
            return rng.choice(known[:2])
        if dice < 0.55:
            return rng.choice(known[: max(2, len(known) // 3)])
        return rng.choice(known) if dice < 0.9 else rng.choice(ODD_TEXTS)

    words: list[str] = []
    for param in params:
        if param.param_type_name == "argument":
            if rng.random() < (0.97 if param.required else 0.5):
                count = rng.choice((1, 1, 2, 3)) if param.nargs == -1 else 1
                words += [value(param) for _ in range(count)]
            continue
        chance = 0.85 if param.required else 0.5 if "--json" in param.opts else 0.12
        while rng.random() < chance:
            name = rng.choice(param.opts)
            if getattr(param, "is_flag", False):
                words.append(name)
            elif name.startswith("--") and rng.random() < 0.2:
                words.append(f"{name}={value(param)}")
            else:
                words += [name, value(param)]
            chance = 0.3 if getattr(param, "multiple", False) else 0.02
    dice = rng.random()
    if dice < 0.03:
        words.insert(rng.randint(0, len(words)), rng.choice((*ODD_TEXTS, "--nope", "-x", "-h")))
    elif dice < 0.05 and words:
        words.pop(rng.randrange(len(words)))
    elif dice < 0.06:
        rng.shuffle(words)
    return path, words


class Place:
    """A home, a cache, and the directory in which commands run; built anew once it changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.template, self.work = root / "template", root / "work"
        for name in ("home", "cache", "template"):
            (root / name).mkdir()
        model = save_tiny("gpt2", self.template / "model")
        self.ids = self._ledgers(model)
        files = {
            "facts.jsonl": json.dumps(FACT),
            "facts.csv": "prompt,subject,target\nThe capital of {} is,France,Rome\n",
            "records.json": json.dumps([{"case_id": 1, "requested_rewrite": {}}]),
            "preset.yaml": "all: {layers: [1, 2]}\n",
            "notes.md": "precious",
            "thesis/config.json": "{}",
            "thesis/thesis.txt": "precious",
            "adapter/adapter_config.json": "{}",
            "adapter/code.py": "precious",
        }
        for name, text in files.items():
            (self.template / name).parent.mkdir(exist_ok=True)
            (self.template / name).write_text(text, encoding="utf-8")
        (self.template / "empty").mkdir()
        self.build()

    def _ledgers(self, model: Path) -> list[str]:
        """One ledger whose edits fit the model, and one whose edits do not."""
        text = self.template / "text.txt"
        text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
        editor = Editor.from_pretrained(
            str(model), corpus=str(text), tokens=400, cache_dir=self.root / "cache", progress=False
        )
        editor.track(self.template / "ledger", model="model")
        over = {"layers": (1,), "steps": 2, "contexts": 1, "energy": 0.9, "ridge": 1.0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AlphaEditWarning)  # they need not take
            for subject in ("France", "Spain"):
                editor.edit(Fact("The capital of {} is", subject, "Rome"), **over)
        other = Ledger.create(self.template / "other-ledger", editor.base, why="\x1b[31m")
        for number in (1, 4):
            other.commit("edit", add=[make(number)], why="\x1b[31m")
        pack(other, self.template / "archive.tar.gz")
        return [edit.id for edit in editor.edits]

    def build(self) -> None:
        if self.work.exists():
            os.chdir(self.root)
            shutil.rmtree(self.work)
        shutil.copytree(self.template, self.work)
        os.mkfifo(self.work / "fifo")
        for name, target in (
            *(("link", "facts.jsonl"), ("loop", "loop"), ("dangling", "nowhere")),
            ("linked-model", "model"),
        ):
            (self.work / name).symlink_to(target)
        os.chdir(self.work)
        self.before = self.seen()
        self.around = self.seen(self.root, but=MAY_CHANGE)

    def seen(self, folder: Path | None = None, but: tuple[str, ...] = ()) -> dict[str, Any]:
        """Every file below a folder, with what it holds."""
        folder = folder or self.work
        found: dict[str, Any] = {}
        for place, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if name not in but]
            for name in (*folders, *names):
                path = Path(place, name)
                info = path.lstat()
                held = ""
                if stat.S_ISREG(info.st_mode):
                    held = sha256(path.read_bytes()).hexdigest()
                elif stat.S_ISLNK(info.st_mode):
                    held = os.readlink(path)
                found[str(path.relative_to(folder))] = (stat.S_IFMT(info.st_mode), held)
        return found

    def check(self, argv: list[str]) -> None:
        """Nothing of the user is changed or gone, no litter is left, nothing is written elsewhere.

        Journals of ledgers that are named may grow at their end.
        """
        said = f"alphaedit {argv}"
        around = self.seen(self.root, but=MAY_CHANGE)
        assert around == self.around, f"{said} wrote {set(around) ^ set(self.around)}"
        after = self.seen()
        if after == self.before:
            return
        try:
            for name, was in self.before.items():
                if after.get(name) == was:
                    continue
                if name == "archive.tar.gz" and {"pack", "--force"} <= set(argv):
                    continue  # it was made by `alphaedit pack`
                ledger = name.partition("/")[0]
                assert ledger in ("ledger", "other-ledger"), f"{said} changed {name}"
                if name.endswith("journal.jsonl"):
                    old = (self.template / name).read_bytes()
                    assert (self.work / name).read_bytes().startswith(old), said
                else:
                    assert "/edits/" in name, f"{said} changed {name}"
                    assert "gc" in argv, f"{said} removed {name}"
                    assert "--prune" in argv, f"{said} removed {name}"
            litter = [name for name in after if ".part-" in name or name.endswith(".old")]
            assert not litter, f"{said} left {litter}"
        finally:
            self.build()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    here = os.getcwd()
    found = Place(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COLUMNS", raising=False)
    yield found
    os.chdir(here)


def stubbed() -> ExitStack:
    """Without models, training and network: what would be long ends where it begins."""

    def no_model(*args: Any, **kwargs: Any) -> Any:
        raise ModelError("No model is loaded here.", remedy="None.")

    def no_network(*args: Any, **kwargs: Any) -> Any:
        raise ResourceError("There is no network here.", remedy="None.")

    from alphaedit.editor import plan

    stack = ExitStack()
    for target, stub in (
        ("alphaedit.editor.session.Editor.from_pretrained", no_model),
        ("alphaedit.model.handle.ModelHandle.load", no_model),
        ("alphaedit.world.train.train", no_model),
        ("alphaedit.editor.plan.here", lambda shape: plan.gpu("t4")),
        ("alphaedit.ledger.hub.HfApi", no_network),
        ("alphaedit.ledger.hub.snapshot_download", no_network),
        ("huggingface_hub.constants.HF_HUB_OFFLINE", True),
    ):
        stack.enter_context(mock.patch(target, stub))
    return stack


def one_object(out: str, said: str) -> None:
    assert out.endswith("\n"), said
    assert out.count("\n") == 1, said
    assert isinstance(json.loads(out), dict), said


def try_it(place: Place, path: tuple[str, ...], words: list[str], stdin: bytes) -> int:
    """Run a command line and check everything that must hold."""
    for number, edit in enumerate(place.ids[:2]):
        words = [word.replace(f"EDIT{number}", edit) for word in words]
    argv = [*path, *words]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, out, err = run_cli(argv, stdin)
    said = f"alphaedit {argv} -> {code}\n{out}\n{err}"
    options = argv[: argv.index("--")] if "--" in argv else argv
    helps = {"-h", "--help", "--version"} & set(argv)
    if "--json" in options and not helps:
        one_object(out, said)
    assert not set(out + err) & set("\x1b\x07\u202e"), said
    if code == 2:
        assert "Error: " in err or "--json" in options, said
    place.check(argv)
    return code


@both(150)
def test_command_lines(count: int, place: Place) -> None:
    """Any command with any options; where a model would be loaded, it ends."""
    codes: dict[int, int] = {}

    @profile(count)
    @given(command_lines(), st.sampled_from([b"", json.dumps(FACT).encode(), b"\xff", b"["]))
    def one(line: tuple[tuple[str, ...], list[str]], stdin: bytes) -> None:
        code = try_it(place, *line, stdin)
        codes[code] = codes.get(code, 0) + 1

    with stubbed():
        one()
    assert len(codes) == 3, "some succeed, some fail, some are wrong usage"


def light_line(name: str, rng: random.Random) -> list[str]:
    """Words behind a command that loads the tiny model."""
    few = {"stats": ["--corpus", "text.txt", "--tokens", "200"], "ask": ["--max-new-tokens", "2"]}
    words: list[str] = []
    for param in COMMANDS[(name,)].params:
        known = [value for value in values(param)[:5] if not value.startswith("bundled")]
        if set(param.opts) & {"--out", "--checkpoint", "--junit", "--plot"}:
            known = ["new", "new/deep/er", "new.svg", "empty", "thesis"]
        if param.param_type_name == "argument":
            some = {"MODEL": ["model"], "LEDGER": ["new"] if name == "init" else ["ledger"]}
            words.append(rng.choice(some.get(param.metavar, known[:2])))
        elif set(param.opts) & {*NOT_TRIED, "--trust-remote-code", *few.get(name, ())}:
            continue
        elif param.required or rng.random() < 0.15:
            flag = getattr(param, "is_flag", False)
            words += [param.opts[0]] if flag else [param.opts[0], rng.choice(known)]
    return [*words, *few.get(name, ())]


@both(25)
def test_command_lines_with_a_model(count: int, place: Place) -> None:
    """Light commands, with a tiny model and a ledger of it."""
    codes: list[int] = []

    @profile(min(count, 300))
    @given(st.sampled_from(LIGHT), st.randoms(use_true_random=True))
    def one(name: str, rng: random.Random) -> None:
        line = light_line(name, rng)
        codes.append(try_it(place, (name,), line, json.dumps(FACT).encode()))

    one()
    assert {0, 1} <= set(codes)


def test_the_grammar_has_all_commands() -> None:
    lines: set[tuple[str, ...]] = set()

    @profile(600)
    @given(command_lines())
    def one(line: tuple[tuple[str, ...], list[str]]) -> None:
        lines.add(line[0])

    one()
    assert lines == set(COMMANDS)
