"""Check that every relative link and picture in the project's Markdown files exists."""

import re
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"""\]\(\s*(?:<([^>]+)>|([^)\s]+))|<(?:img|a)\s[^>]*?(?:src|href)=["']([^"']+)""")
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def pages(root: Path = ROOT) -> list[Path]:
    """The Markdown files at the top and below docs, examples and benchmarks."""
    folders = ("docs", "examples", "benchmarks")
    below = [page for name in folders for page in (root / name).glob("**/*.md")]
    return sorted([*root.glob("*.md"), *below])


def broken_links(page: Path) -> list[str]:
    """The relative targets of `page` that do not exist."""
    missing = []
    for match in LINK.finditer(CODE.sub("", page.read_text(encoding="utf-8"))):
        target = match[1] or match[2] or match[3]
        path = unquote(target.partition("#")[0])
        if not path or re.match(r"[a-z][a-z0-9+.-]*:", target, re.IGNORECASE):
            continue
        if not (page.parent / path).exists():
            missing.append(target)
    return missing


def main() -> int:
    """Print what is broken; the exit status says whether anything is."""
    found = pages()
    broken = [f"{page.relative_to(ROOT)}: {link}" for page in found for link in broken_links(page)]
    print("\n".join(broken) if broken else f"All links in {len(found)} pages lead somewhere.")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
