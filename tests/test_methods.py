"""What learns and what does not, and gradients against straight implementations of the formulas in float64."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from kit import METHODS, conditioning, hidden_states, prepared, settings_for, train_loop, write_images
from torch.func import functional_call
from torch.nn import functional as F
from transformers import CLIPTextModel

from customize.data.samples.batches import Batch
from customize.diffusion import rng
from customize.diffusion.predictions import add_noise
from customize.methods.words import DirectionalWords


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("pictures"))


def double(batch: Batch) -> Batch:
    return replace(batch, latents=batch.latents.double(), noise=batch.noise.double(), loss_weights=batch.loss_weights.double())


def straight_losses(base, batch: Batch, answer) -> torch.Tensor:
    """|| target - answer(noisy latents, timesteps) ||^2 as the papers write it, with diffusers' scheduler for the formulas."""
    scheduler = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    noisy = scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
    v = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(batch.latents, batch.noise, batch.timesteps) if v else batch.noise
    return ((answer(noisy, batch.timesteps) - target) ** 2).mean(dim=(1, 2, 3)) * batch.loss_weights


def assert_equal_gradients(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]):
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert gradient.abs().max() > 0, name
        assert (gradient - theirs[name]).abs().max() <= 1e-6 * theirs[name].abs().max(), name


@pytest.mark.parametrize("base", ["tiny_epsilon", "tiny_v"])
def test_textual_inversion_gradient(base, image_folder, tmp_path, request):
    base = request.getfixturevalue(base)
    context, training = prepared(settings_for("textual_inversion", base, image_folder, tmp_path / "run", train_batch_size=3))
    method, family = training.method.double(), context.family
    batch = double(training.dataset.deal(0, range(3))[0])
    method(batch).sum().backward()

    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet").double()
    encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder").double()
    table = encoder.get_input_embeddings().weight.detach()
    vectors = table[family.tokenizer("toy dog", add_special_tokens=False).input_ids].requires_grad_()
    encoder.set_input_embeddings(torch.nn.Embedding(len(table) + 2, table.shape[1]).double())
    name = next(name for name, _ in encoder.named_parameters() if "token_embedding" in name)
    hidden = functional_call(encoder, {name: torch.cat([table, vectors])}, (family.text_encoders[0].tokenize(batch.prompts),))[0]
    losses = straight_losses(base, batch, lambda noisy, t: unet(noisy, t, encoder_hidden_states=hidden).sample)
    losses.sum().backward()
    assert_equal_gradients({"v": method.words.vectors["<new>"].grad}, {"v": vectors.grad})


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_gradient(rslora, tiny_epsilon, image_folder, tmp_path):
    changes = {"train_batch_size": 2, "use_rslora": rslora, "lora_targets": ("attention", "feed-forward"), "snr_gamma": 5.0}
    context, training = prepared(settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **changes))
    method = training.method.double()
    for name, parameter in method.trainable_state_dict().items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    batch = double(training.dataset.deal(0, range(2))[0])
    training.condition(batch.prompts)
    method.condition = lambda prompts: conditioning(hidden_states(training.condition(prompts)).double())
    method(batch).sum().backward()

    unet = UNet2DConditionModel.from_pretrained(tiny_epsilon, subfolder="unet").double().requires_grad_(False)
    learned = {name: p.detach().clone().requires_grad_() for name, p in method.trainable_state_dict().items()}
    scale = 2.0 / (4**0.5 if rslora else 4)
    merged = {}
    for name in learned:
        if "lora_A" in name:
            module = name.removeprefix("unet.").removesuffix(".lora_A.weight")
            change = learned[name.replace("lora_A", "lora_B")] @ learned[name]
            merged[f"{module}.weight"] = unet.get_submodule(module).weight + scale * change
    encoder = CLIPTextModel.from_pretrained(tiny_epsilon, subfolder="text_encoder")
    hidden = encoder(context.family.text_encoders[0].tokenize(batch.prompts))[0].detach().double()
    losses = straight_losses(
        tiny_epsilon, batch, lambda noisy, t: functional_call(unet, merged, (noisy, t), {"encoder_hidden_states": hidden}).sample
    )
    losses.sum().backward()
    ours = {name: parameter.grad for name, parameter in method.trainable_state_dict().items()}
    assert_equal_gradients(ours, {name: parameter.grad for name, parameter in learned.items()})


