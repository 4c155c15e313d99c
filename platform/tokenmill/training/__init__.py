"""One training loop for five phases: a phase supplies batches and a loss (`run.TrainingRun`)."""
