"""Which tests run on the stand-in for a GPU too. All do, except for those named here, each with its reason."""

from pathlib import Path

import numpy as np

from tinygrad_cnn.backend import current_device

TESTS = Path(__file__).resolve().parent

# Module, or "module::test" -> why a run on another device would show nothing or cannot be.
_NUMPY = "it is about arrays of NumPy, or memory shared with them"
_TEXT = "it compares a text in which a device other than the CPU is named"
_ITSELF = "it names its devices itself"
_CAPTURED = "it counts replays of steps that are captured on the CPU"
_LABELS = "the function holds labels of its own, which cannot be on both devices that are compared"
_LOOKS = "values on a GPU are not looked at: what is wrong becomes NaN there, as test_device_standin says"
_PROCESS = "the command runs in a process of its own, on the CPU"
_NO_ARRAYS = "no tensor is made in it"
CPU_ALONE: dict[str, str] = {
    "test_amp": _ITSELF,
    "test_amp_halves": _ITSELF,
    "test_architecture": _NO_ARRAYS,
    "test_autodiff_operators": "the shorter way of operators is for arrays of NumPy",
    "test_bench_gpu": _ITSELF,
    "test_bench_report": "it measures beside PyTorch on the CPU; what is measured on a GPU is in test_gpu",
    "test_compile_device": _ITSELF,
    "test_compile_review": _CAPTURED,
    "test_compile_step": _CAPTURED,
    "test_convolution_engines": _ITSELF,
    "test_cuda_graph": _ITSELF,
    "test_cuda_kernels": "its kernels are compiled for the CPU and take NumPy arrays",
    "test_data_files": _NO_ARRAYS,
    "test_data_transforms": "transforms change NumPy arrays before they go to a device",
    "test_device_standin": _ITSELF,
    "test_gpu": _ITSELF,
    "test_docs": _TEXT,
    "test_examples": _PROCESS,
    "test_exercises_format": _NO_ARRAYS,
    "test_exercises_grading": "exercises are written with NumPy",
    "test_exercises_sheets": "exercises are written with NumPy",
    "test_exercises_student": "exercises are written with NumPy",
    "test_gradcheck_command": "functions in a file are checked with NumPy arrays",
    "test_gradcheck_devices": _ITSELF,
    "test_gradcheck_pairs": "pairs of functions are checked with NumPy arrays",
    "test_gradcheck_selftest": "pairs of functions are checked with NumPy arrays",
    "test_kernels_channels": "kernels of the CPU",
    "test_kernels_processes": "kernels of the CPU",
    "test_kernels_strides": "kernels of the CPU",
    "test_kernels_threads": "kernels of the CPU",
    "test_kernels_twins": "kernels of the CPU",
    "test_program_kernels": "its kernels are compiled for the CPU and take NumPy arrays",
    "test_train_kill": _PROCESS,
    "test_viz_at_work": "its networks are shared by all tests; test_device_standin draws those of a device",
    "test_viz_display": _TEXT,
    "test_viz_draw": _TEXT,
    "test_viz_draw_browser": _TEXT,
    "test_viz_ir": _TEXT,
    "test_viz_page_browser": _TEXT,
    "test_viz_page_file": _TEXT,
    "test_cli_train::test_an_interruption_ends_after_the_step_and_the_run_resumes_to_the_same_weights": _PROCESS,
    "test_cli_commands::test_help_starts_without_what_only_commands_need": _PROCESS,
    "test_cli_commands::test_the_module_runs_as_the_command_and_a_closed_pipe_is_no_error": _PROCESS,
    "test_autodiff_backward::test_gradients_returned_by_grad_can_be_written_to": _NUMPY,
    "test_autodiff_backward::test_the_gradient_a_hook_of_a_scalar_sees_is_a_proper_tensor": _TEXT,
    "test_autodiff_inplace::test_a_raw_write_to_a_result_that_a_rule_reads_is_an_error": _NUMPY,
    "test_autodiff_inplace::test_a_raw_write_to_an_input_after_its_use_is_an_error": _NUMPY,
    "test_autodiff_inplace::test_a_write_to_a_view_tensor_is_seen_by_who_read_the_whole": _NUMPY,
    "test_autodiff_inplace::test_a_write_to_an_array_given_to_an_op_is_an_error": _NUMPY,
    "test_autodiff_inplace::test_a_write_to_labels_after_their_use_is_an_error": _NUMPY,
    "test_autodiff_inplace::test_a_write_to_the_whole_is_seen_by_who_read_a_view": _NUMPY,
    "test_autodiff_inplace::test_every_kind_of_view_is_known_to_be_one": _NUMPY,
    "test_autodiff_inplace::test_memory_handed_out_before_the_use_is_watched_as_well": _NUMPY,
    "test_autodiff_inplace::test_memory_shared_by_dlpack_is_watched": _NUMPY,
    "test_autodiff_inplace::test_the_second_derivative_notices_a_write_too": _NUMPY,
    "test_autodiff_inplace::test_watching_ends_with_the_memory": _NUMPY,
    "test_tensor_methods::test_arrays_and_numpy_numbers_on_the_left_give_recorded_tensors": _NUMPY,
    "test_tensor_methods::test_asarray_shares_memory_and_copies_on_request": _NUMPY,
    "test_tensor_methods::test_dlpack_of_a_tensor_that_requires_a_gradient_needs_detach": _NUMPY,
    "test_tensor_methods::test_dlpack_shares_memory_with_numpy": _NUMPY,
    "test_tensor_methods::test_dlpack_shares_memory_with_torch_both_ways": _NUMPY,
    "test_tensor_methods::test_numpys_functions_on_shapes_are_recorded": _NUMPY,
    "test_tensor_methods::test_repr_shows_values_type_and_origin": _TEXT,
    "test_gradcheck_tensors::test_a_network_is_sampled_in_every_parameter": _LABELS,
    "test_nn_modules::test_labels_that_are_no_classes_are_refused": _LOOKS,
    "test_ops_table::test_what_is_no_number_is_refused_with_its_type": _NUMPY,
    "test_train_fit::test_a_run_of_replayed_steps_resumes_to_the_same_weights_bit_for_bit": _CAPTURED,
    "test_optim_rules::test_examples_in_the_documentation_run": _TEXT,
    "test_models_lenet::test_examples_in_the_documentation_run": _TEXT,
}


def runs_on_the_standin(module, test):
    """Return whether a test of a module, both as names, runs on the stand-in too."""
    return module not in CPU_ALONE and f"{module}::{test}" not in CPU_ALONE


def there(value):
    """Return a value with the NumPy arrays in it on the current device, where they are copies."""
    place = current_device()
    if place.kind == "cpu":
        return value
    if isinstance(value, np.ndarray):
        return place.asarray(value)
    if isinstance(value, (tuple, list)):
        return type(value)(there(v) for v in value)
    if isinstance(value, dict):
        return {k: there(v) for k, v in value.items()}
    return value
