"""The command lines of diffusers' own documentation, as they stand there, run through our scripts."""

import re
import shlex

import pytest
from kit import write_images
from models import tiny_deepfloyd_if

TI = """--pretrained_model_name_or_path=$MODEL_NAME --train_data_dir=$DATA_DIR --learnable_property="object"
  --placeholder_token="<cat-toy>" --initializer_token="toy" --resolution=512 --train_batch_size=1
  --gradient_accumulation_steps=4 --max_train_steps=3000 --learning_rate=5.0e-04 --scale_lr --lr_scheduler="constant"
  --lr_warmup_steps=0 --output_dir=$OUTPUT_DIR"""
PLAIN = """--pretrained_model_name_or_path=$MODEL_NAME  --instance_data_dir=$DATA_DIR --output_dir=$OUTPUT_DIR
  --instance_prompt="a photo of sks dog" --resolution=512 --train_batch_size=1 --gradient_accumulation_steps=1
  --learning_rate=5e-6 --lr_scheduler="constant" --lr_warmup_steps=0 --max_train_steps=400"""
PRIOR = """--pretrained_model_name_or_path=$MODEL_NAME  --instance_data_dir=$DATA_DIR --class_data_dir=$CLASS_DIR
  --output_dir=$OUTPUT_DIR --with_prior_preservation --prior_loss_weight=1.0 --instance_prompt="a photo of sks dog"
  --class_prompt="a photo of dog" --resolution=512 --train_batch_size=1 --lr_scheduler="constant" --lr_warmup_steps=0
  --num_class_images=200 --max_train_steps=800 """
COMMANDS = {
    1: ("textual_inversion", TI),
    2: ("dreambooth", PLAIN),
    3: ("dreambooth", PRIOR + "--gradient_accumulation_steps=1 --learning_rate=5e-6"),
    4: ("dreambooth", PRIOR + """--gradient_accumulation_steps=2 --gradient_checkpointing --use_8bit_adam
        --learning_rate=5e-6"""),
    5: ("dreambooth", PRIOR + """--gradient_accumulation_steps=1 --gradient_checkpointing --use_8bit_adam
        --enable_xformers_memory_efficient_attention --set_grads_to_none --learning_rate=2e-6"""),
    6: ("dreambooth", PRIOR + """--sample_batch_size=1 --gradient_accumulation_steps=1 --gradient_checkpointing
        --learning_rate=5e-6"""),
    7: ("dreambooth", PRIOR + "--train_text_encoder --use_8bit_adam --gradient_checkpointing --learning_rate=2e-6"),
    8: ("dreambooth", """--pretrained_model_name_or_path=$MODEL_NAME --instance_data_dir=$DATA_DIR --output_dir=$OUTPUT_DIR
        --instance_prompt="a photo of sks dog" --resolution=512 --train_batch_size=1 --gradient_accumulation_steps=1
        --checkpointing_steps=100 --learning_rate=1e-4 --report_to="wandb" --lr_scheduler="constant" --lr_warmup_steps=0
        --max_train_steps=500 --validation_prompt="A photo of sks dog in a bucket" --validation_epochs=50 --seed="0"
        --adapter lora"""),
    9: ("dreambooth", """--pretrained_model_name_or_path=$MODEL_NAME  --instance_data_dir=$DATA_DIR --output_dir=$OUTPUT_DIR
        --instance_prompt="a sks dog" --resolution=64 --train_batch_size=4 --gradient_accumulation_steps=1 --learning_rate=5e-6
        --scale_lr --max_train_steps=1200 --validation_prompt="a sks dog" --validation_epochs=25 --checkpointing_steps=100
        --pre_compute_text_embeddings --tokenizer_max_length=77 --text_encoder_use_attention_mask --adapter lora"""),
    10: ("dreambooth", """--pretrained_model_name_or_path=$MODEL_NAME --instance_data_dir=$DATA_DIR --output_dir=$OUTPUT_DIR
        --instance_prompt="a sks dog" --resolution=256 --train_batch_size=4 --gradient_accumulation_steps=1 --learning_rate=1e-6
        --max_train_steps=2000 --validation_prompt="a sks dog" --validation_epochs=100 --checkpointing_steps=500
        --pre_compute_text_embeddings --tokenizer_max_length=77 --text_encoder_use_attention_mask
        --validation_images $DATA_DIR/0.png $DATA_DIR/1.png --class_labels_conditioning=timesteps --adapter lora"""),
    12: ("dreambooth", """--pretrained_model_name_or_path=$MODEL_NAME --instance_data_dir=$DATA_DIR --output_dir=$OUTPUT_DIR
        --instance_prompt="a sks dog" --resolution=256 --train_batch_size=2 --gradient_accumulation_steps=6 --learning_rate=5e-6
        --max_train_steps=2000 --validation_prompt="a sks dog" --validation_steps=150 --checkpointing_steps=500
        --pre_compute_text_embeddings --tokenizer_max_length=77 --text_encoder_use_attention_mask
        --validation_images $DATA_DIR/0.png $DATA_DIR/1.png --class_labels_conditioning timesteps
        --validation_scheduler DDPMScheduler"""),
    11: ("dreambooth", """--pretrained_model_name_or_path=$MODEL_NAME  --instance_data_dir=$DATA_DIR --output_dir=$OUTPUT_DIR
        --instance_prompt="a photo of sks dog" --resolution=64 --train_batch_size=4 --gradient_accumulation_steps=1
        --learning_rate=1e-7 --max_train_steps=150 --validation_prompt "a photo of sks dog" --validation_steps 25
        --text_encoder_use_attention_mask --tokenizer_max_length 77 --pre_compute_text_embeddings --use_8bit_adam
        --set_grads_to_none --skip_save_text_encoder --validation_scheduler DDPMScheduler"""),
}  # fmt: skip
SMALL = {
    r"--resolution=\d+": "--resolution=16",
    r"--max_train_steps=\d+": "--max_train_steps=2",
    r"--num_class_images=\d+": "--num_class_images=2",
}


