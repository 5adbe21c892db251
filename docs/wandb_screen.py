"""A picture of what W&B has of an offline run, as its own terminal viewer (`wandb leet`) draws it.

python docs/wandb_screen.py RUN_FOLDER docs/wandb.png     needs tmux and chromium (Debian's packages of these names)
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS, LINES = 150, 44
FILTER = "pseudo/orig/[0-9]"  # the share of each class among the raw pseudo-labels
STYLE = """<style>
body { margin: 0; background: #0c0c0c }
pre { margin: 10px; font: 13px/15px 'DejaVu Sans Mono', monospace }
i { display: inline-block; width: 1ch; font-style: normal } /* dots come from a font of another width */
</style>"""


def screen(run: Path, scratch: str) -> str:
    """The viewer's screen with its colours, as a terminal prints it. Its own settings are kept in `scratch`."""
    tmux = ["tmux", "-L", f"leet-{run.name}", "-f", "/dev/null"]
    viewer = (
        f"WANDB_CONFIG_DIR={scratch} COLORTERM=truecolor {Path(sys.executable).with_name('wandb')} leet {run}"
    )
    subprocess.run([*tmux, "new-session", "-d", "-x", str(COLUMNS), "-y", str(LINES), viewer], check=True)
    try:
        time.sleep(5)  # it reads the run
        for keys in ("]", "/", FILTER, "Enter"):
            subprocess.run([*tmux, "send-keys", keys], check=True)
            time.sleep(1)
        shown = subprocess.run(
            [*tmux, "capture-pane", "-e", "-p"], check=True, capture_output=True, text=True
        )
        return shown.stdout
    finally:
        subprocess.run([*tmux, "kill-server"])


def as_html(shown: str) -> str:
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(shown), end="")
    inside = console.export_html(theme=MONOKAI, inline_styles=True, code_format="<pre>{code}</pre>")
    return STYLE + re.sub("[\u2800-\u28ff]", r"<i>\g<0></i>", inside)


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    folder, picture = Path(sys.argv[1]), Path(sys.argv[2])
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    missing = [name for name in ("tmux", "chromium") if shutil.which(name) is None]
    if missing or not runs:
        reason = (
            f"no {' and no '.join(missing)} here: install it"
            if missing
            else f"{folder} has no offline W&B run"
        )
        print(f"wandb_screen.py: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        page, copy = Path(scratch) / "screen.html", Path(scratch) / "wandb" / runs[-1].name
        shutil.copytree(runs[-1], copy)  # the viewer keeps filters beside the run
        page.write_text(as_html(screen(copy, scratch)), encoding="utf-8")
        size = f"--window-size={20 + round(COLUMNS * 7.83)},{20 + LINES * 15}"
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=1.5", size]
        subprocess.run(
            ["chromium", *flags, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
