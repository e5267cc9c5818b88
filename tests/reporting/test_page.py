# SPDX-License-Identifier: MIT
"""The page needs nothing but itself, takes texts for texts, and sorts its tables."""

import json
import re
import shutil
import subprocess
from base64 import b64encode
from collections import Counter
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fairseq_layerdrop.reporting.intake import sort_rows
from fairseq_layerdrop.reporting.report import make_report

EVIL = "\"'><script>alert(1)</script><img src=https://example.org/x onerror=alert(2)>&amp;--><!--"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def plan(curve: str, decoder: int, **more: object) -> dict[str, Any]:
    return {"curve": curve, "encoder_layers": 6, "decoder_layers": decoder, **more}


def importance(curve: str, layer: int) -> dict[str, Any]:
    about = {"curve": curve, "stack": "encoder", "layer": layer, "measure": curve, "value": 1.0}
    return {"kind": "importance", **about}


ROWS = [
    plan("b", 6, bleu=9.25, plan="all/0-5", parameters=10),
    plan("b", 3, bleu=9.5, plan="all/10"),
    plan("a", 6, bleu=-1.0, plan="all/9", parameters=9, latency_ms=1.0),
]


class Seen(HTMLParser):
    """The tags of a page, with their attributes, and the texts of its cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open = tag
        self.tags.append((tag, dict(attrs)))
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open == "td":
            self.cells[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(rows: list[dict[str, Any]], title: str = "") -> str:
    return make_report(sort_rows(rows), title=title)["report.html"].decode()


def test_a_stranger_s_text_stays_a_text() -> None:
    rows = [
        plan(EVIL, 6, bleu=1.0, plan=EVIL, p_holm=0.5, metrics={EVIL: EVIL}),
        importance(EVIL, 0),
    ]
    seen, plain = (
        Seen(page(rows, title=EVIL)),
        Seen(page([plan("a", 6, bleu=1.0), importance("a", 0)])),
    )
    assert len(seen.all("script")) == 1 and not seen.all("img")
    assert {tag for tag, _ in seen.tags} <= {tag for tag, _ in plain.tags} | {"ul", "li"}
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    assert seen.cells.count(EVIL) == 4  # curve and plan; curve and measure


def test_the_page_asks_the_network_for_nothing() -> None:
    seen = Seen(page(ROWS))
    assert {tag for tag, _ in seen.tags} & {
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "image",
    } == set()
    references = [a.get("src") or a.get("href") or a.get("xlink:href") for _, a in seen.tags]
    assert [
        reference for reference in references if reference and not reference.startswith("#")
    ] == []
    (policy,) = [meta["content"] or "" for meta in seen.all("meta") if "http-equiv" in meta]
    (script,) = re.findall(r"<script>(.*?)</script>", page(ROWS), re.DOTALL)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in policy


def test_every_figure_is_in_the_page_and_finds_its_own_parts() -> None:
    rows = [
        plan(str(rate), d, bleu=d + rate, rate=rate, latency_ms=d)
        for d in (3, 6)
        for rate in (0.1, 0.2)
    ]
    text = page(rows)
    seen = Seen(text)
    assert "<?xml" not in text and not seen.all("metadata")
    labels = [svg["aria-label"] for svg in seen.all("svg")]
    assert len(labels) == len(set(labels)) == 3 and all(
        svg["role"] == "img" for svg in seen.all("svg")
    )
    ids = Counter(attributes["id"] for _, attributes in seen.tags if "id" in attributes)
    assert set(ids.values()) == {1}
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    assert used and used <= set(ids)


def test_headers_are_buttons_and_cells_have_the_value_they_are_sorted_by() -> None:
    seen = Seen(page(ROWS))
    assert len(seen.all("th")) == len(seen.all("button")) == 6
    assert {th["aria-sort"] for th in seen.all("th")} == {"none"}
    assert [td.get("data-value") for td in seen.all("td")[:6]] == [
        "b",
        "12",
        "all/0-5",
        "10",
        "9.25",
        None,
    ]


CLICKS = """
const said = [];
const table = document.querySelector("table");
const column = (i) => [...table.tBodies[0].rows].map((row) => row.cells[i].textContent);
const click = (i) => { table.querySelectorAll("th button")[i].click(); said.push(column(i)); };
click(4); click(4); click(3); click(3); click(2); click(0); said.push(column(4));
said.push([...table.querySelectorAll("th")].map((th) => th.getAttribute("aria-sort")));
const answer = document.createElement("output");
answer.textContent = JSON.stringify(said);
document.body.append(answer);
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no browser here: apt-get install chromium")
def test_a_click_sorts_in_a_real_browser(tmp_path: Path) -> None:
    digest = b64encode(sha256(CLICKS.encode()).digest()).decode()
    text = (
        page(ROWS).replace("script-src ", f"script-src 'sha256-{digest}' ")
        + f"<script>{CLICKS}</script>"
    )
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command = [
        str(CHROMIUM),
        *flags,
        "--enable-logging=stderr",
        "--dump-dom",
        (tmp_path / "report.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert "CONSOLE" not in done.stderr
    (said,) = re.findall(r"<output>(.*?)</output>", done.stdout)
    up, down, sizes, sizes_down, plans, models, kept, marks = json.loads(said)
    assert (up, down) == (["-1.0", "9.2", "9.5"], ["9.5", "9.2", "-1.0"])
    assert (sizes, sizes_down) == (["9", "10", ""], ["10", "9", ""])  # what is empty stays last
    assert plans == ["all/0-5", "all/9", "all/10"]
    assert (models, kept) == (
        ["a", "b", "b"],
        ["-1.0", "9.2", "9.5"],
    )  # equal ones keep their order
    assert marks == ["ascending", "none", "none", "none", "none", "none"]
