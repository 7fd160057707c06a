"""The journeys of the page in headless Chromium: pixels, files and words, not markup."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rdm_jax.cli.png import read_record
from rdm_jax.studio import history
from tests.studio.browser import CHROMIUM, WIDTHS, needs_browser

pytestmark = [
    needs_browser,
    pytest.mark.slow,
    # Of Gradio, and of what it stands on.
    pytest.mark.filterwarnings("default"),
]
SERIOUS = ("serious", "critical")
LOOPBACK = {"127.0.0.1", "localhost"}


@pytest.fixture(scope="module")
def served(workshop, models, tmp_path_factory):
    """The address of the page, which `rdm studio` serves."""
    command = [sys.executable, "-m", "rdm_jax", "studio", "--no-browser", "--port", "0"]
    command += [*(f"--model={one}" for one in models), "--folder", str(workshop.places.root)]
    folder = tmp_path_factory.mktemp("server")
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "PYTHONPATH": str(Path(__file__).parents[2])}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log, env=environment, cwd=folder)
    try:
        yield _address(process, folder / "log")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def _address(process: subprocess.Popen, log: Path) -> str:
    for _ in range(600):
        found = re.search(r"the page is at (http\S+?);", log.read_text())
        if found:
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def browser():
    """A browser that resolves no name but those of this machine."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


class Visit:
    """A page that is open, and what a user does there."""

    def __init__(self, browser: Any, address: str, width: int = 1280, height: int = 800) -> None:
        self.requests: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(60_000)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.prompts.wait_for()

    @property
    def prompts(self) -> Any:
        return self.page.get_by_label("Prompts, one on each line")

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True).locator("visible=true").first

    def option(self, name: str, value: str) -> None:
        accordion = self.button_like("Options of the model")
        box = self.page.get_by_role("textbox", name=re.compile("^" + name.replace("_", " ") + " ")).first
        if not box.is_visible():
            accordion.click()
        box.fill(value)
        self.page.keyboard.press("Tab")
        time.sleep(0.5)  # the page sends what was typed

    def button_like(self, name: str) -> Any:
        return self.page.get_by_role("button", name=re.compile(name)).first

    def choose(self, label: str, option: str) -> None:
        self.page.get_by_label(label, exact=True).locator("visible=true").first.click()
        self.page.get_by_role("option", name=option, exact=True).locator("visible=true").first.click()

    def build(self, *files: Path) -> None:
        self.tab("Databases")
        self.page.get_by_label("Name", exact=True).fill("of the page")
        listed, choice = self.page.get_by_text(files[0].name).first, self.page.locator("#upload input[type=file]")
        for turn in range(600):
            if turn % 100 == 0:  # a tab that has just appeared may not listen yet
                choice.set_input_files([str(file) for file in files])
            if listed.is_visible():
                break
            self.page.wait_for_timeout(100)
        self.button("Build").click()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def generate(self, prompt: str, **options: str) -> None:
        self.prompts.fill(prompt)
        for name, value in options.items():
            self.option(name, value)
        self.button("Generate").click()

    def finished(self) -> None:
        self.page.get_by_role("status").get_by_text("finished").locator("visible=true").first.wait_for()

    def alert(self) -> str:
        line = self.page.get_by_role("alert").locator("visible=true").first
        line.wait_for()
        return line.inner_text()


@pytest.fixture
def visit(browser, served):
    """A page that is open."""
    opened = Visit(browser, served)
    yield opened
    opened.page.close()


def newest(workshop) -> list[history.Made]:
    """The images of the newest run."""
    return history.images_of(max(one for one in workshop.places.runs.iterdir() if one.is_dir()))


def test_the_page_is_ready_at_once_and_asks_no_other_host(browser, served):
    seconds, urls = [], []
    for _ in range(3):  # other work on the machine delays one, not all
        begin = time.monotonic()
        visit = Visit(browser, served)
        seconds.append(time.monotonic() - begin)
        urls += visit.requests
        visit.page.close()
    hosts = {url.split("/")[2].partition(":")[0] for url in urls if url.startswith("http")}
    assert hosts and hosts <= LOOPBACK
    assert min(seconds) < 5


