"""DreamBooth: fine-tunes the denoiser on a subject, and on request learns new words beside an adapter (pivotal tuning).

Ruiz et al. 2023, "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation".
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from customize import adapters, events
from customize.adapters import Adapter, parameter_groups
from customize.data.example import Example, of_concept
from customize.data.samples.batches import Batch, Dataset
from customize.data.samples.concept_turns import ConceptDataset, Concepts, Turns, stream_of
from customize.data.samples.latent_dataset import TurnOf
from customize.data.samples.prior import PriorDistillation, PriorPreservation
from customize.diffusion.losses import direct_consistency
from customize.families.base import Family
from customize.families.files.scheduler import with_fixed_variance
from customize.families.trigger_words import any_calls
from customize.families.whole_models.model_file import layout_of
from customize.methods import words
from customize.methods.dreambooth_settings import DreamBoothSettings
from customize.methods.method import (
    DenoisingMethod,
    MethodContext,
    TrainingSetup,
    captions_of,
    chunks_needed,
    encoding_condition,
)
from customize.storage.run_folder import SCHEDULER
from customize.weights import init_weights, model_spec


def prepare(settings: DreamBoothSettings, context: MethodContext) -> TrainingSetup:
    """Images, and captions where neither text encoder nor words learn, are encoded once; missing class images are generated
    first."""
    if settings.writes_model_file:
        layout_of(context.family)  # raises where it has none: one on the hub, or with another autoencoder, is not checked before
    family, captions = context.family.to(context.device), captions_of(context.examples.instances)
    class_examples = all_class_images(settings, context)
    init_weights.into_base(settings, family)
    has_teacher = any(part.prior_preservation == "teacher" for part in settings.parts)
    method_class = SelfDistillation if has_teacher or settings.masked_prior_preservation_weight else DreamBooth
    method = method_class(family, adapters.build(settings.adapter), settings)
    for note in method.adapter.notes(settings, len(context.examples.instances)):
        events.note(note)
    method.called_by(captions)
    prompts = [*captions, *captions_of(class_examples), *settings.prompts.values(), ""]
    min_chunks = chunks_needed(family, prompts, settings)
    if settings.train_text_encoder or settings.placeholder_token:
        method.condition = encoding_condition(family, min_chunks, settings.clip_skip)
    else:
        method.condition = context.encode_captions([*prompts, *(part.instance_prompt for part in settings.parts)], min_chunks)
    dataset = dataset_of(settings, context, class_examples)
    method.images = model_spec.Images.of(example.captions for example in context.examples.instances)
    context.place(method)
    return TrainingSetup(method, dataset, method.condition, class_examples)


def all_class_images(settings: DreamBoothSettings, context: MethodContext) -> tuple[Example, ...]:
    """The class images of each concept that is preserved by some; missing ones are generated first."""
    parts = settings.parts
    preserved = [(place, part) for place, part in enumerate(parts) if part.prior_preservation == "images"]
    return tuple(of_concept(each, place, len(parts)) for place, part in preserved for each in context.complete_class_images(part))


def dataset_of(settings: DreamBoothSettings, context: MethodContext, class_examples: Sequence[Example]) -> Dataset:
    """The samples of a step, all of one concept."""
    parts, turns = settings.parts, Turns.of(settings, context.examples.instances)
    if len(parts) == 1:
        return samples_of(settings, context, class_examples)
    every = [samples_of(part, context, class_examples, place, turns.of_concept(place)) for place, part in enumerate(parts)]
    return Concepts(every, turns)


def samples_of(
    settings: DreamBoothSettings, context: MethodContext, class_examples: Sequence[Example], place: int = 0, turns: TurnOf = int
) -> ConceptDataset:
    """The samples of a concept: those of the subject, and by `prior_preservation` as many of its class. turns: of its steps."""
    own, of_class = ([each for each in every if each.concept == place] for every in (context.examples.instances, class_examples))
    subject, weight = context.encode_images(stream_of("instance", place), own, turns), settings.prior_loss_weight
    match settings.prior_preservation:
        case "images":
            return PriorPreservation(subject, context.encode_images(stream_of("class", place), of_class, turns), weight)
        case "teacher":
            return PriorDistillation(subject, settings.class_prompt, weight)
    return subject


class DreamBooth(DenoisingMethod):
    """Fine-tunes the denoiser and, on request, the text encoders; the adapter decides which of their parameters are trained.

    networks: those that are fine-tuned, by name; words: the new words, which may be none; images: what the metadata of the
    result says of the training images; changes_scheduler: whether the result is sampled with another scheduler than the base
    model, which is saved beside an adapter.
    """

    images = model_spec.Images()

    def __init__(self, family: Family, adapter: Adapter, settings):
        super().__init__(family, family.encode_prompts)
        self.settings, self.adapter = settings, adapter
        kind = "pivotal_tuning" if settings.placeholder_token else "dreambooth"
        self.name = kind if settings.adapter == adapters.NONE else f"{kind}_{settings.adapter}"
        prompts = tuple(part.instance_prompt for part in settings.parts)
        self.trigger_words, self.example_prompt = settings.placeholder_token or prompts, prompts[0]
        self.networks = {
            name: network
            for name, network in family.trainable.items()
            if network is family.denoiser or settings.train_text_encoder
        }
        start_from = init_weights.IntoAdapter(settings, family)
        own, family.scheduler = family.scheduler, with_fixed_variance(family.scheduler)
        self.changes_scheduler = family.scheduler is not own
        adapter.attach([*self.networks.values()], settings, family.lora_targets)
        start_from(adapter)
        self.factors = parameter_groups.factors_of([*self.networks.values()], settings.lr_pattern, family.lora_targets)
        self.words = words.build(family, settings, "embedding_learning_rate")
        for name, network in (family.trainable if self.words.vectors else self.networks).items():
            self.add_module(name, network)

    def called_by(self, captions: Sequence[str]) -> None:
        """Drops the trigger words of concepts that no training caption calls; if none is called, a caption is the example
        prompt."""
        parts = self.settings.parts
        called = [each for each in parts if not captions or not each.trigger_words or any_calls(captions, each.trigger_words)]
        if not called:
            self.trigger_words, self.example_prompt = (), min(captions, key=len)
        elif len(called) < len(parts):
            self.trigger_words = tuple(
                trigger for part in called for trigger in part.placeholder_token or (part.instance_prompt,)
            )
            self.example_prompt = called[0].instance_prompt

    def forward(self, batch: Batch) -> Tensor:
        """The weighted loss of each sample [B], float32; with `dco_beta` that of the subject is relative to the base model's."""
        losses, beta, of_subject = super().forward(batch), self.settings.dco_beta, ~batch.is_prior
        if beta is None or not of_subject.any():
            return losses
        same = batch.part(of_subject)
        with torch.no_grad(), self.as_base():
            base = super().forward(replace(same, prompts=self.words.in_known_words(same.prompts)))
        own = direct_consistency(losses[of_subject], base, beta)
        return losses.masked_scatter(of_subject, own)

    def parameter_groups(self) -> list[dict[str, Any]]:
        settings, encoders = self.settings, len(self.networks) - 1
        own = settings.text_encoder_learning_rate or (settings.learning_rate,)
        rates = [settings.learning_rate, *(own if len(own) == encoders else own * encoders)]
        of_encoder = {"fraction": settings.text_encoder_train_fraction, "lr_warmup_steps": settings.text_encoder_lr_warmup_steps}
        facts = [{"fraction": settings.unet_train_fraction}, *[of_encoder] * encoders]
        groups = []
        for network, factors, rate, its in zip(self.networks.values(), self.factors, rates, facts, strict=True):
            named = {name: each for name, each in network.named_parameters() if each.requires_grad and each not in self.words}
            groups += parameter_groups.groups_of(named, rate, factors, settings.loraplus_lr_ratio, **its)
        return groups

    def build_optimizer(self, settings) -> torch.optim.Optimizer:
        rate, fraction = settings.embedding_learning_rate, settings.embedding_train_fraction
        return self.words.build_optimizer(settings, self.parameter_groups(), self.words.parameter_groups(rate, fraction=fraction))

    def trainable_state_dict(self) -> dict[str, Tensor]:
        networks, learned = self.family.spec.networks, super().trainable_state_dict()
        own = {self.adapter.name_in_files(name, networks): each for name, each in learned.items() if each not in self.words}
        return own | self.words.beside_an_adapter()

    def tensors_in_result(self) -> dict[str, Tensor]:
        return self.words.beside_an_adapter() if self.adapter.is_converted else self.trainable_state_dict()

    def before_step(self) -> None:
        self.words.before_step()

    def after_step(self) -> None:
        self.words.after_step()

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Where all weights are trained, those of the base model are loaded for as long as the context lasts."""
        if self.settings.adapter != adapters.NONE:
            with self.adapter.disabled(*self.networks.values()):
                yield
            return
        denoiser, family = self.family.denoiser, self.family
        name = next(name for name, network in family.components.items() if network is denoiser)
        base = family.load_component(Path(family.source), name).to(denoiser.device)
        with exchanged(denoiser, base):
            yield

    def description(self) -> dict[str, str]:
        return self.adapter.description(self.family)

    def save(self, folder: Path, metadata: dict[str, str]) -> list[Path]:
        kind = "" if self.settings.trains_whole_networks else self.settings.adapter
        own = {**metadata, **model_spec.entries(metadata, self.family, kind, self.images)}
        own = metadata if self.settings.writes_folder else {} if self.settings.no_metadata else own
        files = [*self.adapter.save(folder, self.family, own, self.settings), *self.words.save(folder, metadata)]
        if self.changes_scheduler and not self.settings.writes_folder:
            self.family.scheduler.save_pretrained(folder / SCHEDULER)
        return files

    def report(self) -> str:
        return self.words.report()


@contextmanager
def exchanged(network: nn.Module, other: nn.Module) -> Iterator[None]:
    """Inside the context the network computes with the parameters of another one of its kind. Nothing is copied."""
    pairs = list(zip(network.parameters(), other.parameters(), strict=True))

    def exchange() -> None:
        for one, two in pairs:
            one.data, two.data = two.data, one.data

    exchange()
    try:
        yield
    finally:
        exchange()


class SelfDistillation(DreamBooth):
    """The target is the base model's prediction where `Batch.taught` says so, that of the same network with its adapter disabled:
    in prior samples without class images (see `prior.PriorDistillation`), and outside of masks (see `masked_loss`).
    """

    def target(self, batch: Batch) -> Tensor:
        rows = batch.taught.flatten(1).any(1)
        if not rows.any():
            return self.denoising_target(batch)
        with torch.no_grad(), self.adapter.disabled(*self.networks.values()):
            base = self.prediction(batch.part(rows))
        target = self.denoising_target(batch).clone()
        target[rows] = target[rows].lerp(base.to(target.dtype), batch.taught[rows].to(target.dtype))
        return target
