"""How fast Stillpoint is beside its peers and the hardware's ceiling, and what its parts cost: `make bench`."""
