"""The settings of a run, each with the reason why it has this value. No torch.

The numbers for `demo` are those of `configs/demo_*.toml`, which were measured. Those for Stable Diffusion and SDXL are those of
the other configurations there: usual in the field, and not measured on a card.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from customize.families.trigger_words import any_calls
from customize.machine.hardware import Hardware
from customize.teach import memory
from customize.teach.asked import Request, is_placeholder
from customize.teach.bases import Base
from customize.teach.photo_check import Photos

SHARE = {"quick": 0.5, "balanced": 1.0, "best": 1.5}
"""Of the steps."""
STEPS_PER_PHOTO, FEWEST, MOST = 100, 600, 1600
"""Steps of a LoRA: with eight photos the 800 that are the default of train_dreambooth.py."""
STEPS_OF_WORDS = 1000
"""Of textual inversion, as in configs/sd15_textual_inversion_6gb.toml."""
DEMO_STEPS = 120
DEMO_CLASS = "an animal"
"""What the toy model, which knows few nouns, preserves for a subject of any noun."""
RANKS = {"quick": 8, "balanced": 16, "best": 32}
SLOW_BYTES = 400_000_000
"""Of a base model's files: from 200 million parameters on, a step takes about a minute without a GPU."""


@dataclass(frozen=True)
class Decision:
    """A setting, its value, and why."""

    name: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Case:
    """What decisions follow from. word, why: by which prompts call what is learned, and the reason."""

    request: Request
    photos: Photos
    base: Base
    machine: Hardware
    word: str
    why: str

    @property
    def is_demo(self) -> bool:
        return self.base.name == "demo"

    @property
    def learns_words(self) -> bool:
        """Whether the method is textual inversion."""
        return self.request.kind == "style"

    @property
    def is_slow(self) -> bool:
        """Whether a picture takes many minutes."""
        return not self.machine.has_gpu and not self.is_demo and (self.base.size or SLOW_BYTES) >= SLOW_BYTES


def decisions(case: Case, output_dir: str) -> list[Decision]:
    """All decisions, in the order in which they are explained."""
    method = of_style(case) if case.learns_words else of_subject(case)
    return [
        Decision("pretrained_model_name_or_path", case.base.name, case.base.why), *variant(case), *method, *photos_of(case),
        *switches(case), *length(case), *samples(case), *at_the_end(case, output_dir),
    ]  # fmt: skip


def variant(case: Case) -> Iterator[Decision]:
    """Which of the base model's files are read."""
    if case.base.variant:
        where = "to be downloaded, of half the size" if case.base.is_download else "in the hub's cache"
        yield Decision("variant", case.base.variant, f"its files {where}")


def of_style(case: Case) -> Iterator[Decision]:
    """A style, as new words."""
    why = (
        "textual inversion: nothing but the word changes (measured on demo, one run each: as like the style as a LoRA, no drift)"
    )
    yield Decision("placeholder_token", [case.word], f"{why}; {case.why}")
    yield Decision("initializer_token", [case.request.noun], "the words that describe the style best are where learning starts")
    yield Decision("num_vectors", [3], "the word is three vectors, as in the measured configs/demo_textual_inversion.toml")
    yield Decision("learnable_property", "style", 'captions made by templates say "in the style of"')
    yield Decision("learning_rate", 5e-3, "usual for textual inversion, and measured on demo")


