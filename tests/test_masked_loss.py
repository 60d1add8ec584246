"""Masks of the loss: weights of places and their target against formulas, and faults of mask files."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from kit import prepared, settings_for, write_images
from PIL import Image
from whole_runs import LATEST, Run

from customize.data.buckets import squares
from customize.data.crops import variants
from customize.diffusion.losses import masked_prior_weights, masked_weights, mean_squared_error
from customize.errors import InputError, ResourceError
from customize.settings.rules.mask_rules import PRIOR
from customize.training.evaluating.probe_sets import sets_of
from customize.training.preflight import check
from customize.training.resume import differences

SIZE = (24, 16)


def grey_mask(number: int) -> np.ndarray:
    """A mask of 24 x 16 pixels with white, black and grey, another for each number."""
    mask = np.random.default_rng(number).integers(0, 256, SIZE[::-1], dtype=np.uint8)
    mask[:, :6], mask[2:9, 9:14] = 0, 255
    return mask


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three images; the first two have a mask."""
    folder = write_images(tmp_path / "images", 3, SIZE)
    for number in range(2):
        Image.fromarray(grey_mask(number)).save(folder / f"{number}-mask.png")
    return folder


def problems(settings) -> list[str]:
    with pytest.raises(InputError) as error:
        check(settings)
    return [f"{Path(problem.where).name}: {problem.what}" for problem in error.value.problems]


def test_weights_are_normalised_by_the_area_of_the_subject():
    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(2, 3, 5, 4, 6, generator=generator)
    mask = torch.rand(3, 1, 4, 6, generator=generator)
    mask[0] = (mask[0] > 0.8).float()
    for unmasked in (0.0, 0.25):
        found = mean_squared_error(output, target, masked_weights(mask, unmasked))
        for row in range(3):
            total = weights = 0.0
            for y in range(4):
                for x in range(6):
                    share = mask[row, 0, y, x].item()
                    weight = share + (1 - share) * unmasked
                    square = sum((output[row, c, y, x].item() - target[row, c, y, x].item()) ** 2 for c in range(5))
                    total, weights = total + weight * square / 5, weights + weight
            assert found[row].item() == pytest.approx(total / weights, rel=1e-5)
    inside, outside = mask.double(), 1 - mask.double()
    expected = inside / inside.mean((2, 3), keepdim=True) + 0.5 * outside / outside.mean((2, 3), keepdim=True)
    torch.testing.assert_close(masked_prior_weights(mask, 0.5).double(), expected, rtol=1e-5, atol=1e-6)
    whole = torch.ones(2, 1, 4, 6)
    assert torch.equal(masked_weights(whole), whole) and torch.equal(masked_prior_weights(whole, 2.0), whole)
    plain = (output - target).square().flatten(1).mean(1)
    assert torch.equal(mean_squared_error(output, target, torch.ones(3, 1, 4, 6)), plain)


def test_a_small_subject_has_the_loss_of_a_large_one():
    errors = torch.full((2, 4, 8, 8), 3.0)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, 0, :1, :1], mask[1, 0, :, :6] = 1, 1
    assert mean_squared_error(errors, torch.zeros_like(errors), masked_weights(mask)).tolist() == [9.0, 9.0]


def expected_mask(context, training, batch) -> torch.Tensor:
    """The masks [B, 1, H, W] of a batch in float64, from the arrays that were written: crop, flip, and mean of each latent."""
    settings, factor, rows = context.settings, context.family.latents.factor, []
    subject = training.dataset
    while not hasattr(subject, "sampler"):
        subject = subject.subject
    for position in batch.positions:
        image, variant = subject.sampler.draw(0, position)
        example = context.examples.instances[image]
        cut = variants(example, squares(16).fit(example.size), False, settings.crop_variants, True, settings.seed)[variant]
        whole = np.full(SIZE[::-1], 255) if image == 2 else grey_mask(image)
        part = whole[cut.top : cut.top + 16, cut.left : cut.left + 16].astype(np.float64) / 255
        part = part[:, ::-1] if cut.flip else part
        side = 16 // factor
        rows.append(part.reshape(side, factor, side, factor).mean((1, 3)))
    return torch.from_numpy(np.stack(rows))[:, None]


