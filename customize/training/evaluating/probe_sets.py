"""The fixed draws of a run's probe: which sets there are, and how many draws of each are worth their time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from customize.data.buckets import squares
from customize.data.crops import Variant, other_crop, variants
from customize.data.example import Example, digest_of, in_turn_of_concepts, open_source
from customize.data.samples.batches import Batch, Dataset
from customize.data.samples.concept_turns import Concepts, in_turn
from customize.data.samples.latent_dataset import ImageDataset
from customize.data.samples.prior import PriorPreservation
from customize.evaluation.probe_loss import AS_CLASS, CLASS, HELD_OUT, OTHER_CROPS, TRAINING, Plan, plan
from customize.methods.method import TrainingSetup
from customize.training.evaluating.cost import USUAL_CANDIDATES
from customize.training.setup import RunContext


def planned(context: RunContext, setup: TrainingSetup) -> Plan:
    """The sets that are measured, and after which steps."""
    names = [TRAINING]
    if context.evaluation != "none":
        names.append(HELD_OUT if context.examples.held_out else OTHER_CROPS)
        names += [CLASS] if has_class_images(setup) or context.evaluation == "pictures" else []
        names += [AS_CLASS] if any(concept.plain for concept in context.settings.concepts) else []
    times = len(context.candidates) or USUAL_CANDIDATES
    return plan(context.max_train_steps, context.global_batch, names, times)


def has_class_images(setup: TrainingSetup) -> bool:
    """Whether the run trains on images of the class."""
    return bool(class_images_of(setup.dataset))


def class_images_of(dataset: Dataset) -> list[ImageDataset]:
    """The class images of each concept that has some."""
    every = dataset.datasets if isinstance(dataset, Concepts) else [dataset]
    return [each.of_class for each in every if isinstance(each, PriorPreservation)]


def sets_of(context: RunContext, setup: TrainingSetup, draws: dict[str, int]) -> dict[str, Batch]:
    """The draws of each set, by name; without those of pictures that the base model has yet to draw."""
    training = setup.dataset.probe(draws[TRAINING])
    found = {TRAINING: training}
    for name, number in draws.items():
        match name:
            case "held out":
                found[name] = held_out(context, number)
            case "other crops":
                found[name] = other_crops(context, number)
            case "class" if of_class := class_images_of(setup.dataset):
                found[name] = in_turn([each.probe(number) for each in of_class])
            case "training as class":
                batch = training.part(slice(None, None, max(1, len(training) // number)))
                found |= {name: own} if len(own := as_class(context, batch)) else {}
    return found


def as_class(context: RunContext, batch: Batch) -> Batch:
    """Samples of training images under the prompt of their class; those of styles, which have none, are left out."""
    settings = context.settings
    plain = {
        example.name: concept.plain
        for place, concept in enumerate(settings.concepts)
        for example in context.examples.instances
        if settings.shows(place, example)
    }
    batch = batch.part(torch.tensor([bool(plain.get(name)) for name in batch.names]))
    return replace(batch, prompts=tuple(plain[name] for name in batch.names))


def held_out(context: RunContext, number: int) -> Batch:
    """Draws of images that are not trained on."""
    examples = in_turn_of_concepts(context.examples.held_out)[:number]
    return context.encode_crops(examples, central_squares(context, examples)).probe(number)


def other_crops(context: RunContext, number: int) -> Batch:
    """Draws of crops that are not trained on, of training images."""
    examples = in_turn_of_concepts(context.examples.instances)[:number]
    cuts = [other_crop(example, context.resolution, context.settings.seed) for example in examples]
    return context.encode_crops(examples, cuts).probe(number)


def of_pictures(context: RunContext, pictures: Sequence[tuple[Path, str]]) -> Batch:
    """Draws of pictures of the class that the base model drew: (file, prompt) of each."""
    examples = []
    for path, prompt in pictures:
        image = open_source(path)
        examples.append(Example(path.name, (prompt,), "class", path, image.size, digest_of(image)))
    return context.encode_crops(examples, central_squares(context, examples)).probe(len(examples))


def central_squares(context: RunContext, examples: Sequence[Example]) -> list[Variant]:
    """The central square of each image, so that one batch holds images of every shape."""
    buckets = squares(context.resolution)
    return [variants(example, buckets.fit(example.size), True, 1, False, 0)[0] for example in examples]