def test_targets_may_be_keys_and_values_of_the_prompt_alone(tiny_epsilon, image_folder, tmp_path):
    """Kumari et al. 2023, "Multi-Concept Customization of Text-to-Image Diffusion" (Custom Diffusion), as a LoRA."""
    targets = ("attn2.to_k", "attn2.to_v")
    _, training = prepared(settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", lora_targets=targets))
    modules = {name.rpartition(".lora_")[0] for name in training.method.trainable_state_dict()}
    blocks = [name for name, _ in training.method.unet.named_modules() if name.endswith("attn2")]
    assert modules == {f"unet.{block}.{end}" for block in blocks for end in ("to_k", "to_v")} and blocks


def test_full_gradient_of_unet_and_text_encoder(tiny_epsilon, image_folder, tmp_path):
    context, training = prepared(
        settings_for("full", tiny_epsilon, image_folder, tmp_path / "run", train_batch_size=2, train_text_encoder=True)
    )
    method = training.method.double()
    batch = double(training.dataset.deal(0, range(2))[0])
    method(batch).sum().backward()

    unet = UNet2DConditionModel.from_pretrained(tiny_epsilon, subfolder="unet").double()
    encoder = CLIPTextModel.from_pretrained(tiny_epsilon, subfolder="text_encoder").double()
    hidden = encoder(context.family.text_encoders[0].tokenize(batch.prompts))[0]
    straight_losses(tiny_epsilon, batch, lambda noisy, t: unet(noisy, t, encoder_hidden_states=hidden).sample).sum().backward()
    theirs = {f"unet.{name}": p.grad for name, p in unet.named_parameters()}
    theirs |= {f"text_encoder.{name}": p.grad for name, p in encoder.named_parameters()}
    scale = max(gradient.abs().max() for gradient in theirs.values())
    ours = {name: parameter.grad for name, parameter in method.trainable_state_dict().items()}
    assert ours.keys() == theirs.keys() and len(ours) > 150
    for name in ours:  # some gradients are zero up to rounding, so the scale is that of all
        assert (ours[name] - theirs[name]).abs().max() <= 1e-6 * scale, name


def test_teacher_is_the_model_without_its_adapter(tiny_v, image_folder, tmp_path):
    changes = {"prior_preservation": "teacher", "class_prompt": "a photo of dog", "prior_loss_weight": 0.5}
    changes |= {"train_text_encoder": True, "train_batch_size": 2}
    context, training = prepared(settings_for("lora", tiny_v, image_folder, tmp_path / "run", **changes))
    method = training.method.double()
    generator = torch.Generator().manual_seed(1)
    for parameter in method.trainable_state_dict().values():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    batch = double(training.dataset.deal(0, range(2))[0])
    losses = method(batch)
    assert batch.prompts[2:] == ("a photo of dog",) * 2 and torch.equal(batch.latents[:2], batch.latents[2:])

    plain = UNet2DConditionModel.from_pretrained(tiny_v, subfolder="unet").double()
    encoder = CLIPTextModel.from_pretrained(tiny_v, subfolder="text_encoder").double()
    noisy = add_noise(batch.latents, batch.noise, *context.family.schedule.alpha_sigma(batch.timesteps, torch.float64))[2:]
    with torch.no_grad():
        taught = plain(
            noisy,
            batch.timesteps[2:],
            encoder_hidden_states=encoder(context.family.text_encoders[0].tokenize(batch.prompts[2:]))[0],
        ).sample
        own = context.family.predict(noisy, batch.timesteps[2:], training.condition(batch.prompts[2:])).prediction
    assert (own - taught).abs().max() > 1e-3
    torch.testing.assert_close(losses[2:], 0.5 * ((own - taught) ** 2).mean(dim=(1, 2, 3)), rtol=1e-9, atol=0)
    losses.sum().backward()
    assert all(parameter.grad is not None for parameter in method.trainable_state_dict().values())


@pytest.mark.parametrize("kind", [*METHODS, "pivotal"])
def test_only_trained_parameters_change(kind, tiny_epsilon, image_folder, tmp_path):
    settings = settings_for(kind, tiny_epsilon, image_folder, tmp_path / "run", max_train_steps=2)
    context, training = prepared(settings)
    before = {
        name: p.detach().clone() for network in context.family.components.values() for name, p in _named(context.family, network)
    }
    train_loop(settings, training, context.accelerator, 2)
    after = {name: p for network in context.family.components.values() for name, p in _named(context.family, network)}
    learned = {id(parameter) for parameter in training.method.trainable_state_dict().values()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and changed <= {name for name, p in after.items() if id(p) in learned}
    if kind == "textual_inversion":
        assert len(changed) == 1 and after[changed.pop()].shape == (2, 32)
        fresh = CLIPTextModel.from_pretrained(tiny_epsilon, subfolder="text_encoder")
        assert torch.equal(fresh.get_input_embeddings().weight, context.family.text_encoder.get_input_embeddings().table.weight)


def _named(family, network):
    part = next(name for name in ("unet", "vae", "text_encoder") if getattr(family, name) is network)
    return [(f"{part}.{name}", parameter) for name, parameter in network.named_parameters()]


def test_directional_step_equals_its_formula(tiny_epsilon, image_folder, tmp_path):
    settings = settings_for(
        "textual_inversion", tiny_epsilon, image_folder, tmp_path / "run", normalize_embedding=True, learning_rate=0.02
    )
    context, training = prepared(settings)
    method = training.method
    assert isinstance(method.words, DirectionalWords)
    norm = context.family.text_encoder.get_input_embeddings().weight.norm(dim=1).mean()
    start = method.words.vectors["<new>"].detach().clone()
    torch.testing.assert_close(start.norm(dim=1), norm.expand(2))
    method(training.dataset.deal(0, [0])[0]).sum().backward()
    gradient = method.words.vectors["<new>"].grad.clone().double()
    method.zero_grad()
    train_loop(settings, training, context.accelerator, 1)

    v = F.normalize(start.double(), dim=1)
    ambient = gradient - 1e-4 * v
    tangent = ambient - (ambient * v).sum(1, keepdim=True) * v
    expected = norm.double() * F.normalize(v - 0.02 * F.normalize(tangent, dim=1), dim=1)
    torch.testing.assert_close(method.words.vectors["<new>"].detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_a_direction_that_no_caption_has_stays(tiny_epsilon, image_folder, tmp_path):
    changes = {"normalize_embedding": True, "caption_dropout": 1.0}
    context, training = prepared(settings_for("textual_inversion", tiny_epsilon, image_folder, tmp_path / "run", **changes))
    train_loop(context.settings, training, context.accelerator, 1)
    start, after = training.method.words.start["<new>"], training.method.words.vectors["<new>"].detach()
    torch.testing.assert_close(after, start, rtol=0, atol=1e-6)


def test_placeholders_are_found_as_whole_words(tiny_epsilon):
    from customize import families

    family = families.load(families.locate(str(tiny_epsilon)))
    width = family.text_encoder.config.hidden_size
    for placeholder, count in (("<cat>", 3), ("<cat>s", 2), ("zwx", 2), ("<Up>", 2)):
        family.text_encoders[0].add_tokens(placeholder, torch.randn(count, width))
    assert family.text_encoders[0].expand("a <cat>, <cat>s") == "a <cat> <cat>_1 <cat>_2, <cat>s <cat>s_1"
    assert family.text_encoders[0].expand("zwx azwxb ZWX. zwxs") == "zwx zwx_1 azwxb zwx zwx_1. zwxs"
    assert family.text_encoders[0].expand("<up>") == "<Up> <Up>_1"
    for text, following in (("<up>s", "s"), ("<up>_1", "_1"), ("<up>2 a", "2 a"), ("<up>-like", "-like")):
        alone, found = (
            family.tokenizer(each, add_special_tokens=False).input_ids
            for each in (following, family.text_encoders[0].expand(text))
        )
        tokens = [token.casefold() for token in family.tokenizer.convert_ids_to_tokens(found[:2])]
        assert tokens == ["<up>", "<up>_1"] and found[2:] == alone
    new = [
        i
        for i in family.text_encoders[0].tokenize(["azwxb zwx"])[0].tolist()
        if i >= family.text_encoder.get_input_embeddings().table.num_embeddings
    ]
    assert len(new) == 2


def test_gradients_are_clipped_and_dropout_is_active(tiny_epsilon, image_folder, tmp_path):
    """The record holds the norm before clipping; plain gradient descent shows what was left of it."""
    changes = {"max_grad_norm": 1e-3, "learning_rate": 1.0, "normalize_embedding": False}
    context, training = prepared(settings_for("textual_inversion", tiny_epsilon, image_folder, tmp_path / "run", **changes))
    method = training.method
    method.build_optimizer = lambda settings: torch.optim.SGD(method.parameter_groups())
    train_loop(context.settings, training, context.accelerator, 1)
    moved = (method.words.vectors["<new>"].detach() - method.words.start["<new>"]).norm()
    assert moved == pytest.approx(1e-3, rel=1e-3)
    assert method.training and method.unet.training


def test_the_report_distinguishes_unchanged_and_exploded_vectors(tiny_epsilon, image_folder, tmp_path):
    context, training = prepared(settings_for("textual_inversion", tiny_epsilon, image_folder, tmp_path / "run"))
    still = training.method.report()
    assert (
        "<new> did not move" in still and "nearest: toy 1.00" in still and "<new>_1: " in still and "nearest: dog 1.00" in still
    )
    with torch.no_grad():
        training.method.words.vectors["<new>"] *= 50
    blown = training.method.report()
    assert "did not move" not in blown and "<new> blew up" in blown and "<new>_1 blew up" in blown


def test_draws_of_a_batch_do_not_depend_on_micro_batches(tiny_epsilon, image_folder, tmp_path):
    _, training = prepared(
        settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", train_batch_size=4, noise_offset=0.1)
    )
    whole = training.dataset.deal(3, range(4))[0]
    parts = [training.dataset.deal(3, [position])[0] for position in range(4)]
    for name in ("latents", "noise", "timesteps", "loss_weights"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
    assert whole.names == tuple(part.names[0] for part in parts)
    assert rng.shuffled(12, 3, 3, "instance/order") == int(whole.names[0].removesuffix(".png"))
