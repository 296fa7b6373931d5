"""The daemon behind `edgernn serve`: configuration, one thread a pipeline, supervision."""
