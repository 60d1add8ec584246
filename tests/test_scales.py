"""Scales of learned weights: their syntax, schedules that change them during denoising, and sweeps that load once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies
from PIL import Image
from test_inference import embeddings, lora, stock, vectors

from customize import families
from customize.errors import InputError
from customize.inference import load_pipeline
from customize.inference.metadata.read_png import read_generation_info
from customize.inference.run import command, generate
from customize.settings.inference import InferenceSettings
from customize.settings.scale import Schedule, at, path_and_scale, times

PROMPT = "a photo of <toy> dog"
RISING = Schedule(((0.0, 0.0), (0.3, 1.0)))


@pytest.fixture(scope="module")
def learned(tiny_v, tmp_path_factory) -> dict[str, Path]:
    """Two LoRAs, the first with a part for the text encoder, and a word of two vectors."""
    folder = tmp_path_factory.mktemp("learned")
    return {
        "first": lora(folder / "first", tiny_v),
        "second": lora(folder / "second", tiny_v, seed=5, text_encoder=False, rank=2),
        "word": embeddings(folder / "learned_embeds.safetensors", tiny_v, {"<toy>": vectors(2)}),
    }


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [
        ("a.safetensors:0.0@0,1.0@0.3", "a.safetensors", RISING),
        ("runs/cat:-1@0", "runs/cat", Schedule(((0.0, -1.0),))),
        (r"C:\cat:1@0, 0.5@5e-1", r"C:\cat", Schedule(((0.0, 1.0), (0.5, 0.5)))),
        (r"C:\me@home\cat", r"C:\me@home\cat", 1.0),
        ("http://me@home,you/cat", "http://me@home,you/cat", 1.0),
        ("me@home", "me@home", 1.0),
        ("a,b:0.5", "a,b", 0.5),
    ],
)
def test_a_scale_is_read(text, path, scale):
    assert path_and_scale(text) == (path, scale)
    assert InferenceSettings(prompt="x", weights=text, scale=0.5).weights_and_scales == ((path, times(scale, 0.5)),)


@pytest.mark.parametrize(
    ("scale", "fault"),
    [
        ("0@0.1,1@0.3", "first steps"), ("0@0,1@1", "below 1"), ("0@0,1@-0.5", "from 0"), ("0@0,1@nan", "from 0"),
        ("0@0,1@0.5,2@0.5", "increase"),
        ("0@0,1@0.5,2@0.4", "increase"), ("0@0,1", '"1"'), ("0@0,", '""'), ("0.5,1@0.3", '"0.5"'),
        ("x@0", '"x@0"'), ("0@0@1", '"0@0@1"'), ("101@0", "-100 to 100"), ("0@0,nan@0.5", "-100 to 100"),
        ("0@0,-inf@0.5", "-100 to 100"),
    ],
)  # fmt: skip
def test_a_malformed_schedule_is_refused(scale, fault):
    with pytest.raises(InputError) as caught:
        InferenceSettings(prompt="x", weights=f"a:{scale}")
    [problem] = caught.value.problems
    assert problem.where == "weights" and fault in problem.what and "PATH[:SCALE]" in problem.remedy


def test_a_decimal_comma_is_reported_with_the_correction():
    with pytest.raises(InputError) as caught:
        InferenceSettings(prompt="x", weights="a:1,2")
    [problem] = caught.value.problems
    assert (problem.where, problem.remedy) == ("weights", "did you mean a:1.2?")
    assert problem.what == '"a:1,2" has the scale "1" instead of SCALE@AT, as in 0@0,1@0.3'


@given(strategies.text(alphabet="a:@,.-+0123456789e \\/", max_size=20))
def test_any_text_is_weights_or_a_problem_of_ours(text):
    InferenceSettings.examine({"prompt": "x", "weights": [text]})


def test_a_piece_holds_from_its_part_of_the_steps_rounded_down():
    assert [at(RISING, step, 10) for step in range(10)] == [0.0] * 3 + [1.0] * 7
    assert [at(RISING, step, 7) for step in range(7)] == [0.0] * 2 + [1.0] * 5
    hundredth = Schedule(((0.0, 0.0), (0.29, 1.0)))  # 0.29 * 100 is 28.999999999999996
    assert [at(hundredth, step, 100) for step in (27, 28, 29)] == [0.0, 0.0, 1.0]
    crowded = Schedule(((0.0, 1.0), (0.2, 2.0), (0.3, 3.0)))  # two begin at one step: the later one holds
    assert [at(crowded, step, 4) for step in range(4)] == [2.0, 3.0, 3.0, 3.0]
    assert at(0.7, 3, 4) == 0.7 and str(RISING) == "0@0,1@0.3" and path_and_scale(f"a:{RISING}")[1] == RISING


def latents(pipeline, **options) -> torch.Tensor:
    options = {"num_inference_steps": 3, "seeds": [2, 3], **options}
    return pipeline.generate([PROMPT, "a sks dog"], **options, output_type="latent")


def test_a_schedule_that_is_constant_is_the_scale_bit_for_bit(learned):
    pipeline = load_pipeline(None, [(path, Schedule(((0.0, 0.6), (0.5, 0.6)))) for path in learned.values()])
    steady = latents(pipeline)
    pipeline.weights.scales = (RISING, 0.6, RISING)
    assert not torch.equal(latents(pipeline), steady)
    for scale in (0.6, Schedule(((0.0, 0.6),))):
        pipeline.weights.scales = (scale,) * 3
        assert torch.equal(latents(pipeline), steady)
    assert torch.equal(latents(load_pipeline(None, [(path, 0.6) for path in learned.values()])), steady)


def test_scale_schedules_equal_stock_with_scales_set_by_hand(tiny_v, learned):
    """Each weight has its own schedule; stock diffusers gets its scales and prompt embeddings after each step."""
    schedules = [RISING, Schedule(((0.0, 1.0), (0.5, -0.4), (0.8, 0.2))), Schedule(((0.0, 0.2), (0.6, 1.0)))]
    by_hand = [  # of 10 steps, what holds for first, second and word
        *[(0.0, 1.0, 0.2)] * 3, *[(1.0, 1.0, 0.2)] * 2, (1.0, -0.4, 0.2), *[(1.0, -0.4, 1.0)] * 2, *[(1.0, 0.2, 1.0)] * 2,
    ]  # fmt: skip
    theirs = stock(tiny_v)
    theirs.load_textual_inversion({"<toy>": vectors(2)})
    for name in ("first", "second"):
        theirs.load_lora_weights(learned[name], adapter_name=name)
    rows = theirs.tokenizer.convert_tokens_to_ids(["<toy>", "<toy>_1"])

    def latents_at(step: int) -> torch.Tensor:
        first, second, word = by_hand[step]
        theirs.set_adapters(["first", "second"], [first, second])
        theirs.text_encoder.get_input_embeddings().weight.data[rows] = vectors(2) * word
        positive, negative = theirs.encode_prompt(PROMPT, "cpu", 1, True, "")
        return torch.cat([negative, positive])

    def callback(pipe, step: int, time, values: dict) -> dict:
        return {"prompt_embeds": latents_at(step + 1)} if step < 9 else values

    with torch.no_grad():
        latents_at(0)
        expected = theirs(
            PROMPT, num_inference_steps=10, generator=torch.Generator().manual_seed(2), output_type="latent",
            callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["prompt_embeds"],
        ).images  # fmt: skip
    ours = load_pipeline(None, list(zip(learned.values(), schedules, strict=True)))
    for _ in range(2):  # the second picture begins with the scales of the first step again
        found = ours.generate(PROMPT, num_inference_steps=10, seeds=2, output_type="latent")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    for number in range(3):  # each of the schedules matters
        ours.weights.scales = (*schedules[:number], 1.0, *schedules[number + 1 :])
        other = ours.generate(PROMPT, num_inference_steps=10, seeds=2, output_type="latent")
        assert (other - expected).abs().max() > 1e-3


@pytest.fixture
def loads(monkeypatch) -> list:
    """Every base model that is loaded from now on."""
    calls, load = [], families.load
    monkeypatch.setattr(families, "load", lambda *given: calls.append(given) or load(*given))
    return calls


def read_images(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(file)) for file in sorted(folder.glob("[0-9][0-9][0-9].png"))]


@pytest.mark.parametrize("precision", ["no", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_sweep_of_scales_loads_once_and_equals_single_calls(learned, tmp_path, loads, precision):
    common = {"prompt": PROMPT, "num_inference_steps": 2, "mixed_precision": precision}
    given, values = [f"{learned['first']}:0.8", str(learned["word"])], (0.0, 0.25, 0.5, 0.75, 1.0)
    sweep = f"scale={','.join(map(str, values))}"
    command.run(InferenceSettings(**common, weights=given, sweep=[sweep], output_dir=str(tmp_path / "swept")))
    assert len(loads) == 1
    swept = read_images(tmp_path / "swept")
    assert len(swept) == 5 and not any(np.array_equal(swept[0], other) for other in swept[1:])
    for place, value in enumerate(values):
        facts = json.loads(Image.open(tmp_path / f"swept/{place:03d}.png").text["customize"])
        assert [each["scale"] for each in facts["weights"]] == [0.8 * value, value]
        assert facts["settings"]["scale"] == value
    for place in (1, 0):
        alone = [f"{learned['first']}:{0.8 * values[place]}", f"{learned['word']}:{values[place]}"]
        command.run(InferenceSettings(**common, weights=alone, output_dir=str(tmp_path / f"{place}")))
        assert np.array_equal(read_images(tmp_path / f"{place}")[0], swept[place])
    assert len(loads) == 3


def test_other_files_are_loaded(learned, tmp_path, loads):
    sweep = [f"weights={learned['second']}:0|{learned['second']}:0@0,1@0.5|{learned['second']}:1|{learned['word']}"]
    command.run(InferenceSettings(prompt=PROMPT, num_inference_steps=2, sweep=sweep, output_dir=str(tmp_path / "out")))
    assert len(loads) == 2
    assert len({picture.tobytes() for picture in read_images(tmp_path / "out")}) == 4


def test_metadata_have_the_schedule_and_the_trace_has_the_guidance(learned, tmp_path):
    given = f"{learned['second']}:0@0,1@0.3"
    made = {"prompt": PROMPT, "weights": [given], "num_inference_steps": 5, "trace": True}
    command.run(InferenceSettings(**made, output_dir=str(tmp_path / "out")))
    latents_at = read_generation_info(tmp_path / "out/000.png")
    assert latents_at.settings["weights"] == (given,) and [file.scale for file in latents_at.weights] == ["0@0,1@0.3"]
    lines = [json.loads(line) for line in (tmp_path / "out/trace.jsonl").read_text().splitlines()]
    assert len(lines) == 5 and all(line["guidance_norm"] > 0 for line in lines)


def test_each_file_is_reported_in_one_line(tiny_v, learned, tmp_path, capsys, terminal):
    weights = [f"{learned['first']}:0.5", f"{learned['second']}:0@0,1@0.3", str(learned["word"])]
    generate.PipelineCache().load(InferenceSettings(prompt="a sks dog", weights=weights, output_dir=str(tmp_path / "out")))
    lines = capsys.readouterr().out.splitlines()
    name = "pytorch_lora_weights.safetensors"
    assert lines == [
        f"{learned['first']}/{name}: adapter (test), scale 0.5; trigger words: sks; learned on {tiny_v}",
        f"{learned['second']}/{name}: adapter (test), scale 0@0,1@0.3; trigger words: sks; learned on {tiny_v}",
        f"{learned['word']}: embeddings, 2 vectors (test), scale 1.0; trigger words: <toy>; learned on {tiny_v}",
    ]


def test_scale_needs_weights():
    with pytest.raises(InputError, match="no effect without a value for weights"):
        InferenceSettings(prompt="x", scale=0.5)
