"""What an experiment's records mean: reads results folders with polars; never torch, ray or a pickle."""