def of_subject(case: Case) -> Iterator[Decision]:
    """An object or a person, as a LoRA."""
    request, word = case.request, case.word
    yield Decision(
        "adapter", "lora", "a small file that every program reads; docs/methods.md found no reason for another default"
    )
    called = called_in(case)
    prompt = f"{article(called)} {called}" if case.is_demo else f"a photo of {called}"
    if is_placeholder(word):
        yield Decision(
            "placeholder_token", [word], f"{case.why}; with a LoRA beside it, it harms other things less (docs/methods.md)"
        )
        yield Decision("initializer_token", [request.noun], "what the new word means before it has learned")
        yield Decision("instance_prompt", prompt, "calls the subject by the new word alone")
    else:
        yield Decision("instance_prompt", prompt, f'"{word}": {case.why}')
    kept = "the same without the word: what the base model draws there must stay as it is"
    if case.is_demo:
        kept = "not the noun, which the toy model may never have seen, but what it knows: that must stay as it is"
    yield Decision("class_prompt", class_of(case), kept)
    costs = "needs neither class images nor their disk space"
    yield Decision("prior_preservation", "teacher", f"the base model's own predictions for the class are kept; {costs}")
    if case.is_demo:
        yield Decision("prior_loss_weight", 10.0, "as in the measured configs/demo_dreambooth_lora.toml")
    reasons = {
        "quick": "half the default: a smaller file",
        "balanced": "the default",
        "best": "twice the default: more detail fits in",
    }
    yield Decision("rank", RANKS[request.effort], reasons[request.effort])
    groups = ["attention", "feed-forward"]
    if case.is_demo:
        yield Decision("lora_targets", [*groups, "conv1", "conv2"], "as in the measured configs/demo_dreambooth_lora.toml")
        yield Decision("learning_rate", 2e-3, "high, since the toy model is small; measured there, too")
        yield Decision("lr_scheduler", "cosine", "measured there, too")
        return
    if case.base.kind == "stable_diffusion":
        yield Decision("lora_targets", groups, "more than attention alone: 6.0 instead of 3.2 million parameters at rank 16")
    yield Decision("learning_rate", 1e-4, "the default of LoRAs")


def class_of(case: Case) -> str:
    """A prompt of the class, whose pictures must stay as they are."""
    return DEMO_CLASS if case.is_demo else f"a photo of {case.request.noun}"


def photos_of(case: Case) -> Iterator[Decision]:
    """Which images and captions are read."""
    folder = "train_data_dir" if case.learns_words else "instance_data_dir"
    number = len(case.photos.usable)
    value = [case.photos.folder] if case.learns_words else case.photos.folder
    yield Decision(
        folder, value, f"your folder, read as it is; {number} usable image{'s' * (number != 1)}; nothing is cropped by hand"
    )
    if names := case.photos.leave_out:
        reasons = "; ".join(f"{each.name} {each.reason}" for each in case.photos.left_out)
        yield Decision("leave_out", list(names), f"not read: {reasons}")
    captions = case.photos.captions
    if captions and not case.learns_words and not all(any_calls([caption], [case.word]) for caption in captions):
        prefix = f"{called_in(case)},"
        yield Decision("caption_prefix", prefix, "the captions beside the photos do not have the word")
    elif captions and case.learns_words and not all(case.word in caption for caption in captions):
        yield Decision("captions", "templates", "the captions beside the photos do not have the word")


def called_in(case: Case) -> str:
    """The noun phrase that calls the subject in captions."""
    return case.word if is_placeholder(case.word) else f"{case.word} {case.request.noun}"


def switches(case: Case) -> Iterator[Decision]:
    """Precision, batch, and what saves memory."""
    machine = case.machine
    if case.is_demo:
        yield Decision("train_batch_size", 8, "as measured; the toy model needs little memory")
        return
    precision = "no" if machine.kind != "cuda" else "bf16" if machine.bf16 else "fp16"
    reasons = {
        "no": "full precision: half precision is not faster here",
        "bf16": "the card computes in it",
        "fp16": "the card has no bf16",
    }
    yield Decision("mixed_precision", precision, reasons[precision])
    if case.learns_words:
        yield Decision("gradient_accumulation_steps", 4, "a step of four images: the gradient of a single one is noisy")
    yield Decision("train_batch_size", 1, "one image at a time: needs the least memory")
    saves, why = memory.checkpointing(case.base.kind, "words" if case.learns_words else "lora", machine)
    yield Decision("gradient_checkpointing", saves, why)
    if machine.kind == "cuda":
        yield Decision("save_precision", "fp16", "half the size; other programs compute in it anyway")


