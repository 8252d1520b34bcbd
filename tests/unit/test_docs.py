"""What README.md and docs/ tell a person to type, and where they send them, is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from drill.cli import main

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
_CODE = re.compile(r"^```.*?^```|^    .*?$|`[^`\n]+`", re.S | re.M)
_DRILL = re.compile(r"(?:^|[ `/|])drill ([a-z][a-z0-9_ -]*)", re.M)
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")

COMMANDS = sorted(
    {
        tuple(found.split(" -")[0].split())
        for page in PAGES
        for code in _CODE.findall(page.read_text())
        for found in _DRILL.findall(code)
    }
)
LINKS = sorted({(page.relative_to(PROJECT), to) for page in PAGES for to in _LINK.findall(page.read_text())})


def test_the_pages_show_commands_and_links() -> None:
    assert ("secrets", "init") in COMMANDS
    assert (Path("README.md"), "docs/n8n.md") in LINKS


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_drill_command_of_the_pages_exists(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words[:1] if words[0] in ("ssh", "deploy", "verify") else words
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--help"])
    assert end.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize(("page", "to"), LINKS, ids=str)
def test_a_link_of_the_pages_leads_to_a_file(page: Path, to: str) -> None:
    assert (PROJECT / page.parent / to).exists()
