"""Trace, page and attention maps of infer.py: the files and their content; the images are the same without them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from customize.errors import InputError
from customize.inference import load_pipeline
from customize.inference.explain.attention import AttentionMaps, heat_levels, heat_sheet
from customize.inference.run import command
from customize.settings.inference import InferenceSettings
from customize.storage.ownership import NAME as RECORD

PROMPTS = ["a red dog", "a cat BREAK house"]


def drawn(folder: Path, base: Path, **values) -> list[np.ndarray]:
    """The pictures of a run in this folder."""
    common = {"pretrained_model_name_or_path": str(base), "num_inference_steps": 4, "num_images": 2, "batch_size": 2}
    command.run(InferenceSettings(**{**common, "prompt": PROMPTS, "output_dir": str(folder), **values}))
    return [np.asarray(Image.open(file)) for file in sorted(folder.glob("[0-9][0-9][0-9].png"))]


def test_observers_change_no_pixel_and_write_what_they_recorded(tiny_v, tmp_path):
    plain = drawn(tmp_path / "plain", tiny_v)
    looked = drawn(tmp_path / "looked", tiny_v, trace=True, trace_page=True, attention=True)
    assert all(map(np.array_equal, plain, looked)) and len(looked) == 4
    kinds = ("-attention.gif", "-attention.png", "-trace.gif", "-trace.html", "-trace.png", ".png")
    wanted = {f"00{place}{kind}" for place in range(4) for kind in kinds} | {"config.toml", "sheet.png", "trace.jsonl", RECORD}
    assert {path.name for path in (tmp_path / "looked").iterdir()} == wanted

    pipeline = load_pipeline(str(tiny_v))
    with AttentionMaps(pipeline.family, [PROMPTS[1]] * 2) as maps:
        images = pipeline.generate([PROMPTS[1]] * 2, seeds=[0, 1], num_inference_steps=4, record=maps)
    word_maps = maps.of(1)
    assert word_maps.words == ("a", "cat", "house") and word_maps.maps.shape == (4, 3, 8, 8)
    expected = heat_sheet(images[1], word_maps.words, heat_levels(word_maps.maps.mean(0)))
    found = Image.open(tmp_path / "looked/003-attention.png")
    assert np.abs(np.asarray(found, dtype=int) - np.asarray(expected, dtype=int)).max() <= 4
    assert Image.open(tmp_path / "looked/003-attention.gif").n_frames == 4

    text = (tmp_path / "looked/003-trace.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    lines = [json.loads(line) for line in (tmp_path / "looked/trace.jsonl").read_text().splitlines()]
    own = [line for line in lines if line["image"] == 3]
    assert data["timesteps"] == [line["timestep"] for line in own] and len(own) == 4
    assert data["lines"]["guidance"] == pytest.approx([line["guidance_norm"] for line in own], rel=1e-4)
    buttons = re.findall(r"<button[^>]*data-word[^>]*>([^<]*)</button>", text)
    assert buttons == ["a", "cat", "house"] and "a cat BREAK house" in text
    assert "<dt>seed<dd>1" in text and "<dt>guidance_scale<dd>7.5" in text and "<dt>prompt" not in text


def test_the_files_are_recorded_as_ours(tiny_v, tmp_path):
    drawn(tmp_path / "out", tiny_v, trace=True, trace_page=True, attention=True)
    drawn(tmp_path / "out", tiny_v, overwrite_output_dir=True)
    assert [path.name for path in (tmp_path / "out").glob("*-*")] == [RECORD]


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"prompt": ["a", "b"], "between": 0.5}, "attention"),
        ({"prompt": ["a", "b"], "illusion": "hybrid"}, "attention"),
        ({"image": "x.png", "lesson": "forward"}, "attention"),
        ({"trace_page": True}, "trace_page"),
    ],
)
def test_unsupported_recordings_are_refused(values, where):
    with pytest.raises(InputError) as caught:
        InferenceSettings(**{"prompt": "a", "attention": where == "attention", **values})
    assert where in [problem.where for problem in caught.value.problems]
