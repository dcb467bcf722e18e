"""The flow of a notification through its stages. Start reading at `tidings.flow.pipeline`."""
