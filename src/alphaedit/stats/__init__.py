"""Second moments of keys, and the null spaces they leave."""
