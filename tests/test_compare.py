"""`customize compare`: the runs of a comparison, its table and conclusion from synthetic records, and two real runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from kit import settings_for
from PIL import Image
from scipy.stats import t

from customize.__main__ import main
from customize.cli.studies.compare import given_names, split
from customize.evaluation.record import Candidate, Evaluation, Pair, ProbePrompt, Verdict
from customize.evaluation.studies.comparison import Result, apart, cells, conclusion, markdown, ways
from customize.evaluation.studies.comparison_grid import grid
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.training.studies.comparison_plan import Comparison

PROMPTS = tuple(ProbePrompt("concept", f"sks dog {i}", f"dog {i}") for i in range(4)) + (ProbePrompt("other", "a cat", "a cat"),)
PAIRS = tuple(Pair(place, seed) for place in range(5) for seed in (7, 8))


def measured(likeness, drift=0.1, word="learned", first=0) -> Evaluation:
    """A record whose scores are those of `likeness` [8]; first: the place of the concept's first prompt among all."""
    values = {"likeness": tuple(likeness), "obedience": (1.0,) * 8, "drift": (drift, drift)}
    prompts, pairs = PROMPTS[-first:] + PROMPTS[:-first] if first else PROMPTS, PAIRS
    pairs = tuple(sorted((Pair((pair.prompt + first) % 5, pair.seed) for pair in PAIRS), key=lambda pair: pair[0]))
    candidates = Candidate(0, values={"likeness": (0.0,) * 8}), Candidate(40, values=values)
    return Evaluation("object", "sks", "dog", "own", 6, prompts, pairs, candidates, steps=60, chosen=40, verdict=Verdict(word))


def results(**scores) -> list[Result]:
    """Runs by way: NAME_SEED = scores."""
    found = []
    for name, likeness in scores.items():
        way, _, seed = name.rpartition("_")
        evaluation = likeness if isinstance(likeness, Evaluation) else measured(likeness)
        found.append(Result(f"{way} 0.001", way, 1e-3, int(seed), evaluation, 60, 61.0, 2048))
    return found


def test_the_best_is_named_with_paired_differences():
    random = np.random.default_rng(0)
    hard = np.repeat(random.uniform(0.2, 0.6, 4), 2)  # prompts differ far more than ways
    lora, words = (hard + 0.2) ** 2, (hard + 0.1) ** 2  # their scores are the roots
    found = results(words_0=words, lora_0=lora)
    best, other = ways(found)[1], ways(found)[0]
    difference = apart(best, other)
    means = (np.sqrt(lora) - np.sqrt(words)).reshape(4, 2).mean(1)
    half = t.ppf(0.95, 3) * means.std(ddof=1) / 2
    assert difference == pytest.approx((means.mean(), means.mean() - half, means.mean() + half))
    lines = conclusion(found)
    assert lines[0].startswith("best for these photos: lora 0.001") and "higher by 0.10 (0.10 to 0.10)" in lines[1]
    assert "--seeds" in lines[-1]
    noisy = [replace(found[0], evaluation=measured(np.clip(lora + random.normal(0, 0.2, 8), 0, 1))), found[1]]
    assert conclusion(noisy)[0].startswith("cannot be told apart")


def test_other_training_seeds_count_and_pictures_are_matched_by_prompt():
    flat = np.full(8, 0.36)
    found = results(a_0=flat, a_1=flat, b_0=flat + 0.2, b_1=flat - 0.1)
    low, high = apart(ways(found)[1], ways(found)[0])[1:]
    means = np.array([np.sqrt(0.56) - 0.6, np.sqrt(0.26) - 0.6])
    assert high - low == pytest.approx(2 * t.ppf(0.95, 1) * means.std(ddof=1) / np.sqrt(2))
    assert "cannot be told apart" in conclusion(found)[0]
    rising = np.linspace(0.1, 0.8, 8)
    same = results(a_0=measured(rising), b_0=measured(rising, first=1))
    assert apart(*ways(same)) == (0, 0, 0)


def test_ways_that_name_the_class_by_other_words_are_told():
    """A setting of the base that a way cannot have may name the class, and then likeness has another origin."""
    found = results(words_0=np.full(8, 0.5), lora_0=np.full(8, 0.6))
    assert not any("different pictures" in line for line in conclusion(found))
    other = replace(found[0].evaluation, class_word="animal")
    lines = conclusion([replace(found[0], evaluation=other), found[1]])
    assert lines[-2].endswith(f"of animal: words 0.001; of {found[1].evaluation.class_word}: lora 0.001")


def test_what_drifts_or_is_not_measured_is_not_the_best():
    found = results(a_0=np.full(8, 0.5), b_0=measured(np.full(8, 0.9), drift=0.95), c_0=np.full(8, 0.3))
    found.append(Result("d 0.1", "d", 0.1, 0, failed="the loss is nan at step 3"))
    lines = conclusion(found)
    assert lines[0].startswith("best for these photos: a 0.001") and "drifts or copies" in lines[1]
    assert "not compared" in lines[-2] and "d 0.1" in lines[-2]
    other = replace(found[2], evaluation=replace(found[2].evaluation, scorer="pixels"))
    assert conclusion([found[0], other]) == [
        "cannot tell which is best: the runs were measured by different scorers: own, pixels"
    ]
    assert conclusion(found[3:]) == ["cannot tell which is best: no run was measured"]
    assert cells(found[3])[4] == "failed"
    assert cells(found[0])[2:6] == ["0", "40", "learned", "0.50 (0.50 to 0.50)"] and cells(found[0])[-2:] == [
        "1 min 1 s",
        "2 KiB",
    ]
    table = markdown(found).splitlines()
    assert len(table) == 6 and len({len(line) for line in table}) == 1


def test_the_grid_has_a_row_for_each_prompt_and_a_column_for_each_way(tmp_path):
    for name, colour in (("base", 10), ("step-000040", 200)):
        (tmp_path / "evaluation/pictures" / name).mkdir(parents=True)
        for place in range(10):
            Image.new("RGB", (128, 128), (colour, place, 0)).save(tmp_path / f"evaluation/pictures/{name}/{place:03d}.png")
    sheet = grid([(result, tmp_path) for result in results(a_0=np.full(8, 0.5), b_0=np.full(8, 0.5))])
    colours = {colour for _, colour in sheet.getcolors(1 << 20)}
    assert {(10, place, 0) for place in (0, 2, 4, 6)} | {(200, place, 0) for place in (0, 2, 4, 6)} <= colours
    assert (10, 1, 0) not in colours and (200, 8, 0) not in colours
    assert grid([(replace(each, evaluation=None), tmp_path) for each in results(a_0=np.full(8, 0.5))]) is None


def planned(base, given, methods, rates, seeds=1):
    """The runs of a comparison by method, notes and problems."""
    from pathlib import Path

    return Comparison(base, given, methods, rates, seeds, Path("runs/compare-0001")).runs()


def test_one_run_is_carried_over_to_other_methods(image_folder):
    base = DreamBoothSettings(
        instance_prompt="a photo of sks dog", instance_data_dir=str(image_folder), class_prompt="a photo of dog", adapter="lora",
        prior_preservation="teacher", rank=8, max_train_steps=50, validation_prompt=("{instance_prompt} at sea",), seed=5,
    )  # fmt: skip
    given = given_names(base, ["--rank", "8", "--learning_rate", "1e-4"])
    assert {"rank", "learning_rate", "prior_preservation", "seed", "max_train_steps"} <= given and "lora_alpha" not in given
    runs, notes, problems = planned(
        base, given, ["textual_inversion", "lora", "dreambooth", "pivotal"], {"": [1e-3], "lora": [1e-4, 3e-4]}, 2
    )
    assert not problems and [run.label for run in runs[::2]] == [
        "textual_inversion 0.001", "lora 0.0001", "lora 0.0003", "dreambooth 0.001", "pivotal 0.001",
    ]  # fmt: skip
    words, lora, _, full, pivotal = (run.settings for run in runs[::2])
    assert (words.placeholder_token, words.initializer_token) == (("<sks>",), ("dog",))
    assert words.train_data_dir == (str(image_folder),) and words.max_train_steps == 50
    assert words.validation_prompt == ("a photo of <sks> at sea",)
    assert (lora.rank, lora.prior_preservation, lora.seed, runs[3].settings.seed) == (8, "teacher", 5, 6)
    assert (full.adapter, full.prior_preservation, full.class_prompt) == ("none", "none", "a photo of dog")
    assert pivotal.placeholder_token == ("<sks>",) and pivotal.instance_prompt == "a photo of <sks>" and pivotal.rank == 8
    assert any(note.startswith("dreambooth is compared without") and "prior_preservation" in note for note in notes)
    assert len({run.folder for run in runs}) == 10
    for run in runs:  # the command that is printed starts the same run
        assert type(run.settings)(**run.values) == run.settings

    style = TextualInversionSettings(
        placeholder_token=("<dusk>",), initializer_token=("painting",), learnable_property="style",
        train_data_dir=(str(image_folder),), learning_rate=0.02,
    )  # fmt: skip
    runs, _, _ = planned(style, given_names(style, []), ["textual_inversion", "lora"], {})
    assert [run.settings.learning_rate for run in runs] == [0.02, 1e-4]
    assert runs[1].settings.instance_prompt == "a picture in the style of sks"


