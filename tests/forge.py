"""Ledgers that say anything at all, with right hashes: what somebody may send who means ill."""

import io
import json
import struct
import tarfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load, save
from tests.ledgers import BASE, make

from alphaedit.core.edit import edit_id
from alphaedit.core.fact import Fact
from alphaedit.core.patch import Patch
from alphaedit.ledger.check import sweep
from alphaedit.ledger.history import version_of
from alphaedit.ledger.ledger import Ledger

ODD_TEXTS = ["", "0" * 16, "a" * 16, "0" * 64, "../../../etc", "/dev/zero", "\x1b[2J\n", "\ud800"]
ODD_NUMBERS = [-1, 0, 1, 2, 3, 7, 2**31, 2**63, 2**64, 10**400, 1e308, float("nan"), float("inf")]
SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from(ODD_NUMBERS)
    | st.sampled_from(ODD_TEXTS)
    | st.text(max_size=8)
    | st.integers()
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


def good(folder: Path) -> Ledger:
    """A ledger with all kinds of fields and entries: edits a and c are in force, b is pruned."""
    ledger = Ledger.create(folder, BASE, model="some/model", why="begin")
    ids = []
    for number in range(3):
        edit, learned = make(number)
        row = {"dim": 2, "d_in": 3, "energy_left": 0.1, "leak": 0.1, "threshold": 1.0}
        edit = replace(
            edit,
            null_space={"a.weight": {**row, "smallest": 0.0, "largest": 1.0}},
            seconds={"solve": 0.5},
            drift={"kl": 0.01},
            verdict=(True,),
            measured={"over": {}, "values": {"layers": [1], "clamp": 0.5}},
        )
        ledger.commit("edit", add=[(edit, learned)], why=f"edit {number}")
        ids.append(edit.id)
    ledger.commit("revert", drop=[ids[2]])
    ledger.commit("checkout", start=3)
    ledger.commit("revert", drop=[ids[1]], more={"dependants": [ids[2]]})
    sweep(ledger, prune=True)
    return ledger


class Forged:
    """A ledger as JSON values and bytes.

    Attributes:
        entries: bodies of the journal's lines.
        files: content of the edits' files, by id and name.
    """

    def __init__(self, folder: Path) -> None:
        ledger = Ledger(folder)
        entries = [entry.to_json() for entry in ledger.history.entries]
        self.entries: list[Any] = [{k: v for k, v in e.items() if k != "hash"} for e in entries]
        self.files = {
            edit: {path.name: path.read_bytes() for path in (folder / "edits" / edit).iterdir()}
            for edit in ledger.store.ids()
        }

    def seal(self) -> None:
        """Put the right hashes of all files into the journal."""
        for entry in self.entries:
            held = entry.get("files") if isinstance(entry, dict) else None
            for edit in held if isinstance(held, dict) else ():
                if isinstance(held[edit], dict) and edit in self.files:
                    held[edit] |= {n: sha256(d).hexdigest() for n, d in self.files[edit].items()}

    def follow(self) -> None:
        """Give each entry the version that follows, as far as that can be told."""
        lists: list[list[str]] = []
        try:
            for entry in self.entries:
                start = entry["start"]
                held = (lists[-1] if lists else []) if start is None else lists[start]
                lists.append([e for e in held if e not in entry["drop"]] + list(entry["add"]))
                entry["version"] = version_of(BASE, lists[-1]).id
        except (TypeError, KeyError, IndexError, ValueError):
            return

    def rename(self, edit: str) -> None:
        """Give an edit the id that its content has, as far as that can be told."""
        try:
            files = self.files[edit]
            about = json.loads(files["edit.json"])
            patch = Patch.from_tensors(load(files["patch.safetensors"]), prompt=about["prompt"])
            facts = tuple(Fact.from_dict(f, stored=True) for f in about["facts"])
            new = edit_id(patch, facts, about["parent"])
        except Exception:
            return
        self.files[new] = self.files.pop(edit)
        self.files[new]["edit.json"] = as_json({**about, "id": new})
        self.entries = json.loads(json.dumps(self.entries).replace(edit, new))

    def write(self, folder: Path) -> Path:
        """The ledger on disk."""
        folder.mkdir(parents=True)
        (folder / "journal.jsonl").write_bytes(self.journal())
        for edit, files in self.files.items():
            (folder / "edits" / edit).mkdir(parents=True)
            for name, data in files.items():
                (folder / "edits" / edit / name).write_bytes(data)
        return folder

    def journal(self) -> bytes:
        previous, lines = "", []
        for entry in self.entries:
            body = as_json(entry)
            digest = sha256(previous.encode() + body).hexdigest()
            lines.append(b'{"hash":"%s","entry":%s}\n' % (digest.encode(), body))
            previous = digest
        return b"".join(lines)


