"""BitFit: only biases are trained. Ben Zaken et al. 2022, "BitFit: Simple Parameter-efficient Fine-tuning"."""

from bias_settings import BiasSettings

from customize import adapters
from customize.methods.method import DenoisingMethod, MethodContext, TrainingSetup, captions_of


def prepare(settings: BiasSettings, context: MethodContext) -> TrainingSetup:
    """Captions and images are encoded once; both encoders stay frozen."""
    examples = context.examples.instances
    condition = context.encode_captions(captions_of(examples), min_chunks=1)
    method = Biases(context.family, condition, settings)
    context.place(method)
    return TrainingSetup(method, context.encode_images("instance", examples), condition)


class Biases(DenoisingMethod):
    """Trains the biases of the denoiser; the result is a complete pipeline."""

    name = "bias"

    def __init__(self, family, condition, settings):
        super().__init__(family, condition)
        self.settings, self.example_prompt, self.trigger_words = settings, settings.subject_prompt, settings.trigger_words
        [part] = [name for name, network in family.trainable.items() if network is family.denoiser]
        self.add_module(part, family.denoiser)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.endswith(".bias"))

    def parameter_groups(self):
        return [{"params": list(self.trainable_state_dict().values()), "lr": self.settings.learning_rate}]

    def save(self, folder, metadata):
        return adapters.build(adapters.NONE).save(folder, self.family, metadata, self.settings)