def test_wrong_flags_are_one_report(image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own, rest = split(
        ["c.toml", "--methods", "lora,full", "--rank=4", "--seeds", "3", "more", "--learning-rates=1,2", "--x", "y"]
    )
    assert own == {"methods": ["lora", "full"], "seeds": ["3"], "learning_rates": ["1", "2"]}
    assert rest == ["c.toml", "--rank=4", "more", "--x", "y"]
    assert split(["--output_dir=a,b", "c"]) == ({"output_dir": ["a,b"]}, ["c"])
    assert split(["--learning_rates", "lora:1e-4,3e-4", "1e-5"])[0] == {"learning_rates": ["lora:1e-4", "lora:3e-4", "1e-5"]}
    flags = ["--methods", "lora,words", "--learning_rates", "0", "dreambooth:1e-3", "--seeds", "no", "--rank", "many"]
    assert main(["compare", "--instance_prompt", "a sks dog", "--instance_data_dir", str(image_folder), *flags]) == 2
    report = capsys.readouterr().err
    assert all(word in report for word in ('"words" is unknown', '"0" has no number', "dreambooth:1e-3", '"no"', '"many"'))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["compare", "--methods", "lora"]) == 2 and "accelerate launch" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_runs_are_made_once_and_resumed(tiny_epsilon, image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "other", max_train_steps=2)
    (tmp_path / "c.toml").write_text(settings.to_toml())
    from customize.errors import NumericsError
    from customize.training import preflight

    command = ["compare", "c.toml", "--methods", "lora,textual_inversion", "--learning_rates", "lora:1e-3,2e-3"]
    assert main([*command, "--print-commands"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4 and printed[-1].endswith("--output_dir runs/compare-0001") and not (tmp_path / "runs").exists()
    made, run = [], preflight.run

    def counted(settings, callbacks=()):
        made.append(settings.output_dir)
        if settings.learning_rate == 2e-3:
            raise NumericsError("the loss is nan")
        if len(made) == 3:
            raise KeyboardInterrupt
        return run(settings, callbacks)

    monkeypatch.setattr(preflight, "run", counted)
    assert main(command) == 130
    monkeypatch.setattr(preflight, "run", lambda settings, callbacks=(): made.append(settings.output_dir) or run(settings))
    assert main([*command, "--output_dir", "runs/compare-0001"]) == 0
    assert made[3:] == [made[2]]  # the finished one and the one that failed are not repeated
    out = capsys.readouterr().out
    assert "| lora              | 0.002 | 3    |       | failed" in out and "cannot tell which is best" in out
    folder = tmp_path / "runs/compare-0001"
    assert (folder / "comparison.md").read_text().count("\n| ") == 3
    assert json.loads((folder / "comparison.json").read_text())["failed"] == {"lora-0.002-seed3": "the loss is nan"}
    assert main([*command, "--output_dir", "runs/compare-0001", "--train_batch_size", "2"]) == 2
    assert "is a run with other settings: train_batch_size" in capsys.readouterr().err
