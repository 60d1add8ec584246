"""Gradients of every method on SDXL against a straight implementation in float64: stock networks, and the formulas by hand."""

from dataclasses import replace

import pytest
import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from kit import prepared, settings_for, write_images
from models import tiny_stable_diffusion_xl
from torch.func import functional_call
from torch.nn.functional import embedding
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from customize.data.samples.batches import Batch
from customize.methods.method import encoding_condition

NETWORKS = {
    "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection,
}  # fmt: skip
SCALE = 2.0 / 4
"""lora_alpha / rank of `settings_for`."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_stable_diffusion_xl(tmp_path_factory.mktemp("models") / "tiny_xl")


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("class"), 2, (40, 20), seed=5)


class Straight:
    """SDXL's denoising loss as its paper and diffusers' scripts write it.

    changed: parameters by network and name, in place of those of the stock networks; vectors: of `<new>`, by text encoder.
    """

    def __init__(self, base, tokenizers):
        self.own = {name: kind.from_pretrained(base, subfolder=name).double() for name, kind in NETWORKS.items()}
        self.alphas_cumprod = EulerDiscreteScheduler.from_pretrained(base, subfolder="scheduler").alphas_cumprod
        self.tokenizers = tokenizers

    def losses(self, batch: Batch, prior: str, changed, vectors) -> torch.Tensor:
        """[B]: the weighted loss of each sample."""
        target = batch.noise.clone()
        if prior == "teacher":
            with torch.no_grad():
                target[batch.is_prior] = self.predict(batch.part(batch.is_prior), {}, {})
        return ((self.predict(batch, changed, vectors) - target) ** 2).mean(dim=(1, 2, 3)) * batch.loss_weights

    def predict(self, batch: Batch, changed, vectors) -> torch.Tensor:
        alphas = self.alphas_cumprod[batch.timesteps].double().view(-1, 1, 1, 1)
        noisy = alphas.sqrt() * batch.latents + (1 - alphas).sqrt() * batch.noise
        texts = [prompt.replace("<new>", "<new> <new>_1") for prompt in batch.prompts]
        hidden, (_, pooled) = zip(*(self.encode(name, texts, changed, vectors) for name in self.tokenizers), strict=True)
        given = torch.tensor([[float(text != "")] for text in texts])  # an empty prompt is zeros
        sizes = [[*crop.original_size, *crop.top_left, *crop.target_size] for crop in batch.crops]
        added = {"text_embeds": given * pooled, "time_ids": torch.tensor(sizes).double()}
        inputs = {"encoder_hidden_states": given[..., None] * torch.cat(hidden, -1), "added_cond_kwargs": added}
        return functional_call(self.own["unet"], changed.get("unet", {}), (noisy, batch.timesteps), inputs).sample

    def encode(self, name, texts, changed, vectors):
        """The states before the last layer, and the last state at the first end token through the projection, if there is one."""
        tokenizer, encoder, own = self.tokenizers[name], self.own[name], dict(changed.get(name, {}))
        ids = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        place = next(each for each, _ in encoder.named_parameters() if "token_embedding" in each)
        table = own.pop(place, encoder.get_parameter(place))
        table = torch.cat([table, vectors[name]]) if name in vectors else table
        projection = own.pop("text_projection.weight", getattr(getattr(encoder, "text_projection", None), "weight", None))
        text_model = encoder if projection is None else encoder.text_model
        own = {each.removeprefix("text_model."): tensor for each, tensor in own.items()}
        hook = encoder.get_input_embeddings().register_forward_hook(lambda *_: embedding(ids, table))
        known = ids.clamp(max=encoder.config.vocab_size - 1)
        output = functional_call(text_model, own, (known,), {"output_hidden_states": True})
        hook.remove()
        ends = [row.index(tokenizer.eos_token_id) for row in ids.tolist()]
        last = output.last_hidden_state[torch.arange(len(ids)), ends]
        return output.hidden_states[-2], None if projection is None else last @ projection.T

    def with_lora(self, learned):
        """W + scale B A for every pair of factors, by network and parameter."""
        merged = {name: {} for name in NETWORKS}
        for name in learned:
            if name.endswith(".lora_A.weight"):
                part, _, module = name.removesuffix(".lora_A.weight").partition(".")
                module = module.removeprefix("text_model.") if part == "text_encoder" else module  # flat in transformers 5
                change = SCALE * learned[name.replace("lora_A", "lora_B")] @ learned[name]
                merged[part][f"{module}.weight"] = self.own[part].get_submodule(module).weight.detach() + change
        return merged


def gradient(parameter: torch.Tensor) -> torch.Tensor:
    """Zeros for a parameter that the loss does not depend on."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


