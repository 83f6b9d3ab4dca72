"""What the site does with links to files that are not pages: sources, results, the README."""

import os
import re
from typing import Any

LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<up>(?:\.\./)+)(?P<path>[^)#\s]+)[^)]*\)")
REPOSITORY = os.environ.get("ALPHAEDIT_REPOSITORY", "")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point at the repository, if its address is known, else leave the text without a link."""
    depth = page.file.src_uri.count("/")

    def outside(match: re.Match[str]) -> str:
        if match["up"].count("../") <= depth:  # it stays inside docs
            return match[0]
        text, path = match["text"], match["path"]
        return f"[{text}]({REPOSITORY}/blob/main/{path})" if REPOSITORY else text

    return LINK.sub(outside, markdown)
