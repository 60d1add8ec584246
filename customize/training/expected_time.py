"""The expected time of a run, measured before its first step by one step that is discarded."""

from time import perf_counter

import torch

from customize.diffusion import dropout
from customize.settings.training_parts.validation_prompts import images_per_prompt

LONG = 20.0
"""Seconds beyond which the measurement is not repeated."""


def of_a_step(context, training) -> float:
    """Seconds of a step, measured by the forward and backward pass of one micro-batch; 0 if no step is left."""
    if context.first_step >= context.max_train_steps:  # only the result is missing
        return 0.0
    accelerator, model, settings = context.accelerator, training.method, context.settings
    batches = training.dataset.deal(context.draws.start, range(settings.train_batch_size))
    batches = [batch.to(accelerator.device) for batch in batches]
    model.train()
    times: list[float] = []
    while len(times) < 2 and sum(times) < LONG:  # the first time includes setup; where it takes minutes, once is enough
        begin = perf_counter()
        for batch in batches:
            with dropout.samples(settings.seed, 0, batch.positions):  # with gradient checkpointing also for the backward pass
                with accelerator.autocast():
                    prediction = model.prediction(batch)
                prediction.float().mean().backward()
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - begin)
        for parameter in model.parameters():
            parameter.grad = None
    return min(times) * settings.gradient_accumulation_steps


def of_a_run(context, step: float) -> float:
    """Seconds of all steps, sample images and pictures that are measured. A step costs `evaluations_per_sample` of the network,
    a denoising step two."""
    settings = context.settings
    first, last, every = context.first_step, context.max_train_steps, context.validation_steps
    rounds = len({last, *range(first + every - first % every, last + 1, every)}) + (first == 0)
    evaluations = 2 * settings.sample_inference_steps * len(context.sample_prompts) * images_per_prompt(settings) * rounds
    if measured := [step for step in context.candidates if step > first]:
        evaluations += context.cost_of_pictures.each * len(measured) + context.cost_of_pictures.start * (first == 0)
    evaluation = step / (settings.evaluations_per_sample * settings.train_batch_size * settings.gradient_accumulation_steps)
    return step * (last - first) + evaluation * evaluations