def test_neighbors_are_dropped_images_generated_and_the_download_is_the_file(visit, workshop, tmp_path):
    visit.prompts.fill("a red boat")
    visit.button("Neighbors").click()
    images = visit.page.locator("#neighbors img")
    images.first.wait_for()
    before = images.count()
    images.first.click()
    dropped = visit.page.get_by_text(re.compile(r"row \d+, cosine")).first.inner_text()
    visit.button("Drop").click()
    time.sleep(2)
    assert images.count() == before
    visit.generate("a red boat", steps="2")
    visit.finished()
    made = newest(workshop)
    assert len(made) == 4 and made[0].run["options"]["steps"] == 2
    row = int(re.findall(r"row (\d+)", dropped)[0])
    assert all(("squares", row) not in one.rows and ("others", row) not in one.rows for one in made)

    visit.page.locator("#images img").first.click()
    visit.page.get_by_text(re.compile("neighbors: ")).first.wait_for()
    with visit.page.expect_download() as download:
        visit.button("PNG").click()
    saved = tmp_path / "saved.png"
    download.value.save_as(saved)
    assert saved.read_bytes() == made[0].file.read_bytes()
    assert read_record(saved)[0]["prompt"] == "a red boat"
    with visit.page.expect_download() as download:
        visit.button("All (zip)").click()
    download.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        names = {Path(name).name for name in archive.namelist()}
    assert names == {"run.json", "ATTRIBUTION.md", *(one.file.name for one in made)}


def test_a_bad_option_is_one_line_and_nothing_is_lost(visit):
    visit.generate("a red boat", sampler="dimm")
    line = visit.alert()
    assert "dimm" in line and "\n" not in line and "Traceback" not in line
    assert "solid" in visit.page.locator(".control-sampler").first.evaluate("one => getComputedStyle(one).outline")
    assert visit.prompts.input_value() == "a red boat"


def test_a_job_is_canceled(visit, workshop):
    visit.generate("a blue boat", steps="500", batch_size="1")
    visit.page.get_by_role("status").get_by_text(re.compile(r"\d+/\d+")).first.wait_for()
    visit.button("Cancel").click()
    assert "canceled" in visit.alert()


def test_whoever_waits_sees_the_place_in_the_queue(visit, browser, served):
    other = Visit(browser, served)
    other.option("steps", "2")
    visit.page.get_by_label("Images", exact=True).first.fill("64")
    visit.generate("a blue boat", steps="500", batch_size="1")
    visit.page.get_by_role("status").get_by_text(re.compile(r"\d+/\d+")).first.wait_for()
    other.generate("a red boat")
    other.page.get_by_text(re.compile(r"queue: \d+/\d+")).locator("visible=true").first.wait_for()
    visit.button("Cancel").click()
    other.finished()
    other.page.close()


def test_an_image_is_opened_in_the_editor_painted_and_inpainted(visit, workshop):
    visit.generate("a red boat", steps="2")
    visit.finished()
    visit.page.locator("#images img").first.click()
    visit.page.get_by_text(re.compile("neighbors: ")).first.wait_for()
    visit.button("Edit").click()
    canvas = visit.page.locator("#mask canvas").first
    canvas.wait_for()
    time.sleep(2)
    visit.page.locator("#mask").get_by_role("button", name=re.compile("[Bb]rush|[Dd]raw")).first.click()
    place = canvas.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    visit.page.mouse.move(x - 30, y)
    visit.page.mouse.down()
    visit.page.mouse.move(x + 30, y, steps=12)
    visit.page.mouse.up()
    time.sleep(1)
    runs = set(workshop.places.runs.iterdir())
    visit.page.locator("button.primary").get_by_text("Edit", exact=True).locator("visible=true").click()
    visit.finished()
    (folder,) = set(workshop.places.runs.iterdir()) - runs
    (guide,) = history.images_of(folder)[0].run["options"]["guides"]
    mask = np.asarray(Image.open(re.findall(r"mask='([^']+)'", guide)[0]).convert("L")) > 127
    assert guide.startswith("inpaint(") and 0.005 < mask.mean() < 0.5


def test_a_database_is_built_of_uploads_searched_and_changed(visit, workshop, tmp_path):
    archive = tmp_path / "icons.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for number in range(5):
            data = io.BytesIO()
            Image.fromarray(np.full((20, 20, 3), 50 * number, np.uint8)).save(data, "PNG")
            packed.writestr(f"gray-{number}.png", data.getvalue())
    visit.build(archive)
    visit.finished()
    assert "of-the-page" in workshop.places.known_databases()
    rows = visit.page.locator("#rows img")
    rows.first.wait_for()
    time.sleep(2)
    assert rows.count() == 5
    rows.first.click()
    visit.page.get_by_text(re.compile(r"row \d+ of of-the-page")).wait_for()
    visit.button("Remove the chosen image").click()
    assert "tick the box" in visit.alert()
    visit.page.get_by_label("Remove it from the database for ever").check()
    visit.button("Remove the chosen image").click()
    visit.page.get_by_text("removed; 4 images are left").wait_for()


