"""What all patterns share that make one value of a whole map, or of each of its rows or columns."""

from dataclasses import dataclass

from torch import fx

from basicsr.tlc.local.statistics import to_batch
from basicsr.tlc.rewriting.trace import map_dims, tensor_shapes


@dataclass(frozen=True)
class Pooling:
    """In its place comes a map of values, one for each position.

    Attributes:
        node: whose value it is.
        source: a map with the pixels that it is taken over.
    """

    node: fx.Node
    source: fx.Node

    @property
    def sides(self) -> tuple[int, ...]:
        """What it is taken over: 0 the rows, 1 the columns."""
        return (0, 1)

    @property
    def positions(self) -> tuple[int, ...]:
        """The dimensions of the map in its place that belong to `sides`."""
        dims = map_dims(self.source)
        return tuple(dims[side] for side in self.sides)

    @property
    def summed(self) -> list[fx.Node]:
        """The maps, or flattened ones, whose pixels it sums over."""
        return [self.source]

    def folded(self, graph: fx.Graph, made: fx.Node) -> fx.Node:
        """The map in its place with positions as samples, each as the node's value of a sample is."""
        if len(self.sides) == 2:
            return graph.call_function(to_batch, (made, self.positions, tuple(tensor_shapes(self.node)[0][1:])))
        made = graph.call_function(to_batch, (made, self.positions))
        keeps = len(tensor_shapes(self.node)[0]) == len(tensor_shapes(self.source)[0])
        return graph.call_method("unsqueeze", (made, *self.positions)) if keeps else made
