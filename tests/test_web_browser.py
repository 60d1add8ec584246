"""The page in a browser: photos are taught on the embedded model while browsers come and go; each page fits and can be read."""

import json
import shutil
import time
from pathlib import Path

import pytest
from web_browser import PHONE

from customize.jobs import job_folder, runs

pytestmark = pytest.mark.browser
PHOTOS = Path(__file__).parents[1] / "customize/demo/examples/subject"
SHORT = {
    **{"max_train_steps": "8", "train_batch_size": "1", "stop": "", "evaluation": "loss", "checkpointing_steps": "4"},
    "sample_inference_steps": "2",
}
"""What the plan is changed to, so that a run takes seconds."""


def wait_for(condition, seconds: float = 120):
    """What `condition` returns once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.1)
    return found


def choose(page, label: str, text: str) -> None:
    """Chooses in a box with a list."""
    box = page.get_by_label(label, exact=True)
    box.click()
    box.fill("")
    box.press_sequentially(text)  # filling does not filter the list
    page.get_by_role("option", name=text).first.click()


def draw_a_frame(page) -> None:
    """Draws a square over a photo of 128 pixels, and moves it by keyboard."""
    page.get_by_role("button", name="Crop or caption a photo").click()
    choose(page, "Photo", "1.png")
    page.get_by_text("128 x 128 of 128 x 128 pixels are kept").wait_for()
    photo = page.locator(".photo")
    photo.scroll_into_view_if_needed()
    box = photo.bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 74, box["y"] + 50, steps=3)
    page.mouse.up()
    page.get_by_text("64 x 64 of 128 x 128 pixels are kept").wait_for()
    across = page.get_by_label("number input for Centre, from left to right (%)")
    wait_for(lambda: abs(float(across.input_value()) - 100 * 42 / 128) < 1, 20)
    page.keyboard.press("ArrowRight")
    wait_for(lambda: abs(float(across.input_value()) - 100 * 44.56 / 128) < 1, 20)


@pytest.fixture(scope="module")
def taught(page_server, browser):
    """A run, started on the page by a browser that was closed, and a server that was killed, while it went on: server and job."""
    visit = page_server.visit(browser)
    page = visit.page
    page.locator("input[type=file]").first.set_input_files([*PHOTOS.glob("*.png"), *PHOTOS.glob("*.txt")])
    page.get_by_text("6 can be learned from").wait_for()
    draw_a_frame(page)
    page.get_by_label("What the photos show").fill("toy")
    choose(page, "Base model", "demo, a toy")
    page.get_by_text("quick", exact=True).click()
    page.get_by_role("button", name="Make a plan").click()
    page.get_by_text("which prompts will call").wait_for()
    opened, toml = page.get_by_label("Filter"), page.locator(".cm-content").first
    wait_for(lambda: opened.is_visible() or page.get_by_role("button", name="All settings").click() or opened.is_visible())
    for name, value in SHORT.items():
        opened.fill(name)
        box = page.locator(f"#set-{name}")
        box.select_option(value) if box.evaluate("box => box.tagName === 'SELECT'") else box.fill(value)
        line = f"{name} = {json.dumps(value) if value.isalpha() else value}"
        wait_for(lambda line=line, name=name, value=value: (line in toml.inner_text().splitlines()) == bool(value), 20)
        assert page.locator(".setting:not([hidden])").count() < 5 and page.locator(f"[data-name={name}]").is_visible()
    opened.fill("dropout")
    toml.click()
    page.keyboard.press("Control+End")
    page.keyboard.type("\nlora_dropout = 7")
    page.locator("[data-name=lora_dropout] .fault", has_text="7 is not a number at least 0, below 1").wait_for()
    page.locator("#set-lora_dropout").fill("")
    page.get_by_text("These settings are valid").wait_for()
    page.get_by_role("button", name="Teach it").click()
    page.get_by_text("The command for this").wait_for()
    visit.close()
    (job,) = job_folder.every(page_server.folder)
    page_server.kill()
    page_server.start()
    return page_server, job


def test_a_run_is_started_and_found_again_by_two_browsers_and_ends_with_its_verdict(taught, browser):
    server, job = taught
    assert job.command == "train_dreambooth"
    assert (job.path / "config.toml").read_text().startswith("# customize train_dreambooth jobs/0001")
    wait_for(lambda: (card := runs.card_of(job.folder)) and card.step > 0)
    first, second = server.visit(browser), server.visit(browser, "runs")
    first.page.get_by_text("step", exact=False).first.wait_for()
    second.page.get_by_role("link", name=job.folder.name).wait_for()
    first.page.get_by_text("cannot tell").or_(first.page.get_by_text("learned")).first.wait_for(timeout=120_000)
    assert wait_for(lambda: job_folder.read(job.path).state == "finished")
    verdict = runs.card_of(job.folder).verdict
    first.page.get_by_text(verdict).first.wait_for()
    second.page.get_by_text(verdict).first.wait_for()
    first.page.get_by_role("link", name="pytorch_lora_weights.safetensors").wait_for()
    with first.page.expect_download() as download:
        first.page.get_by_role("link", name="pytorch_lora_weights.safetensors").click()
    assert download.value.path().read_bytes() == (job.folder / "pytorch_lora_weights.safetensors").read_bytes()
    first.close()
    second.close()


def test_a_run_is_verified_and_compared_and_its_copy_deleted(taught, browser):
    server, job = taught
    wait_for(lambda: job_folder.read(job.path).state == "finished")
    shutil.copytree(job.folder, server.folder / "runs/copy")  # as if a terminal had made it
    (server.folder / "runs/copy/report.html").write_text("<h1>A report</h1><script>document.body.append('ran')</script>")
    visit = server.visit(browser, "runs?run=copy", **PHONE)
    page = visit.page
    page.get_by_role("heading", name="copy finished").wait_for()
    choose(page, "Compare with", job.folder.name)
    page.get_by_role("heading", name=f"{job.folder.name} finished").wait_for()
    visit.check()
    page.get_by_role("button", name="Verify files").click()
    page.get_by_text("are intact").wait_for()
    page.get_by_role("button", name="Report").click()
    page.frame_locator("iframe").get_by_text("ran").wait_for()
    assert page.frames[-1].evaluate("self.origin") == "null"
    page.get_by_role("button", name="Delete ...").click()
    page.get_by_role("button", name="Delete this run").click()
    page.get_by_text("copy recorded are deleted").or_(page.get_by_text("copy is deleted")).wait_for()
    assert not (server.folder / "runs/copy/config.toml").exists() and (job.folder / "config.toml").exists()
    visit.close()


def test_pages_fit_a_telephone_and_can_be_read(taught, browser):
    server, job = taught
    visit = server.visit(browser, **PHONE)
    visit.page.get_by_text(job.folder.name).first.wait_for()
    visit.page.get_by_role("button", name="All settings").click()
    visit.page.get_by_label("Filter").fill("rank")
    visit.check()
    visit.close()
