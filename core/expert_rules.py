"""Which blocks have experts, how wide these are, and what must fit for them. Pure; found before any rank starts."""

from collections.abc import Iterator

from ..conf.errors import Problem
from ..conf.schema import Config, ModelConfig, Precision, RouterBalance
from ..parallel.topology import divisors


def has_experts(config: ModelConfig, layer: int) -> bool:
    """Whether block `layer` (from 0, over the whole model) is a mixture of experts.

    After the first `dense_layers` blocks, the last of every `expert_interval` ones is: with 0 and 2 the blocks 1, 3, 5 and so on.
    """
    return config.num_experts > 0 and layer >= config.dense_layers and (layer - config.dense_layers + 1) % config.expert_interval == 0


def expert_layers(config: ModelConfig) -> list[int]:
    """Numbers of the blocks that have experts, ascending."""
    return [layer for layer in range(config.num_layers) if has_experts(config, layer)]


def expert_width(config: ModelConfig) -> int:
    """Width inside one expert."""
    return config.expert_ffn_hidden_size or config.ffn_hidden_size


def shared_width(config: ModelConfig) -> int:
    """Width of the MLP that all tokens pass beside the experts; 0: there is none."""
    return config.num_shared_experts * expert_width(config)


def expert_layout_rules(config: Config) -> Iterator[Problem]:
    """Experts and their width are cut evenly."""
    m, p = config.model, config.parallel
    if not m.num_experts:
        if p.ep > 1:
            yield Problem("parallel.ep", p.ep, "cuts experts over ranks, and model.num_experts=0", "set parallel.ep=1, or give the model "
                          "experts, e.g. model=mixtral_debug")
        return
    if m.num_experts % p.ep:
        yield Problem("parallel.ep", p.ep, f"does not divide model.num_experts={m.num_experts}",
                      f"try parallel.ep in {divisors(m.num_experts)}")
    if expert_width(m) % p.tp:
        key = "expert_ffn_hidden_size" if m.expert_ffn_hidden_size else "ffn_hidden_size"
        yield Problem("parallel.tp", p.tp, f"does not divide the experts' width model.{key}={expert_width(m)}",
                      f"try parallel.tp in {divisors(expert_width(m))}")


def expert_rules(config: Config) -> Iterator[Problem]:
    """What must fit in a model with experts."""
    m = config.model
    if not m.num_experts:
        return
    if m.experts_per_token > m.num_experts:
        yield Problem("model.experts_per_token", m.experts_per_token, f"is more than model.num_experts={m.num_experts}",
                      f"set model.experts_per_token to at most {m.num_experts}")
    if not expert_layers(m):
        yield Problem("model.dense_layers", m.dense_layers, f"and model.expert_interval={m.expert_interval} leave no block with experts "
                      f"among model.num_layers={m.num_layers}", "set model.dense_layers=0 and model.expert_interval=1")
    if m.experts_per_token == 1 and m.router_normalize:
        yield Problem("model.router_normalize", True, "with model.experts_per_token=1 makes every gate 1, so the router would learn "
                      "nothing from the loss", "set model.router_normalize=false")
    if config.train.precision is Precision.fp16:
        yield Problem("train.precision", config.train.precision, "would hold the router in fp16, whose choices need fp32",
                      "set train.precision=bf16 or fp32")
    if m.router_balance is RouterBalance.bias and m.router_bias_rate == 0:
        yield Problem("model.router_bias_rate", 0, "never moves the bias that model.router_balance=bias relies on",
                      "set model.router_bias_rate=0.001, or model.router_balance=none")
