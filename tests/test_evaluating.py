"""A run that measures itself: the same bits with and without, killed and resumed; the best weights are the result."""

import json
import signal
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kit import prepared, settings_for, train_loop, write_images
from PIL import Image
from safetensors.torch import load_file
from whole_runs import LATEST, Run

from customize import events
from customize.data.examples import load_examples
from customize.errors import InputError
from customize.evaluation import picture_probe, record
from customize.evaluation.picture_probe import PictureProbe, folder_of
from customize.evaluation.run_integrity import verify
from customize.evaluation.verdict_words import rows
from customize.evaluation.verify_result import prediction_of
from customize.storage import ownership, run_folder
from customize.training import run
from customize.training.evaluating import callback, pictures
from customize.training.evaluating.probe_sets import sets_of
from customize.training.evaluating.resumed import continued, result_step
from customize.training.preflight import check
from customize.training.resume import identity
from customize.weights.learned_weights import find_learned

MEASURED = {"evaluation": "pictures", "num_candidates": 2, "evaluation_seeds": 1, "sample_inference_steps": 1}


def without_time(folder) -> record.Evaluation:
    """What was measured of a run, apart from the time that it took."""
    return replace(record.read(folder), seconds=0.0)


def test_measuring_changes_no_bit_and_is_resumed_to_the_same_record(server, tiny_epsilon, image_folder, tmp_path):
    """Killed among the pictures of step 3, after the checkpoint of step 2."""
    make = lambda name, **changes: Run(server, tmp_path / name, "lora", tiny_epsilon, image_folder, lora_dropout=0.2, **changes)  # noqa: E731
    plain = make("none", evaluation="none")
    measured, killed = (make(name, keep="last", **MEASURED) for name in ("pictures", "killed"))
    assert plain()[0] == 0 and not (plain.folder / record.FOLDER).exists()
    status, output = measured()
    assert status == 0 and "verdict   " in output and measured.result() == plain.result(), output
    assert measured.losses() == plain.losses()
    assert killed(moment="inside an evaluation", number=2)[0] == -signal.SIGKILL
    assert [each.step for each in record.read(killed.folder).candidates] == [0]
    status, output = killed(*LATEST)
    assert status == 0 and "resuming after step 2" in output and killed.result() == plain.result()
    found = without_time(measured.folder)
    assert without_time(killed.folder) == found and found.chosen == 6
    assert [each.step for each in found.candidates] == [0, 3, 6] and "nearer" in found.candidates[1].values
    lines = [json.loads(line) for line in (measured.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "evaluation" in line] == [3, 6]
    assert all(finding.intact is not False for finding in verify(measured.folder))
    assert "nothing to do" in measured(*LATEST)[1]
    status, output = measured(*LATEST, "--max_train_steps", "8")
    assert status == 0 and "log-2.jsonl" not in output and len(measured.losses()) == 8, output
    assert {path.name for path in ownership.foreign(measured.folder, ownership.Record(measured.folder))} <= {".lock"}


def test_numbers_that_were_measured_in_another_way_are_not_continued(tmp_path):
    prompts, values = (record.ProbePrompt("concept", "a sks toy", "a toy"),), {"likeness": (0.5,)}
    earlier = record.Evaluation(
        "object", "sks", "toy", "scored by DINOv2", 6, prompts, (record.Pair(0, 7),), options={"num_inference_steps": 25},
        candidates=(record.Candidate(0, values=values), record.Candidate(3, values=values)),
    )  # fmt: skip
    (tmp_path / record.FOLDER).mkdir()
    (tmp_path / record.FOLDER / record.NAME).write_text(earlier.to_json())
    reported: list[events.Event] = []
    with events.sent_to(reported.append):
        assert continued(tmp_path, replace(earlier, candidates=()), 3) == earlier and not reported
        assert continued(tmp_path, replace(earlier, scorer="scored by CLIP"), 3) is None
        assert continued(tmp_path, replace(earlier, options={"num_inference_steps": 5}), 3) is None
    assert len(reported) == 2 and "in another way than before" in getattr(reported[0], "text", "")


def test_a_result_whose_record_is_lost_is_not_replaced_by_the_last_weights(tmp_path):
    settings = SimpleNamespace(evaluation="auto", keep="best", stop="off")
    (tmp_path / "customize.json").write_text('{"steps": 3}')
    assert result_step(settings, tmp_path, 6, 6) == 6, "the weights of step 3 were not kept: a result from before"
    (tmp_path / "evaluation/weights/step-000003").mkdir(parents=True)
    assert result_step(settings, tmp_path, 6, 6) == 3
    assert result_step(SimpleNamespace(evaluation="auto", keep="last", stop="off"), tmp_path, 6, 6) == 6
    assert result_step(settings, tmp_path, 5, 6) is None
    lost = record.Evaluation("object", "sks", "toy", "own", 6, (), (record.Pair(0, 7),), (record.Candidate(0),), chosen=6)
    assert "result" not in dict(rows(lost, tmp_path)), "the last of those measured is not the last step"


def test_the_best_candidate_is_the_result(tiny_epsilon, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(callback, "choose", lambda evaluation: 3 if evaluation.candidate(3) else None)
    tracked: dict[int, dict[str, float]] = {1: {}, 3: {}, 6: {}}
    monkeypatch.setattr(run.Accelerator, "log", lambda self, values, step: tracked.setdefault(step, {}).update(values))
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **MEASURED)
    reported: list[events.Event] = []
    with events.sent_to(reported.append):
        folder = run.run(settings, *check(settings))
    rows = [row for each in reported for row in getattr(each, "rows", ())]
    assert ("result", f"the weights of step 3, the best of those measured; those of the last step: --weights {folder}@6") in rows
    means = {step: tracked[step]["evaluation/drift"] for step in (3, 6)}
    assert means == {step: pytest.approx(np.mean(record.read(folder).candidate(step).values["drift"])) for step in (3, 6)}
    assert "loss" in tracked[1] and "evaluation/drift" not in tracked[1]
    name = "pytorch_lora_weights.safetensors"
    result, best, last = (load_file(each / name) for each in (folder, *(folder / f"weights/step-00000{step}" for step in (3, 6))))
    assert all(torch.equal(result[key], best[key]) for key in result)
    assert any(not torch.equal(result[key], last[key]) for key in result)
    assert json.loads((folder / "customize.json").read_text())["steps"] == record.read(folder).chosen == 3
    assert [path.name for path in (folder / "evaluation/weights").iterdir()] == ["step-000003"]
    assert find_learned(None, [(f"{folder}@3", 1.0)]).files[0].path.parent.name == "step-000003"
    assert "## Evaluation" in (folder / "README.md").read_text() and (folder / run_folder.REPORT).is_file()
    assert all(finding.intact is not False for finding in verify(folder))


class DrawsAll(PictureProbe):
    """Draws every picture, and looks at every one."""

    def of_weights(self, step, scale=1.0):
        texts = [self.evaluation.prompts[pair.prompt].text for pair in self.evaluation.pairs]
        return self.pictures(folder_of(step, scale), texts)

    def seen(self, kind, pictures):
        return self.scorer.features(pictures)


@pytest.mark.parametrize(("method", "saved"), [("textual_inversion", 9), pytest.param("lora", 0, marks=pytest.mark.slow)])
def test_pictures_that_cannot_differ_from_the_base_models_are_not_drawn_again(
    method, saved, tiny_epsilon, image_folder, tmp_path, monkeypatch
):
    """Pictures and numbers are those of a probe that draws all, bit for bit, one at a time. Of 21, 9 are the base model's at the
    start, and with new words always; each would cost two evaluations of its only step, and one to be looked at."""
    monkeypatch.setattr(picture_probe, "AT_ONCE", 1)  # the last bits of a picture can depend on the others in its batch
    own = {"initializer_token": ("dog",), "num_vectors": (1,)} if method == "textual_inversion" else {}
    own |= {"validation_prompt": ("a cat",), "evaluation_seeds": 2, "sample_guidance_scale": 100.0}
    context, training = prepared(settings_for(method, tiny_epsilon, image_folder, tmp_path / "run", **{**MEASURED, **own}))
    found, probes, rows = [], {}, []
    context.family.denoiser.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))

    def counted(measure):
        rows.clear()
        found.append(measure())
        return sum(rows)

    for kind in (PictureProbe, DrawsAll):
        monkeypatch.setattr(pictures, "PictureProbe", kind)
        place = (pictures.new_record(context), tmp_path / kind.__name__, training.method.as_base)
        probe = pictures.probe_of(context, training, *place)
        probes[kind] = probe, counted(probe.start)
    for tensor in training.method.trainable_state_dict().values():
        tensor.data.normal_(generator=torch.Generator().manual_seed(0))
    costs = {kind: (start, counted(partial(probe.measure, 3))) for kind, (probe, start) in probes.items()}
    start, each = (costs[DrawsAll][i] - costs[PictureProbe][i] for i in (0, 1))
    assert start >= 3 * 9 and each == 3 * saved and costs[PictureProbe][1] == context.cost_of_pictures.each
    assert found[0] == found[1] and found[2] == found[3] and found[0].values != found[2].values
    one, other = (
        {path.relative_to(tmp_path / kind.__name__): path.read_bytes() for path in tmp_path.glob(f"{kind.__name__}/**/*.png")}
        for kind in costs
    )
    assert one == other