TEXT = {"train_text_encoder": True}
CASES = [
    ("textual_inversion", {}, "none"), ("lora", {}, "none"), ("lora", TEXT, "images"), ("lora", TEXT, "teacher"),
    ("pivotal", {}, "images"), ("pivotal", TEXT, "teacher"), ("full", TEXT, "images"),
]  # fmt: skip
SELDOM = [
    ("lora", {}, "images"), ("lora", {}, "teacher"), ("lora", TEXT, "none"), ("pivotal", {}, "none"), ("pivotal", {}, "teacher"),
    ("full", TEXT, "none"),
]  # fmt: skip
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in SELDOM]


@pytest.mark.parametrize(("kind", "changes", "prior"), CASES)
def test_gradients_are_those_of_the_formulas(kind, changes, prior, base, class_folder, image_folder, tmp_path):
    if prior != "none":
        changes = {"prior_preservation": prior, "class_prompt": "a photo of dog", "prior_loss_weight": 0.5, **changes}
    if prior == "images":
        changes |= {"class_data_dir": str(class_folder), "num_class_images": 2}
    changes |= {"train_batch_size": 3, "caption_dropout": 0.4, "aspect_ratio_buckets": None}
    settings = settings_for(kind, base, image_folder, tmp_path / "run", **changes)
    context, training = prepared(settings)
    method, family = training.method.double(), context.family.to(torch.float64)
    method.condition = encoding_condition(family, 1)
    learned = method.trainable_state_dict()
    for name, parameter in learned.items():  # B is zero before the first step, which would hide the gradient of A
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    [batch] = training.dataset.deal(0, range(3))
    batch = replace(batch, latents=batch.latents.double(), noise=batch.noise.double(), loss_weights=batch.loss_weights.double())
    assert "" in batch.prompts and len(set(batch.prompts)) > 1 and batch.is_prior.sum() == (3 if prior != "none" else 0)
    losses = method(batch)
    losses.sum().backward()

    straight = Straight(base, {encoder.name: encoder.tokenizer for encoder in family.text_encoders})
    copies = {name: parameter.detach().clone().requires_grad_() for name, parameter in learned.items()}
    words = {"bundle_emb.<new>.clip_l": "text_encoder", "bundle_emb.<new>.clip_g": "text_encoder_2"}
    vectors = {encoder: copies[name] for name, encoder in words.items() if name in copies}
    changed = straight.with_lora(copies)
    if kind == "full":
        for name, copy in copies.items():
            part, _, rest = name.partition(".")
            changed[part][rest] = copy
    expected = straight.losses(batch, prior, changed, vectors)
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=0)
    expected.sum().backward()
    gradients = {name: (gradient(learned[name]), gradient(copy)) for name, copy in copies.items()}
    largest = max(theirs.abs().max() for _, theirs in gradients.values())
    wrong = {name for name, (ours, theirs) in gradients.items() if not (ours - theirs).abs().max() <= 1e-6 * largest}
    assert largest > 0 and not wrong, sorted(wrong)
    if kind != "full":  # all of it learns, except beside the last layer of the first encoder, which SDXL does not use
        still = {name for name, (_, theirs) in gradients.items() if not theirs.any()}
        assert all(name.startswith("text_encoder.text_model.encoder.layers.2.") for name in still), sorted(still)
