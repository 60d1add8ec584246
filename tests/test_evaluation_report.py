"""report.html: it shows the pictures and numbers of the run, escapes the texts of files, and never ends a run."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args
from urllib.parse import unquote

import numpy as np
import pytest
from evaluated_run import PAIRS, PROMPTS, evaluation, scaled, write_run
from PIL import Image
from test_trace_page import Read

from customize import events
from customize.errors import InputError
from customize.evaluation import record, report, run_integrity
from customize.evaluation.masks import SubjectMask, overlays
from customize.evaluation.record import Verdict
from customize.evaluation.report import charts, facts, thumbnails
from customize.evaluation.report.report_page import ROLES, evenly, page, template
from customize.evaluation.statistics import Interval, interval
from customize.storage import ownership, run_folder
from customize.storage.atomic import write_text
from customize.training.evaluating import resumed


def decoded(source: str) -> np.ndarray:
    """The pixels [h, w, 3] of a data URI."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/webp;base64,")))).convert("RGB"))


def shown(folder: Path, found: record.Evaluation) -> Read:
    return Read(page(folder, found))


def test_every_picture_is_that_of_its_file(tmp_path):
    found = scaled(evaluation())
    read = shown(write_run(tmp_path / "run", found), found)
    links = [
        (unquote(a["href"]), read.elements[place + 1][1]["src"]) for place, (tag, a) in enumerate(read.elements) if tag == "a"
    ]
    for link, source in links:
        with Image.open(tmp_path / "run" / link) as image:
            np.testing.assert_array_equal(decoded(source), np.asarray(image.convert("RGB")))
    drawn = [link.removeprefix("evaluation/pictures/") for link, _ in links]
    first = [0, 2, 5, 6]  # the first seed of each prompt, but for the trigger alone
    before_after = [f"step-0000{step}/00{place}.png" for place in first for step in ("00", "10")]
    grid = [f"step-0000{step}/00{place}.png" for place in range(len(PAIRS)) for step in ("00", "10", "20")]
    scales = [f"step-0000{step}/00{place}.png" for step in ("00", "10@0.5", "10", "10@1.2") for place in (0, 2)]
    assert drawn == before_after + grid + scales
    assert [each["data-scale"] for each in read.all("div") if "data-scale" in each] == ["0.0", "0.5", "1.0", "1.2"]
    assert len(read.all("img")) == len(links) + 2, "and the training images, which are not beside the page"


def test_the_result_is_marked_in_the_grid(tmp_path):
    read = shown(write_run(tmp_path / "run", evaluation()), evaluation())
    cells = [place for place, (tag, a) in enumerate(read.elements) if tag == "div" and a.get("class") == "result"]
    assert [read.elements[place + 1][1]["href"].split("/")[2] for place in cells] == ["step-000010"] * len(PAIRS)
    assert len([a for a in read.all("small") if a.get("class") == "result"]) == len(PROMPTS)


def test_a_chart_shows_the_numbers():
    """Read back with the ticks of the axes as a ruler."""
    found = evaluation((10, 20, 30))
    drawn = charts.of_measure(found, "likeness")
    (line,) = drawn.lines
    (x0, x1), (y0, y1) = (
        [(place, float(text)) for place, text in (ticks[0], ticks[-1])] for ticks in (drawn.x_ticks, drawn.y_ticks)
    )
    steps, values, lows = [], [], []
    for (x, y, _), corner in zip(line.points, line.band.split()[:3:-1], strict=True):
        steps.append(x0[1] + (x - x0[0]) / (x1[0] - x0[0]) * (x1[1] - x0[1]))
        values.append(y0[1] + (y - y0[0]) / (y1[0] - y0[0]) * (y1[1] - y0[1]))
        lows.append(y0[1] + (float(corner.split(",")[1]) - y0[0]) / (y1[0] - y0[0]) * (y1[1] - y0[1]))
    exact = [interval([0.02 * step + 0.01 * i for i in range(4)], [0, 0, 1, 1]) for step in (0, 10, 20, 30)]
    np.testing.assert_allclose(steps, [0, 10, 20, 30], atol=0.1)
    np.testing.assert_allclose(values, [each.value for each in exact], atol=1e-3)
    np.testing.assert_allclose(lows, [each.low for each in exact], atol=1e-3)
    assert line.points[1][2] == "step 10: 0.21 (0.15 to 0.28)" and drawn.chosen == pytest.approx(charts.WIDTH / 3, abs=0.1)


