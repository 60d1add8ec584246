"""New words of a base model: their vectors, which a method trains, and how these are stepped, saved and reported.

N vectors of a word, D embedding width, V words of the vocabulary.
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
from customize.optim import optimizers
from customize.optim.together import Together
from customize.printable import printable
from customize.storage.tensor_files import save_tensors
from customize.weights import init_weights, model_spec
from customize.weights.weight_file import PLACEHOLDER

PART = 2048
"""Rows of a vocabulary that are compared with learned vectors at a time."""


def build(family: Family, settings, rate: str) -> "LearnedWords":
    """Adds the new words of `WordSettings`, which may be none, to a family's text encoders. rate: the setting of their learning
    rate, for messages. Raises InputError."""
    if settings.placeholder_token and not family.text_encoders:
        what = f"{family.name} has no text encoder that new tokens can be added to"
        raise InputError(Problem("pretrained_model_name_or_path", what, "use train_dreambooth.py without placeholder_token"))
    return (DirectionalWords if settings.normalize_embedding else LearnedWords)(family, settings, rate)


class LearnedWords:
    """The new words of a base model. Only their vectors are trained: every other number of the text encoders stays as it is.

    vectors: of each word in each text encoder [N, D], float32, by `TextEncoder.tensor_name`; start: copies of their first values.
    """

    def __init__(self, family: Family, settings, rate: str):
        self.family, self.settings, self.rate = family, settings, rate
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

    def __contains__(self, parameter: Tensor) -> bool:
        """Whether a parameter is one of the vectors."""
        return any(parameter is vectors for vectors in self.vectors.values())

    def parameter_groups(self, learning_rate: float, **facts: Any) -> list[dict[str, Any]]:
        """The vectors as a parameter group; none if there are no words. facts: more of the group."""
        return [{"params": [*self.vectors.values()], "lr": learning_rate, "vectors": True, **facts}] if self.vectors else []

    def build_optimizer(self, settings, others: list[dict[str, Any]], own: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of these parameter groups: the vectors (`own`) after all others."""
        return optimizers.build(settings, [*others, *own])

    def in_known_words(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """The prompts with what each new word starts from in its place, as the base model would be asked."""
        changed = tuple(prompts)
        for placeholder, words, _ in tokens_to_learn(self.settings):
            changed = tuple(prompt.replace(placeholder, words) for prompt in changed)
        return changed

    def before_step(self) -> None:
        """Called with the gradients in place, before the optimizer steps."""

    def after_step(self) -> None:
        """Called after the optimizer stepped."""

    def beside_an_adapter(self) -> dict[str, Tensor]:
        """The vectors by their names in a file that also has an adapter."""
        return {
            encoder.name_beside_adapter(placeholder): encoder.vectors[placeholder]
            for placeholder in self.settings.placeholder_token
            for encoder in self.family.text_encoders
        }

    def save(self, folder: Path, metadata: dict[str, str]) -> list[Path]:
        """One file per placeholder: its vectors [N, D] under its own name or, for several encoders, under the name of each.

        Stock loaders read one placeholder per file. A single vector under its own name is [D], the only form in which InvokeAI
        recognises it.
        """
        metadata = {**metadata, **model_spec.entries(metadata, self.family, model_spec.EMBEDDING)}
        metadata = {} if self.settings.no_metadata else metadata
        saved = []
        for file, placeholder in zip(self.settings.word_files, self.settings.placeholder_token, strict=True):
            encoders = self.family.text_encoders
            tensors = {encoder.embedding_key or placeholder: encoder.vectors[placeholder] for encoder in encoders}
            if placeholder in tensors and len(tensors[placeholder]) == 1:
                tensors = {placeholder: tensors[placeholder][0]}
            own = {} if placeholder in tensors else {PLACEHOLDER: placeholder}
            saved.append(save_tensors(folder / file, tensors, {**metadata, **own}, self.settings.save_precision))
        return saved

    def report(self) -> str:
        """The learned vectors of each text encoder: norms, distances from the start, nearest words. Empty without words."""
        encoders = self.family.text_encoders if self.vectors else ()
        return "\n".join(str(report(encoder, self.start, self.rate)) for encoder in encoders)


class DirectionalWords(LearnedWords):
    """Trains the direction of each vector and keeps its norm at the mean of the vocabulary.

    Kim et al. 2026, "Directional Textual Inversion for Personalized Text-to-Image Generation": gradient descent on the
    unit sphere. The gradient, less `CONCENTRATION` times the direction at the start (the log-density of a von
    Mises-Fisher prior), is projected on the tangent space and divided by its norm; the result is scaled back.
    """

    CONCENTRATION = 1e-4

    def __init__(self, family: Family, settings, rate: str):
        super().__init__(family, settings, rate)
        self.norms = {
            encoder.tensor_name(placeholder): encoder.embeddings.float().norm(dim=-1).mean().item()
            for encoder in family.text_encoders
            for placeholder in settings.placeholder_token
        }
        self.before = {name: torch.zeros_like(vectors) for name, vectors in self.vectors.items()}
        self.after_step()
        self.start = {name: vectors.detach().clone() for name, vectors in self.vectors.items()}

    def build_optimizer(self, settings, others: list[dict[str, Any]], own: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Plain gradient descent for the vectors; steps on the unit sphere have the length of the learning rate."""
        descent = torch.optim.SGD(own)
        return Together(optimizers.build(settings, others), descent) if others else descent

    @torch.no_grad()
    def before_step(self) -> None:
        for name, vectors in self.vectors.items():
            self.before[name] = vectors.detach().clone()
            if vectors.grad is None:  # after their part of the run
                continue
            direction = F.normalize(vectors, dim=-1)
            mean_direction = F.normalize(self.start[name].to(vectors.device), dim=-1)
            gradient = vectors.grad - self.CONCENTRATION * mean_direction
            tangent = gradient - (gradient * direction).sum(-1, keepdim=True) * direction
            was_used = vectors.grad.any(-1, keepdim=True)  # a token in no caption of the step keeps its vector
            vectors.grad.copy_(self.norms[name] * F.normalize(tangent, dim=-1) * was_used)

    @torch.no_grad()
    def after_step(self) -> None:
        for name, vectors in self.vectors.items():
            moved = (vectors != self.before[name]).any(-1, keepdim=True)  # a vector that did not move keeps its bits
            vectors.copy_(torch.where(moved, self.norms[name] * F.normalize(vectors, dim=-1), vectors))


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
    return [(token, start, settings.placeholders[token]) for token, start in settings.starts.items()]


@dataclass(frozen=True)
class VectorReport:
    """A learned vector: its norm, its distance from its initial value, and the nearest tokens by cosine similarity."""

    token: str
    norm: float
    distance: float
    nearest: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class EmbeddingReport:
    """The learned vectors of a text encoder, with the median and the largest norm of its vocabulary. rate: the setting of their
    learning rate."""

    median_norm: float
    largest_norm: float
    vectors: tuple[VectorReport, ...]
    encoder: str = ""
    rate: str = "learning_rate"

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each vector that hardly moved, or grew beyond twice the largest norm of the vocabulary."""
        found = []
        for vector in self.vectors:
            if vector.distance < 0.01 * self.median_norm:
                found.append(f"{vector.token} did not move: it learned nothing; raise {self.rate} or max_train_steps")
            if vector.norm > 2 * self.largest_norm:
                remedy = f"lower {self.rate} or use --normalize_embedding"
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
def report(encoder: TextEncoder, start: Mapping[str, Tensor], rate: str, num_nearest: int = 4) -> EmbeddingReport:
    """Compares the vectors of an encoder's words [N, D] with `start`, by `tensor_name`, and with the vocabulary [V, D].

    A part of the vocabulary at a time: SDXL's in float32, and its products with the vectors, take gigabytes.
    """
    parts = encoder.embeddings.cpu().split(PART)
    words = {index: word.removesuffix("</w>") for word, index in encoder.tokenizer.get_vocab().items()}
    found = []
    for placeholder, vectors in encoder.vectors.items():
        vectors, initial = vectors.detach().float().cpu(), start[encoder.tensor_name(placeholder)].cpu()
        cosines = [F.cosine_similarity(vectors[:, None], part[None].float(), dim=-1) for part in parts]
        cosines, nearest = torch.cat(cosines, 1).topk(num_nearest)
        for i, token in enumerate(encoder.placeholders[placeholder]):
            near = tuple(zip((words[j] for j in nearest[i].tolist()), cosines[i].tolist(), strict=True))
            found.append(VectorReport(token, vectors[i].norm().item(), (vectors[i] - initial[i]).norm().item(), near))
    norms = torch.cat([part.float().norm(dim=-1) for part in parts])
    return EmbeddingReport(norms.median().item(), norms.max().item(), tuple(found), encoder.embedding_key, rate)
