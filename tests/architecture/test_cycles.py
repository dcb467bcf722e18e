"""The import graph has no cycles."""

from graphlib import TopologicalSorter

import grimp


def test_imports_have_no_cycles() -> None:
    graph = grimp.build_graph("tidings", exclude_type_checking_imports=True, cache_dir=None)
    order = TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules})
    # raises CycleError, which lists the modules of the cycle
    assert len(list(order.static_order())) == len(graph.modules)