def test_the_last_candidate_is_measured_after_an_error(tiny_epsilon, image_folder, tmp_path, monkeypatch):
    """The weights of the last step are saved by then; a run that is resumed measures them before it ends."""
    changes = {**MEASURED, "num_candidates": 1, "max_train_steps": 2}
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **changes)
    measure = PictureProbe.measure

    def failing(probe, step):
        if step:
            raise RuntimeError("the device was lost")
        return measure(probe, step)

    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="the device was lost"):
        broken.setattr(PictureProbe, "measure", failing)
        run.run(settings, *check(settings))
    assert [each.step for each in record.read(tmp_path / "run").candidates] == [0]
    resuming = settings.model_copy(update={"resume_from_checkpoint": "latest"})
    found = record.read(run.run(resuming, *check(resuming)))
    assert [each.step for each in found.candidates] == [0, 2] and "nearer" in found.candidates[1].values
    assert found.chosen == 2 and found.verdict and "were measured" not in str(found.verdict)


def test_out_of_memory_ends_the_evaluation_and_not_the_run(tiny_epsilon, image_folder, tmp_path, monkeypatch):
    measure = PictureProbe.measure

    def failing(probe, step, scale=1.0):
        if step == 6:
            raise torch.OutOfMemoryError("out of memory")
        return measure(probe, step, scale)

    monkeypatch.setattr(PictureProbe, "measure", failing)
    settings = settings_for("textual_inversion", tiny_epsilon, image_folder, tmp_path / "run", **MEASURED)
    reported: list[events.Event] = []
    with events.sent_to(reported.append):
        folder = run.run(settings, *check(settings))
    assert any("the run goes on without an evaluation (out of memory)" in getattr(each, "text", "") for each in reported)
    found = record.read(folder)
    assert found.chosen == 6 and found.verdict and found.verdict.word == "cannot tell"