@pytest.mark.parametrize("method", ["lora", "textual_inversion"])
def test_the_loss_is_the_mean_over_what_the_mask_selects(method, tiny_epsilon, folder, tmp_path):
    changes = {"masked_loss": True, "unmasked_weight": 0.25, "train_batch_size": 12, "resolution": 16}
    context, training = prepared(settings_for(method, tiny_epsilon, folder, tmp_path / "run", **changes))
    assert [bool(example.mask) for example in context.examples.instances] == [True, True, False]
    assert any("learned as a whole: 2.png" in note for note in context.examples.notes)
    [batch] = training.dataset.deal(0, range(12))
    mask = expected_mask(context, training, batch)
    weights = mask + (1 - mask) * 0.25
    weights = weights / weights.mean((2, 3), keepdim=True)
    torch.testing.assert_close(batch.loss_mask.double(), weights, rtol=1e-5, atol=1e-6)
    assert (mask[[name == "2.png" for name in batch.names]] == 1).all() and 0 < mask.min() + mask.std() and not batch.taught.any()
    with torch.no_grad():
        found = training.method(batch)
        errors = (training.method.prediction(batch).double() - training.method.denoising_target(batch).double()) ** 2
    torch.testing.assert_close(found.double(), (weights * errors).mean((1, 2, 3)), rtol=1e-5, atol=1e-6)
    probe = training.dataset.probe(3)
    torch.testing.assert_close(probe.loss_mask.mean((1, 2, 3)), torch.ones(3))
    assert probe.loss_mask[0].min() == 0 and (probe.loss_mask[2] == 1).all()


