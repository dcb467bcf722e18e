"""One rule per file. `tidings.flow.plan.chain` has their order."""
