"""Sampler names of other programs, and the diffusers scheduler and options that each stands for; lists of timesteps. No torch.

Case, blanks, `_` and `-` in a name are ignored: "DPM++ 2M Karras" (A1111), `dpmpp_2m` (ComfyUI), `dpmpp_2m_k`
(InvokeAI) and `k_dpmpp_2m` (NovelAI) are found in one table; a suffix selects the spacing of noise levels.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from customize.errors import InputError, Problem
from customize.printable import printable

SDE = {"algorithm_type": "sde-dpmsolver++"}


@dataclass(frozen=True)
class Sampler:
    """A scheduler's class by name, and its configuration. align_your_steps: use the AYS list of timesteps."""

    name: str
    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    align_your_steps: bool = False


KNOWN: Mapping[str, tuple[str, Mapping[str, Any], str]] = {  # name: (class, options, other names)
    "DDIM": ("DDIMScheduler", {}, "ddim_v3"),
    "DDPM": ("DDPMScheduler", {}, ""),
    "DEIS": ("DEISMultistepScheduler", {}, "deis_2m"),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}, "dpm_solver_multistep dpm_multi"),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", SDE, "dpmpp_2m_sde_gpu"),
    "DPM++ 2M SDE Heun": (
        "DPMSolverMultistepScheduler", {**SDE, "solver_type": "heun"}, "dpmpp_2m_sde_heun_gpu"),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}, ""),
    "DPM++ 3M SDE": ("DPMSolverMultistepScheduler", {**SDE, "solver_order": 3}, "dpmpp_3m_sde_gpu"),
    "DPM++ 2S": ("DPMSolverSinglestepScheduler", {}, "dpm_solver_singlestep dpm_single"),
    "DPM++ SDE": ("DPMSolverSinglestepScheduler", SDE, "dpmpp_sde_gpu"),
    "Euler": ("EulerDiscreteScheduler", {}, ""),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}, ""),
    "Heun": ("HeunDiscreteScheduler", {}, ""),
    "DPM2": ("KDPM2DiscreteScheduler", {}, "kdpm_2"),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}, "kdpm_2_a"),
    "LCM": ("LCMScheduler", {}, ""),
    "LMS": ("LMSDiscreteScheduler", {}, "klms"),
    "PLMS": ("PNDMScheduler", {}, "pndm"),
    "TCD": ("TCDScheduler", {}, ""),
    "UniPC": ("UniPCMultistepScheduler", {}, "uni_pc_bh2 unipc_bh2 unipc_multistep"),
}  # fmt: skip
NEAREST = {  # samplers that diffusers lacks -> the most similar one that it has
    "DPM adaptive": "DPM++ 2M", "DPM fast": "DPM++ 2M", "DPM Solver Stability": "DPM++ 2M", "Res Multistep": "DPM++ 2M",
    "Res Multistep a": "DPM++ 2M SDE", "DPM++ 2S a": "DPM++ 2S", "DPM++ 2M CFG++": "DPM++ 2M", "ER SDE": "DPM++ 2M SDE",
    "SA Solver": "DPM++ 2M SDE", "SA Solver PECE": "DPM++ 2M SDE", "SEEDS 2": "DPM++ SDE", "SEEDS 3": "DPM++ 3M SDE",
    "Restart": "Heun", "HeunPP2": "Heun", "Exp Heun 2 x0": "Heun", "Exp Heun 2 x0 SDE": "DPM++ SDE", "iPNDM": "PLMS",
    "iPNDM v": "PLMS", "Euler CFG++": "Euler", "Euler a CFG++": "Euler a", "Gradient Estimation": "Euler", "Euler Dy": "Euler",
    "Euler SMEA Dy": "Euler", "Euler Negative": "Euler", "Kohaku LoNyu Yog": "Euler a", "DDIM CFG++": "DDIM",
    "UniPC SNR": "UniPC", "UniPC TU": "UniPC", "UniPC TQ": "UniPC", "DPM++ 2M Turbo": "DPM++ 2M", "CogVideoX DDIM": "DDIM",
    "Euler a Substep": "Euler a", "DPM++ SDE Substep": "DPM++ SDE",
}  # fmt: skip
KARRAS, LINSPACE, TRAILING = {"use_karras_sigmas": True}, {"timestep_spacing": "linspace"}, {"timestep_spacing": "trailing"}
AYS = "align_your_steps"
SPACINGS: Mapping[str, tuple[Mapping[str, Any], str]] = {  # spacing of noise levels: (options, other names)
    "Karras": (KARRAS, "k"),
    "Exponential": ({"use_exponential_sigmas": True, **LINSPACE}, "polyexponential"),
    "Beta": ({"use_beta_sigmas": True, **LINSPACE}, "beta57"),
    "SGM Uniform": (TRAILING, "trailing"),
    "Simple": (TRAILING, ""),
    "Normal": (LINSPACE, "uniform linspace"),
    "DDIM Uniform": ({"timestep_spacing": "leading"}, "leading"),
    "AYS": ({AYS: True}, "align_your_steps ays_sd15"),
    "Automatic": ({}, "auto default native"),
}
AUTOMATIC = {  # what "Automatic" means in A1111 since 1.9
    **dict.fromkeys(("DPM++ 2M", "DPM++ SDE", "DPM2", "DPM2 a", "DPM++ 2S"), "Karras"),
    **dict.fromkeys(("DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"), "Exponential"),
}
SPACED = {
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler",
}  # fmt: skip
WITH_SIGMAS = (SPACED - {"DDIMScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler", "PNDMScheduler"}) | {
    "DPMSolverSinglestepScheduler"
}
WITH_TIMESTEPS = {
    "DDPMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
}  # fmt: skip
SUPPORTED_BY = {  # option -> the schedulers that support it
    "use_karras_sigmas": WITH_SIGMAS,
    "use_exponential_sigmas": WITH_SIGMAS,
    "use_beta_sigmas": WITH_SIGMAS,
    "timestep_spacing": SPACED,
    "rescale_betas_zero_snr": {
        "DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler", "LCMScheduler", "TCDScheduler", "UniPCMultistepScheduler",
    },
    "eta": {"DDIMScheduler", "TCDScheduler"},
    "timesteps": WITH_TIMESTEPS | {"LCMScheduler", "TCDScheduler"},
    AYS: WITH_TIMESTEPS,
}  # fmt: skip
UNSUPPORTED = {
    "EDMEulerScheduler": "needs a network with EDM's preconditioning, which Stable Diffusion lacks",
    "DPMSolverSDEScheduler": "draws its noise for the whole batch at once, so each image would depend on the others",
}
SCHEDULERS = {scheduler for scheduler, _, _ in KNOWN.values()}


