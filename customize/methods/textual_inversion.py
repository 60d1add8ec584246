"""Textual inversion: trains embeddings of new tokens for a frozen model.

Gal et al. 2022, "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion".

N vectors of a token, D embedding width, V words of the vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from customize.errors import InputError, Problem
from customize.families.base import Family
from customize.families.text_encoder import TextEncoder, vectors_by_encoder
from customize.methods.method import DenoisingMethod, MethodContext, TrainingSetup, captions_of, encoding_condition
from customize.methods.textual_inversion_settings import TextualInversionSettings
from customize.printable import printable
from customize.storage.tensor_files import save_tensors
from customize.weights import init_weights, model_spec
from customize.weights.weight_file import PLACEHOLDER


def prepare(settings: TextualInversionSettings, context: MethodContext) -> TrainingSetup:
    """Images are encoded once; the text encoder is evaluated in every step, since its input embeddings are trained."""
    family, examples = context.family, context.examples.instances
    if not family.text_encoders:
        what = f"{family.name} has no text encoder that new tokens can be added to"
        raise InputError(Problem("pretrained_model_name_or_path", what, "use train_dreambooth.py"))
    dataset = context.encode_images("instance", examples)
    method = (DirectionalTextualInversion if settings.normalize_embedding else TextualInversion)(family, settings)
    method.condition = encoding_condition(family, max(map(family.num_chunks, captions_of(examples))))
    context.place(method)
    return TrainingSetup(method, dataset, method.condition)


class TextualInversion(DenoisingMethod):
    """Trains the embeddings of one or more placeholder tokens; every other weight stays bit-identical.

    vectors: of each placeholder in each text encoder, by `TextEncoder.tensor_name`.
    """

    name, small_changes = "textual_inversion", False

    def __init__(self, family: Family, settings):
        super().__init__(family, family.encode_prompts)
        self.settings, self.trigger_words = settings, tuple(settings.placeholder_token)
        word = "in the style of" if settings.learnable_property == "style" else "of"
        self.example_prompt = f"a picture {word} {self.trigger_words[0]}"
        self.vectors: dict[str, nn.Parameter] = {}
        given = init_weights.words_of(settings)
        for placeholder, words, count in tokens_to_learn(settings):
            start = [encoder.initial_vectors(words, count).float() for encoder in family.text_encoders]
            if placeholder in given:
                start = fitting(family.text_encoders, given[placeholder], start)
            for encoder, vectors in zip(family.text_encoders, start, strict=True):
                name = encoder.tensor_name(placeholder)
                self.vectors[name] = nn.Parameter(vectors)
                encoder.add_tokens(placeholder, self.vectors[name])
        self.start = {name: vectors.detach().clone() for name, vectors in self.vectors.items()}
        for name, network in family.trainable.items():
            self.add_module(name, network)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.vectors.values()), "lr": self.settings.learning_rate}]

    def trainable_state_dict(self) -> dict[str, Tensor]:
        return dict(self.vectors)

    def save(self, folder: Path, metadata: dict[str, str]) -> list[Path]:
        """One file per placeholder: its vectors [N, D] under its own name or, for several encoders, under the name of each.

        Stock loaders read one placeholder per file.
        """
        metadata = {**metadata, **model_spec.entries(metadata, self.family, model_spec.EMBEDDING)}
        metadata = {} if self.settings.no_metadata else metadata
        saved = []
        for file, placeholder in zip(self.settings.result_files, self.trigger_words, strict=True):
            encoders = self.family.text_encoders
            tensors = {encoder.embedding_key or placeholder: encoder.vectors[placeholder] for encoder in encoders}
            own = {} if placeholder in tensors else {PLACEHOLDER: placeholder}
            saved.append(save_tensors(folder / file, tensors, {**metadata, **own}, self.settings.save_precision))
        return saved

    def report(self) -> str:
        """The learned vectors of each text encoder: norms, distances from the start, nearest words."""
        return "\n".join(str(report(encoder, self.start)) for encoder in self.family.text_encoders)


class DirectionalTextualInversion(TextualInversion):
    """Trains the direction of each vector and keeps its norm at the mean of the vocabulary.

    Kim et al. 2026, "Directional Textual Inversion for Personalized Text-to-Image Generation": gradient descent on the
    unit sphere. The gradient, less `CONCENTRATION` times the direction at the start (the log-density of a von
    Mises-Fisher prior), is projected on the tangent space and divided by its norm; the result is scaled back.
    """

    CONCENTRATION = 1e-4

    def __init__(self, family: Family, settings):
        super().__init__(family, settings)
        self.norms = {
            encoder.tensor_name(placeholder): encoder.embeddings.float().norm(dim=-1).mean().item()
            for encoder in family.text_encoders
            for placeholder in self.trigger_words
        }
        self.after_step()
        self.start = {name: vectors.detach().clone() for name, vectors in self.vectors.items()}

    def build_optimizer(self, settings) -> torch.optim.Optimizer:
        """Plain gradient descent; steps on the unit sphere have the length of the learning rate."""
        return torch.optim.SGD(self.parameter_groups())

    @torch.no_grad()
    def before_step(self) -> None:
        for name, vectors in self.vectors.items():
            assert vectors.grad is not None
            direction = F.normalize(vectors, dim=-1)
            mean_direction = F.normalize(self.start[name].to(vectors.device), dim=-1)
            gradient = vectors.grad - self.CONCENTRATION * mean_direction
            tangent = gradient - (gradient * direction).sum(-1, keepdim=True) * direction
            was_used = vectors.grad.any(-1, keepdim=True)  # a token in no caption of the step keeps its vector
            vectors.grad.copy_(self.norms[name] * F.normalize(tangent, dim=-1) * was_used)

    @torch.no_grad()
    def after_step(self) -> None:
        for name, vectors in self.vectors.items():
            vectors.copy_(self.norms[name] * F.normalize(vectors, dim=-1))


def fitting(encoders: Sequence[TextEncoder], given: Mapping[str, Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
    """The given vectors for each encoder, if they are as many and as wide as `vectors`. Raises InputError."""
    try:
        found = vectors_by_encoder(encoders, given)
        different = [(len(one), len(other)) for one, other in zip(found, vectors, strict=True) if len(one) != len(other)]
        what = f"holds {different[0][0]} vectors, where {different[0][1]} are trained" if different else ""
    except ValueError as error:
        what = str(error)
    if what:
        raise InputError(Problem("init_weights", what, "take the base model that they were trained on"))
    return found


def tokens_to_learn(settings) -> list[tuple[str, str, int]]:
    """(placeholder, initializer token, number of vectors) of each token; a single value applies to all tokens."""
    count = len(settings.placeholder_token)

    def spread(values: Sequence) -> Sequence:
        return values if len(values) == count else list(values) * count

    return list(zip(settings.placeholder_token, spread(settings.initializer_token), spread(settings.num_vectors), strict=True))


@dataclass(frozen=True)
class VectorReport:
    """A learned vector: its norm, its distance from its initial value, and the nearest tokens by cosine similarity."""

    token: str
    norm: float
    distance: float
    nearest: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class EmbeddingReport:
    """The learned vectors of a text encoder, with the median and the largest norm of its vocabulary."""

    median_norm: float
    largest_norm: float
    vectors: tuple[VectorReport, ...]
    encoder: str = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each vector that hardly moved, or grew beyond twice the largest norm of the vocabulary."""
        found = []
        for vector in self.vectors:
            if vector.distance < 0.01 * self.median_norm:
                found.append(f"{vector.token} did not move: it learned nothing; raise learning_rate or max_train_steps")
            if vector.norm > 2 * self.largest_norm:
                remedy = "lower learning_rate or use --normalize_embedding"
                found.append(f"{vector.token} blew up: the rest of a prompt will be ignored; {remedy}")
        return tuple(found)

    def __str__(self) -> str:
        where = f" of {self.encoder}" if self.encoder else ""
        lines = [
            f"learned vectors{where} (norms of the vocabulary: median {self.median_norm:.3f}, largest {self.largest_norm:.3f})"
        ]
        for vector in self.vectors:
            near = ", ".join(f"{printable(word, 60)} {cosine:.2f}" for word, cosine in vector.nearest)
            lines.append(f"  {vector.token}: norm {vector.norm:.3f}, moved {vector.distance:.3f}, nearest: {near}")
        return "\n".join(lines + [f"  warning: {warning}" for warning in self.warnings])


@torch.no_grad()
def report(encoder: TextEncoder, start: Mapping[str, Tensor], num_nearest: int = 4) -> EmbeddingReport:
    """Compares the vectors of an encoder's words [N, D] with `start`, by `tensor_name`, and with the vocabulary [V, D]."""
    table = encoder.embeddings.float().cpu()
    words = {index: word.removesuffix("</w>") for word, index in encoder.tokenizer.get_vocab().items()}
    found = []
    for placeholder, vectors in encoder.vectors.items():
        vectors, initial = vectors.detach().float().cpu(), start[encoder.tensor_name(placeholder)].cpu()
        cosines, nearest = F.cosine_similarity(vectors[:, None], table[None], dim=-1).topk(num_nearest)
        for i, token in enumerate(encoder.placeholders[placeholder]):
            near = tuple(zip((words[j] for j in nearest[i].tolist()), cosines[i].tolist(), strict=True))
            found.append(VectorReport(token, vectors[i].norm().item(), (vectors[i] - initial[i]).norm().item(), near))
    norms = table.norm(dim=-1)
    return EmbeddingReport(norms.median().item(), norms.max().item(), tuple(found), encoder.embedding_key)
