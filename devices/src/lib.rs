//! Guest-visible hardware as deterministic state machines.
