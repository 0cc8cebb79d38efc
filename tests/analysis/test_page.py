"""The HTML report in a real browser: complete offline, every chart drawn, readable on a phone, in print, and without a mouse."""

from __future__ import annotations

import itertools
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from analysis.cli import main
from tests.analysis.conftest import CONTENT, Folder
from tune_ablation.experiment import parse

DESKTOP, PHONE = (1280, 900), (390, 844)
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
CLAIMS = [
    {
        "text": "origin is better",
        "metric": "test_acc1",
        "better": {"depth": 18, "head": "origin"},
        "than": {"depth": 18, "head": "maxpool"},
    },
    {"text": "all overfit", "kind": "all_above"},
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no Chromium here; `make browser` installs it on Debian and Ubuntu")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=QUIET.split())


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a finished experiment of 2 x 3 cells, one search trial of which diverged."""
    content = CONTENT | {"grid": {"depth": [18, 50], "head": ["origin", "maxpool", "dropout"]}, "recipe": {"epochs": 12}, "claims": CLAIMS}
    experiment = parse(content, "test")
    folder = Folder(tmp_path_factory.mktemp("results") / experiment.name, experiment)
    noise = random.Random(0)  # noqa: S311 - seed noise for a picture, not a secret
    for place, cell in enumerate(experiment.cells()):
        for number in range(experiment.search.trials_per_cell):
            rate = 0.003 * 7**number
            folder.add(cell.key, "search", number, {"val_acc1": [30.0 - place - number] * 12}, lr=rate, diverged=place == number == 1)
        for seed in experiment.confirm.seeds:
            acc = [40 - 30 / epoch - 2 * place + noise.gauss(0, 0.5) for epoch in range(1, 13)]
            loss = [2 + 3 / epoch + 0.03 * epoch + noise.gauss(0, 0.05) for epoch in range(1, 13)]
            folder.add(cell.key, "confirm", seed, {"test_acc1": acc, "train_eval_acc1": [a + 20 for a in acc], "test_loss": loss})
    folder.add_costs()
    out = tmp_path_factory.mktemp("report")
    assert main([str(folder.path), "--out", str(out)]) == 0
    return out / "report.html"


def opened(browser: Browser, report: Path, size: tuple[int, int] = DESKTOP) -> Page:
    """The report, all charts drawn, in a browser that is offline."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, offline=True)
    page = context.new_page()
    page.goto(report.as_uri())
    page.evaluate("window.drawn")
    return page


def test_every_chart_is_drawn_without_a_word_on_the_console_or_a_request(browser: Browser, report: Path) -> None:
    said: list[str] = []
    page = browser.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]}).new_page()
    page.on("console", lambda message: said.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: said.append(f"request: {request.url}"))
    page.goto(report.as_uri())
    (drawn,) = page.evaluate("window.drawn")
    assert said == [f"request: {report.as_uri()}"], "the page itself, nothing else"
    marks = page.eval_on_selector_all(".view", "views => views.map(view => view.querySelectorAll('svg .role-mark > *').length)")
    assert len(marks) == drawn == page.locator(".view svg.marks").count()
    assert drawn > 20
    assert all(marks), "a chart without a single mark"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_sticks_out_and_no_chart_is_cut(browser: Browser, report: Path, size: tuple[int, int]) -> None:
    page = opened(browser, report, size)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    widths = page.eval_on_selector_all(
        ".view", "views => views.map(v => [v.clientWidth, v.querySelector('svg').getBoundingClientRect().width])"
    )
    assert all(drawn <= room + 1 for room, drawn in widths)
    assert min(drawn for _, drawn in widths) > 200


def test_the_verdict_comes_before_any_figure_and_table(browser: Browser, report: Path) -> None:
    page = opened(browser, report)
    tops = [page.locator(selector).first.bounding_box() for selector in (".counts", ".rulings", "figure", "table")]
    places = [box["y"] for box in tops if box is not None]
    assert places == sorted(places)
    assert len(places) == 4
    assert places[0] < DESKTOP[1], "visible without scrolling"
    assert page.locator(".rulings > li").count() == len(CLAIMS)


def opacities(page: Page) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        "#e1-curves_acc1 .mark-line.role-mark path",
        "lines => lines.map(line => line.getAttribute('stroke-opacity') ?? line.getAttribute('opacity'))",
    )
    return found


def test_a_cell_is_brought_out_in_every_chart_by_keyboard_alone(browser: Browser, report: Path) -> None:
    page = opened(browser, report)
    before = opacities(page)
    button = page.locator(".key button").first
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement?.dataset?.cell") == "resnet18_origin":
            break
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    page.wait_for_timeout(200)
    picked = opacities(page)
    assert picked != before
    page.keyboard.press("Enter")
    page.wait_for_timeout(200)
    assert opacities(page) == before


def test_raw_and_smoothed_curves_can_be_told_apart(browser: Browser, report: Path) -> None:
    page = opened(browser, report)
    states = []
    for wanted in ("both", "raw", "smoothed"):
        page.locator("[data-lines]").select_option(wanted)
        page.wait_for_timeout(200)
        states.append(opacities(page))
    assert all(first != second for first, second in itertools.combinations(states, 2))


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_breaks_no_accessibility_rule(browser: Browser, report: Path, size: tuple[int, int]) -> None:
    page = opened(browser, report, size)
    page.eval_on_selector_all("details", "parts => parts.forEach(part => { part.open = true; })")
    violations = Axe().run(page).response["violations"]
    found = [f"{rule['id']}: {node['html'][:200]}" for rule in violations for node in rule["nodes"]]
    assert found == []


def test_every_chart_says_in_words_what_it_shows(browser: Browser, report: Path) -> None:
    page = opened(browser, report)
    charts = page.locator(".view").count()
    texts = page.eval_on_selector_all(
        ".view [aria-roledescription='visualization']", "charts => charts.map(chart => chart.getAttribute('aria-label') ?? '')"
    )
    assert len(texts) == charts
    assert all(len(text) > 60 for text in texts)
    assert len(set(texts)) == len(texts)


def test_it_prints_with_everything_open(browser: Browser, report: Path) -> None:
    page = opened(browser, report)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("main details:not(.vega-embed details):not([open])").count() == 0
    page.emulate_media(media="print")
    pages = re.findall(rb"/Type /Page\b", page.pdf(format="A4"))
    assert len(pages) > 2
