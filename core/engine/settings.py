"""The DeepSpeed settings of a run, each switch that decides what is sent or kept set explicitly. Pure: imports no deepspeed."""

from typing import Any

from ...conf.schema import Offload, ParallelConfig, Precision, TrainConfig


def deepspeed_settings(train: TrainConfig, parallel: ParallelConfig, *, micro_size: int, accumulation_steps: int, dp: int,
                       pin_memory: bool) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize`.

    bf16 is computed by torch.autocast over fp32 parameters (core/loss.py), so to DeepSpeed it is fp32: gradients accumulate in
    fp32 and travel in `train.reduce_precision`. fp16 is DeepSpeed's own, with its dynamic loss scale.

    Args:
        train, parallel: the sections of the config.
        micro_size: samples of one forward pass.
        accumulation_steps: forward passes of one step on one rank.
        dp: degree of the data axis.
        pin_memory: whether host copies lie in pinned memory (only where there is a GPU).
    """
    settings: dict[str, Any] = {
        "train_batch_size": micro_size * accumulation_steps * dp,
        "train_micro_batch_size_per_gpu": micro_size,
        "gradient_accumulation_steps": accumulation_steps,
        # Stage 0 clips in our engine: DeepSpeed would clip there too, but throw the norm away.
        "gradient_clipping": train.gradient_clipping if parallel.zero > 0 else 0.0,
        "communication_data_type": train.reduce_precision.value,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "zero_optimization": _zero(parallel, pin_memory=pin_memory),
    }
    if train.precision is Precision.fp16:
        settings["fp16"] = {"enabled": True, "loss_scale": 0, "initial_scale_power": 16, "loss_scale_window": 1000, "hysteresis": 2}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return _laid_over(settings, parallel.deepspeed)


def _zero(parallel: ParallelConfig, *, pin_memory: bool) -> dict[str, Any]:
    """ZeRO's own part: the least traffic.

    Stage 3 keeps norms and biases whole (up to 100,000 elements), and weights from their use in the forward pass until the backward pass
    is over, as long as no more than 10^9 elements lie whole: so each is gathered once a micro-batch, not twice. Where that is too much
    memory, parallel.deepspeed lowers it: `stage3_max_live_parameters` and `stage3_max_reuse_distance` at 0 free every weight at once.
    """
    zero: dict[str, Any] = {
        "stage": parallel.zero,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "use_multi_rank_bucket_allreduce": False,  # 2P(n-1)/n sent instead of 3 (measured: shared/BASE.md)
        "overlap_comm": pin_memory and parallel.zero >= 2,  # needs streams, which only a GPU has
        "reduce_bucket_size": 50_000_000,
        "allgather_bucket_size": 50_000_000,
        "stage3_prefetch_bucket_size": 50_000_000,
        "stage3_param_persistence_threshold": 100_000,
        "stage3_max_live_parameters": 1_000_000_000,
        "stage3_max_reuse_distance": 1_000_000_000,
    }
    if parallel.offload is not Offload.none:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pin_memory}
    if parallel.offload is Offload.optimizer_and_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": pin_memory}
    return zero


def _laid_over(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """`base` with the nested keys of `extra` in place of its own."""
    merged = dict(base)
    for key, value in extra.items():
        merged[key] = _laid_over(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged
