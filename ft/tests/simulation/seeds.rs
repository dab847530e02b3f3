//! Lives at random. `cargo run --release -p ft --example simulate -- --seeds N` lives through more.

use crate::sim;

/// Lives in which something was wrong once, of the machine, the protocol or the judge.
const ONCE_FAILED: [u64; 10] = [1, 15, 89, 111, 556, 877, 3326, 3521, 5086, 54536];

fn live(seed: u64) {
    for exact in [true, false] {
        if let Err(failure) = sim::runner::run(seed, exact) {
            panic!("seed {seed} exact {exact}: {}\n{failure:#?}", failure.what);
        }
    }
}

#[test]
fn lives_that_once_failed_go_right() {
    ONCE_FAILED.into_iter().for_each(live);
}

#[test]
fn some_lives_at_random_go_right() {
    (10_000..10_200).for_each(live);
}

#[test]
fn the_same_seed_lives_the_same_life() {
    for exact in [true, false] {
        let lives = [(); 2].map(|()| sim::runner::run(4711, exact));
        let [Ok(one), Ok(two)] = lives else {
            panic!("{lives:?}")
        };
        assert_eq!(format!("{one:?}"), format!("{two:?}"));
    }
}
