//! Runs guest CPUs: the backend-neutral traits, x86-64 facts, and the backends behind them.
