"""Which modules inside a traced forward take its statistics along with a map, so that these meet in there."""

from torch import fx, nn

from basicsr.tlc.dryrun.seen import Probe
from basicsr.tlc.rewriting.patterns import Pattern, Pooling
from basicsr.tlc.rewriting.trace import grows
from basicsr.tlc.rules import rule_for


def takers(module: nn.Module, graph: fx.Graph, found: dict[fx.Node, Pattern], seen: Probe) -> set[str]:
    """Their names: of those that run in this forward only, and that no rule knows how to replace."""
    vectors = {node for node, pattern in found.items() if isinstance(pattern, Pooling)}
    names, runs = set(), {}
    for node in graph.nodes:
        if node.op == "call_module":
            runs[node.target] = runs.get(node.target, 0) + 1
        if node in found or node.op == "output" or vectors.isdisjoint(node.all_input_nodes):
            continue
        if not any(map(grows, (*node.all_input_nodes, node))):
            vectors.add(node)
        elif node.op == "call_module" and is_own(module.get_submodule(node.target)):
            names.add(node.target)
    own = len(seen.calls[module][0])
    return {name for name in names if len(seen.calls[module.get_submodule(name)][0]) == runs[name] * own}


def is_own(module: nn.Module) -> bool:
    """Whether a module has a forward of the net's own, or is a sequence, and no rule."""
    return rule_for(module) is None and not is_torch(module)


def is_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
