"""SQL building blocks for both databases."""
