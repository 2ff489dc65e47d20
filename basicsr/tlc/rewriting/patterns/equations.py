"""Products and sums of tensors, however a forward writes them, as equations of torch.einsum."""

from string import ascii_lowercase
from typing import NamedTuple

from torch import fx

from basicsr.tlc.rewriting.patterns.reading import input_of, name_of, product_of
from basicsr.tlc.rewriting.trace import growing_dims, tensor_shapes

NORMS = {"norm", "linalg_norm", "linalg_vector_norm"}


class Equation(NamedTuple):
    """One label in lower case for each dimension of the operands and of the output.

    Attributes:
        keep: dimensions of size one that the node's value has besides.
    """

    operands: tuple[fx.Node, ...]
    inputs: tuple[str, ...]
    out: str
    keep: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        return f"{','.join(self.inputs)}->{self.out}"

    def swapped(self) -> "Equation":
        return self._replace(operands=self.operands[::-1], inputs=self.inputs[::-1])


def product(node: fx.Node) -> Equation | None:
    """Of two tensors: torch.matmul, bmm, einsum, einops.einsum."""
    if name_of(node) == "einsum":
        return _of_einsum(node)
    operands = product_of(node)
    ndims = [_ndim(x) for x in operands or ()]
    if not operands or None in ndims or min(ndims) < 2:
        return None
    batch = ascii_lowercase[: max(ndims) - 2]
    first, second = (batch[len(batch) - ndim + 2 :] for ndim in ndims)
    return Equation(operands, (first + "yz", second + "zx"), batch + "yx")


def _of_einsum(node: fx.Node) -> Equation | None:
    texts = [x for x in node.args if isinstance(x, str)]
    operands = [x for x in node.args if not isinstance(x, str)]
    operands = tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else tuple(operands)
    if len(texts) != 1 or "->" not in texts[0] or len(operands) != 2 or None in map(_ndim, operands):
        return None
    inputs, out = texts[0].split("->")
    of_words = isinstance(node.args[-1], str)  # einops
    terms = [[*x.split()] if of_words else [*x.replace(" ", "").replace("...", "~")] for x in (*inputs.split(","), out)]
    terms = [["~" if label == "..." else label for label in term] for term in terms]
    if len(terms) != 3:
        return None
    letters = {}
    rest = [_ndim(x) - len(term) + 1 for x, term in zip(operands, terms, strict=False) if "~" in term]
    terms = [
        _spelled(term, max(rest, default=0), _ndim(x) if x else None) for x, term in zip((*operands, None), terms, strict=True)
    ]
    for term in terms:
        for label in term:
            letters.setdefault(label, ascii_lowercase[len(letters)])
    if any(len({*term}) < len(term) for term in terms):  # a diagonal
        return None
    first, second, out = ("".join(letters[label] for label in term) for term in terms)
    return Equation(operands, (first, second), out)


def _spelled(term: list[str], most: int, ndim: int | None) -> list[str]:
    """With a label for each dimension that `...` stands for."""
    if "~" not in term:
        return term
    count = most if ndim is None else ndim - len(term) + 1
    at = term.index("~")
    return [*term[:at], *(f"...{i}" for i in range(most - count, most)), *term[at + 1 :]]


def squares(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """x and y of x * y, x ** 2, x.square()."""
    name, args = name_of(node), node.args
    if name == "square":
        return input_of(node), input_of(node)
    if name == "pow" and len(args) == 2 and args[1] == 2:
        return args[0], args[0]
    if name in ("mul", "multiply") and len(args) == 2 and all(isinstance(x, fx.Node) and growing_dims(x) for x in args):
        return args
    return None


def reduction(node: fx.Node, source: fx.Node, operands: tuple[fx.Node, ...], dims: tuple[int, ...]) -> Equation | None:
    """A sum over some dimensions of a tensor that is the product of the operands, or the one operand."""
    shapes, ndim = tensor_shapes(node), _ndim(source)
    if shapes is None or ndim is None or None in map(_ndim, operands):
        return None
    labels = ascii_lowercase[:ndim]
    keep = tuple(sorted(dims)) if len(shapes[0]) == ndim else ()
    out = "".join(label for dim, label in enumerate(labels) if dim not in dims)
    return Equation(operands, tuple(labels[ndim - _ndim(x) :] for x in operands), out, keep)


def _ndim(node: object) -> int | None:
    shapes = tensor_shapes(node) if isinstance(node, fx.Node) else None
    return len(shapes[0]) if shapes else None


def reduced_dims(node: fx.Node, source: fx.Node) -> tuple[int, ...]:
    at = 2 if name_of(node) in NORMS else 1
    dims = node.args[at] if len(node.args) > at else node.kwargs.get("dim", node.kwargs.get("axis"))
    more = [x for x in node.args[at + 1 :] if type(x) is int]  # x.mean(-2, -1) is none of torch's
    return positive_dims(dims, source) if not more else ()


def positive_dims(dims: object, source: fx.Node) -> tuple[int, ...]:
    """None: all."""
    ndim = len(tensor_shapes(source)[0]) if tensor_shapes(source) else 0
    if dims is None:
        return tuple(range(ndim))
    return tuple(dim % ndim for dim in ((dims,) if isinstance(dims, int) else dims))


def order_of(node: fx.Node) -> object:
    return node.args[1] if len(node.args) > 1 else node.kwargs.get("p", node.kwargs.get("ord"))
