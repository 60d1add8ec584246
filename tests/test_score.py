"""`customize score`: what training recorded is measured again to the bit; files, scales, full models, refusals."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from kit import settings_for

import customize
from customize import events
from customize.cli.score import main, with_flags
from customize.errors import InputError
from customize.evaluation import record
from customize.evaluation.score import after_the_fact
from customize.evaluation.score.plan import plan
from customize.evaluation.score.subject import concept_of, find
from customize.storage import lock
from customize.weights.learned_weights import find_learned

MEASURED = {"evaluation": "pictures", "num_candidates": 2, "evaluation_seeds": 1, "sample_inference_steps": 1, "keep": "last"}
PROMPTS = {"prompt": "a photo of sks dog", "class_prompt": "a photo of dog"}


def trained(method, base, images, folder):
    return customize.train(settings_for(method, base, images, folder, **MEASURED)).folder


@pytest.fixture(scope="module")
def run(tiny_epsilon, image_folder, tmp_path_factory):
    """A run that measured itself."""
    return trained("lora", tiny_epsilon, image_folder, tmp_path_factory.mktemp("score") / "run")


def measured(found):
    """The numbers of pictures, by step and scale."""
    return {(each.step, each.scale): each.values for each in found.candidates}


def score(*words, **settings):
    return customize.score(customize.ScoreSettings(weights=words, **settings))


def test_a_run_is_measured_as_it_measured_itself(run, tmp_path):
    """To the bit, from its files; what is measured already is not measured again."""
    own = record.read(run)
    copied = shutil.copytree(run, tmp_path / "run")
    (copied / "evaluation/evaluation.json").unlink()
    heard = []
    found = customize.score(customize.ScoreSettings(weights=str(copied)), heard.append)
    assert measured(found) == measured(own) and list(measured(own)) == [(0, 1.0), (3, 1.0), (6, 1.0)]
    assert found.verdict == own.verdict and found.chosen == 6 and found == record.read(copied)
    assert (copied / "report.html").is_file() and isinstance(heard[-1], events.Summary)
    rows = dict(row for each in heard if isinstance(each, events.Summary) for row in each.rows)
    assert rows["weights"] == f"{copied}, steps 3, 6" and rows["folder"] == str(copied) and "verdict" in rows
    assert any(getattr(each, "text", "").startswith("step 3: obedience ") for each in heard)


def test_scales_and_what_is_there_already(run, tmp_path, monkeypatch):
    copied = shutil.copytree(run, tmp_path / "run")
    before = record.read(copied)
    found = score(str(copied), scales=(0.5,))
    assert set(measured(found)) == {*measured(before), (6, 0.5)} and found.candidate(6) == before.candidate(6)
    assert found.candidate(6, 0.5).values["drift"] != found.candidate(6).values["drift"]
    assert (copied / "evaluation/pictures/step-000006@0.5/000.png").is_file()
    monkeypatch.setattr(after_the_fact, "measured", lambda *_: pytest.fail("nothing is left to measure"))
    assert score(str(copied), f"{copied}@3") == found


def test_a_file_with_photos(run, image_folder, tmp_path, monkeypatch):
    """A run's file that lies elsewhere has the numbers of the run, in a new folder; a wrong word has others."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(run / "pytorch_lora_weights.safetensors", "cat.safetensors")
    given = dict(photos=str(image_folder), evaluation_seeds=1, num_inference_steps=1, pretrained_model_name_or_path=base_of(run))
    found = score("cat.safetensors", **PROMPTS, **given)
    assert found.candidate(1).values == record.read(run).candidate(6).values
    assert record.read(tmp_path / "runs/score-0001") == found and (tmp_path / "runs/score-0001/report.html").is_file()
    before = (run / "evaluation/evaluation.json").read_bytes()
    other = score(f"{run}@6", prompt="a photo of zzz dog")
    assert other.trigger == "zzz" and other.prompts[0].text.startswith("a photo of zzz dog")
    assert (run / "evaluation/evaluation.json").read_bytes() == before and record.read(tmp_path / "runs/score-0002") == other