def test_a_chart_of_losses_has_a_line_for_each_band_with_labels_apart():
    losses = {"training": {10: (0.99, 0.98, 0.985, 0.5), 0: (1, 1, 1, 1)}, "class": {0: (1, 1, 1, 1), 10: (1, 1, 1, 1.5)}}
    drawn, of_class = charts.of_losses(losses | {"held out": {0: (1, 1, 1, 1)}}, chosen=10)
    assert [line.label for line in drawn.lines] == list(charts.BANDS)
    ends = [line.points[-1][1] for line in drawn.lines]
    assert np.argsort(ends).tolist() == [0, 2, 1, 3] and drawn.level == of_class.level == charts.HEIGHT / 2
    assert of_class.y_ticks == drawn.y_ticks and of_class.lines[3].points[-1][1] == 0 and ends[3] == charts.HEIGHT
    labels = sorted(line.at for line in drawn.lines)
    assert min(np.diff(labels)) >= charts.GAP and labels[-1] <= charts.HEIGHT
    assert charts.of_losses({}) == []
    crowded = charts.apart([replace(drawn.lines[0], label=str(i), at=charts.HEIGHT - 1.0) for i in range(4)])
    assert [line.at for line in crowded] == [charts.HEIGHT - charts.GAP * below for below in (3, 2, 1, 0)]


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.02, 1.02, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 1200, [0, 200, 400, 600, 800, 1000, 1200]),
    (0.93, 1.0, [0.94, 0.96, 0.98, 1.0]), (0, 7, [0, 2, 4, 6]), (-3e-5, 2e-5, [-3e-5, -2e-5, -1e-5, 0, 1e-5, 2e-5]),
])  # fmt: skip
def test_ticks_are_round_numbers_within_the_axis(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_a_number_without_an_interval_has_no_band():
    drawn = charts.of_measure(evaluation(pairs=PAIRS[4:], prompts=PROMPTS), "drift")
    assert drawn.lines[0].band == "" and drawn.lines[0].points[1][2].endswith("(a single picture)")
    flat = charts.chart("", "", "step", "", {"": [(0, Interval(0, 0, 0)), (5, Interval(0, 0, 0))]}, [0.0])
    assert flat.lines[0].points[1][1] == charts.HEIGHT / 2


def test_the_table_compares_each_step_with_the_result(tmp_path):
    found = evaluation()
    read = shown(write_run(tmp_path / "run", found), found)
    table = page(tmp_path / "run", found).partition('<table class="numbers"')[2].partition("</table>")[0]
    row = re.sub(r"<[^>]*>", " ", table.partition("<b>likeness</b>")[2].partition("</tr>")[0]).split("alike")[1].split()
    exact = [interval([0.02 * step + 0.01 * i for i in range(4)], [0, 0, 1, 1]) for step in (0, 10, 20)]
    expected = [f"{each.value:.2f} {each.low:.2f} to {each.high:.2f}" for each in exact]
    assert " ".join(row) == f"{expected[0]} worse {expected[1]} {expected[2]} better"
    assert read.text("code") == "--scale 0.8"


HOSTILE = '</title></script><script>alert("1")</script><img src=x onerror=alert(2)>\'"&lt;<!-- {{data}} `\u202e' + "x" * 10_000


def test_texts_of_files_are_escaped(tmp_path):
    runs = []
    for name, text in (("harmless", "a dog`"), (HOSTILE[:99].replace("/", "") + "\u202e", HOSTILE)):
        prompts = tuple(replace(each, text=text, plain=text) for each in PROMPTS)
        found = evaluation(
            prompts=prompts, trigger=text, scorer=text, device=text, words=f"{text}\n{text}", stopped=text, anchors={text: 0.5},
            verdict=Verdict("learned", (text,), (text,), (text,)),
        )  # fmt: skip
        prompt = text.partition("\u202e")[0] + text[-9000:] + " sks dog"
        runs.append(shown(write_run(tmp_path / name, found, validation_prompt=(prompt,)), found))
    assert [tag for tag, _ in runs[0].elements] == [tag for tag, _ in runs[1].elements]
    for (_, one), (_, other) in zip(runs[0].elements, runs[1].elements, strict=True):
        assert one.keys() == other.keys()
    text = page(tmp_path / name, found)
    assert "\u202e" not in text and "\\u202e" in text and text.count("<script") == 1
    assert len(text) < 400_000, "long texts are cut"


def test_nothing_is_fetched_and_nothing_tells_where_it_lies(tmp_path):
    found = scaled(evaluation())
    read = shown(write_run(tmp_path / "zebrafish diary" / "run", found), found)
    text = page(tmp_path / "zebrafish diary" / "run", found)
    assert all(each["src"].startswith("data:image/webp;base64,") for each in read.all("img")) and not read.all("link")
    assert all((tmp_path / "zebrafish diary" / "run" / unquote(each["href"])).is_file() for each in read.all("a"))
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert [each["content"] for each in read.all("meta") if each.get("http-equiv")][0].startswith(
        "default-src 'none'; img-src data:;"
    )
    assert str(tmp_path) not in text and "zebrafish" not in text and os.uname().nodename not in read.text("dd")


UNFINISHED = {"chosen": None, "verdict": None}
KINDS = {
    "loss only": (evaluation(pictures=False, **UNFINISHED), ("No verdict", ">Loss<"), (">Before and after<", ">Numbers<")),
    "just begun": (evaluation((), **UNFINISHED), ("step 0 of 20",), (">Before and after<", ">Loss<", "What was learned")),
    "running": (evaluation((5,), **UNFINISHED), ("step 5 of 20", ">Before and after<", ">Loss<", "run@5"), (">Scale<",)),
    "nothing": (
        evaluation((), pictures=False, prompts=(), pairs=(), chosen=None, verdict=Verdict("cannot tell")),
        ("Cannot tell",), (">Numbers<",),
    ),
    "scales": (scaled(evaluation(verdict=Verdict("learned"))), (">Scale<", ">Learned<", "run@20"), ("Not finished",)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_there_is_left_out(kind, tmp_path):
    found, has, lacks = KINDS[kind]
    text = page(write_run(tmp_path / "run", found), found)
    assert not [each for each in has if each not in text] and not [each for each in lacks if each in text]
    assert "resume_from_checkpoint latest" in text and "customize verify run" in text


def test_without_settings_images_and_pictures_the_rest_is_shown(tmp_path):
    (tmp_path / "run" / record.FOLDER).mkdir(parents=True)
    read = shown(tmp_path / "run", evaluation())
    assert not read.all("img") and read.text("b") and len(read.all("svg")) == 10


def test_steps_with_losses_only_have_no_column(tmp_path):
    found = evaluation()
    run = write_run(tmp_path / "run", found)
    for step in range(1, 40):
        found = found if found.candidate(step) else found.with_candidate(record.Candidate(step, losses={"training": (0.5,) * 4}))
    text = page(run, found)
    assert "<small>step 20</small>" in text and "step 39</small>" not in text and "run@39" not in text and "run@20" in text


def test_losses_come_from_the_log_too(tmp_path):
    run = write_run(tmp_path / "run", evaluation())
    lines = [
        {"step": 1, "loss": 0.5},
        {"step": 5, "probe": {"training": [0.9] * 4, "held out": [1.1] * 4}},
        {"step": 10, "probe": {}},
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 11, "pro')
    found = facts.losses_by_step(run, evaluation())
    assert sorted(found["training"]) == [0, 5, 10, 20] and found["training"][5] == (0.9,) * 4
    assert found["held out"] == {0: (1.0,) * 4, 5: (1.1,) * 4} and found["class"][20] == (1.0,) * 4
    assert len(shown(run, evaluation()).all("svg")) == 8 + 3


def test_settings_of_another_version_are_read(tmp_path):
    run = write_run(tmp_path / "run", evaluation())
    config = (run / "config.toml").read_text(encoding="utf-8")
    (run / "config.toml").write_text(config.replace("[train]", "[train]\nnot_known_here = 3\n"), encoding="utf-8")
    text = page(run, evaluation())
    assert "trained on &#34;a photo of sks dog&#34;" in text and ">Your images<" in text and "not_known_here" not in text


def test_pictures_that_cannot_be_read_are_left_out(tmp_path):
    found = evaluation()
    run = write_run(tmp_path / "run", found)
    before = len(shown(run, found).all("img"))
    (thumbnails.probe_folder(run, 20) / "000.png").write_bytes(b"no image")
    (thumbnails.probe_folder(run, 20) / "001.png").unlink()
    assert len(shown(run, found).all("img")) == before - 2


def test_pictures_are_bounded_and_so_is_the_page(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    for side, most in ((320, 40_000), (144, 5_000), (144, 300)):
        source = thumbnails.of_file(tmp_path / "noise.png", side, most).source
        assert len(base64.b64decode(source.partition(",")[2])) <= most and max(decoded(source).shape) <= side
    many = list(range(0, 4000, 100))
    assert evenly(many, 1300)[0] == 0 and evenly(many, 1300)[-1] == 3900 and 1300 in evenly(many, 1300)
    assert len(evenly(many, 1300)) <= 13 and evenly(many[:5], None) == many[:5]


def test_every_kind_of_prompt_has_a_role():
    assert ROLES.keys() == set(get_args(record.Kind))


@pytest.mark.slow
def test_the_largest_page_is_bounded(tmp_path):
    pairs = tuple(record.Pair(place, seed) for place in range(5) for seed in range(8))
    found = scaled(evaluation(tuple(range(100, 1300, 100)), pairs=pairs, chosen=600), 600, tuple(i / 10 for i in range(1, 10)))
    run = write_run(tmp_path / "run", found, images=40, side=256)
    assert 1_000_000 < len(page(run, found)) < 5_000_000


def test_training_images_with_an_outline_are_shown_with_it(tmp_path):
    """Each with its own, also where names differ in their extension alone."""
    run = write_run(tmp_path / "run", evaluation())
    (tmp_path / "photos/0.jpg").write_bytes((tmp_path / "photos/1.png").read_bytes())
    images = {name: Image.new("RGB", (30, 30), colour) for name, colour in (("0.png", "blue"), ("1.png", "red"))}
    masks = [SubjectMask(np.ones((30, 30), bool), "given", 1.0)] * 2
    overlays.write_overlays(run, list(images.items()), masks)
    read = shown(run, evaluation())
    photos = {each["alt"]: decoded(each["src"]) for each in read.all("img") if each["alt"].startswith("training image")}
    middle = [photos[f"training image {number}"][12, 12].tolist() for number in (2, 3)]
    assert middle == [[0, 0, 255], [255, 0, 0]] and photos["training image 1"].shape == (16, 24, 3)
    assert len(overlays.write_overlays(run, [(f"{'a' * 252}.png", images["0.png"]), ("1/b.png", images["1.png"])], masks)) == 1


def test_it_is_written_as_ours_and_a_failure_is_only_noted(tmp_path):
    run = write_run(tmp_path / "run", evaluation())
    notes = []
    with run_folder.claimed(run), events.sent_to(lambda event: notes.append(str(event))):
        path = report.write(run)
        assert path == run / "report.html" and path.read_text(encoding="utf-8") == page(run, evaluation()) and not notes
        assert path in ownership.Record(run).files()
        (run / record.FOLDER / record.NAME).write_text('{"candidates": 3}')
        assert report.write(run) is None and "no report.html" in notes[0]
        (run / record.FOLDER / record.NAME).unlink()
        assert report.write(run) is None


def test_a_record_beside_a_damaged_one_is_read(tmp_path):
    """What is damaged is not ours: it is kept, and the record goes on under another name, until the first one is removed."""
    run = write_run(tmp_path / "run", evaluation())
    ownership.sign(run)
    damaged, later = run / record.FOLDER / record.NAME, evaluation(trigger="later")
    damaged.write_text("{")
    with pytest.raises(InputError, match="evaluation.json.*cannot be read"):
        record.read(run)
    for name in ("evaluation-2.json", record.NAME):
        with run_folder.claimed(run):
            write_text(damaged, later.to_json())
            assert report.write(run)
        assert record.place_of(run).name == name and record.read(run) == later
        assert "later" in (run / "report.html").read_text(encoding="utf-8") and resumed.read(run) == later
        assert name in [finding.what.rpartition("/")[2] for finding in run_integrity.verify(run) if finding.intact]
        damaged.unlink()
        (run / "report.html").unlink()
        assert record.read(run) == later, "what was written before"


def test_torch_is_not_imported(tmp_path):
    run = write_run(tmp_path / "run", evaluation())
    code = f"import sys; from customize.evaluation import report; assert report.write(__import__('pathlib').Path({str(run)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_page_fits_a_telephone():
    """Nothing asks for more than 360 pixels, but for the grid, which is scrolled."""
    source = Path(template().filename).read_text(encoding="utf-8")
    css = source[source.index("<style>") : source.index("</style>")]
    for least in re.findall(r"minmax\((.*?), 1fr\)", css):
        assert least == "0" or re.fullmatch(r"min\(\d+px, (100|46|30)%\)", least), least
    assert not re.findall(r"[^-]width: \d{3,}px", css) and "overflow-x: auto" in css