def as_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to all that lies in a JSON value."""
    found = [path] if path else []
    items: Any = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        found += places(inner, (*path, key))
    return found


def mutated(data: st.DataObject, value: Any) -> Any:
    """The value with something in it replaced, taken out, put in or swapped."""
    value = json.loads(json.dumps(value))
    where = places(value)
    if not where or data.draw(st.integers(0, 40)) == 0:
        return data.draw(JSON)
    path = data.draw(st.sampled_from(where))
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    how = data.draw(st.sampled_from(["replace", "replace", "like", "like", "take", "put", "swap"]))
    if how == "replace":
        holder[path[-1]] = data.draw(JSON)
    elif how == "like":
        holder[path[-1]] = like(data, holder[path[-1]], value)
    elif how == "take":
        del holder[path[-1]]
    elif how == "put" and isinstance(holder, dict):
        holder[data.draw(st.sampled_from(ODD_TEXTS) | st.text(max_size=4))] = data.draw(JSON)
    else:
        other = value
        for key in data.draw(st.sampled_from(where)):
            other = other[key]
        holder[path[-1]] = json.loads(json.dumps(other))
    return value


def like(data: st.DataObject, old: Any, whole: Any) -> Any:
    """Another value of the same type, which gets further than one of another."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, (int, float)):
        return data.draw(st.integers(0, 8) | st.sampled_from([-1, 2**31, 2**53, 1e308]))
    if isinstance(old, list):
        return data.draw(st.lists(st.sampled_from(old), max_size=6)) if old else [None]
    if isinstance(old, dict):
        keys = data.draw(st.permutations(sorted(old)))
        return dict(zip(keys, old.values(), strict=True))
    texts = [str(key) for path in places(whole) for key in path]
    return data.draw(st.sampled_from(texts + ODD_TEXTS) | st.text(max_size=8))


def bent(data: st.DataObject, raw: bytes) -> bytes:
    """Bytes with some changed, taken out or put in, or cut off."""
    how = data.draw(st.sampled_from(["flip", "flip", "cut", "put", "take", "zero"]))
    at = data.draw(st.integers(0, max(0, len(raw) - 1)))
    if how == "cut":
        return raw[:at]
    if how == "put":
        return raw[:at] + data.draw(st.binary(min_size=1, max_size=600)) + raw[at:]
    if how == "take":
        return raw[:at] + raw[at + data.draw(st.integers(1, 600)) :]
    if how == "zero":
        return raw[:at] + bytes(data.draw(st.integers(1, 600))) + raw[at:]
    found = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        found[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    return bytes(found)


NAMES = [
    "weights/a.weight/left",
    "weights/a.weight/right",
    "weights/b/left",
    "changes/0/rows/t",
    "changes/0/owner",
    "changes/1/owner",
    "keys.2",
]
NAMES += ["keys.-1", "keys.02", "keys.x", "keys.3", "memory.sum", "memory.", "weights//left"]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
DTYPES += [torch.uint8, torch.float8_e4m3fn, torch.complex64]


def tensors(data: st.DataObject, raw: bytes) -> bytes:
    """Another safetensors file: others in it, another header, or other bytes."""
    how = data.draw(st.sampled_from(["others", "others", "header", "bytes"]))
    if how == "bytes":
        return bent(data, raw)
    if how == "header":
        length = struct.unpack("<Q", raw[:8])[0]
        header = as_json(mutated(data, json.loads(raw[8 : 8 + length])))
        return struct.pack("<Q", len(header)) + header + raw[8 + length :]
    held = load(raw)
    for name in data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)):
        shape = data.draw(st.lists(st.integers(0, 4), max_size=3))
        fill = data.draw(st.sampled_from([0, 1, float("nan"), 3e38]))
        dtype = data.draw(st.sampled_from(DTYPES))
        if not dtype.is_floating_point:
            fill = 1
        held[name] = torch.full(shape, fill, dtype=torch.float64).to(dtype)
    return save(held)


def odd_member(data: st.DataObject) -> tuple[tarfile.TarInfo, bytes]:
    """A member that no ledger has, or a strange one of a name that it has."""
    names = ["journal.jsonl", "edits/" + "0" * 16 + "/edit.json", "../evil", "/tmp/evil", "./x"]
    names += ["edits/../../evil", "signatures/" + "0" * 64 + ".sig", "edits", "a\nb", "é" * 120]
    info = tarfile.TarInfo(data.draw(st.sampled_from(names)))
    kinds = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
    kinds += [tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"Z"]
    info.type = data.draw(st.sampled_from(kinds))
    info.linkname = data.draw(st.sampled_from(["", "/dev/zero", "../sentinel", "journal.jsonl"]))
    content = data.draw(st.binary(max_size=100))
    info.size = data.draw(st.sampled_from([len(content), len(content), 0, 10**4, 10**12, 2**60]))
    if data.draw(st.booleans()):
        keys = ["size", "path", "GNU.sparse.size", "GNU.sparse.map", "linkpath", "é", "mtime"]
        value = st.sampled_from(["-1", "9" * 30, "../evil", "journal.jsonl", "0,1", "x", "1"])
        info.pax_headers = data.draw(st.dictionaries(st.sampled_from(keys), value, max_size=2))
    return info, content


def archived(data: st.DataObject, folder: Path) -> bytes:
    """The ledger in `folder` as an archive, with things in it that `pack` does not write."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    buffer = io.BytesIO()
    mode = data.draw(st.sampled_from(["w", "w", "w:gz", "w:gz", "w:xz"]))
    form = data.draw(
        st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
    )
    odd = data.draw(st.integers(0, 2))
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as tar:  # type: ignore[call-overload]
        for path in files:
            tar.add(path, path.relative_to(folder).as_posix())
        for _ in range(odd):
            info, content = odd_member(data)
            try:
                tar.addfile(info)
            except ValueError:  # this form of tar cannot say it
                continue
            assert tar.fileobj is not None
            tar.fileobj.write(content)  # whatever was announced
            tar.offset += len(content)
    raw = buffer.getvalue()
    return bent(data, raw) if not odd or data.draw(st.booleans()) else raw
