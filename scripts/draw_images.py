"""Draw the images of the documentation again: ``python scripts/draw_images.py MODEL``.

MODEL is SmolLM2-135M-Instruct in Q4_1, as in the tests of real models. Chromium takes the picture
of the report. It takes about five minutes on two cores.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

IMAGES = Path(__file__).parents[1] / "docs" / "images"
COMMANDS = """
run --out demo
run MODEL --max-tokens 4096 --out smollm2 --report
run MODEL --max-tokens 4096 --sites product --arm-layers none --no-figures --out plain
whatif plain --out formats
filler MODEL --dtype fp32 --counts 70 --out filler
"""
FIGURES = {
    "demo_layer_000_act": "demo/figures/layer_000_act",
    "layer_000_act": "smollm2/figures/layer_000_act",
    "overview": "smollm2/figures/overview",
    "formats": "formats/figures/formats",
    "positions_070_act": "filler/figures/positions_070_act",
}
"""Image of the documentation -> the figure that it is."""


def draw(model: Path, folder: Path) -> None:
    """Run the commands in a folder and replace the images."""
    for line in COMMANDS.split("\n"):
        words = [str(model) if word == "MODEL" else word for word in line.split()]
        if words:
            subprocess.run([sys.executable, "-m", "distviz", *words], check=True, cwd=folder)
    for image, figure in FIGURES.items():
        shutil.copyfile(folder / f"{figure}.png", IMAGES / f"{image}.png")
    photograph(folder / "smollm2" / "report.html", IMAGES / "report.png")


def photograph(page: Path, image: Path) -> None:
    """Save the first screen of a report."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 1350})
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready=yes]")
        tab.wait_for_selector(".plot svg")
        tab.wait_for_timeout(1000)
        tab.screenshot(path=str(image))
        browser.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        draw(Path(sys.argv[1]).resolve(), Path(made))
