# SPDX-License-Identifier: Apache-2.0
"""What the pages hold: links, and blocks with commands in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (
    ROOT / "README.md",
    ROOT / "conformance" / "README.md",
    ROOT / "deploy" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
_PROMPT: Final = re.compile(r"(?P<prompt>\w*)\$ (?P<command>.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    file: str
    """The path of the file that it shows, when the paragraph before begins with one; or empty."""

    @property
    def name(self) -> str:
        """Where it is: page and line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a reader types, and the lines that are shown as its answer."""

    block: Block
    prompt: str
    """The machine to type it on: empty for this one."""
    text: str
    answer: tuple[str, ...] = ()


@cache
def _tokens(page: Path) -> list[Token]:
    return MarkdownIt().enable("table").parse(page.read_text())


def blocks(page: Path) -> Iterator[Block]:
    """Return the fenced blocks of a page, in order."""
    before = ""
    for token in _tokens(page):
        if token.type == "inline":
            before = token.content
        elif token.type == "fence":
            named = re.match(r"`([\w./-]+\.\w+)`", before)
            begins = token.map[0] if token.map else 0
            yield Block(
                page=page,
                line=begins + 1,
                language=token.info.strip(),
                text=token.content,
                file=named[1] if named else "",
            )


def commands(block: Block) -> Iterator[Command]:
    """Return the commands of a block: each prompt's of a console, a script as one."""
    if block.language == "sh":
        yield Command(block=block, prompt="", text=block.text)
    if block.language != "console":
        return
    typed: Command | None = None
    for line in block.text.splitlines():
        found = _PROMPT.fullmatch(line)
        if typed and typed.text.endswith("\\") and not typed.answer:
            typed = _with(typed, text=f"{typed.text}\n{line}")
        elif found:
            if typed:
                yield typed
            typed = Command(block=block, prompt=found["prompt"], text=found["command"])
        elif typed:
            typed = _with(typed, answer=(*typed.answer, line))
        else:
            raise ValueError(f"{block.name}: an answer before any prompt: {line}")
    if typed:
        yield typed


def _with(command: Command, *, text: str = "", answer: tuple[str, ...] = ()) -> Command:
    return Command(
        block=command.block,
        prompt=command.prompt,
        text=text or command.text,
        answer=answer or command.answer,
    )


def links(page: Path) -> Iterator[str]:
    """Return the targets of a page's links and pictures."""
    for token in _tokens(page):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target:
                yield str(target)


def anchors(page: Path) -> set[str]:
    """Return the names by which a page's headings can be linked to, as forges make them."""
    names: set[str] = set()
    tokens = _tokens(page)
    for token, following in pairwise(tokens):
        if token.type == "heading_open":
            text = "".join(
                each.content
                for each in following.children or ()
                if each.type in ("text", "code_inline")
            )
            kept = re.sub(r"[^\w\- ]", "", text.lower())
            names.add(kept.replace(" ", "-"))
    return names
