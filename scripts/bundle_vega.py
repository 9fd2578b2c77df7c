"""Make distviz/reports/vendor/vega.js: Vega, Vega-Lite and Vega-Embed in one script.

Needs ``pip install vl-convert-python==1.9.0.post1``, which carries them; no network is used.
The result is committed, so that reports need neither this package nor the ten seconds it takes.
"""

from __future__ import annotations

from pathlib import Path

import vl_convert

PLACE = Path(__file__).parent.parent / "distviz" / "reports" / "vendor" / "vega.js"
HEAD = """\
/*! Vega, Vega-Lite 6.4 and Vega-Embed, bundled by vl-convert {version}: scripts/bundle_vega.py.
 * Copyright University of Washington Interactive Data Lab and Vega-Embed's authors; BSD-3-Clause,
 * see LICENSE beside this file. */
"""


def main() -> None:
    """Bundle, and keep the names of the bundle to itself but for ``vegaEmbed``."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", "6.4")
    if "</script" in bundle.lower() or "<!--" in bundle:
        raise SystemExit("the bundle cannot stand in a script element")
    text = HEAD.format(version=vl_convert.__version__) + "(() => {" + bundle.strip() + "\n})();\n"
    PLACE.write_text(text, encoding="utf-8")
    print(f"{PLACE}: {len(text):,} characters")


if __name__ == "__main__":
    main()