def test_outside_of_the_mask_the_base_model_is_the_target(tiny_epsilon, folder, tmp_path):
    changes = {"masked_loss": True, "masked_prior_preservation_weight": 0.5, "train_batch_size": 6, "resolution": 16}
    changes |= {"prior_preservation": "teacher", "class_prompt": "a photo of dog", "prior_loss_weight": 3.0}
    context, training = prepared(settings_for("lora", tiny_epsilon, folder, tmp_path / "run", **changes))
    method, [batch] = training.method, training.dataset.deal(0, range(6))
    of_class, batch_of_class = batch.is_prior, batch.part(batch.is_prior)
    with torch.no_grad():
        base = method.prediction(batch).double()
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 10)
        found, changed = method(batch), method.prediction(batch).double()
    assert (changed - base).abs().max() > 1e-3 and of_class.sum() == 6
    mask = expected_mask(context, training, batch.part(~of_class))
    inside, outside = mask / mask.mean((2, 3), keepdim=True), (1 - mask)
    outside = outside / outside.mean((2, 3), keepdim=True).clamp(min=1e-30)
    target = mask * method.denoising_target(batch)[~of_class].double() + (1 - mask) * base[~of_class]
    expected = ((inside + 0.5 * outside) * (changed[~of_class] - target) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(found[~of_class].double(), expected, rtol=1e-4, atol=1e-6)
    whole = 3.0 * ((changed - base)[of_class] ** 2).mean((1, 2, 3))
    torch.testing.assert_close(found[of_class].double(), whole, rtol=1e-4, atol=1e-6)
    assert (batch_of_class.loss_mask == 1).all() and (batch_of_class.taught == 1).all()


@pytest.mark.parametrize(
    ("method", "changes", "weight"),
    [
        ("lora", {}, 1.0),
        ("pivotal", {}, 1.0),
        ("lora", {"unmasked_weight": 0.1}, 0.0),
        ("lora", {"unmasked_weight": 0.0}, 0.0),
        ("lora", {"dco_beta": 1000.0}, 0.0),
        ("lora", {"masked_prior_preservation_weight": 0.0}, 0.0),
        ("lora", {"masked_loss": False}, 0.0),
        ("full", {}, 0.0),
        ("textual_inversion", {}, 0.0),
    ],
)
def test_the_base_model_is_the_target_outside_where_nothing_else_is_chosen(method, changes, weight, folder, tmp_path):
    settings = settings_for(method, tmp_path, folder, tmp_path / "run", **{"masked_loss": True, **changes})
    assert settings.masked_prior_preservation_weight == weight
    if method != "textual_inversion":  # as text, as on a command line
        given = {name: str(value) for name, value in {"masked_loss": True, **changes}.items()}
        assert float(type(settings).completed({"adapter": settings.adapter, **given}).get(PRIOR, 0)) == weight


@pytest.mark.parametrize("where", ["beside", "folder"])
def test_images_that_are_only_measured_have_their_masks(where, tiny_epsilon, folder, tmp_path):
    """The loss on them is that within the mask of the central crop; one without a mask is measured as a whole."""
    measured = write_images(tmp_path / "measured", 2, SIZE, seed=8)
    (measured / "0.png").rename(measured / "a.png")
    (measured / "1.png").rename(measured / "b.png")
    changes = {"masked_loss": True, "resolution": 16, "validation_data_dir": str(measured)}
    if where == "folder":
        changes["mask_data_dir"] = str(tmp_path / "masks")
        (tmp_path / "masks").mkdir()
        Image.fromarray(grey_mask(0)).save(tmp_path / "masks" / "0.png")
    Image.fromarray(grey_mask(5)).save(tmp_path / "masks" / "a.png" if where == "folder" else measured / "a-mask.png")
    context, training = prepared(settings_for("lora", tiny_epsilon, folder, tmp_path / "run", **changes))
    assert [bool(example.mask) for example in context.examples.held_out] == [True, False]
    batch = sets_of(context, training, {"training": 4, "held out": 4})["held out"]
    factor = context.family.latents.factor
    mask = grey_mask(5)[:, 4:20].astype(np.float64).reshape(16 // factor, factor, 16 // factor, factor).mean((1, 3)) / 255
    expected = torch.from_numpy(mask / mask.mean())
    assert batch.names == ("a.png", "b.png") * 2 and (batch.loss_mask[1] == 1).all()
    torch.testing.assert_close(batch.loss_mask[0, 0].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("outside", [{"unmasked_weight": 0.25}, {"masked_prior_preservation_weight": 0.5}])
def test_a_killed_run_with_masks_resumes_to_the_same_bits(outside, server, tiny_epsilon, folder, tmp_path):
    changes = {"masked_loss": True, "resolution": 16, "evaluation": "none", "max_train_steps": 4, **outside}
    straight, killed = (Run(server, tmp_path / name, "lora", tiny_epsilon, folder, **changes) for name in ("straight", "killed"))
    assert straight()[0] == 0 and killed(moment="in a step", number=4)[0] == -signal.SIGKILL
    status, output = killed(*LATEST)
    assert status == 0 and "resuming after step 2" in output, output
    assert killed.result() == straight.result() and killed.losses() == straight.losses() and len(straight.losses()) == 4


def test_class_images_have_no_masks(tiny_epsilon, folder, tmp_path):
    changes = {"masked_loss": True, "masked_prior_preservation_weight": 0.5, "train_batch_size": 4, "resolution": 16}
    changes |= {"prior_preservation": "images", "class_prompt": "a dog", "num_class_images": 2}
    changes["class_data_dir"] = str(write_images(tmp_path / "class", 2, SIZE, seed=4))
    _, training = prepared(settings_for("lora", tiny_epsilon, folder, tmp_path / "run", **changes))
    [batch] = training.dataset.deal(0, range(4))
    assert batch.is_prior.sum() == 4 and (batch.loss_mask[batch.is_prior] == 1).all() and not batch.taught[batch.is_prior].any()
    assert batch.taught[~batch.is_prior].any()


def test_a_resumed_run_has_the_same_masks_and_notices_others(tiny_epsilon, folder, tmp_path):
    settings = settings_for("lora", tiny_epsilon, folder, tmp_path / "run", masked_loss=True, resolution=16, train_batch_size=3)
    (_, whole), (_, resumed) = prepared(settings), prepared(settings, first_step=4)
    for one, other in zip(whole.dataset.deal(4, range(3)), resumed.dataset.deal(4, range(3)), strict=True):
        assert torch.equal(one.loss_mask, other.loss_mask) and one.names == other.names
    before = {"masks": {example.name: example.mask.digest for example in check(settings)[2].instances if example.mask}}
    Image.fromarray(255 - grey_mask(0)).save(folder / "0-mask.png")
    now = {"masks": {example.name: example.mask.digest for example in check(settings)[2].instances if example.mask}}
    [problem] = differences(before, now)
    assert problem.where == "masks" and "0.png" in problem.what and "1.png" not in problem.what
    assert differences({}, {"masks": {}}) == [] and differences(before, before) == []


def test_crops_that_miss_the_subject_are_not_trained_on(tiny_epsilon, tmp_path):
    folder = write_images(tmp_path / "images", 1, (96, 16))
    mask = np.zeros((16, 96), np.uint8)
    mask[:, 40:52] = 255
    Image.fromarray(mask).save(folder / "0-mask.png")
    changes = {"masked_loss": True, "resolution": 16, "crop_variants": 24, "train_batch_size": 16, "max_train_steps": 4}
    changes["aspect_ratio_buckets"] = None
    _, training = prepared(settings_for("lora", tiny_epsilon, folder, tmp_path / "run", **changes))
    lefts = {crop.top_left[1] for step in range(4) for batch in training.dataset.deal(step, range(16)) for crop in batch.crops}
    seen = [min(left + 16, 52) - max(left, 40) for left in lefts]  # a mirrored crop counts from the other side
    seen = [max(one, min(96 - left, 52) - max(80 - left, 40)) for one, left in zip(seen, lefts, strict=True)]
    assert len(lefts) > 3 and min(seen) >= 6


def test_a_subject_that_no_crop_shows_is_reported(tiny_epsilon, tmp_path):
    folder = write_images(tmp_path / "images", 1, (96, 16))
    mask = np.zeros((16, 96), np.uint8)
    mask[:, :20] = 255
    Image.fromarray(mask).save(folder / "0-mask.png")
    changes = {"masked_loss": True, "resolution": 16, "center_crop": True, "aspect_ratio_buckets": "none"}
    settings = settings_for("lora", tiny_epsilon, folder, tmp_path / "run", **changes)
    assert problems(settings) == ["0.png: is cropped so that nothing is left of what its mask selects"]
    check(settings.model_copy(update={"center_crop": False, "crop_variants": 8}))


def test_masks_come_from_a_folder_and_from_transparency(tiny_epsilon, folder, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(255 - grey_mask(0)).save(masks / "0.png")
    pixels = np.asarray(Image.open(folder / "2.png").convert("RGBA")).copy()
    pixels[..., 3] = grey_mask(2)
    Image.fromarray(pixels).save(folder / "2.png")
    changes = {"masked_loss": True, "mask_data_dir": str(masks), "alpha_mask": True, "resolution": 16, "crop_variants": 1}
    changes |= {"center_crop": True, "random_flip": False, "train_batch_size": 3, PRIOR: 0.0}
    context, training = prepared(settings_for("lora", tiny_epsilon, folder, tmp_path / "run", **changes))
    [batch] = training.dataset.deal(0, range(3))
    factor = context.family.latents.factor
    for name, found in zip(batch.names, batch.loss_mask.double(), strict=True):
        number = int(name[0])
        whole = (255 - grey_mask(0) if number == 0 else grey_mask(number))[:, 4:20] / 255.0
        expected = whole.reshape(16 // factor, factor, 16 // factor, factor).mean((1, 3))
        np.testing.assert_allclose(found[0], expected / expected.mean(), rtol=1e-5, atol=1e-6)
    Image.fromarray(grey_mask(5)).save(masks / "0.png")
    with pytest.raises(ResourceError, match="is a different mask now"):
        context.encode_images("instance", context.examples.instances)


def test_faults_of_masks_are_one_report(tiny_epsilon, folder, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (12, 8), 255).save(masks / "0.png")
    Image.new("L", SIZE, 100).save(masks / "1.png")
    Image.new("L", SIZE, 255).save(masks / "other.png")
    (folder / "2-mask.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.new("L", SIZE, 255).save(folder / "gone-mask.png")
    settings = settings_for("lora", tiny_epsilon, folder, tmp_path / "run", masked_loss=True, mask_data_dir=str(masks))
    found = problems(settings)
    assert found[0] == "0.png: has 12 x 8 pixels, the image 0.png 24 x 16"
    assert found[1] == "1.png: is a mask in which nothing is white" and found[2].startswith("2-mask.png: ")
    assert found[3:] == [
        "masks: has masks of no image: other.png",
        "gone-mask.png: is a mask by its name, but there is no image gone",
    ]
    plain = write_images(tmp_path / "plain", 2, SIZE)
    none = settings_for("lora", tiny_epsilon, plain, tmp_path / "run", masked_loss=True, alpha_mask=True)
    assert problems(none) == ["masked_loss: no image has a mask"]
    itself = none.model_copy(update={"mask_data_dir": str(plain)})
    assert problems(itself) == [f"{name}.png: is the image itself, not its mask" for name in (0, 1)]
    transparent = Image.open(plain / "0.png").convert("RGBA")
    transparent.putalpha(0)
    transparent.save(plain / "0.png")
    assert problems(none) == ["0.png: is transparent everywhere"]


@pytest.mark.parametrize(
    "method, changes, setting",
    [
        ("lora", {"unmasked_weight": 0.1, "masked_prior_preservation_weight": 1.0}, "masked_prior_preservation_weight"),
        ("full", {"masked_prior_preservation_weight": 1.0}, "masked_prior_preservation_weight"),
        ("textual_inversion", {"masked_prior_preservation_weight": 1.0}, "masked_prior_preservation_weight"),
        ("lora", {"unmasked_weight": 1.5}, "unmasked_weight"),
        ("lora", {"masked_loss": False, "unmasked_weight": 0.5}, "unmasked_weight"),
    ],
)
def test_settings_that_do_not_fit_are_refused(method, changes, setting, tiny_epsilon, folder, tmp_path):
    with pytest.raises(InputError) as error:
        settings_for(method, tiny_epsilon, folder, tmp_path / "run", **{"masked_loss": True, **changes})
    assert [problem.where for problem in error.value.problems] == [setting]
