"""What runs by default of tests that take long: the rest runs with the marker `slow`.

The default run has one test of each kind of promise, and takes less than six minutes on two slow cores. `conftest.py` reads these
tables; `test_expensive.py` knows their names.
"""

from collections.abc import Sequence
from typing import TypeVar

Case = TypeVar("Case")

SLOW = {
    "adapter_rules": "a_whole_run",
    "autoencoder": "images_are_encoded_by_another_autoencoder",
    "concepts": "another_concept_is_another_run",
    "convert": "there_and_back_every_bit_is_the_same",
    "course": "equivalent_settings_resume_to_the_same_bits",
    "deepfloyd_if_training": "stage_ii_learns_a_lora_and_its_sample_images_enlarge_images"
        " the_text_encoder_is_left_out_of_a_fully_trained_model",
    "demo_training": "a_trained_model_can_be_trained_further both_stages_stopped_and_resumed_give_the_same_bits",
    "disk_full": "each_place_under_a_limit_of_file_sizes",
    "evaluating": "losses_cost_at_most_two_percent measuring_changes_no_bit_and_is_resumed_to_the_same_record"
        " out_of_memory_ends_the_evaluation_and_not_the_run"
        " the_last_candidate_is_measured_after_an_error"
        " pictures_that_cannot_differ_from_the_base_models_are_not_drawn_again",
    "events": "only_the_command_line_prints",
    "folders": "accepted_images_can_be_trained_on one_image_and_two_equal_ones_train_with_a_note"
        " ignored_files_change_no_bit_of_the_result a_run_whose_images_vanish_after_the_check_names_one",
    "foreign_models": "an_adapter_that_fits_not_at_all_partly_or_completely",
    "guard": "killed_after_a_retry_and_resumed the_loss_scaler_may_skip_steps_but_not_for_ever"
        " two_optimizers_together_are_restored retries_are_limited",
    "hostile_files": "mutated_files_are_refused_or_valid pickles_among_images_and_captions"
        " pickles_in_all_files_that_training_reads_again pickles_and_archives_in_a_data_set",
    "inference": "numbering_continues_and_files_of_the_user_are_kept",
    "init_weights": "a_file_of_another_program",
    "inpainting_training": "a_resumed_run_is_equal_to_the_bit",
    "latents_cache": "bits_are_equal_with_and_without class_images_killed_while_they_are_generated"
        " killed_while_an_entry_is_written a_forged_entry_with_a_valid_hash_is_not_trusted"
        " a_damaged_entry_is_replaced_and_reported",
    "lesson_pages": "a_command_that_fails_ends_the_notebook",
    "memory": "generating_in_bf16_loads_the_base_in_bf16",
    "merge": "a_merged_lora_has_the_chosen_names a_merged_lora_in_kohyas_layout_is_read_by_stock_and_by_us"
        " existing_files_are_replaced_only_on_request doras_are_merged_as_they_are_used_together"
        " the_loading_options_of_the_base_are_stored"
        " a_merged_model_generates_what_stock_generates_with_the_parts",
    "metadata": "a_merged_lora_names_its_base_or_nothing the_hash_of_a_base_model_in_one_file"
        " every_entry_is_documented_and_every_documented_one_is_written",
    "model_file": "a_merged_model_is_one_file a_resumed_run_keeps_the_form_of_its_result"
        " convert_there_and_back_is_bit_equal a_run_ends_in_one_file_that_is_a_base_model",
    "mutated_files": "a_folder_of_mutated_images_is_checked",
    "new_family": "a_run_begins_with_its_lora",
    "objective": "a_killed_run_resumes_to_the_same_bits accumulation_is_a_large_batch",
    "observers": "the_files_are_recorded_as_ours observers_change_no_pixel_and_write_what_they_recorded",
    "optimizer_steps": "the_table_of_optimizers_is_as_counted",
    "optimizers": "text_encoders_have_one_rate_or_one_each",
    "plan": "a_checkpoint_of_other_tensors_is_refused_as_the_run_would a_dry_run_of_a_resumed_run"
        " files_are_as_large_as_planned trained_parameters_and_epochs_are_reported"
        " out_of_memory_in_the_trial_is_reported_with_remedies",
    "privacy": "the_result_goes_to_the_hub_and_nothing_private",
    "prompt_embeddings": "a_lora_is_trained_to_the_same_bits",
    "public_surface": "runs_of_one_process_may_differ_in_precision the_lines_of_the_documentation_run"
        " images_equal_those_of_the_command_and_have_its_metadata"
        " a_callback_of_the_caller_may_stop_the_run",
    "quiet": "loading_and_generating_print_nothing_but_real_warnings",
    "reliability": "a_disk_that_fills_up_costs_nothing_but_time a_file_limit_is_met_at_any_file signals_in_a_save"
        " killed_in_the_final_save_over_an_earlier_result stopped_after_each_step"
        " stopped_for_a_while_and_continued images_and_base_model_may_be_moved modes_follow_the_umask",
    "resize": "a_lora_of_sdxl_makes_the_base_into_the_tuned_model",
    "resume": "a_killed_run_on_sdxl_resumes_to_the_same_bits accumulation_equals_a_larger_batch"
        " another_run_is_not_the_same_run class_images_of_another_prompt_are_not_reused"
        " eight_bit_adam_resumes_to_the_same_bits inputs_of_a_run_are_not_removed_with_an_earlier_one"
        " samples_and_intermediate_weights_have_their_own_folders nan_leaves_the_last_good_state"
        " a_finished_run_resumed_changes_nothing",
    "save_precision": "no_layout_of_an_earlier_result_is_left_beside_a_new_one",
    "scales": "a_schedule_that_is_constant_is_the_scale_bit_for_bit"
        " a_sweep_of_scales_loads_once_and_equals_single_calls"
        " scale_schedules_equal_stock_with_scales_set_by_hand",
    "score": "a_run_is_measured_as_it_measured_itself scales_and_what_is_there_already a_file_with_photos",
    "stable_diffusion_xl": "a_model_with_words_merged_into_it_gives_the_same_image_in_stock"
        " the_adapter_and_the_word_of_a_run_also_work_alone",
    "stable_diffusion_xl_file": "an_autoencoder_in_one_file_has_the_scale_of_sdxl commands_take_a_file"
        " a_lora_learns_the_same_from_file_and_folder the_schedule_of_a_marked_model_ends_in_noise",
    "stop": "a_callback_brings_a_part_of_the_state further_callbacks_see_a_run_and_change_no_bit"
        " samples_and_card_are_those_of_the_chosen_weights"
        " a_part_of_a_callback_is_resumed_to_the_same_bits",
    "summary": "a_run_in_full_prints_no_bar_into_a_log",
    "sweep": "each_image_of_a_chain_starts_from_the_one_before",
    "tags": "a_killed_run_draws_the_same_tags_when_resumed micro_batches_draw_the_same_captions"
        " without_drawn_tags_the_steps_are_those_of_before",
    "trials_resume": "optional_files_never_stop_a_run",
    "two_encoders": "the_loaded_file_samples_what_memory_does_to_the_bit",
    "weights": "stock_reads_the_kohya_file_by_its_own_converter"
        " names_of_the_text_encoder_are_those_that_all_versions_read",
}  # fmt: skip
"""Tests whose promise a cheaper one checks for another case, or in smaller parts."""

