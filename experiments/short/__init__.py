"""Short trainings of every scheme on data at hand; nobody published them."""
