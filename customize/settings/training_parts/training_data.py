"""Settings of images and captions for training. Part of `training.TrainingSettings`."""

from typing import Literal

from customize.settings.common import MANY, OWN, Settings
from customize.settings.field import setting

Interpolation = Literal["nearest", "nearest-exact", "box", "bilinear", "hamming", "bicubic", "lanczos"]

WITH_DATASET = ("dataset_name", ())
WITH_BUCKETS = ("aspect_ratio_buckets", ("auto",))
WITH_CAPTIONS = ("captions", ("auto", "files", "file_names"))
WITHOUT_CAPTIONS = ("captions", ("auto", "templates", "prompt"))


class DataSettings(Settings):
    """Which images and captions a run trains on, and what of them a step sees."""

    dataset_name: str | None = setting(
        None, "data", "dataset of the `datasets` library, instead of folders: path or hub name", text="path", scope="run"
    )
    dataset_config_name: str | None = setting(
        None, "data", "configuration of the dataset, if it has several", only_with=WITH_DATASET, scope="run"
    )
    image_column: str = setting("image", "data", "column of the images", only_with=WITH_DATASET, scope="run")
    caption_column: str = setting("text", "data", "column of the captions, in a dataset or in metadata.jsonl/.csv", scope="run")
    resolution: int | None = setting(
        None, "data", "width and height of square training images; the area of others",
        unit="pixels", ge=16, le=4096, multiple_of=8, default_in_words=OWN,
    )  # fmt: skip
    aspect_ratio_buckets: str | None = setting(
        "auto", "data", "sizes to which images are resized and cropped, each to the one nearest to its shape: auto computes them "
        "from resolution, none crops squares, `832,1216;1216,832` lists heights and widths", scope="run",
    )  # fmt: skip
    min_bucket_reso: int | None = setting(
        None, "data", "shortest side of a bucket, rounded down to bucket_reso_steps", unit="pixels", ge=8, le=4096, multiple_of=8,
        only_with=WITH_BUCKETS, default_in_words="none: half of resolution", scope="run",
    )  # fmt: skip
    max_bucket_reso: int | None = setting(
        None, "data", "longest side of a bucket, rounded up to bucket_reso_steps", unit="pixels", ge=16, le=8192, multiple_of=8,
        only_with=WITH_BUCKETS, default_in_words="none: twice resolution", scope="run",
    )  # fmt: skip
    bucket_reso_steps: int | None = setting(
        None, "data", "the sides of buckets are multiples of it", unit="pixels", ge=8, le=512, multiple_of=8,
        only_with=WITH_BUCKETS, default_in_words="none: 64, or an eighth of a resolution below 512", scope="run",
    )  # fmt: skip
    bucket_no_upscale: bool = setting(
        False, "data", "a smaller bucket for an image that would be enlarged otherwise", only_with=WITH_BUCKETS, scope="run"
    )
    center_crop: bool = setting(False, "data", "crop images at the center instead of at random positions")
    crop_variants: int = setting(4, "data", "random crops per image", ge=1, le=64)
    random_flip: bool = setting(False, "data", "also train on each image flipped horizontally")
    leave_out: tuple[str, ...] = setting(
        (), "data", "files in the folders of training images that are not read: images, or captions beside them",
        text="path", scope="run",
    )  # fmt: skip
    repeats: int = setting(1, "data", "number of times each image is used per epoch", ge=1, le=MANY, scope="run")
    caption_prefix: str | None = setting(
        None, "data", "text to prepend to each caption from a file, such as `sks dog,`", only_with=WITH_CAPTIONS, scope="run"
    )
    caption_suffix: str | None = setting(
        None, "data", "text to append to each caption from a file", only_with=WITH_CAPTIONS, scope="run"
    )
    caption_templates: str | None = setting(
        None, "data", "file of templates for images without captions, one per line, with {} where the subject stands",
        text="path", only_with=WITHOUT_CAPTIONS, scope="run",
    )  # fmt: skip
    shuffle_tags: bool = setting(False, "data", "put the tags of a caption in another order in each use")
    keep_tags: int = setting(
        0, "data", "number of first tags of a caption that keep their places, and are never left out", ge=0, le=1000
    )
    tag_dropout: float = setting(
        0.0, "data", "probability of leaving out each tag that is not kept and has no trigger word", ge=0, le=1
    )
    tag_warmup_steps: int = setting(
        0, "data", "steps until all tags of a caption are used; before the first one there are tag_warmup_min",
        unit="steps", ge=0, le=MANY,
    )  # fmt: skip
    tag_warmup_min: int = setting(
        1, "data", "number of tags, besides those that are kept, before the first of tag_warmup_steps", ge=0, le=1000
    )
    tag_separator: str = setting(",", "data", "what stands between the tags of a caption")
    caption_dropout: float = setting(0.0, "data", "probability of replacing a caption by an empty one", ge=0, le=1)
    image_interpolation_mode: Interpolation = setting("lanczos", "data", "interpolation for resizing images")
    validation_data_dir: str | None = setting(
        None, "data", "folder of images of the subject that are not trained on: the loss on them is measured",
        text="path", scope="run",
    )  # fmt: skip
    num_held_out: int = setting(
        0, "data", "images of the training set that are not trained on, but measured like those of validation_data_dir",
        ge=0, le=MANY, scope="run",
    )  # fmt: skip
    latents_cache_dir: str | None = setting(
        None, "data", "folder in which encoded images are cached for other runs", text="path", scope="run"
    )
    vae_cache_ondemand: bool | None = setting(
        None, "data", "encode each image when a step first needs it, instead of all before the first step", scope="run",
        default_in_words="none: with more than 2,000 crops of images",
    )  # fmt: skip

    @property
    def varies_captions(self) -> bool:
        """Whether the tags of a caption are drawn anew in each use."""
        return self.shuffle_tags or self.tag_dropout > 0 or self.tag_warmup_steps > 0