def base_of(run):
    """The base model of a run, with its place."""
    from customize.evaluation.report.facts import settings_of

    return settings_of(run).pretrained_model_name_or_path


@pytest.mark.parametrize(
    "method", [pytest.param(method, marks=pytest.mark.slow) for method in ("full", "textual_inversion", "pivotal")]
)
def test_other_methods(method, tiny_epsilon, image_folder, tmp_path):
    folder = trained(method, tiny_epsilon, image_folder, tmp_path / "run")
    own = record.read(folder)
    (folder / "evaluation/evaluation.json").unlink()
    assert measured(score(f"{folder}@6")) == {key: each for key, each in measured(own).items() if key[0] != 3}
    if method == "full":
        with pytest.raises(InputError, match="is a complete model, which has no scale"):
            score(str(folder), scales=(0.5,))


def test_all_problems_are_in_one_report(run, tmp_path, capsys):
    moved = shutil.copytree(run, tmp_path / "moved")
    text = (moved / "config.toml").read_text()
    place = next(line for line in text.splitlines() if line.startswith("instance_data_dir"))
    (moved / "config.toml").write_text(text.replace(place, 'instance_data_dir = "/nowhere"'))
    assert main([str(moved), "--scorer", "dinov2", "--output_dir", str(moved / "config.toml")]) == 2
    output = capsys.readouterr().err
    assert all(each in output for each in ("give the images with --photos DIR", "DINOv2 is not on this machine", "is a file"))
    with pytest.raises(InputError, match="several runs or files"):
        score(str(run), str(tmp_path / "other.safetensors"))
    with pytest.raises(InputError, match="has no weights of step 5"):
        score(f"{run}@5")
    with lock.hold(moved), pytest.raises(InputError, match="is using"):
        plan(customize.ScoreSettings(weights=str(moved)))
    with pytest.raises(InputError) as error:
        score(str(run / "pytorch_lora_weights.safetensors"))
    assert [each.where for each in error.value.problems] == ["prompt", "photos"]


def test_words_of_the_command_line():
    assert with_flags(["a", "a@3", "--scales", "0.5,1"]) == ["--weights", "a", "a@3", "--scales", "0.5", "1"]
    assert with_flags(["--again", "a", "--evaluation_seeds", "2"]) == ["--weights", "a", "--again", "--evaluation_seeds", "2"]


def test_a_better_step_and_scale_are_told(run):
    """Better in every picture than the chosen one, or within limits where that is not."""
    own = record.read(run)
    numbers = {name: np.linspace(0.3, 0.4, len(own.pairs_of(name))) for name in ("likeness", "obedience", "drift")}
    at = {step: {name: tuple(each + plus) for name, each in numbers.items()} for step, plus in ((3, 0.3), (6, 0.0))}
    candidates = tuple(record.Candidate(step, 1.0, values) for step, values in at.items())
    made = replace(own, candidates=candidates, chosen=6)
    assert after_the_fact.better_step(made) == 3 and after_the_fact.better_step(replace(made, chosen=3)) is None
    scaled = [record.Candidate(6, scale, at[step]) for scale, step in ((0.5, 6), (0.7, 3), (1.2, 3))]
    made = replace(made, candidates=(*made.candidates, *scaled))
    assert list(after_the_fact.best_scales(made)) == [(6, [0.7, 1.2])]


def test_concepts_of_files(run):
    """Of one whose trigger is a whole prompt."""
    file = str(run / "pytorch_lora_weights.safetensors")
    learned = find_learned(None, [(file, 1.0)])
    assert learned.trigger_words == ("a photo of sks dog",)
    made = lambda **settings: concept_of(customize.ScoreSettings(weights=file, **settings), find_file(file), learned)  # noqa: E731
    found = made(prompt="a photo of sks dog")
    assert (found.plain, found.trigger, found.class_word) == ("a photo of dog", "sks", "dog")
    assert made(prompt="a house in sks style", style=True).prompt == "in sks style"
    with pytest.raises(InputError, match="class_prompt"):
        made(prompt="a photo of sks")


def find_file(file):
    return find(customize.ScoreSettings(weights=file))
