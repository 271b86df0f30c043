"""Where flow records go once the core has rendered them."""
