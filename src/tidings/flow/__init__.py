"""What happens to a notification, in order. Start reading at `tidings.flow.pipeline`."""
