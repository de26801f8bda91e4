"""`mesh doctor`, and the checks that `broker-agent doctor` shares with it."""
