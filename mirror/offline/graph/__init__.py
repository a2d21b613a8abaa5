"""The update graph: which releases exist, how clusters update between them, and which of them an image set means.

document   a channel's graph as values, read strictly
excerpts   parts of it, and what several parts say together
source     where it is fetched
wanted     what a channel of an image set means
paths      shortest paths, and why there is none
across     paths from channel to channel
select     what an image set's channels mean
alone      releases that came without a graph
"""

from mirror.offline.graph.alone import alone, channels
from mirror.offline.graph.document import ConditionalEdge, Graph, GraphInvalid, Node, Risk, parse, read
from mirror.offline.graph.excerpts import excerpt, union
from mirror.offline.graph.select import Selected, Selection, select
from mirror.offline.graph.source import OKD_GRAPH, ChannelUnknown, Fetch, Graphs
from mirror.offline.graph.wanted import Wanted

__all__ = [
    "OKD_GRAPH",
    "ChannelUnknown",
    "ConditionalEdge",
    "Fetch",
    "Graph",
    "GraphInvalid",
    "Graphs",
    "Node",
    "Risk",
    "Selected",
    "Selection",
    "Wanted",
    "alone",
    "channels",
    "excerpt",
    "parse",
    "read",
    "select",
    "union",
]
