"""Figures compared with saved images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.testing.compare import compare_images

from distviz.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = Path(__file__).parents[1] / "golden" / "images"
TOLERANCE = 2.0
"""Root mean square of 0 to 255: another version of FreeType may shift a glyph."""


def assert_golden(figure: Figure, name: str, folder: Path) -> None:
    """Draw a figure into a folder and compare it with the image of that name."""
    drawn = folder / f"{name}.png"
    with style.styled():
        figure.savefig(drawn, dpi=80, metadata={"Software": None})
    expected = folder / f"{name}-expected.png"
    expected.write_bytes((IMAGES / f"{name}.png").read_bytes())
    assert compare_images(str(expected), str(drawn), tol=TOLERANCE) is None
