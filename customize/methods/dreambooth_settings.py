"""DreamBooth without torch: its settings and what follows from them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from customize import adapters
from customize.adapters import lora_start
from customize.data import kohya_folder
from customize.data.captions.caption_rule import CaptionRule
from customize.families.trigger_words import any_calls, rare_words
from customize.methods import adapter_rules, concept_settings, dreambooth_rules, words_settings
from customize.methods.concept_settings import ConceptSettings
from customize.methods.words_settings import WordSettings
from customize.settings.common import MANY
from customize.settings.concept import Concept, noun_of, of_prompts
from customize.settings.field import OneOf, override, setting
from customize.settings.rules.rule import text_is_no_path, within_own_range
from customize.settings.rules.training_rules import examples
from customize.settings.training import TrainingSettings
from customize.settings.training_parts.optimizer_settings import rates_in_words
from customize.settings.training_parts.validation_prompts import LONGEST, in_a_scene

WITH_PRIOR = ("prior_preservation", ())
WITH_CLASS_IMAGES, ALL_WEIGHTS = ("prior_preservation", ("images",)), ("adapter", (adapters.NONE,))
RATES = adapters.learning_rates()
"""Default learning rates, by the setting `adapter`."""
OF_ADAPTERS = adapters.settings()
"""The settings of all adapters."""
OF_WORDS = words_settings.optional(WordSettings)
"""The settings of new words, which are learned beside an adapter if some are given."""
NO_PROMPT = "..."
"""Placeholder where no prompt is given; it has no word that a caption could lack."""


class SubjectSettings(ConceptSettings):
    """The settings of DreamBooth apart from those of adapters."""

    instance_prompt: str | None = setting(
        None, "method", "prompt of the subject, such as `a photo of sks dog`; a single placeholder_token implies one",
        default_in_words="required, here or in each [[concept]] table",
    )  # fmt: skip
    class_prompt: str | None = setting(
        None, "method", "prompt of the class, such as `a photo of dog`: what prior preservation keeps, and in the evaluation "
        "what the subject is; words that are not in it are trigger words",
    )  # fmt: skip
    prior_preservation: Literal["none", "images", "teacher"] = setting(
        "none", "method", "prior preservation: by class images, or by the predictions of the model without its adapter (teacher)"
    )
    prior_loss_weight: float = setting(1.0, "method", "weight of the prior loss", ge=0, le=100, only_with=WITH_PRIOR)
    num_class_images: int = setting(
        100, "method", "number of class images; missing ones are generated",
        ge=1, le=100_000, only_with=WITH_CLASS_IMAGES,
    )  # fmt: skip
    max_images: int = setting(
        1000, "method", "refuse to generate more class images than this", ge=1, le=MANY, only_with=WITH_CLASS_IMAGES, scope="run"
    )
    sample_batch_size: int = setting(
        4, "method", "class images generated at a time", ge=1, le=1024, only_with=WITH_CLASS_IMAGES, scope="run")  # fmt: skip
    prior_generation_precision: Literal["no", "fp32", "fp16", "bf16"] | None = setting(
        None, "method", "number format for generating class images",
        only_with=WITH_CLASS_IMAGES, default_in_words="none: mixed_precision", scope="run",
    )  # fmt: skip
    dco_beta: float | None = setting(
        None, "method", "beta of direct consistency optimization (Lee et al. 2024): samples that the adapter predicts better "
        "than the base model count less; 1000 is typical", gt=0, le=1_000_000,
    )  # fmt: skip
    adapter: Annotated[str, OneOf(tuple(adapters.names()))] = setting(
        "none", "method", "train all weights (none) or an adapter: LoRA or one of its relatives"
    )
    instance_data_dir: str | None = setting(None, "data", "folder of images of the subject", text="path", scope="run")
    class_data_dir: str | None = setting(
        None, "data", "folder of images of the class", text="path", only_with=WITH_CLASS_IMAGES, scope="run"
    )
    class_image_captions: Literal["prompt", "auto", "files"] = setting(
        "prompt", "data", "captions of the class images: class_prompt, from files beside them, or (auto) from files where there "
        "are some", only_with=WITH_CLASS_IMAGES, scope="run",
        default_in_words="prompt; auto for folders named like 1_dog",
    )  # fmt: skip
    captions: Literal["auto", "files", "file_names", "prompt"] = setting(
        "auto", "data", "captions from files beside the images, from the images' names, from instance_prompt (or "
        "caption_templates), or (auto) from files where they exist", scope="run",
    )  # fmt: skip
    save_model_as: Literal["diffusers", "safetensors"] = setting(
        "diffusers", "output", "a fully trained model as a folder in diffusers' layout, or as one .safetensors file for ComfyUI, "
        "A1111 and Forge; other results are .safetensors files anyway",
    )  # fmt: skip
    skip_save_text_encoder: bool = setting(
        False, "output", "leave a large text encoder (DeepFloyd IF) out of a fully trained model", only_with=ALL_WEIGHTS
    )
    learning_rate: float = override(
        TrainingSettings, "learning_rate", RATES[adapters.NONE],
        default_in_words="; ".join([*(f"{rate:g} (adapter {name})" for name, rate in RATES.items()), rates_in_words()]),
    )  # fmt: skip
    max_train_steps: int | None = override(TrainingSettings, "max_train_steps", 800)
    output_dir: str | None = override(
        TrainingSettings, "output_dir", None, default_in_words="a new one each time: runs/dreambooth-0001, ..."
    )
    masked_prior_preservation_weight: float = override(
        TrainingSettings, "masked_prior_preservation_weight", 0.0,
        default_in_words="1 with an adapter, if neither unmasked_weight nor dco_beta is given; else 0",
    )  # fmt: skip


class DreamBoothSettings(OF_ADAPTERS, OF_WORDS, SubjectSettings):
    """Teach a base model a subject by DreamBooth: train all weights, or a small adapter (LoRA), with new tokens beside it."""

    command: ClassVar[str] = "train_dreambooth.py"
    rules = (
        *concept_settings.RULES, *TrainingSettings.rules, text_is_no_path("instance_prompt"), text_is_no_path("class_prompt"),
        *examples("instance_data_dir"), *words_settings.RULES, words_settings.words_have_a_start,
        words_settings.prompts_of_words, *dreambooth_rules.RULES, *adapter_rules.RULES,
        *(within_own_range("adapter", adapters.settings_of, name) for name in OF_ADAPTERS.model_fields),
    )  # fmt: skip
    subject_setting: ClassVar[str] = "instance_prompt"
    image_folder_setting: ClassVar[str] = "instance_data_dir"

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if values.get("init_lora_weights") == lora_start.PISSA:  # decay would take away what W starts with
            values = {"adam_weight_decay": 0.0, **values}
        values = super().completed(values)
        adapter = str(values.get("adapter", adapters.NONE))
        if adapter not in RATES:  # a fault of the settings that is reported elsewhere
            return values
        defaults: dict[str, Any] = {name: line.default for name, line in adapters.settings_of(adapter).items()}
        if adapter == adapters.NONE:
            defaults["save_steps"] = None
        if keeps_what_is_outside(values, adapter):
            defaults["masked_prior_preservation_weight"] = 1.0
        if not values.get("concept"):  # each of several concepts has its own
            defaults |= {**dict(kohya_folder.implied(values)), **words_settings.implied_prompt(values)}
        return {**defaults, **values}

    @classmethod
    def usual_rates(cls, values: Mapping[str, Any]) -> dict[str, float]:
        """Words that only turn (`normalize_embedding`) take steps of their own, whatever the optimizer."""
        are_stepped = values.get("placeholder_token") not in (None, (), [], "none") and not values.get("normalize_embedding")
        own = super().usual_rates(values) if are_stepped else {}
        return {**own, "learning_rate": RATES.get(str(values.get("adapter", adapters.NONE)), RATES[adapters.NONE])}

    def part(self, own: Mapping[str, Any]) -> Self:
        return super().part({**own, **words_settings.words_in(self, own["instance_prompt"] or "")})

    @property
    def subject(self) -> str:
        return " and ".join(f'"{part.instance_prompt}"' for part in self.parts)

    @property
    def description(self) -> str:
        networks = "UNet and text encoder" if self.train_text_encoder else "UNet"
        what = f"all weights of the {networks} are"
        if self.adapter != adapters.NONE:
            kind = adapters.build(self.adapter).title or self.adapter
            rank = f" of rank {self.rank}" if "rank" in adapters.settings_of(self.adapter) else ""
            what = f"a {kind}{rank} beside the {networks} is"
        kept = ""
        for kind, by in ("images", "class images"), ("teacher", "the base model"):
            if classes := [f'"{part.class_prompt}"' for part in self.parts if part.prior_preservation == kind]:
                kept += f"; prior preservation of {' and '.join(dict.fromkeys(classes))} by {by}"
        words = f"; learns {self.words_in_words}" if self.placeholder_token else ""
        return f"DreamBooth: {what} trained on {self.subject}{kept}{words}"

    @property
    def image_folders(self) -> tuple[str, ...]:
        if self.concept:
            return self.of_all("image_folders")
        return (self.instance_data_dir,) if self.instance_data_dir else ()

    def caption_rule(self, index: int, num_folders: int) -> CaptionRule:
        around = {"prefix": self.caption_prefix or "", "suffix": self.caption_suffix or ""}
        if not self.instance_prompt:  # a fault of the settings that is reported elsewhere
            return CaptionRule("prompt", ("a picture",), **around)
        words, remedy = self.trigger_words, "write one, or use --captions auto"
        calls = {"subject": noun_of(self.instance_prompt), "trigger": "" if self.placeholder_token[1:] else " ".join(words)}
        return CaptionRule(self.captions, (self.instance_prompt,), remedy, **around, **calls, triggers=words)

    @property
    def trigger_words(self) -> tuple[str, ...]:
        if self.concept:
            return self.of_all("trigger_words")
        return self.placeholder_token or rare_words(self.instance_prompt or "", self.class_prompt)

    def is_called_by(self, prompts: Sequence[str]) -> bool:
        return any_calls(prompts, self.trigger_words)

    @property
    def default_validation_prompts(self) -> tuple[str, ...]:
        if self.concept:
            return tuple(part.instance_prompt for part in self.parts)
        if not self.instance_prompt:  # a fault of the settings that is reported elsewhere
            return ()
        elsewhere = in_a_scene(self.instance_prompt)
        return (self.instance_prompt, elsewhere) if len(elsewhere.encode()) <= LONGEST else (self.instance_prompt,)

    @property
    def concepts(self) -> tuple[Concept, ...]:
        if self.concept:
            return self.of_all("concepts")
        tokens, prompt, plain = self.placeholder_token, self.instance_prompt or "", self.class_prompt
        if len(tokens) == 1 and self.learnable_property == "style":
            return (Concept("style", f"in the style of {tokens[0]}", "", tokens[0], ""),)
        if tokens and plain is None:
            plain = prompt
            for token, start in self.starts.items():
                plain = plain.replace(token, start)
        return (of_prompts(prompt, plain, self.trigger_words),)

    @property
    def prompts(self) -> dict[str, str]:
        several = len(self.parts) > 1
        named = {f"concept {n}: class_prompt" if several else "class_prompt": each for n, each in enumerate(self.parts, 1)}
        return {name: each.class_prompt for name, each in named.items() if each.class_prompt}

    @property
    def class_images(self) -> int:
        return sum(part.num_class_images for part in self.parts if part.prior_preservation == "images")

    @property
    def evaluations_per_sample(self) -> int:
        """Prior preservation adds a sample for each. The base model predicts once more: as the teacher of that sample, for one
        with a mask, and to compare with (DCO)."""
        by_prior = max({"none": 0, "images": 3, "teacher": 4}[part.prior_preservation] for part in self.parts)
        once_more = bool(self.masked_prior_preservation_weight) + (self.dco_beta is not None)
        return super().evaluations_per_sample + by_prior + once_more

    @property
    def class_folder(self) -> str | None:
        return self.class_data_dir if self.prior_preservation == "images" else None

    @property
    def result_files(self) -> tuple[str, ...]:
        return (*adapters.build(self.adapter).files(self), *self.word_files)

    @property
    def start_label(self) -> str:
        return self.words_at_start or super().start_label

    @property
    def read_by_others(self) -> bool:
        return adapters.build(self.adapter).read_by_others and self.tlora_min_rank is None

    @property
    def trains_whole_networks(self) -> bool:
        return self.adapter == adapters.NONE

    @property
    def leaves_out_text_encoder(self) -> bool:
        return self.skip_save_text_encoder

    @property
    def writes_folder(self) -> bool:
        """Whether the result is a complete model in a folder."""
        return self.trains_whole_networks and not self.writes_model_file

    @property
    def formats(self) -> dict[str, str | bool]:
        own = {"lora_format": self.lora_format} if "lora_format" in adapters.settings_of(self.adapter) else {}
        return {**super().formats, "save_model_as": self.save_model_as, **own}

    @property
    def writes_model_file(self) -> bool:
        return self.trains_whole_networks and self.save_model_as == "safetensors"

    @property
    def trains_text_encoders(self) -> bool:
        return self.train_text_encoder

    @property
    def depends_on_length(self) -> bool:
        of_words = bool(self.placeholder_token) and self.embedding_train_fraction < 1
        return of_words or self.unet_train_fraction < 1 or (self.train_text_encoder and self.text_encoder_train_fraction < 1)

    @property
    def other_learning_rates(self) -> dict[str, tuple[float, ...]]:
        own = self.text_encoder_learning_rate or (self.learning_rate,)
        found = {"text_encoder_learning_rate": own} if self.train_text_encoder else {}
        return found | ({"embedding_learning_rate": (self.embedding_learning_rate,)} if self.placeholder_token else {})

    @property
    def other_warmups(self) -> dict[str, int]:
        own = self.text_encoder_lr_warmup_steps if self.train_text_encoder else None
        return {} if own is None else {"text_encoder_lr_warmup_steps": own}

    @classmethod
    def standing_in(cls, folder: str, given: Collection[str]) -> dict[str, str]:
        own = {"instance_prompt": NO_PROMPT, **dict(kohya_folder.implied({"instance_data_dir": folder}))}
        return {"instance_data_dir": folder, **({"initializer_token": "thing"} if "placeholder_token" in given else own)}


def keeps_what_is_outside(values: Mapping[str, Any], adapter: str) -> bool:
    """Whether the base model is the target outside of masks by default: where it can be, and nothing else is chosen. Without any
    target there, a subject spreads over all of an image (docs/masks.md). values: as they were given, perhaps as text."""
    chosen = any(values.get(name) not in (None, "none") for name in ("unmasked_weight", "dco_beta"))
    masked = str(values.get("masked_loss")).casefold() in ("true", "yes", "on", "1")
    return masked and adapter != adapters.NONE and not chosen
