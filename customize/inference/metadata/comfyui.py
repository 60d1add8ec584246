"""Reads ComfyUI's graph: nodes by number, each with its class and its inputs, some of which are links to other nodes.

Only built-in nodes are known. A graph may have cycles, so loops remember the nodes that they visited. Every node that
contributed to the image and was not read becomes a note.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from customize.inference.metadata.parsed import ParsedInfo, Unreadable, short

TEXT, NUMBER = (str,), (int, float)
OFFERED = {"seed": "seed", "noise_seed": "seed", "cfg": "guidance_scale"}
HANDED_ON = {"value", "text", "string", "prompt", "int", "float", "number", "seed", "noise_seed", "any"}
"""Input names of nodes that only hold a value or pass it on."""
MOST_HANDED_ON = 20
"""Limit for the number of such nodes in a row, and for the inputs of one."""
PASSING = ("Reroute", "ControlNetApply", "ConditioningSet", "GLIGENTextBoxApply", "unCLIPConditioning")
"""Prefixes of node classes that do not change the prompt."""
LATENTS = ("latent_image", "samples", "latent", "pixels", "image", "images")
"""Inputs that link a sampler to its initial latents."""
WHOLE = {"add_noise": "enable", "start_at_step": 0, "end_at_step": None, "return_with_leftover_noise": "disable"}
"""The inputs of a KSamplerAdvanced that runs all steps itself."""
EMBEDDING = re.compile(r"\bembedding:[^\s,:()]+")
NO_NODES = {"extra", "extraMetadata", "extra_pnginfo", "workflow"}
"""Entries of Civitai's generator that are not nodes."""
SILENT = {"VAEDecode", "VAEDecodeTiled", "VAEEncode", "SaveImage", "PreviewImage", "Reroute"}


@dataclass(frozen=True)
class Node:
    """A node: its class, and its inputs by name, which are values or links to other nodes."""

    kind: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """The nodes by number, and the numbers of those that have been read."""

    nodes: Mapping[str, Node]
    read: set[str] = field(default_factory=set)

    def linked(self, value: Any) -> str | None:
        """The node that an input links to, or None."""
        match value:
            case [str(number), int()] if number in self.nodes:
                return number
        return None

    def next(self, number: str, names: Iterable[str]) -> str | None:
        """The node of the first of these inputs that is a link."""
        inputs = self.nodes[number].inputs
        return next((node for name in names if (node := self.linked(inputs.get(name)))), None)

    def value(self, number: str, name: str, kinds: Sequence[type]) -> Any:
        """The value of an input, also through nodes that only pass it on; None if another node computes it."""
        given, seen, names = self.nodes[number].inputs.get(name), {number}, HANDED_ON | {name}
        while (node := self.linked(given)) and node not in seen:
            seen.add(node)
            inputs = self.nodes[node].inputs
            if max(len(seen), len(inputs)) > MOST_HANDED_ON:
                return None
            fitting = [key for key, held in inputs.items() if type(held) in kinds or self.linked(held)]
            if len(fitting) != 1 or fitting[0].casefold() not in names:
                return None
            given = inputs[fitting[0]]
        if type(given) not in kinds:
            return None
        self.read.update(seen)
        return given

    def behind(self, start: str, seen: set[str]) -> list[str]:
        """The nodes that lead to `start`, nearest first, except those in `seen`; adds them to `seen`."""
        found, waiting = [], deque([start])
        while waiting:
            if (number := waiting.popleft()) not in seen:
                seen.add(number)
                found.append(number)
                waiting += filter(None, map(self.linked, self.nodes[number].inputs.values()))
        return found

    def is_sampler(self, number: str) -> bool:
        node = self.nodes[number]
        return "KSampler" in node.kind and {"sampler_name", "positive"} <= node.inputs.keys()


def read(info: ParsedInfo, graph: Mapping[str, Any]) -> None:
    """Reads the first sampler of the saved image: its settings, prompts, size, weights and base model.

    Raises Unreadable if this is not a graph, or has no KSampler.
    """
    nodes = {}
    for number, node in graph.items():
        match node:
            case {"class_type": str(kind), "inputs": dict(inputs)}:
                nodes[number] = Node(kind, inputs)
            case _ if number in NO_NODES:
                continue
            case _:
                raise Unreadable("has JSON that is not a ComfyUI graph")
    comfy = Graph(nodes)
    for number, node in list(nodes.items()):
        if node.kind.startswith("SamplerCustom"):
            nodes[number] = _joined(comfy, node)
    last, behind = _last_sampler(comfy)
    sampler, source = _first_pass(comfy, last)
    _read_sampler(info, comfy, sampler)
    _read_start(info, comfy, sampler, source)
    for side, setting in (("positive", "prompt"), ("negative", "negative_prompt")):
        text = _text(comfy, sampler, side)
        if text is None:
            info.note(f"{side} prompt (not read: it has nodes other than CLIPTextEncode)")
        else:
            info.offer(setting, text, f"{side} prompt")
            for word in EMBEDDING.findall(text):
                info.file(word, word.partition(":")[2], None, None)
    _read_clip_skip(info, comfy, sampler)
    _read_model(info, comfy, sampler)
    unread = Counter(nodes[number].kind for number in behind if number not in comfy.read)
    for kind, count in unread.items():
        if kind not in SILENT:
            info.note(f"node {short(kind)}{f' ({count} times)' if count > 1 else ''} (not read)")


