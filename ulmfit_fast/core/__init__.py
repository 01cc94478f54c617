"""What every room may use: errors, interruption, progress, files written atomically, devices."""
