"""From a configuration to checkpoints: the loop, the step, the tasks."""
