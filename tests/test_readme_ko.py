"""README.ko.md says what README.md and its documents say: the same commands, the same figures."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
KOREAN, ENGLISH = ((ROOT / name).read_text() for name in ("README.ko.md", "README.md"))
SECTIONS = {"Two commands": "명령 두 개", "The first minute": "처음 1분", "The finding": "발견"}


def section(text: str, title: str) -> str:
    """From its heading to the next one."""
    return text[text.index(f"\n## {title}\n") :].split("\n## ", 2)[1]


def commands(text: str) -> list[str]:
    """The lines of its blocks of code, without the remarks behind them."""
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s+# .*$", "", line) for block in blocks for line in block.splitlines()]


def test_the_sections_that_both_have_give_the_same_commands():
    for english, korean in SECTIONS.items():
        assert commands(section(KOREAN, korean)) == commands(section(ENGLISH, english))


def test_every_other_command_is_one_of_the_documents():
    known = commands("\n".join((ROOT / "docs" / name).read_text() for name in ("sweeps.md", "wandb.md")))
    for title in ("Sweep", "W&B 안내"):
        found = commands(section(KOREAN, title))
        assert found
        assert set(found) <= set(known)


def figures(text: str) -> list[str]:
    return re.findall(r"\d+\.\d+ ± \d+\.\d+|\d+ min \d+ s|\b\d+ s(?![a-z])", text)


def test_the_figures_are_the_same():
    for english, korean in SECTIONS.items():
        assert figures(section(KOREAN, korean)) == figures(section(ENGLISH, english))


def test_every_link_leads_somewhere_and_every_flag_is_one():
    flags = (ROOT / "semi/config.py").read_text()
    for link in re.findall(r"\]\(([^)#]+)\)|(?:src|srcset)=\"([^\"]+)\"", KOREAN):
        assert (ROOT / "".join(link)).exists()
    for flag in re.findall(r"`--(\w+)", KOREAN):
        assert flag in flags
