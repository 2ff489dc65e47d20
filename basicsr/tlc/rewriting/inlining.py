"""Which modules inside a traced forward take its statistics along with a map, so that these meet in there."""

from torch import fx, nn

from basicsr.tlc.rewriting.patterns import Pattern, Pooling
from basicsr.tlc.rewriting.trace import grows, is_record
from basicsr.tlc.rules import rule_for


def takers(module: nn.Module, graph: fx.Graph, found: dict[fx.Node, Pattern]) -> set[str]:
    """Their names; not of those that a rule knows how to replace."""
    vectors = {node for node, pattern in found.items() if isinstance(pattern, Pooling)}
    names = set()
    for node in graph.nodes:
        if node in found or node.op == "output" or vectors.isdisjoint(node.all_input_nodes):
            continue
        if is_record(node) or not any(map(grows, (*node.all_input_nodes, node))):
            vectors.add(node)
        elif node.op == "call_module" and is_own(module.get_submodule(node.target)):
            names.add(node.target)
    return names


def is_own(module: nn.Module) -> bool:
    """Whether a module has a forward of the net's own, or is a sequence, and no rule."""
    return rule_for(module) is None and not is_torch(module)


def is_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
