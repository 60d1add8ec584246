"""Rules about combinations of DreamBooth's settings. See `settings.rules.rule`."""

from collections.abc import Iterator

from customize import adapters
from customize.errors import Problem
from customize.settings import derived
from customize.settings.rules.caption_rules import text_encoder_is_there
from customize.settings.rules.mask_rules import PRIOR, masked_prior_has_an_adapter
from customize.settings.rules.rule import rule
from customize.settings.rules.training_rules import same, warmup_problems


@rule("prior_preservation", "adapter")
def teacher_has_an_adapter(prior_preservation: str, adapter: str) -> Iterator[Problem]:
    """A teacher is the base model, so the adapter must be separable from it."""
    if prior_preservation == "teacher" and adapter == "none":
        remedy = "set adapter = lora, or prior_preservation = images"
        yield Problem("prior_preservation", "teacher needs an adapter that can be switched off", remedy)


@rule("prior_preservation", "class_prompt")
def prior_has_a_prompt(prior_preservation: str, class_prompt: str | None) -> Iterator[Problem]:
    """Prior preservation needs a prompt of the class."""
    if prior_preservation != "none" and class_prompt is None:
        what = f"is missing: prior_preservation = {prior_preservation} needs it"
        yield Problem("class_prompt", what, "set it, such as `a photo of dog`")


@rule("class_prompt", "prior_preservation", "placeholder_token", "learnable_property")
def class_has_a_reader(
    class_prompt: str | None, prior_preservation: str, tokens: tuple[str, ...], learnable_property: str
) -> Iterator[Problem]:
    """The class of a subject is read, that of a new word for a style only by prior preservation."""
    if class_prompt and prior_preservation == "none" and len(tokens) == 1 and learnable_property == "style":
        what = f"has no effect: {tokens[0]} is a style, and no class is preserved"
        yield Problem("class_prompt", what, "leave it out, or set prior_preservation = images or teacher")


@rule("prior_preservation", "class_data_dir", "instance_data_dir")
def class_images_have_a_folder(
    prior_preservation: str, class_data_dir: str | None, instance_data_dir: str | None
) -> Iterator[Problem]:
    """Class images have a folder, other than that of the instance images."""
    if prior_preservation != "images":
        return
    if class_data_dir is None:
        what = "is missing: prior_preservation = images stores the class images there"
        yield Problem("class_data_dir", what, "name a folder; missing images are generated")
    elif instance_data_dir is not None and same(class_data_dir, instance_data_dir):
        what = "is the same folder as instance_data_dir"
        yield Problem("class_data_dir", what, "use a separate folder for the class images")


@rule("placeholder_token", "adapter")
def words_are_beside_an_adapter(tokens: tuple[str, ...], adapter: str) -> Iterator[Problem]:
    """New words are learned beside an adapter."""
    if tokens and adapter == adapters.NONE:
        remedy = "add --adapter lora, or learn the words alone with train_textual_inversion.py"
        yield Problem("placeholder_token", "needs an adapter: new words are not learned while all weights are trained", remedy)


@rule("dco_beta", PRIOR)
def consistency_has_one_target(dco_beta: float | None, prior_weight: float) -> Iterator[Problem]:
    """The base model is compared with, or it is the target outside of masks."""
    if dco_beta is not None and prior_weight:
        what = f"cannot be combined with {PRIOR}: the base model is compared with, or is the target outside of masks"
        yield Problem("dco_beta", what, "leave one of the two out, or use unmasked_weight")


@rule("dco_beta", "adapter")
def consistency_has_an_adapter(dco_beta: float | None, adapter: str) -> Iterator[Problem]:
    """The base model is the denoiser without its adapter."""
    if dco_beta is not None and adapter == adapters.NONE:
        yield Problem("dco_beta", "compares with the model without its adapter, and there is none", "add --adapter lora")


@rule("optimizer", "loraplus_lr_ratio")
def rates_of_a_lora_are_given(optimizer: str, loraplus_lr_ratio: float | None) -> Iterator[Problem]:
    """Prodigy estimates the rates of A and B itself."""
    if loraplus_lr_ratio is not None and optimizer == "prodigy":
        yield Problem("loraplus_lr_ratio", "has no effect with prodigy, which finds the rates of A and B itself", "leave it out")


@rule("optimizer", "lr_pattern")
def rates_of_layers_are_given(optimizer: str, lr_pattern: tuple[str, ...]) -> Iterator[Problem]:
    """Prodigy estimates the rate of each group of layers itself."""
    if lr_pattern and optimizer == "prodigy":
        yield Problem("lr_pattern", "is not combined with prodigy, which finds the rate of each part itself", "leave it out")


@rule("unet_train_fraction", "train_text_encoder", "text_encoder_train_fraction", "placeholder_token", "embedding_train_fraction")
def a_part_is_trained_to_the_end(
    unet: float, train_text_encoder: bool, text_encoder: float, tokens: tuple[str, ...], embedding: float
) -> Iterator[Problem]:
    """Every step trains something."""
    last = max([unet, *[text_encoder] * train_text_encoder, *[embedding] * bool(tokens)])
    if last < 1:
        what = f"nothing would be trained after {last:g} of the steps"
        yield Problem("unet_train_fraction", what, "train one of the parts to the end, or lower max_train_steps")


@rule("lr_scheduler", "text_encoder_lr_warmup_steps", "max_train_steps")
def warmup_of_encoders_has_an_effect(scheduler: str, warmup: int | None, max_train_steps: int | None) -> Iterator[Problem]:
    """The warm-up of text encoders is one of a schedule that has a warm-up, and it ends."""
    name = "text_encoder_lr_warmup_steps"
    if warmup is not None and scheduler in derived.WITHOUT_WARMUP:
        yield Problem(
            name, f"has no effect: lr_scheduler = {scheduler} has no warm-up", "set lr_scheduler = constant_with_warmup"
        )
    elif max_train_steps is not None:
        yield from warmup_problems(scheduler, warmup or 0, max_train_steps, "max_train_steps", name)


RULES = (
    rates_of_a_lora_are_given, rates_of_layers_are_given, a_part_is_trained_to_the_end, warmup_of_encoders_has_an_effect,
    teacher_has_an_adapter, prior_has_a_prompt, class_has_a_reader, class_images_have_a_folder, words_are_beside_an_adapter,
    consistency_has_an_adapter, consistency_has_one_target, masked_prior_has_an_adapter,
    text_encoder_is_there,
)  # fmt: skip
