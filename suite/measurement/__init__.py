"""What is measured of a trial: stationarity at every step, the rest at records."""
