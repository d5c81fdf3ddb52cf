# SPDX-License-Identifier: Apache-2.0
"""``python tests/docs``: list every command of the pages, and how it is tested."""

from collections import Counter

from treatment import every_command, treatment

_WIDTH = 76


def _main() -> None:
    counted: Counter[str] = Counter()
    page = None
    for command in every_command():
        how = treatment(command)
        counted[how] += 1
        if command.block.page != page:
            page = command.block.page
            print(f"\n{command.block.name.rpartition(':')[0]}")
        prompt = f"{command.prompt}$ " if command.block.language == "console" else ""
        first, *more = command.text.splitlines()
        shown = prompt + first + (f"  (and {len(more)} lines more)" if more else "")
        if len(shown) > _WIDTH:
            shown = f"{shown[: _WIDTH - 1]}…"
        print(f"  {command.block.line:4}  {shown:{_WIDTH}}  {how}")
    print()
    for how, number in counted.most_common():
        print(f"{number:5}  {how}")


if __name__ == "__main__":
    _main()