@pytest.mark.parametrize(
    "number", [5, 8, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2, 3, 4, 7, 9, 10, 11, 12))]
)
def test_documented_command(number, server, tiny_epsilon, tmp_path):
    """Only sizes are made small: the resolution, the steps of training and of denoising, the number of class pictures. Numbers 9
    to 12 are of DeepFloyd IF, stage I and stage II."""
    if number == 8:
        pytest.importorskip("wandb")
    base = tiny_epsilon if number < 9 else tiny_deepfloyd_if(tmp_path / "model", stage=2 - number % 2)
    status, output = server.run(*small(number, base, tmp_path))
    assert status == 0, output
    results = {1: "learned_embeds.safetensors"} | dict.fromkeys((8, 9, 10), "pytorch_lora_weights.safetensors")
    assert (tmp_path / "out" / results.get(number, "model_index.json")).is_file()
    assert len((tmp_path / "out/log.jsonl").read_text().splitlines()) == 2
    assert len(list((tmp_path / "class").glob("*.png"))) == (2 if 3 <= number <= 7 else 0)


def test_the_fp16_command_is_refused_without_a_gpu(server, tiny_epsilon, tmp_path, monkeypatch):
    """Number 6 asks for fp16 by `accelerate launch --mixed_precision="fp16"`, which comes as this variable."""
    command, arguments = small(6, tiny_epsilon, tmp_path)
    status, output = server.run(command, [*arguments, "--mixed_precision", "fp16"])
    assert status == 2 and "fp16 needs a GPU" in output and "--mixed_precision bf16" in output and "Traceback" not in output
    assert not (tmp_path / "out").exists()


def small(number, base, folder):
    command, line = COMMANDS[number]
    for large, little in SMALL.items():
        line = re.sub(large, little, line)
    places = {
        "MODEL_NAME": base,
        "DATA_DIR": write_images(folder / "pictures"),
        "OUTPUT_DIR": folder / "out",
        "CLASS_DIR": folder / "class",
    }
    for name, place in places.items():
        line = line.replace(f"${name}", str(place))
    return command, [*shlex.split(line), "--sample_inference_steps", "1", "--evaluation", "none"]
