"""The page of a report in a real browser: content, no requests, no script, readable on a phone."""

import shutil

import pytest

from bnn_keras import report
from bnn_keras.location import DataLocation
from bnn_keras.runs import Run

NAME = "<img src='http://example.org/x' onerror='document.title=1'>"


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, or the one that Playwright installs (`.ci/run`)."""
    from playwright.sync_api import sync_playwright

    installed = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.slow
def test_page_in_browser(browser, trained, data_dir, tmp_path):
    folder = tmp_path / NAME.replace("/", "-")
    shutil.copytree(trained, folder)
    made = report.make_report([folder], DataLocation(data_dir))
    file = tmp_path / "report.html"
    report.write_report(made, file)

    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    requests, messages = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(file.as_uri())

    assert {url for url in requests if not url.startswith("data:")} == {file.as_uri()}
    assert messages == []
    assert page.title() == "lenet5 on mnist_5k"
    assert NAME.replace("/", "-") in page.locator("header").inner_text()
    assert f"{Run(trained).result['top1']:.2f}" in page.locator(".tile").first.inner_text()
    assert page.locator("table.confusion td").count() == 100
    assert page.locator("table.confusion td.right").first.inner_text().strip().isdigit()
    assert page.locator(".mistakes img").count() == len(made.runs[0].test.mistakes) > 0
    loaded = "images => images.every(image => image.complete && image.naturalWidth > 0)"
    assert page.locator("img").evaluate_all(loaded)
    assert page.locator("img.pixels").count() == 1
    assert page.locator("figure svg").count() >= 6
    # Nothing is wider than the phone, and the dark colors apply.
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
