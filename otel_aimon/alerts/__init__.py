"""Rules, the alert state machine, grouping, inhibition, and the events that leave the process."""
