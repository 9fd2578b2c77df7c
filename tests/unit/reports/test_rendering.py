"""The HTML of a page: valid, escaped, with its own scripts alone."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace

import pandas as pd
from support.html_pages import (
    EVIL,
    IMAGE,
    elements,
    parsed,
    strict,
    texts_of,
)
from support.synthetic_runs import Synthetic

from distviz.reports.page import Page, Part
from distviz.reports.rendering import render
from distviz.reports.run import run_part
from distviz.results.run import Run


def test_is_valid_html(html: str) -> None:
    strict(html)
    identities = [one.get("id") for one in parsed(html).iter() if one.get("id")]
    assert len(identities) == len(set(identities))
    for label in elements(html, "label"):
        fields = [one for one in label if one.tag.endswith("input")]
        assert len(fields) == 1 or label.get("for") in identities
    for link in elements(html, "a"):
        assert link.get("href").startswith("#")
        assert link.get("href")[1:] in identities


def test_nothing_comes_from_outside(html: str) -> None:
    for element in parsed(html).iter():
        for name in ("src", "srcset", "action", "formaction", "background", "data"):
            assert element.get(name) is None
        assert not [name for name in element.attrib if str(name).startswith("on")]
    assert not elements(html, "link")
    assert "@import" not in "".join(texts_of(one) for one in elements(html, "style"))


def test_policy_names_the_scripts_of_the_page_and_no_other(html: str) -> None:
    (policy,) = [m.get("content") for m in elements(html, "meta") if m.get("http-equiv")]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    run = [one for one in elements(html, "script") if one.get("type") != "application/json"]
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(one.text.encode()).digest()).decode()}'"
        for one in run
    ]
    assert rules["script-src"].split() == digests
    assert "unsafe-eval" not in policy


def test_texts_are_escaped_wherever_they_come_from(synthetic: Synthetic) -> None:
    run = synthetic.run
    manifest = run.manifest | {
        "model": {"name": IMAGE, "activation": EVIL, "layers": 3, "source": EVIL},
        "warnings": [EVIL],
        "settings": {"model": EVIL, "text": [EVIL], "layers": EVIL},
        "versions": {EVIL: EVIL},
    }
    sketches = {key._replace(module=f"{key.layer}.{EVIL}"): s for key, s in run.sketches.items()}
    row = {"layer": 0, "stack": EVIL, "site": EVIL, "phase": "before", "module": EVIL}
    channels = pd.DataFrame([row | {"channel": 0, "absmax": 1.0, "mean": 0.1, "std": 0.1}])
    plans = pd.DataFrame([{"layer": 0, "document": EVIL, "window": 0, "k": 5, "n": 10}])
    made = Run(manifest, sketches, channels=channels, plans=plans)
    text = render(Page(EVIL, [replace(run_part(made, EVIL), title=f"{IMAGE} · {EVIL}")]))
    strict(text)
    assert not elements(text, "img")
    plain = [one for one in elements(text, "script") if one.get("type") != "application/json"]
    assert len(plain) == 2
    assert not [one for one in plain if "alert" in one.text]
    assert f"{IMAGE} · {EVIL}" in [texts_of(one) for one in elements(text, "h1")]
    assert EVIL in [texts_of(one) for one in elements(text, "dd")]
    for one in elements(text, "script"):
        if one.get("type") == "application/json":
            json.loads(one.text)
            assert "<" not in one.text


def test_the_charts_are_the_ones_that_were_bundled() -> None:
    from importlib import resources

    script = resources.files("distviz.reports") / "vendor" / "vega.js"
    digest = hashlib.sha256(script.read_bytes()).hexdigest()
    assert digest == "468c95c12b753393d1f795fbe0f0efed33d4b310ef8cd3716f1e9015e9134691"


def test_the_title_of_the_page() -> None:
    page = Page("t", [Part("t", "s", "v", [])])
    assert "<title>t · distviz</title>" in render(page)
