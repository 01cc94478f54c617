"""Configurations, schedules, unfreezing, optimizers, and the loop that runs the three stages."""