def length(case: Case) -> Iterator[Decision]:
    """How many steps, and what ends them earlier."""
    steps, share, number = steps_of(case), SHARE[case.request.effort], len(case.photos.usable)
    why = f"{STEPS_PER_PHOTO} for each of {number} photos, from {FEWEST} to {MOST:,}"
    if case.is_demo or case.learns_words:
        why = "120 for demo, measured" if case.is_demo else "1,000 for a new word, usual in the field"
    times = "" if share == 1 else f"; {case.request.effort} takes {share:g} times as many"
    yield Decision("max_train_steps", steps, f"at most; {why}{times}")
    if case.request.is_person:
        yield Decision("stop", "off", "faces are not measured as faces, so that no score ends the run (docs/evaluation.md)")
    else:
        yield Decision("stop", "auto", "ends when pictures no longer become better; the best of those measured is kept")
    yield Decision(
        "checkpointing_steps", max(1, min(100, steps // 4)), "a power cut loses no more than these steps; Ctrl-C loses none"
    )
    yield Decision("checkpoints_total_limit", 2, "older ones are of no use")


def steps_of(case: Case) -> int:
    """The largest number of steps."""
    usual = min(max(STEPS_PER_PHOTO * len(case.photos.usable), FEWEST), MOST)
    usual = DEMO_STEPS if case.is_demo else STEPS_OF_WORDS if case.learns_words else usual
    return round(usual * SHARE[case.request.effort])


def samples(case: Case) -> Iterator[Decision]:
    """Pictures that show what is learned, and one that shows whether the class stays."""
    if case.learns_words:
        scenes = [f"a house in the style of {case.word}", f"a fox in the forest in the style of {case.word}", "a house"]
    else:
        scenes = ["{instance_prompt}", "{instance_prompt} on the beach", class_of(case)]
    if case.is_slow:
        yield Decision("validation_prompt", scenes[:1], "only one: a picture takes many minutes without a GPU")
        yield Decision("sample_inference_steps", 12, "as few as show something, for the same reason")
    else:
        yield Decision("validation_prompt", scenes, "two pictures with the word, and one without it, which should stay as it is")
    yield Decision("num_validation_images", 1, "one picture of each prompt")
    yield Decision("validation_steps", max(1, steps_of(case) // 4), "four times in the run")
    if case.is_demo:
        yield Decision("sample_guidance_scale", 4.0, "what suits demo")
        yield Decision("sample_inference_steps", 20, "what suits demo")
        yield Decision("validation_scheduler", "DPMSolverMultistepScheduler", "what suits demo")


def at_the_end(case: Case, output_dir: str) -> Iterator[Decision]:
    """Where the result goes."""
    yield Decision("output_dir", output_dir, "named after the folder of photos" if not case.request.output_dir else "as you say")
    yield Decision("resume_from_checkpoint", "latest", "the same command again goes on where the run was stopped")


def article(word: str) -> str:
    """The indefinite article of a word, by its first letter."""
    return "an" if word[:1].casefold() in "aeiou" else "a"


def in_words(values: Mapping[str, Any]) -> str:
    """The method, precision and switches of a run, in a few words."""
    match values.get("adapter"):
        case None:
            method = f"a new word of {values['num_vectors'][0]} vectors"
        case "none":
            method = "all weights"
        case adapter:
            method = "LoRA" if adapter == "lora" else adapter
            method += f" rank {values['rank']}" if "rank" in values else ""
            method += f" and the word {values['placeholder_token'][0]}" if "placeholder_token" in values else ""
    precision = values.get("mixed_precision", "no")
    words = [method, "fp32" if precision == "no" else precision]
    batch = values["train_batch_size"] * values.get("gradient_accumulation_steps", 1)
    words += [f"batch {batch}"] * (batch > 1) + ["gradient checkpointing"] * bool(values.get("gradient_checkpointing"))
    return ", ".join(words)