def _joined(graph: Graph, node: Node) -> Node:
    """A custom sampler as a KSampler: merges the inputs of its nodes for noise, guidance, sampler and noise levels."""
    inputs = dict(node.inputs)
    for name in ("noise", "guider", "sampler", "sigmas"):
        if part := graph.linked(node.inputs.get(name)):
            graph.read.add(part)
            inputs = {**graph.nodes[part].inputs, **inputs}
    inputs.setdefault("positive", inputs.pop("conditioning", None))
    if inputs.get("add_noise") is True:
        del inputs["add_noise"]
    return Node("KSampler", {name: value for name, value in inputs.items() if value is not None})


def _last_sampler(graph: Graph) -> tuple[str, list[str]]:
    """The sampler nearest to the last node that saves (else shows) images, and all nodes that lead to that node."""
    kinds = {number: node.kind for number, node in graph.nodes.items()}
    saving = [number for number, kind in kinds.items() if "save" in kind.casefold()]
    showing = [number for number, kind in kinds.items() if "preview" in kind.casefold()]
    seen: set[str] = set()
    for end in (*reversed(saving), *reversed(showing), *reversed(kinds)):
        found = next(filter(graph.is_sampler, graph.behind(end, seen)), None)
        if found:
            return found, graph.behind(end, set())
    raise Unreadable("has a ComfyUI graph without a KSampler")


def _first_pass(graph: Graph, sampler: str) -> tuple[str, str]:
    """The first sampler of the chain that ends with this one, and the node that creates its latents."""
    node, seen = sampler, set()
    while node not in seen:
        seen.add(node)
        if graph.is_sampler(node):
            sampler = node
        node = graph.next(node, LATENTS) or node
    return sampler, node


def _read_sampler(info: ParsedInfo, graph: Graph, sampler: str) -> None:
    inputs = graph.nodes[sampler].inputs
    for name, setting in OFFERED.items():
        _offer(info, graph, sampler, name, setting)
    name, spacing = (graph.value(sampler, each, TEXT) for each in ("sampler_name", "scheduler"))
    info.sampler(name or "", spacing or "")
    for name, value in inputs.items():
        whole = WHOLE.get(name, value)
        if value != whole and not (name == "end_at_step" and _reaches(value, inputs.get("steps"))):
            info.unread(name, value, "partial sampling is not supported")


def _reaches(end: Any, steps: Any) -> bool:
    return type(end) is type(steps) is int and end >= steps


def _offer(info: ParsedInfo, graph: Graph, node: str, name: str, setting: str) -> None:
    if (value := graph.value(node, name, NUMBER)) is not None:
        info.offer(setting, value, name)
    elif name in graph.nodes[node].inputs:
        info.unread(name, graph.nodes[node].inputs[name], "computed by other nodes")


def _read_start(info: ParsedInfo, graph: Graph, sampler: str, source: str) -> None:
    """Reads steps and size, which depend on what the sampler starts from.

    From an image, ComfyUI makes `steps` steps within the last fraction `denoise` of the schedule; here `num_inference_steps`
    counts those of the whole schedule.
    """
    steps, strength = (graph.value(sampler, name, NUMBER) for name in ("steps", "denoise"))
    partly = strength is not None and 0.001 <= strength < 1
    image = graph.value(source, "image", TEXT)
    if image is not None:
        advice = f"give it as --image, with --strength {short(strength if partly else 1)}"
        info.unread("image", image, f"a name in ComfyUI's folder; {advice}")
    elif partly:
        info.unread("denoise", strength, "without an image, denoising starts from noise")
    if image is not None and partly and type(steps) is int and 0 < steps <= 10_000:
        info.offer("num_inference_steps", int(steps / strength), "steps")
    else:
        _offer(info, graph, sampler, "steps", "num_inference_steps")
    for name in ("width", "height"):
        _offer(info, graph, source, name, name)
    if (count := graph.value(source, "batch_size", NUMBER)) not in (None, 1):
        info.unread("batch_size", count, "the image is assumed to be the first")


def _text(graph: Graph, sampler: str, side: str) -> str | None:
    """The text of a prompt's CLIPTextEncode node."""
    node, seen = graph.next(sampler, (side,)), {sampler}
    while node and node not in seen:
        seen.add(node)
        kind, inputs = graph.nodes[node].kind, graph.nodes[node].inputs
        if kind.startswith("CLIPTextEncode"):
            texts = {graph.value(node, name, TEXT) for name in ("text", "text_g", "text_l") if name in inputs}
            return texts.pop() if len(texts) == 1 else None
        if not kind.startswith(PASSING):
            break
        node = graph.next(node, inputs if kind == "Reroute" else ("conditioning", side))
    return None


def _read_clip_skip(info: ParsedInfo, graph: Graph, sampler: str) -> None:
    """CLIPSetLastLayer: -1 is the last layer, -2 the one before it."""
    node = graph.next(sampler, ("positive",))
    last = (
        next((each for each in graph.behind(node, set()) if graph.nodes[each].kind == "CLIPSetLastLayer"), None) if node else None
    )
    layer = graph.value(last, "stop_at_clip_layer", NUMBER) if last else None
    if last and type(layer) is int and layer < 0:
        graph.read.add(last)
        info.clip_skip(-1 - layer, "stop_at_clip_layer")


def _read_model(info: ParsedInfo, graph: Graph, sampler: str) -> None:
    """Reads the names of the LoRA files and the base model."""
    node, seen = graph.next(sampler, ("model",)), {sampler}
    while node and node not in seen:
        seen.add(node)
        lora = graph.value(node, "lora_name", TEXT)
        base = graph.value(node, "ckpt_name", TEXT) or graph.value(node, "unet_name", TEXT)
        if lora is not None:
            info.file(f"LoRA {lora}", lora, graph.value(node, "strength_model", NUMBER), None)
        elif base:
            return info.model(base)
        node = graph.next(node, ("model",))
    info.note("base model (not read: no node names it)")
