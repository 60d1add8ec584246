"""The base model of infer.py: where it is, what it needs, and the guidance that is usual for it. No torch."""

from customize.errors import InputError, Problem
from customize.families import Source, locate
from customize.families.files.autoencoder import locate_autoencoder
from customize.families.specs import spec_of
from customize.inference.metadata.seeds import with_seed
from customize.printable import printable
from customize.settings.inference import InferenceSettings
from customize.weights.learned_weights import find_learned


def completed(settings: InferenceSettings) -> InferenceSettings:
    """The settings with a seed that was chosen, and with the guidance scale that is usual for their base model, unless given."""
    return with_guidance(with_seed(settings))


def with_guidance(settings: InferenceSettings) -> InferenceSettings:
    """The settings; if their guidance scale is not given, with the usual one of the base model (`FamilySpec.guidance_scale`)."""
    if "guidance_scale" in settings.model_fields_set:
        return settings
    try:
        source = base_source(settings)
    except (InputError, OSError):  # reported by the check of the model
        return settings
    start = "mask" if settings.mask_image else "image" if settings.image else "noise"
    return settings.model_copy(update={"guidance_scale": spec_of(source).guidance_scale(source, start)})


def base_source(settings: InferenceSettings) -> Source:
    """The base model that the settings name, else that of the weights. Raises InputError."""
    learned = find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales)
    return locate(
        learned.base or "demo", revision=settings.revision, variant=settings.variant, prediction_type=settings.prediction_type,
        prompt_embeddings=settings.prompt_embeddings,
    )  # fmt: skip


def check_model(settings: InferenceSettings) -> None:
    """Raises InputError if weights or base model are missing or invalid."""
    learned = find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales)
    if not learned.files:
        options = {"variant": settings.variant, "prediction_type": settings.prediction_type}
        source = locate(learned.base or "demo", prompt_embeddings=settings.prompt_embeddings, **options)
        check_low_resolution(source, settings.low_res_image)
    if settings.attention and not (spec := spec_of(base_source(settings))).shows_attention:
        remedy = "leave it out, or use Stable Diffusion 1.x, 2.x or XL"
        raise InputError(Problem("attention", f"maps cannot be recorded for {spec.title}", remedy))
    if settings.vae:
        locate_autoencoder(settings.vae)


def check_low_resolution(source: Source, low_res_image: str | None) -> None:
    """Raises InputError for a super-resolution model without an image to enlarge, and for such an image with another model."""
    enlarges, name = spec_of(source).enlarges(source), printable(source.name)
    if enlarges and low_res_image is None:
        what = f"is missing: {name} is a super-resolution model, and enlarges an image"
        raise InputError(Problem("low_res_image", what, "give the image to enlarge"))
    if low_res_image is not None and not enlarges and (source.folder or source.file):
        what = f"is for super-resolution models, and {name} is none"
        raise InputError(Problem("low_res_image", what, "give another model, or the image as image, to start from it"))