HOSTILE = {
    "a bomb": (lambda: zipped({"0.png": b"\0" * 2**28}), ".zip", "has more than 128 MB"),
    "ten thousand files": (lambda: zipped({f"{i}.png": b"" for i in range(10_001)}), ".zip", "the zip has 10001 files"),
    "a path in the name": (lambda: zipped({"../../outside.txt": b"x"}), ".zip", "none of the files is an image"),
    "a wrong type": (lambda: b"MZ", ".exe", "none of the files is an image"),
    "a wrong type with the name of an image": (lambda: b"GIF89a", ".png", "not a readable image"),
    "a file that an SVG reads": (
        lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd" width="9" height="9"/></svg>',
        ".svg",
        "an SVG file that refers to '/etc/passw",
    ),
}


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_upload_is_one_line_on_the_page(visit, workshop, tmp_path, name):
    content, suffix, expected = HOSTILE[name]
    file = tmp_path / f"upload{suffix}"
    file.write_bytes(content())
    before = workshop.places.known_databases()
    visit.build(file)
    line = visit.alert()
    assert expected in line and "\n" not in line and "Traceback" not in line
    assert workshop.places.known_databases() == before
    assert not (workshop.places.root.parent / "outside.txt").exists()


def test_a_map_of_a_database_is_plotted(visit):
    visit.tab("Databases")
    visit.button_like("Map: alike images").click()
    visit.button_like("Plot the map").click()
    visit.page.locator("#map img").wait_for()


def test_a_content_neighbor_is_pinned(visit, workshop):
    visit.choose("Model", "roles")
    visit.choose("Content databases", "others")
    visit.page.keyboard.press("Escape")
    visit.prompts.fill("square 3")
    visit.button("Neighbors").click()
    content = visit.page.locator("#neighbors button").filter(has_text="content").first
    content.wait_for()
    content.click()
    visit.page.get_by_text(re.compile(r"others, row \d+, cosine")).first.wait_for()
    visit.button("Pin").click()
    visit.page.locator("#neighbors button").filter(has_text="pinned · content").first.wait_for()
    visit.generate("square 3", steps="2")
    visit.finished()
    assert newest(workshop)[0].entry["content"]["databases"][0] == "others"


@pytest.mark.usefixtures("golden")
def test_an_image_is_upscaled(visit, workshop):
    visit.generate("a red boat", steps="2")
    visit.finished()
    visit.page.locator("#images img").first.click()
    visit.page.get_by_text(re.compile("neighbors: ")).first.wait_for()
    runs = set(workshop.places.runs.iterdir())
    visit.button("Upscale").click()
    for _ in range(300):
        (folder, *_) = [*(set(workshop.places.runs.iterdir()) - runs), Path()]
        if made := history.images_of(folder):
            break
        time.sleep(0.2)
    assert Image.open(io.BytesIO(made[0].file.read_bytes())).size == (32, 32)


def test_a_sweep_is_a_grid(visit, workshop):
    visit.prompts.fill("a red boat")
    visit.option("steps", "2")
    visit.tab("Sweep")
    visit.page.get_by_label("Values of the columns").fill("1,2,3")
    visit.button("Generate the grid").click()
    visit.page.locator("#grid img").wait_for()
    runs = [one for one in workshop.places.runs.iterdir() if (one / "grid.png").is_file()]
    assert any("sweep" in (one / "run.json").read_text() for one in runs)


def test_the_history_is_there_after_the_page_is_opened_again(visit, workshop):
    visit.tab("History")
    images = visit.page.locator("#images img").locator("visible=true")
    images.first.wait_for()
    count = images.count()
    assert count == min(60, len(history.search(workshop.places, "", 60)))
    visit.page.get_by_label("Search the prompts").fill("no such prompt")
    visit.page.keyboard.press("Enter")
    visit.page.get_by_text("nothing has been generated yet").wait_for()


