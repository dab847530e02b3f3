//! Records, replays, replicates and fails over any deterministic machine.
