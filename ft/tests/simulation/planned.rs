//! Planned failovers: roles change hands, and whatever happens meanwhile leaves one side live.

use ft::output::ReleasePolicy;

use crate::scenarios::{LATER, live, with};
use crate::sim::scenario::{Fault, MS, Scenario, Victim};
use crate::sim::wire::Way;

#[test]
fn a_planned_failover_swaps_roles_and_nothing_is_lost_or_seen_twice() {
    for policy in [
        ReleasePolicy::Received,
        ReleasePolicy::Replayed,
        ReleasePolicy::Verified,
    ] {
        let mut scenario = Scenario::plain(vec![(LATER, Fault::Failover)]);
        scenario.parameters.release = policy;
        let summary = live(scenario);
        assert_eq!((summary.planned, summary.repeated), (1, 0), "{summary:?}");
        assert_eq!(summary.states, ["replaying", "protected"]);
    }
}

#[test]
fn roles_can_be_swapped_back_and_the_new_primary_can_be_killed() {
    let faults = [
        (LATER, Fault::Failover),
        (LATER + 30 * MS, Fault::Failover),
        (LATER + 60 * MS, Fault::Kill(Victim::Primary)),
    ];
    let summary = with(&faults);
    assert_eq!((summary.planned, summary.promotions), (2, 3), "{summary:?}");
    assert_eq!(summary.states, ["dead", "unprotected"]);
}

#[test]
fn a_planned_failover_with_a_fence_that_cannot_be_asked_changes_nothing() {
    let faults = [
        (LATER, Fault::FenceFails(Victim::Backup, 50 * MS)),
        (LATER + MS, Fault::Failover),
    ];
    let summary = with(&faults);
    assert_eq!(summary.planned, 0);
    assert_eq!(summary.states, ["protected", "replaying"]);
}

/// A planned failover, and what strikes a host by its number at each moment of it.
fn struck(latency_ns: u64, strike: impl Fn(Victim) -> Fault, before: &[(u64, Fault)]) {
    for host in [0, 1] {
        for step in 0..64 {
            let at = LATER + step * latency_ns / 8;
            let mut faults = before.to_vec();
            faults.extend([(LATER, Fault::Failover), (at, strike(Victim::Host(host)))]);
            let mut scenario = Scenario::plain(faults);
            (scenario.latency_ns, scenario.request_every) = (latency_ns, MS);
            let summary = live(scenario);
            assert!(!summary.lost, "host {host}, step {step}: {summary:?}");
            assert_eq!(summary.states[host], "dead", "{summary:?}");
            assert_eq!(summary.states[1 - host], "unprotected", "{summary:?}");
        }
    }
}

#[test]
fn either_host_may_die_at_any_moment_of_a_planned_failover() {
    for latency_ns in [100_000, MS, 4 * MS] {
        struck(latency_ns, Fault::Kill, &[]);
        struck(latency_ns, Fault::PowerLoss, &[]);
    }
}

#[test]
fn either_host_may_die_after_a_planned_failover_whose_claim_stands_and_seemed_to_fail() {
    for span in [2 * MS, 30 * MS] {
        let mute = [(LATER, Fault::FenceMute(Victim::Backup, span))];
        struck(MS, Fault::Kill, &mute);
        struck(MS, Fault::PowerLoss, &mute);
    }
}

#[test]
fn a_planned_failover_whose_claim_seems_to_fail_is_declined_and_can_be_repeated() {
    let faults = [
        (LATER, Fault::FenceMute(Victim::Backup, 10 * MS)),
        (LATER, Fault::Failover),
        (LATER + 30 * MS, Fault::Failover),
    ];
    let summary = with(&faults[..2]);
    assert_eq!(summary.states, ["protected", "replaying"]);
    assert_eq!((summary.planned, summary.fenced), (0, 0), "{summary:?}");
    let summary = with(&faults);
    assert_eq!(summary.states, ["replaying", "protected"]);
    assert_eq!((summary.planned, summary.repeated), (1, 0), "{summary:?}");
}

#[test]
fn sides_that_are_cut_off_during_a_planned_failover_leave_exactly_one_live() {
    for way in [Way::Forth, Way::Back] {
        for step in 0..64 {
            let at = LATER + step * MS / 8;
            for cut in [
                Fault::CloseWay(way),
                Fault::Close,
                Fault::Block(way, 200 * MS),
                Fault::Partition(200 * MS),
            ] {
                let mut scenario = Scenario::plain(vec![(LATER, Fault::Failover), (at, cut)]);
                (scenario.latency_ns, scenario.request_every) = (MS, MS);
                let summary = live(scenario);
                let live = summary.states.iter().filter(|s| *s == "unprotected");
                assert_eq!(live.count(), 1, "{cut:?} at step {step}: {summary:?}");
            }
        }
    }
}

#[test]
fn a_planned_failover_that_is_declined_late_leaves_no_divergence() {
    let faults = vec![
        (LATER, Fault::FenceFails(Victim::Backup, 300 * MS)),
        (LATER, Fault::Failover),
    ];
    let mut scenario = Scenario::plain(faults);
    // The answer takes longer than an epoch may in which nothing is executed.
    (scenario.latency_ns, scenario.parameters.timeout_ms) = (18 * MS, 150);
    scenario.parameters.lease_ms = 75;
    scenario.parameters.epoch_ms = 2;
    let summary = live(scenario);
    assert_eq!(summary.divergences, 0, "{summary:?}");
    assert_eq!(summary.states, ["protected", "replaying"]);
}

#[test]
fn a_primary_that_waits_long_for_a_declined_failover_has_ended_no_epoch_meanwhile() {
    for step in 0..24 {
        let faults = vec![
            (LATER, Fault::FenceFails(Victim::Backup, 60 * MS)),
            (LATER, Fault::Failover),
            (LATER + step * MS / 4, Fault::Block(Way::Back, 45 * MS)),
        ];
        let mut scenario = Scenario::plain(faults);
        (scenario.latency_ns, scenario.parameters.epoch_ms) = (MS, 2);
        scenario.parameters.timeout_ms = 100;
        let summary = live(scenario);
        assert_eq!(summary.divergences, 0, "step {step}: {summary:?}");
        assert_eq!(summary.states, ["protected", "replaying"]);
    }
}

#[test]
fn a_planned_failover_waits_for_outputs_that_the_lease_holds_back() {
    // The acknowledgements of everything come at once, too late for the lease; whoever is primary
    // then is killed at each moment of what follows.
    for step in 0..80 {
        let faults = vec![
            (LATER, Fault::Block(Way::Back, 35 * MS)),
            (LATER + 8 * MS, Fault::Failover),
            (
                LATER + 35 * MS + step * MS / 8,
                Fault::Kill(Victim::Primary),
            ),
        ];
        let mut scenario = Scenario::plain(faults);
        scenario.request_every = MS;
        scenario.latency_ns = MS;
        let summary = live(scenario);
        assert!(!summary.lost, "{step}: {summary:?}");
    }
}