CASES = {
    1: {
        "accumulation": "four_by_one_two_by_two_and_one_by_four_are_the_same"
            " dropout_masks_do_not_depend_on_micro_batches",
        "adapter_terms": "terms_fit_and_change_the_module_or_do_not_fit",
        "adapter_types": "the_file_gives_the_image_of_the_run",
        "checkpoints_as_weights": "a_checkpoint_predicts_what_the_run_did",
        "cli": "scripts_are_thin_and_do_not_import_torch",
        "compositions": "the_command_combines_all_prompts_in_one_image",
        "convert": "a_dora_comes_back_too",
        "crash": "killed_at_each_system_call refused_at_each_system_call power_cut_at_each_moment",
        "folders": "no_name_in_a_table_leads_out_of_the_folder",
        "forged_checkpoints": "a_file_of_another_kind",
        "guard": "the_run_stops_at_that_step_with_the_state_before_it"
            " retry_skips_the_draw_and_halves_the_rate with_a_loss_scaler_a_draw_can_be_skipped_too",
        "hires": "a_second_pass_is_image_to_image_of_the_enlarged_image",
        "inference": "an_adapter_as_stock_loaders_read_it a_partly_fitting_adapter_lists_what_is_left_out"
            " a_stopped_job_keeps_its_images_and_can_be_completed",
        "init_weights": "a_run_begins_with_the_given_weights",
        "inpainting_training": "results_are_drawn_by_stock_and_by_ours_alike class_images_and_a_teacher",
        "masked_loss": "a_killed_run_with_masks_resumes_to_the_same_bits",
        "memory": "no_wider_copy_of_a_frozen_weight_is_made"
            " what_the_steps_do_not_need_leaves_memory_before_them",
        "metadata": "files_without_metadata_still_load",
        "mutated_files": "mutated_weights_are_refused_or_loaded_with_finite_numbers",
        "nothing_is_lost": "files_that_look_like_ours_stay",
        "reliability": "a_learning_rate_far_too_high",
        "reproduce": "an_image_of_random_settings_is_reproduced_bit_for_bit",
        "resume": "any_optimizer_and_average_resume_to_the_same_bits"
            " a_signal_finishes_the_step_saves_and_prints_how_to_resume"
            " the_state_is_saved_if_memory_or_disk_run_out",
        "stable_diffusion_xl": "results_give_the_same_image_in_memory_loaded_and_in_stock",
        "stable_diffusion_xl_gradients": "gradients_are_those_of_the_formulas",
        "stop": "a_run_that_is_stopped_has_a_result"
            " a_checkpoint_with_other_parts_is_refused",
        "summary": "first_and_last_lines_of_a_run",
        "weights": "stock_loads_our_lora others_load_our_lora_under_kohyas_names stock_loads_our_embeddings",
        "zero_snr": "a_base_whose_files_do_not_say_so_is_trained_to_zero_snr",
    },
    2: {
        "accumulation": "every_image_has_the_same_weight",
        "autoencoder": "seeds_of_64_bits_increment_and_are_read_back",
        "clip_skip": "the_text_is_that_of_an_earlier_layer",
        "config": "toml_there_and_back",
        "dataset": "the_gradient_of_a_step_of_several_shapes",
        "embedding_readers": "every_program_reads_the_learned_vectors",
        "foreign_models": "a_tensor_missing_too_many_or_of_another_shape"
            " a_configuration_that_does_not_fit_its_network"
            " the_tensors_decide_which_modules_are_adapted",
        "guard": "weights_that_are_too_large_to_copy a_fault_after_the_step_again_and_again",
        "init_weights": "a_higher_rank_and_another_alpha_predict_the_same",
        "inpainting_training": "the_first_loss_equals_a_formula",
        "layouts": "stock_sdxl_computes_what_each_layout_says",
        "long_captions": "the_loss_is_that_of_chunks_cut_by_hand",
        "metadata": "other_programs_read_a_lora",
        "model_file": "folder_to_file_to_folder_is_bit_equal stock_diffusers_reads_the_file_and_draws_the_same"
            " the_names_and_shapes_are_those_of_the_published_files",
        "objective": "the_loss_with_one_option_of_each_kind_by_hand",
        "optimizers": "lora_plus_has_the_groups_of_peft",
        "pixel_illusions": "an_anagram_is_the_formula a_factorised_illusion_is_the_formula",
        "precision": "bf16_trains_and_rounds_nothing_that_learns",
        "read_png": "damaged_files_never_break_it",
        "readback": "no_second_base_is_loaded_and_the_trained_one_is_left_as_it_was"
            " tensors_in_each_others_place_are_found_by_the_prediction"
            " a_model_trained_on_an_earlier_layer_or_on_texts_of_several_chunks_is_verified"
            " rounded_results_are_compared_as_rounded",
        "reliability": "names_of_output_folders",
        "resize": "a_single_file_has_the_parameters_of_the_folder",
        "save_precision": "a_result_is_what_was_learned_rounded_once",
    },
    3: {
        "adapter_targets": "an_adapter_trains_so_many_numbers_of_stable_diffusion_1_5",
        "bad_input": "refused",
        "batches": "min_snr_with_prior_preservation_by_hand",
        "lessons": "every_lesson_from_the_command",
        "lora_formats": "each_layer_counts_by_its_own_alpha_and_rank other_forms_are_computed",
        "masks": "latents_equal_those_of_a_mask_made_by_hand",
        "methods": "only_trained_parameters_change",
        "optimizer_steps": "a_state_with_any_other_entry_is_refused",
        "peft_folders": "a_folder_of_peft_computes_what_peft_computes",
        "resize": "other_kinds_become_loras changes_that_depend_on_the_base_are_refused",
        "trials_options": "command_lines",
    },
}  # fmt: skip
"""How many cases of a test run by default: the first ones that are not marked slow anyway."""

THINNED = {
    2: "accumulation attention compositions demo_training guard heif images latents_cache memory merge plan"
       " inpainting_training pixel_illusions save_precision scales strangers summary sweep read_png",
    3: "bad_input demo_judge doctor foreign_models illusions init_weights lcm lora_formats masks readback sampler single_file"
       " stable_diffusion_xl stable_diffusion_xl_file trials_outputs trials_strangers trials_weights verify views weights",
    4: "checkpoints_as_weights course crash forged_checkpoints hostile_files inpainting reliability trials_first_hour"
       " trials_resume",
    6: "reproduce samplers trials_options",
}  # fmt: skip
"""Files in which only every second, third or fourth case (and the last) of a test with at least `FAMILY` parameters runs by
default."""
FAMILY = 5


def left_out(name: str, cases: Sequence[Case]) -> list[Case]:
    """The cases of a test that do not run by default. name: "file::test", without prefixes."""
    file, _, test = name.partition("::")
    if test in SLOW.get(file, "").split():
        return list(cases)
    for most, tests in CASES.items():
        if test in tests.get(file, "").split():
            return list(cases[most:])
    [step] = [step for step, files in THINNED.items() if file in files.split()] or [1]
    return [case for place, case in enumerate(cases) if place % step and case is not cases[-1]] if len(cases) >= FAMILY else []
