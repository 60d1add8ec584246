"""Loads an autoencoder that replaces the base model's: from a folder in diffusers' layout or one .safetensors file."""

import os
import re
from pathlib import Path

from customize.errors import InputError, Problem
from customize.families.files.folder_check import network_problems, read_configuration, weight_files
from customize.families.files.ldm_header import CONFIGS, VAE
from customize.printable import printable
from customize.storage.safetensors_header import Header, read_header

SETTING = "vae"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
FILES = ["config.json", "diffusion_pytorch_model.safetensors"]
"""The files of an autoencoder in diffusers' layout."""
REMEDY = "give a folder with config.json and safetensors, or a .safetensors file, of an autoencoder of Stable Diffusion or SDXL"
LDM, DIFFUSERS = "encoder.down.0.", "encoder.down_blocks.0."
LATENT_CHANNELS = 4


def locate_autoencoder(name: str) -> Path:
    """The folder or file for `load_autoencoder`; one on the hub is downloaded. Raises InputError if it is not an autoencoder.
    torch is not imported."""
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        folder = path if (path / "config.json").is_file() else path / "vae"
        files = sorted(folder.glob("*.safetensors"))
        if not (folder / "config.json").is_file() or not files:
            raise InputError(Problem(SETTING, f"{name} contains no config.json with a .safetensors file beside it", REMEDY))
        kind = read_configuration(folder / "config.json", []).get("_class_name", "AutoencoderKL")
        if kind != "AutoencoderKL":
            raise InputError(Problem(SETTING, printable(f"{name} is {str(kind)[:40]!r}, not an AutoencoderKL"), REMEDY))
        problems = network_problems(folder, "vae", None)
        if problems:
            raise InputError(problems)
        return folder
    if not path.exists() and HUB_NAME.fullmatch(name) and path.suffix != ".safetensors":
        return download(name)
    if not path.is_file() or path.suffix != ".safetensors":
        what = "is not a .safetensors file" if path.exists() else "does not exist"
        raise InputError(Problem(SETTING, f"{name} {what}", REMEDY))
    header = read_header(path)
    if layout(header) is None:
        raise InputError(Problem(SETTING, f"{name} contains no autoencoder", REMEDY))
    channels = next((each.shape[1] for key, each in header.tensors.items() if key.endswith("decoder.conv_in.weight")), None)
    if channels != LATENT_CHANNELS:
        what = f"{name} is an autoencoder with {channels} latent channels, not {LATENT_CHANNELS}"
        raise InputError(Problem(SETTING, what, REMEDY))
    return path


def download(name: str) -> Path:
    """The folder of an autoencoder on the hub, which is downloaded unless cached. Raises InputError if that fails."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=FILES))
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split())[:150]
        what = f"{name} is neither a local folder nor available on the hub ({cause})"
        raise InputError(Problem(SETTING, printable(what), REMEDY)) from error
    return locate_autoencoder(str(folder))


def files_of(path: Path) -> list[Path]:
    """The files of the autoencoder that `locate_autoencoder` found."""
    return [path / "config.json", *weight_files(path, None)] if path.is_dir() else [path]


def layout(header: Header) -> str | None:
    """The prefix of an autoencoder's tensors in the original layout ("": none), "diffusers", or None where there is none."""
    names = header.tensors.keys()
    if any(name.startswith(DIFFUSERS) for name in names):
        return "diffusers"
    return next((prefix for prefix in ("", VAE) if any(name.startswith(prefix + LDM) for name in names)), None)


def load_autoencoder(path: Path, config: str = "sd15"):
    """Loads the AutoencoderKL that `locate_autoencoder` found, in float32 on the CPU. Raises InputError, also for NaN.

    config: the configuration of a single file, which has none (`FamilySpec.autoencoder`): shape and scale of the latents.
    """
    from customize.storage.untrusted_files import refusing

    with refusing(path, REMEDY, "cannot be loaded as an autoencoder"):
        vae = read_autoencoder(path, CONFIGS / config)
    if not all(weight.isfinite().all() for weight in vae.parameters()):
        raise InputError(Problem(SETTING, f"{path} contains NaN or infinity", REMEDY))
    return vae


def read_autoencoder(path: Path, config: Path):
    """As `load_autoencoder`, with the errors of the libraries."""
    from diffusers import AutoencoderKL

    from customize.families.files import networks
    from customize.families.files.single_file import load_network, read_tensors

    if path.is_dir():
        return networks.load_network(AutoencoderKL, path, "vae")
    kind, tensors = layout(read_header(path)) or "", read_tensors(path, "")
    if kind == "diffusers":
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(config / "vae"))
        vae.load_state_dict(tensors)
        return vae
    own = {f"{VAE}{name.removeprefix(VAE)}": tensor for name, tensor in tensors.items() if name.startswith(kind)}
    return load_network(AutoencoderKL, "vae", own, config)
