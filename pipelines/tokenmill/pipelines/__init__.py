"""KFP pipelines: the lifecycle, and the parts that people run alone."""
