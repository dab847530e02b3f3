//! Simulation of protected machines: seeds at random, and seeds that once failed.

#[allow(dead_code)]
mod sim;

#[test]
fn a_few_hundred_lives_go_right() {
    for seed in 0..300 {
        if let Err(failure) = sim::run(seed) {
            panic!("seed {seed}: {} {:#?}", failure.what, failure);
        }
    }
}
