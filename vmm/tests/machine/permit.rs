//! The time in which a protected machine may let go what it has released.

use crate::guest::snapshot_or_skip;
use crate::pair::Pair;

#[test]
fn a_permit_runs_out_while_nothing_happens_and_comes_back_when_it_is_wanted() {
    let Some(snapshot) = snapshot_or_skip() else {
        return;
    };
    let mut pair = Pair::new(snapshot);
    pair.run_epochs(1);
    assert!(pair.is_permitted());
    let (primary, machine) = (&mut pair.primary.replica, &pair.primary.machine);
    // A guest that executes renews it by its log.
    primary
        .set_paused(machine, true, ft::time::HostTime(0))
        .unwrap();
    pair.run_for_ms(60);
    assert!(!pair.is_permitted());
    pair.primary.replica.want_permit();
    pair.run_until("a permit", Pair::is_permitted);
    pair.run_for_ms(60);
    assert!(!pair.is_permitted(), "it is renewed once");
}
