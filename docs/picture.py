"""Draw the leaderboard of a results.json as a picture of the terminal: python docs/picture.py RESULTS.JSON OUT.SVG."""

import io
import json
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from equilog.compare.show.terminal import print_results

if __name__ == "__main__":
    results, picture = map(Path, sys.argv[1:])
    console = Console(record=True, width=132, file=io.StringIO(), force_terminal=True)
    print_results(console, json.loads(results.read_text()))
    drawn = console.export_svg(title=f"equilog compare {results.parent.name}", theme=MONOKAI)
    # rich asks a font server for its font; the picture is to be whole without a network.
    drawn = re.sub(r"@font-face\s*{.*?}", "", drawn, flags=re.DOTALL)
    picture.write_text(drawn.replace("Fira Code", "DejaVu Sans Mono"), encoding="utf-8")
