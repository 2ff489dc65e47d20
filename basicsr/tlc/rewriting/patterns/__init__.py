"""The global operations in a traced forward that have a local form: one file a family, and the registry of them, FAMILIES.

What is recognised here is a proposal: `exact` compares its local form with the module's own operations on single windows.
"""

from collections.abc import Callable

from torch import fx

from basicsr.tlc.rewriting.patterns.attention import ChannelAttention, attention
from basicsr.tlc.rewriting.patterns.norms import Norm, norm
from basicsr.tlc.rewriting.patterns.pooling import Pooling
from basicsr.tlc.rewriting.patterns.statistics import statistic
from basicsr.tlc.rewriting.patterns.weighted import weighted_mean

Pattern = Pooling | Norm | ChannelAttention

# Each is given a node, the names of global pooling modules inside, how windows of attention are to be, and what was found among
# the nodes before. The first that recognises a node has it: the sum in a weighted mean is none by itself.
FAMILIES: tuple[Callable[[fx.Node, set[str], bool, dict[fx.Node, Pattern]], Pattern | None], ...] = (
    lambda node, pools, blended, found: weighted_mean(node),
    lambda node, pools, blended, found: statistic(node, pools),
    lambda node, pools, blended, found: norm(node),
    attention,
)


def find(graph: fx.Graph, pools: set[str], blended: bool = False) -> dict[fx.Node, Pattern]:
    """The recognised operations, by the node whose value they are. `pools`: names of global pooling modules inside; `blended`:
    how windows of attention are to be."""
    found = {}
    for node in graph.nodes:
        if "values" in node.meta:
            recognised = (family(node, pools, blended, found) for family in FAMILIES)
            if pattern := next(filter(None, recognised), None):
                found[node] = pattern
    return found