@pytest.mark.parametrize("place", ["/etc/passwd", str(Path(__file__).resolve()), "../../etc/passwd"])
def test_no_other_file_of_this_machine_is_readable(served, place):
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{served}gradio_api/file={place}")
    assert error.value.code in (403, 404)


def test_it_is_served_to_this_machine_alone(served):
    assert re.match(r"http://127\.0\.0\.1:\d+/$", served)


# Of Gradio's own empty galleries.
NOT_OURS = {"aria-prohibited-attr"}


@pytest.mark.parametrize("tab", ["Generate", "Edit", "Sweep", "Databases", "History"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_of_ours(browser, served, tab, scheme):
    from axe_playwright_python.sync_playwright import Axe

    visit = Visit(browser, f"{served}?__theme={scheme}")
    visit.tab(tab)
    time.sleep(2)
    found = [one for one in Axe().run(visit.page).response["violations"] if one["id"] not in NOT_OURS]
    serious = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found if one["impact"] in SERIOUS]
    visit.page.close()
    assert not serious


@pytest.mark.parametrize(("width", "height"), WIDTHS.values(), ids=WIDTHS)
def test_nothing_is_wider_than_the_screen(browser, served, width, height):
    visit = Visit(browser, served, width, height)
    time.sleep(1)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    button = visit.button("Generate").bounding_box()
    assert button["x"] >= 0 and button["x"] + button["width"] <= width and button["y"] < height
    visit.page.close()


def test_the_keyboard_is_enough_to_generate(visit, workshop):
    runs = set(workshop.places.runs.iterdir())
    visit.option("steps", "2")
    visit.prompts.fill("a blue tree")
    for _ in range(2):  # past Neighbors
        visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.textContent").strip() == "Generate"
    visit.page.keyboard.press("Enter")
    visit.finished()
    assert len(set(workshop.places.runs.iterdir()) - runs) == 1


@pytest.fixture(scope="module")
def client(served):
    """A program's connection."""
    from gradio_client import Client

    return Client(served, verbose=False)


def test_a_program_does_what_the_page_does(client, workshop):
    assert client.predict(api_name="/models")[0] == "tiny"
    assert {"squares", "neon"} <= set(client.predict(api_name="/databases"))
    options = {"steps": 2, "num_images": 2, "seed": 7}
    rows = client.predict(["a red boat"], ["squares"], "tiny", options, api_name="/neighbors")
    images = client.predict(["a red boat"], ["squares"], "tiny", options, api_name="/sample")
    assert [one["seed"] for one in images] == [7, 7] and all(Path(one["file"]).is_file() for one in images)
    assert [one["id"] for one in images[0]["neighbors"]] == [one["id"] for one in rows if one["role"] != "content"]
    with pytest.raises(Exception, match=r"unknown database '\.\./other'"):
        client.predict(["a red boat"], ["../other"], "tiny", options, api_name="/sample")


def test_the_example_of_the_documentation_runs(served):
    document = (Path(__file__).parents[2] / "docs/studio.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    for written, here in {"http://127.0.0.1:7860": served, "neon": "squares", "style-scenes": "tiny"}.items():
        assert written in example
        example = example.replace(written, here)
    names: dict[str, Any] = {}
    exec(example, names)
    assert Path(names["images"][0]["file"]).is_file() and len(names["images"]) == 2


def test_twenty_clients_are_all_answered_in_flat_memory(served):
    from concurrent.futures import ThreadPoolExecutor

    from gradio_client import Client

    def ask(number: int) -> int:
        own = Client(served, verbose=False)
        options = {"steps": 2, "num_images": 1, "seed": number}
        found = [own.submit(["a red boat"], ["squares"], "tiny", options, api_name="/neighbors") for _ in range(10)]
        return sum(len(job.result(timeout=300)) > 0 for job in found)

    ask(0)
    before = resident(served)
    with ThreadPoolExecutor(20) as pool:
        answered = list(pool.map(ask, range(20)))
    assert answered == [10] * 20
    assert resident(served) - before < 200  # MB


def resident(address: str) -> float:
    """Returns the memory of the process that listens at an address, in MB."""
    port = f"{int(address.rstrip('/').rpartition(':')[2]):04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    inode = next(line.split()[9] for line in lines if line.split()[1].endswith(f":{port}") and line.split()[3] == "0A")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(one) == f"socket:[{inode}]" for one in (process / "fd").iterdir()):
                status = (process / "status").read_text()
                return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024
    raise AssertionError(f"no process listens at {address}")
