//! Lives of a machine that no other host can repeat: its epochs are closed by deltas, and its backup
//! executes nothing before it goes live.

use ft::output::ReleasePolicy;

use crate::scenarios::{LATER, live};
use crate::sim::runner::Summary;
use crate::sim::scenario::{Fault, MS, PROTECT_AT, Scenario, Victim};
use crate::sim::toy::ALL_PAGES;
use crate::sim::wire::{Damage, Way};

/// A life with these faults, as the other lives are, but of a machine that cannot be replayed.
fn plain(faults: Vec<(u64, Fault)>) -> Scenario {
    Scenario {
        exact: false,
        ..Scenario::plain(faults)
    }
}

fn with(faults: &[(u64, Fault)]) -> Summary {
    live(plain(faults.to_vec()))
}

#[test]
fn a_life_without_faults_has_no_divergence_and_every_epoch_is_verified() {
    for busy in [0, 3, 40] {
        let summary = live(Scenario {
            busy,
            ..plain(Vec::new())
        });
        let found = (summary.divergences, summary.repeated, summary.promotions);
        assert_eq!(found, (0, 0, 0), "{summary:?}");
        assert!(summary.epochs > 5 && summary.answered > 70, "{summary:?}");
        assert!(summary.frames > 20, "{summary:?}");
        assert_eq!(summary.states, ["protected", "following"]);
    }
}

#[test]
fn a_primary_killed_at_any_moment_loses_nothing_that_the_world_has_seen() {
    let policies = [
        ReleasePolicy::Received,
        ReleasePolicy::Replayed,
        ReleasePolicy::Verified,
    ];
    for step in 0..160 {
        let at = PROTECT_AT + step * MS / 4;
        for fault in [Fault::Kill, Fault::PowerLoss] {
            let mut scenario = plain(vec![(at, fault(Victim::Primary))]);
            scenario.parameters.release = policies[step as usize % policies.len()];
            scenario.request_every = MS;
            scenario.busy = [3, 40][step as usize % 2];
            scenario.latency_ns = [MS / 10, MS][step as usize / 2 % 2];
            let summary = live(scenario);
            let ends = summary.promotions + u64::from(summary.lost);
            assert_eq!(ends, 1, "at {at}: {summary:?}");
            assert!(summary.promotions >= summary.protections, "{summary:?}");
        }
    }
}

#[test]
fn a_machine_that_is_protected_again_survives_the_next_kill_as_well() {
    let kill = |at| (at, Fault::Kill(Victim::Primary));
    let faults = vec![kill(80 * MS), kill(160 * MS), kill(240 * MS)];
    let summary = live(Scenario {
        protect_again: true,
        ..plain(faults)
    });
    let found = (summary.promotions, summary.lost);
    assert_eq!(found, (3, false), "{summary:?}");
}

#[test]
fn roles_are_swapped_as_planned_and_nothing_is_seen_twice() {
    let faults = [(LATER, Fault::Failover), (LATER + 60 * MS, Fault::Failover)];
    let summary = with(&faults);
    assert_eq!(summary.states, ["protected", "following"], "{summary:?}");
    assert_eq!((summary.planned, summary.repeated), (2, 0), "{summary:?}");
    for step in 0..60 {
        for victim in [Victim::Host(0), Victim::Host(1)] {
            let strike = (LATER + step * MS / 4, Fault::Kill(victim));
            let mut scenario = plain(vec![faults[0], strike]);
            scenario.latency_ns = MS;
            let summary = live(scenario);
            assert!(!summary.lost, "step {step}: {summary:?}");
        }
    }
}

#[test]
fn a_primary_that_is_stopped_and_wakes_later_has_been_replaced_and_halts() {
    for step in 0..40 {
        let at = LATER + step * MS / 4;
        let mut scenario = plain(vec![(at, Fault::Pause(Victim::Primary, 110 * MS))]);
        scenario.request_every = MS;
        let summary = live(scenario);
        let found = (summary.promotions, summary.fenced);
        assert_eq!(found, (1, 1), "{summary:?}");
    }
}

#[test]
fn a_backup_that_is_lost_leaves_the_primary_alone_and_its_outputs_leave() {
    for step in 0..40 {
        let at = PROTECT_AT + MS / 8 + step * MS / 4;
        let summary = with(&[(at, Fault::Kill(Victim::Backup))]);
        assert_eq!(summary.promotions, 0, "{summary:?}");
        assert_eq!(summary.states[0], "unprotected", "{summary:?}");
    }
}

#[test]
fn a_flipped_bit_of_the_backups_memory_is_found_and_repaired() {
    for silent in [false, true] {
        for step in 0..12 {
            let at = LATER + step * MS;
            let summary = with(&[(at, Fault::FlipMemory(silent))]);
            assert!(summary.divergences >= 1, "{summary:?}");
            assert_eq!(summary.divergences, summary.repairs, "{summary:?}");
            assert!(!summary.reports[0].pages.is_empty(), "{summary:?}");
            assert_eq!(summary.states, ["protected", "following"]);
        }
    }
}

#[test]
fn a_register_of_the_backup_that_has_flipped_is_gone_with_the_next_delta() {
    let summary = with(&[(LATER, Fault::FlipRegister)]);
    assert_eq!(summary.divergences, 0, "{summary:?}");
    assert_eq!(summary.states, ["protected", "following"]);
}

#[test]
fn a_primary_killed_at_any_moment_around_a_repair_is_replaced() {
    for step in 0..120 {
        let kill = (LATER + step * MS / 4, Fault::Kill(Victim::Primary));
        let mut scenario = plain(vec![(LATER, Fault::FlipMemory(true)), kill]);
        scenario.request_every = MS;
        scenario.latency_ns = MS;
        let summary = live(scenario);
        assert_eq!(summary.promotions, 1, "{summary:?}");
    }
}

#[test]
fn pages_that_cannot_be_read_or_set_are_nobodys_loss() {
    for page in 0..ALL_PAGES {
        let unreadable = |victim| (LATER, Fault::Unreadable(victim, page, page + 1));
        let summary = with(&[unreadable(Victim::Primary)]);
        let found = (summary.promotions, summary.divergences);
        assert_eq!(found, (1, 0), "page {page}: {summary:?}");
        let summary = with(&[unreadable(Victim::Backup)]);
        assert_eq!(summary.divergences, summary.repairs, "{summary:?}");
        assert_eq!(summary.states, ["protected", "following"]);
    }
    let summary = with(&[(LATER, Fault::RefusePages(Victim::Host(1)))]);
    assert_eq!(summary.states, ["unprotected", "failed"], "{summary:?}");
}

#[test]
fn damaged_frames_end_protection_and_one_side_goes_on() {
    for damage in [Damage::Flip, Damage::Truncate, Damage::Oversize] {
        for way in [Way::Forth, Way::Back] {
            let summary = with(&[(LATER, Fault::Damage(way, damage))]);
            assert_eq!(summary.alone + summary.promotions, 1, "{summary:?}");
        }
    }
}

#[test]
fn a_guest_that_is_paused_or_switches_itself_off_is_treated_as_ever() {
    let summary = with(&[(LATER, Fault::Rest(150 * MS))]);
    assert_eq!(summary.states, ["protected", "following"]);
    let summary = with(&[(LATER, Fault::PowerOff)]);
    assert_eq!(summary.states, ["powered off", "powered off"]);
    let summary = with(&[(LATER, Fault::Stop)]);
    assert_eq!(summary.states, ["unprotected", "stopped"]);
}
