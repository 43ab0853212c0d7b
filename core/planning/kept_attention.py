"""Bytes that one block's attention keeps for its backward pass, from its queries, keys and values on. Pure: imports no torch.

Each line is a tensor that core/model/attend.py makes and autograd saves, once for each piece of memory; letters as in `Shapes`.
"""

from .shapes import FP32, Shapes


def attention_core(sizes: Shapes) -> int:
    """Without recomputation: queries, keys, values, weights or log-sum-exp, mask, and what goes into the output's product."""
    if sizes.explicit:
        return _explicit(sizes)
    e, lse = sizes.product, sizes.B * sizes.S * sizes.N * FP32
    turned = sizes.rope and sizes.N > 1  # heads lie before tokens then, and the output's product needs a copy the other way round
    if sizes.rings:  # its result has the strides of its queries
        return e * (_projected(sizes) + sizes.q * (2 if turned else 1)) + lse
    if sizes.exchanges:
        held, copied = sizes.exchanged, True
        if sizes.masked and sizes.repeats_kv:
            held += 2 * sizes.q
    else:
        held, copied = _expanded(sizes) if sizes.masked and sizes.repeats_kv else _projected(sizes), turned and sizes.on_cpu
    return e * (held + sizes.q * (2 if copied else 1)) + lse + _additive_mask(sizes)


def selected(sizes: Shapes) -> int:
    """What selective recomputation keeps between the two products: results of fused attention and of collectives."""
    found = 0
    if not sizes.explicit and not sizes.rings:
        found += sizes.q * sizes.product + sizes.T * sizes.N * FP32
    if sizes.exchanges:
        found += (sizes.exchanged + sizes.q) * sizes.product
    if sizes.explicit and sizes.rings:
        found += 2 * sizes.B * sizes.W * sizes.G * sizes.D * sizes.product
    return found


def _projected(sizes: Shapes) -> int:
    """Elements of q, k and v: one tensor, of which RoPE makes two more and keeps the whole for the values in it."""
    one = sizes.q + 2 * sizes.kv
    return one + sizes.q + sizes.kv if sizes.rope else one


def _expanded(sizes: Shapes) -> int:
    """The same where keys and values are repeated: then only queries that are a view keep the projection."""
    return 2 * sizes.q + (sizes.q if sizes.rope else sizes.q + 2 * sizes.kv)


def _additive_mask(sizes: Shapes) -> int:
    """torch turns each layer's boolean mask into numbers of the products' precision, and keeps them."""
    return sizes.B * sizes.W * sizes.W * sizes.product if sizes.masked else 0


def _explicit(sizes: Shapes) -> int:
    weights = sizes.T * sizes.N * sizes.W
    keys = sizes.B * sizes.W * sizes.D * (sizes.N if sizes.repeats_kv else sizes.G) if sizes.rings else sizes.q
    unseen = (sizes.B if sizes.masked else 1) * sizes.W * (sizes.S if sizes.rings else sizes.W)
    tensors = 2 * sizes.q + 2 * keys  # queries, keys, values, and the result as the output's product takes it
    return tensors * sizes.product + weights * (FP32 + sizes.product + 1) + unseen  # softmax, dropped weights, which were dropped
