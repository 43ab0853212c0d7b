"""Every key of a training run: name, type, default, range and meaning. `compose.py` turns YAML and overrides into these.

No value here means "guess": what is derived (accumulation steps, data-parallel degree, head size) is returned by a named
function of core, never written back.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .cluster_schema import ClusterConfig
from .fields import items, number, text
from .health_schema import HealthConfig
from .objective_schema import ObjectiveConfig


class Precision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Recompute(StrEnum):
    none = "none"
    selective = "selective"
    full = "full"


class Offload(StrEnum):
    none = "none"
    optimizer = "optimizer"
    optimizer_and_parameters = "optimizer_and_parameters"


class PipelineSchedule(StrEnum):
    gpipe = "gpipe"
    one_f_one_b = "1f1b"
    interleaved_1f1b = "interleaved_1f1b"
    interleaved_zero_bubble = "interleaved_zero_bubble"
    zbv = "zbv"
    dualpipev = "dualpipev"


class ContextAttention(StrEnum):
    ring = "ring"
    ulysses = "ulysses"


class RouterScore(StrEnum):
    softmax = "softmax"
    sigmoid = "sigmoid"


class RouterBalance(StrEnum):
    none = "none"
    loss = "loss"
    bias = "bias"


class Positions(StrEnum):
    learned = "learned"
    rope = "rope"


class Normalization(StrEnum):
    layernorm = "layernorm"
    rmsnorm = "rmsnorm"


class Activation(StrEnum):
    gelu = "gelu"
    gelu_tanh = "gelu_tanh"
    swiglu = "swiglu"


class RopeScaling(StrEnum):
    none = "none"
    linear = "linear"
    llama3 = "llama3"


class OptimizerName(StrEnum):
    adamw = "adamw"
    sgd = "sgd"
    lion = "lion"
    muon = "muon"


class ScheduleName(StrEnum):
    constant = "constant"
    cosine = "cosine"
    linear = "linear"
    wsd = "wsd"
    inverse_sqrt = "inverse_sqrt"


class Resume(StrEnum):
    auto = "auto"
    must = "must"
    never = "never"


class WandbMode(StrEnum):
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass(kw_only=True)
class RunConfig:
    name: str = text(help="name of the run; a run of the same name resumes by itself")
    directory: str = text("runs/${run.name}", help="folder of the run")
    hang_timeout: float = number(120.0, above=0, help="seconds without progress, for each phase, after which a rank counts as frozen")
    stop_grace: float = number(30.0, above=0, help="seconds to save after a signal that asks to stop; then the ranks are killed")
    restarts: int = number(0, least=0, most=1000, help="restarts after a crash")


@dataclass(kw_only=True)
class TrainConfig:
    steps: int = number(least=1, help="optimizer steps of the whole run; the schedule runs to here")
    stop_at: int = number(0, least=0, help="save and stop at this step; 0: at train.steps")
    seed: int = number(0, least=0, most=2**63 - 1, help="seed of weights, dropout and data order")
    precision: Precision = text(Precision.fp32, help="precision of matrix products")
    reduce_precision: Precision = text(Precision.fp32, help="precision in which gradients are reduced over the data axis")
    deterministic: bool = text(False, help="only deterministic kernels (a GPU needs it for bit-identical resume)")
    gradient_clipping: float = number(1.0, least=0, help="largest global gradient norm; 0: no clipping")
    recompute: Recompute = text(Recompute.none, help="activations to recompute in the backward pass")
    compile: bool = text(False, help="torch.compile each block")
    initialize_from: str = text("", help="checkpoint folder or run folder to take only the weights from")


@dataclass(kw_only=True)
class RampUpConfig:
    """The global batch grows from `start` by `increment` to `batch.global_size`, each size for an equal share of `samples`."""

    start: int = number(0, least=0, help="samples of the first steps; 0: no ramp-up")
    increment: int = number(0, least=0, help="samples by which the batch grows")
    samples: int = number(0, least=0, help="samples of the whole ramp-up; afterwards steps have batch.global_size")


@dataclass(kw_only=True)
class BatchConfig:
    global_size: int = number(least=1, help="samples of one optimizer step over all ranks")
    micro_size: int = number(least=1, help="samples of one forward pass on one rank")
    ramp_up: RampUpConfig = field(default_factory=RampUpConfig)


@dataclass(kw_only=True)
class ModelConfig:
    """Sizes and switches of one decoder-only transformer; the families are tables of these values (conf/model/)."""

    vocab_size: int = number(least=2, help="rows of the token embedding")
    sequence_length: int = number(least=2, help="tokens of one sample, and the longest context")
    num_layers: int = number(least=1, help="transformer blocks")
    hidden_size: int = number(least=4, help="width of the residual stream")
    ffn_hidden_size: int = number(least=1, help="width inside the MLP")
    num_heads: int = number(least=1, help="query heads")
    num_kv_heads: int = number(least=1, help="key and value heads (grouped-query attention when fewer than num_heads)")
    positions: Positions = text(Positions.learned, help="learned position embedding, or rotary (RoPE)")
    rope_theta: float = number(10000.0, above=0, help="base of the rotary frequencies")
    rope_scaling: RopeScaling = text(RopeScaling.none, help="how rotary frequencies are stretched for longer contexts")
    rope_scaling_factor: float = number(1.0, least=1, help="stretch factor of linear and llama3 scaling")
    rope_low_frequency_factor: float = number(1.0, above=0, help="llama3 scaling")
    rope_high_frequency_factor: float = number(4.0, above=0, help="llama3 scaling")
    rope_original_sequence_length: int = number(8192, least=1, help="llama3 scaling: context length before stretching, in tokens")
    normalization: Normalization = text(Normalization.layernorm, help="kind of norm before each part and at the end")
    norm_epsilon: float = number(1e-5, above=0, most=1, help="added to the variance")
    activation: Activation = text(Activation.gelu_tanh, help="of the MLP")
    bias: bool = text(True, help="biases in the linear layers (LayerNorm always has its own)")
    tie_embeddings: bool = text(True, help="the head shares the token embedding")
    dropout: float = number(0.0, least=0, below=1, help="on embedding and residual outputs")
    attention_dropout: float = number(0.0, least=0, below=1, help="on attention weights; above 0 selects an explicit attention")
    num_experts: int = number(0, least=0, help="experts of a mixture-of-experts block; 0: every block has one dense MLP")
    experts_per_token: int = number(2, least=1, help="experts that each token is sent to (top-k), at most num_experts")
    num_shared_experts: int = number(0, least=0, help="experts beside these that every token passes: one MLP of so many times their width")
    expert_ffn_hidden_size: int = number(0, least=0, help="width inside one expert; 0: ffn_hidden_size")
    dense_layers: int = number(0, least=0, help="first blocks that keep a dense MLP in a model with experts")
    expert_interval: int = number(1, least=1, help="after those, the last of every so many blocks has experts")
    expert_capacity_factor: float = number(0.0, least=0, help="while training, an expert takes at most factor x sequence x k / experts "
                                           "tokens of each sequence, rounded up; 0: all (dropless)")
    router_score: RouterScore = text(RouterScore.softmax, help="from router logits to scores")
    router_normalize: bool = text(True, help="the scores of a token's chosen experts are scaled to add up to 1")
    router_balance: RouterBalance = text(RouterBalance.loss, help="how load is balanced: a loss for each sequence, a bias that follows "
                                         "the load of the global batch (no loss), or none")
    router_balance_coefficient: float = number(0.01, least=0, help="weight of the balance loss (1 where the load is even), for each block")
    router_bias_rate: float = number(0.001, least=0, help="step of the balance bias, in units of scores")
    router_z_coefficient: float = number(0.0, least=0, help="weight of the z-loss, which keeps router logits small, for each block")
    initializer_std: float = number(0.02, above=0, help="standard deviation of initial weights; residual outputs: / sqrt(2 num_layers)")


@dataclass(kw_only=True)
class LayoutConfig:
    """How a model lies on the ranks; what training needs beside it is in `ParallelConfig`."""

    tp: int = number(1, least=1, help="degree of tensor parallelism")
    pp: int = number(1, least=1, help="degree of pipeline parallelism")
    cp: int = number(1, least=1, help="degree of context parallelism")
    ep: int = number(1, least=1, help="degree of expert parallelism")
    context_attention: ContextAttention = text(ContextAttention.ring, help="how attention sees the parts of a sequence")
    schedule: PipelineSchedule = text(PipelineSchedule.one_f_one_b, help="pipeline schedule")
    virtual_stages: int = number(1, least=1, help="stages that a pipeline rank holds: above 1 for the interleaved schedules, 2 for zbv "
                                 "and dualpipev")
    stage_layers: list[int] = items(help="blocks of each stage, first to last; empty: balanced by cost")


@dataclass(kw_only=True)
class ParallelConfig(LayoutConfig):
    zero: int = number(1, least=0, most=3, help="ZeRO stage of the data axis")
    offload: Offload = text(Offload.none, help="what lives in host memory")
    sequence_parallel: bool = text(True, help="norms and dropout on sequence shards of the tensor axis; without effect at tp=1")
    deepspeed: dict[str, Any] = items({}, help="raw DeepSpeed settings laid over ours; refused where they contradict the config")


@dataclass(kw_only=True)
class DataConfig:
    train: Any = text(help="a corpus folder, a Megatron prefix, or a list of {path, weight}, or of {path, epochs}")
    stages: list[Any] = items(help="what changes at a step: a list of {from_step, train, sequence_length}, each source going on where it "
                              "stood; train as data.train, sequence_length cuts samples into shorter pieces; left out: as before")
    validation: str = text("held_out", help="a corpus folder or prefix; held_out: the first training corpus' own part; none")
    document_mask: bool = text(True, help="attention stays inside a document, and positions restart with it")
    workers: int = number(1, least=0, most=64, help="threads that read ahead")
    audit: bool = text(False, help="write samples.jsonl: which documents each step saw")
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)


@dataclass(kw_only=True)
class OptimizerConfig:
    name: OptimizerName = text(help="which optimizer")
    learning_rate: float = number(above=0, help="peak learning rate")
    weight_decay: float = number(0.0, least=0, help="decoupled decay of matrices; norms and biases have none")
    betas: list[float] = items([0.9, 0.95], help="decay rates of the moments")
    epsilon: float = number(1e-8, above=0, help="added to the root of the second moment")
    momentum: float = number(0.0, least=0, below=1, help="of sgd and muon")
    auxiliary_learning_rate: float = number(3e-4, above=0, help="muon: peak of the AdamW that trains embeddings, head, norms and biases")


@dataclass(kw_only=True)
class ScheduleConfig:
    name: ScheduleName = text(help="course of the learning rate after warm-up")
    warmup_steps: int = number(0, least=0, help="steps of linear warm-up from 0")
    floor: float = number(0.0, least=0, most=1, help="least learning rate, as a part of the peak")
    decay_steps: int = number(0, least=0, help="wsd: steps of the final decay")


@dataclass(kw_only=True)
class CheckpointConfig:
    interval: int = number(0, least=0, help="steps between checkpoints; 0: only at the end")
    keep: int = number(2, least=1, help="how many of the newest checkpoints stay")
    resume: Resume = text(Resume.auto, help="auto: from the newest whole checkpoint, if any; must: or fail; never: refuse a used folder")
    allow_change: list[str] = items(help="keys that may differ from the checkpoint's")
    asynchronous: bool = text(False, help="write in another process while training goes on")


@dataclass(kw_only=True)
class EvaluationConfig:
    interval: int = number(0, least=0, help="steps between validations; 0: only at the end")
    samples: int = number(0, least=0, help="validation samples each time; 0: all")


@dataclass(kw_only=True)
class TrackingConfig:
    wandb: WandbMode = text(WandbMode.offline, help="Weights & Biases")
    project: str = text("hexareme", help="W&B project")
    entity: str = text("", help="W&B team or user; empty: the account's default")
    tensorboard: bool = text(False, help="write TensorBoard files")
    console_interval: int = number(10, least=1, help="steps between console lines where the output is not a terminal")


@dataclass(kw_only=True)
class Config:
    """A training run."""

    run: RunConfig
    train: TrainConfig
    batch: BatchConfig
    model: ModelConfig
    parallel: ParallelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    checkpoint: CheckpointConfig
    evaluation: EvaluationConfig
    health: HealthConfig
    tracking: TrackingConfig
    cluster: ClusterConfig