def test_a_whole_network_is_exchanged_for_that_of_the_base(tiny_epsilon, image_folder, tmp_path):
    context, training = prepared(settings := settings_for("full", tiny_epsilon, image_folder, tmp_path))
    base = prediction_of(context.family, "a dog")
    train_loop(settings, training, context.accelerator, 2)
    training.method.eval()
    now = prediction_of(context.family, "a dog")
    with training.method.as_base():
        assert torch.equal(prediction_of(context.family, "a dog"), base)
    assert torch.equal(prediction_of(context.family, "a dog"), now) and not torch.equal(now, base)


def test_losses_cost_at_most_two_percent(tiny_epsilon, image_folder, tmp_path):
    """The images that the denoiser predicts for, those of steps counting three times."""
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", max_train_steps=12, train_batch_size=24)
    rows = {True: 0, False: 0}

    def count(module, inputs):
        if isinstance(module, type(family.denoiser)):
            rows[torch.is_grad_enabled()] += len(inputs[0])

    family = prepared(settings)[0].family
    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    rows_told: list[tuple[str, str]] = []
    with events.sent_to(lambda event: rows_told.extend(getattr(event, "rows", ()))):
        folder = run.run(settings, *check(settings))
    hook.remove()
    losses = record.read(tmp_path / "run").candidates[-1].losses
    assert losses.keys() == {"training", "other crops"} and rows[True] >= 12 * 24
    assert rows[False] - 2 == 16 <= 0.02 * 3 * 12 * 24, "two predictions verify the result"
    verdict = dict(rows_told)["verdict"]
    assert verdict.startswith("cannot tell: losses do not show") and verdict in (folder / "README.md").read_text()
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[-1]) == {"step": 12, "verdict": verdict}
    assert verdict.partition(": ")[2] in (folder / run_folder.REPORT).read_text()


def test_fixed_samples_are_the_same_after_resuming(tiny_epsilon, image_folder, tmp_path):
    """Whichever crops the steps that are left draw."""
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", max_train_steps=6, random_flip=True)
    first, resumed = (prepared(settings, step)[1].dataset.probe(8) for step in (0, 5))
    assert torch.equal(first.latents, resumed.latents) and first.names == resumed.names and first.crops == resumed.crops


def test_a_mask_that_does_not_fit_its_image_is_reported_before_anything_loads(tiny_epsilon, tmp_path):
    photos = write_images(tmp_path / "photos", 2)
    Image.new("L", (3, 3), 255).save(photos / "0-mask.png")
    settings = settings_for("lora", tiny_epsilon, photos, tmp_path / "run", evaluation="pictures")
    with pytest.raises(InputError, match="0-mask.png.* has 3 x 3 pixels"):
        check(settings)
    check(settings.model_copy(update={"evaluation": "loss"}))


def test_held_out_images(tiny_epsilon, tmp_path):
    """Are not trained on; which they are depends on images and seed alone, and a resumed run has the same."""
    photos = write_images(tmp_path / "photos", 5)
    settings = settings_for("lora", tiny_epsilon, photos, tmp_path / "run", num_held_out=2)
    found = load_examples(settings)
    names = {example.name for example in found.held_out}
    assert len(found.instances) == 3 and len(names) == 2 and not names & {example.name for example in found.instances}
    assert any("held out, not trained on" in note for note in found.notes)
    own = settings.model_copy(update={"num_held_out": 0, "validation_data_dir": str(write_images(tmp_path / "own", 2, seed=9))})
    assert len(load_examples(own).instances) == 5 and [example.name for example in load_examples(own).held_out] == [
        "0.png",
        "1.png",
    ]
    _, source, _ = check(settings)
    assert identity(settings, source, found, 1)["held_out_pictures"].keys() == names
    with pytest.raises(InputError, match="5 of 5 images leave none to train on"):
        load_examples(settings.model_copy(update={"num_held_out": 5}))
    with pytest.raises(InputError, match="has images that are trained on, too: 0.png"):
        load_examples(own.model_copy(update={"validation_data_dir": str(write_images(tmp_path / "same", 1))}))
    context, training = prepared(settings)
    sets = sets_of(context, training, {"training": 4, "held out": 4, "training as class": 4})
    assert set(sets["held out"].names) == names and set(sets["training"].names) == {each.name for each in found.instances}
    assert (
        torch.equal(sets["training as class"].noise, sets["training"].noise)
        and sets["training as class"].prompts[0] == "a photo of dog"
    )