def compact(name: str) -> str:
    """A name in the form in which names are compared: without case, blanks and prefixes."""
    text = name.casefold().replace("dpmpp", "dpm++").replace("plus", "+").replace("ancestral", "a").replace("cfg_pp", "cfg++")
    return re.sub(r"[\s_\-]+", "", text.removeprefix("sample_"))


@cache
def by_name() -> Mapping[str, str]:
    """`compact` form of each name -> the name in `KNOWN`."""
    return {compact(each): name for name, (_, _, others) in KNOWN.items() for each in (name, *others.split())}


@cache
def spacings() -> Mapping[str, str]:
    """`compact` form of each name -> the name in `SPACINGS`, longest first."""
    found = {compact(each): name for name, (_, others) in SPACINGS.items() for each in (name, *others.split())}
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


@cache
def nearest_by_name() -> Mapping[str, str]:
    """`compact` form of the name of each sampler that diffusers lacks -> the most similar one."""
    return {compact(each): near for each, near in NEAREST.items()}


def parts(name: str, table: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """The names in `KNOWN` and `SPACINGS` ("": none) that a name consists of, otherwise None. table: see `by_name`."""
    key, table = compact(name), by_name() if table is None else table
    for text in (key, key.removeprefix("k")):
        if text in table:
            return table[text], ""
        for ending, spacing in spacings().items():
            if text.endswith(ending) and (known := table.get(text.removesuffix(ending))):
                return known, spacing
    return None


def nearest(name: str) -> tuple[str, str] | None:
    """`parts` of the sampler that is most similar to one that diffusers lacks."""
    return parts(name, nearest_by_name())


def sampler(known: str, spacing: str = "") -> Sampler:
    """The sampler with a name from `KNOWN` and a spacing from `SPACINGS`."""
    scheduler, options, _ = KNOWN[known]
    if spacing == "Automatic":
        spacing = AUTOMATIC.get(known, "")
    spaced = dict(SPACINGS[spacing][0]) if spacing else {}
    return Sampler(
        f"{known} {spacing}".strip(), scheduler, {**options, **{k: v for k, v in spaced.items() if k != AYS}}, AYS in spaced
    )


def find(name: str, where: str = "scheduler") -> Sampler:
    """The sampler with this name: a diffusers class or a name of another program. Raises InputError."""
    if why := UNSUPPORTED.get(name):
        raise InputError(Problem(where, f"{name} {why}", "use DPM++ SDE, or another sampler"))
    classes = {each.casefold(): each for each in SCHEDULERS}
    if scheduler := classes.get(name.casefold().strip()):
        return Sampler(scheduler, scheduler)
    if found := parts(name):
        chosen = sampler(*found)
        if missing := unsupported(chosen):
            what = f'"{printable(name)}": {chosen.scheduler} does not support this spacing of noise levels ({missing[0]})'
            raise InputError(Problem(where, what, f"use {found[0]}, or one of {', '.join(samplers_with(missing[0]))}"))
        return chosen
    raise InputError(Problem(where, f"unknown scheduler {printable(name)[:80]!r}", remedy(name)))


def remedy(name: str) -> str:
    """What to use instead of an unknown name."""
    names = f"use one of {', '.join(KNOWN)}, optionally with Karras, Exponential, Beta, SGM Uniform, Simple, Normal or AYS, "
    names += f"or one of {', '.join(sorted(SCHEDULERS))}"
    if near := nearest(name):
        return f"diffusers has no such sampler; the most similar is {' '.join(near).strip()}"
    wanted = compact(name).removesuffix("scheduler")
    short = {compact(each).removesuffix("scheduler"): each for each in (*KNOWN, *sorted(SCHEDULERS))}
    close = [known for key, known in short.items() if wanted and key.startswith(wanted)][:1] or [
        short[key] for key in difflib.get_close_matches(wanted, short, n=1, cutoff=0.5)
    ]
    return f"did you mean {close[0]}? {names}" if close else names


def unsupported(chosen: Sampler) -> list[str]:
    """The names of a sampler's options that its scheduler does not support."""
    options = [*chosen.options, *([AYS] if chosen.align_your_steps else [])]
    return [each for each in options if chosen.scheduler not in SUPPORTED_BY.get(each, SCHEDULERS)]


def samplers_with(option: str) -> list[str]:
    """The names of the samplers that support an option."""
    return [name for name, (scheduler, _, _) in KNOWN.items() if scheduler in SUPPORTED_BY[option]]


def configuration(chosen: Sampler, given: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a sampler with further options. given: options by name; None: not given.

    Raises InputError for an option that its scheduler does not support or that contradicts its name.
    """
    found, problems = dict(chosen.options), []
    for name, value in given.items():
        if value is None or value is False and name not in found:
            if value is False and chosen.scheduler in SUPPORTED_BY[name]:
                found[name] = value
            continue
        if chosen.scheduler not in SUPPORTED_BY[name]:
            what = f"is not supported by {chosen.scheduler}"
            problems.append(Problem(name, what, f"leave it out, or use one of {', '.join(samplers_with(name))}"))
        elif chosen.align_your_steps and name != "rescale_betas_zero_snr" or found.get(name, value) != value:
            problems.append(Problem(name, f"contradicts {chosen.name}", "leave one of the two out"))
        found[name] = value
    if problems:
        raise InputError(problems)
    return found


def shown(name: str | None, own: str, use_karras_sigmas: bool | None = None) -> str:
    """A sampler as A1111 writes it. name: the value of the setting; own: the scheduler class of the base model."""
    try:
        chosen = find(name or own)
    except InputError:
        return name or own
    plain = {scheduler: known for known, (scheduler, options, _) in KNOWN.items() if not options}
    text = plain.get(chosen.name, chosen.name)
    return f"{text} Karras" if use_karras_sigmas and not text.endswith("Karras") else text


TIMESTEPS = ("fast27", "smart27", "smart50", "smart100", "smart185", "super27", "super40", "super100")
"""The lists of DeepFloyd IF's authors; each name ends in the number of steps."""


def read_timesteps(text: str) -> str | tuple[int, ...]:
    """A name of `TIMESTEPS`, or descending numbers such as 999,800,500,200,0. Raises ValueError, which says what is wrong."""
    name = text.strip().casefold()
    if name in TIMESTEPS:
        return name
    words = [word for word in re.split(r"[\s,]+", name) if word]
    if not words or not all(word.isdecimal() and word.isascii() and len(word) < 7 for word in words):
        close = "".join(f" (did you mean {near}?)" for near in difflib.get_close_matches(name, TIMESTEPS, n=1))
        raise ValueError(f"{printable(text)[:80]!r} is neither a list of timesteps nor numbers{close}")
    numbers = tuple(map(int, words))
    for first, second in zip(numbers, numbers[1:], strict=False):
        if first <= second:
            raise ValueError(f"{second} comes after {first}, but timesteps descend")
    return numbers


def num_timesteps(text: str) -> int:
    """The number of timesteps of a list. Raises ValueError as `read_timesteps`."""
    found = read_timesteps(text)
    return int(re.sub(r"\D", "", found)) if isinstance(found, str) else len(found)
