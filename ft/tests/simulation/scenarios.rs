//! Planned lives: each fault by itself, at each phase of protection.

use ft::output::ReleasePolicy;

use crate::sim::random::Random;
use crate::sim::runner::{Summary, run_scenario};
use crate::sim::scenario::{Fault, MS, PROTECT_AT, Scenario, Victim};
use crate::sim::wire::{Damage, Way};

/// When protection has been running for long.
pub const LATER: u64 = 120 * MS;

pub fn live(scenario: Scenario) -> Summary {
    match run_scenario(0, scenario, Random::new(5)) {
        Ok(summary) => summary,
        Err(failure) => panic!("{}\n{failure:#?}", failure.what),
    }
}

pub fn with(faults: &[(u64, Fault)]) -> Summary {
    live(Scenario::plain(faults.to_vec()))
}

#[test]
fn a_life_without_faults_has_no_divergence_and_nothing_is_seen_twice() {
    for busy in [0, 3, 40] {
        let summary = live(Scenario {
            busy,
            ..Scenario::plain(Vec::new())
        });
        assert_eq!(
            (summary.divergences, summary.repeated, summary.promotions),
            (0, 0, 0)
        );
        assert!(summary.epochs > 5 && summary.answered > 70, "{summary:?}");
        assert!(
            summary.frames > 20 && summary.disk_requests > 50,
            "{summary:?}"
        );
        assert_eq!(summary.states, ["protected", "replaying"]);
    }
}

#[test]
fn a_primary_killed_at_any_moment_loses_nothing_once_the_clone_is_complete() {
    let policies = [
        ReleasePolicy::Received,
        ReleasePolicy::Replayed,
        ReleasePolicy::Verified,
    ];
    let mut promoted = 0;
    for step in 0..120 {
        let at = PROTECT_AT + step * MS / 4;
        let mut scenario = Scenario::plain(vec![(at, Fault::Kill(Victim::Primary))]);
        scenario.parameters.release = policies[step as usize % policies.len()];
        let summary = live(scenario);
        assert_eq!(
            summary.promotions + u64::from(summary.lost),
            1,
            "killed at {at}: {summary:?}"
        );
        promoted += summary.promotions;
        assert!(
            promoted == 0 || summary.promotions == 1,
            "lost at {at} after it was safe"
        );
    }
    assert!(promoted > 100, "{promoted}");
}

#[test]
fn a_primary_that_loses_its_power_at_any_moment_is_replaced_once_it_has_said_protected() {
    let mut promoted = 0;
    for step in 0..120 {
        let at = PROTECT_AT + step * MS / 8;
        let summary = with(&[(at, Fault::PowerLoss(Victim::Primary))]);
        assert_eq!(
            summary.promotions + u64::from(summary.lost),
            1,
            "at {at}: {summary:?}"
        );
        // Whoever was told that the machine is protected is not told later that it is lost.
        assert!(
            summary.promotions >= summary.protections,
            "at {at}: {summary:?}"
        );
        promoted += summary.promotions;
    }
    assert!(promoted > 60, "{promoted}");
}

#[test]
fn a_failover_after_a_closed_link_waits_for_the_lease_and_not_longer() {
    let summary = with(&[(LATER, Fault::Kill(Victim::Primary))]);
    assert_eq!(summary.promotions, 1);
    assert!(summary.failover_ms[0] < 35.0, "{summary:?}");
}

#[test]
fn a_primary_that_is_stopped_and_wakes_later_has_been_replaced_and_halts() {
    for span in [60, 100, 200] {
        let summary = with(&[(LATER, Fault::Pause(Victim::Primary, span * MS))]);
        assert_eq!((summary.promotions, summary.fenced), (1, 1), "{summary:?}");
        assert_eq!(summary.states, ["fenced", "unprotected"]);
        assert!(summary.failover_ms[0] < 100.0, "{summary:?}");
    }
}

#[test]
fn a_primary_that_is_stopped_at_any_moment_puts_out_nothing_once_it_was_replaced() {
    for step in 0..100 {
        let at = LATER + step * MS / 4;
        let mut scenario = Scenario::plain(vec![(at, Fault::Pause(Victim::Primary, 110 * MS))]);
        scenario.request_every = MS;
        // A busy guest takes acknowledgements just before long slices, and is stopped in them.
        scenario.busy = 40;
        let summary = live(scenario);
        assert_eq!(
            (summary.promotions, summary.fenced),
            (1, 1),
            "{at}: {summary:?}"
        );
    }
}

#[test]
fn a_primary_that_is_stopped_while_its_acknowledgements_are_held_up_puts_out_nothing_later() {
    for step in 0..60 {
        let at = LATER + step * MS / 4;
        let faults = vec![
            (at, Fault::Block(Way::Back, 100 * MS)),
            (at + 2 * MS, Fault::Block(Way::Forth, 120 * MS)),
        ];
        let mut scenario = Scenario::plain(faults);
        scenario.request_every = MS;
        let summary = live(scenario);
        assert_eq!(summary.promotions + summary.alone, 1, "{at}: {summary:?}");
    }
}

#[test]
fn a_primary_killed_at_any_moment_around_a_repair_loses_nothing_once_it_is_repaired() {
    let policies = [ReleasePolicy::Received, ReleasePolicy::Verified];
    for step in 0..160 {
        let kill = (LATER + step * MS / 8, Fault::Kill(Victim::Primary));
        let mut scenario = Scenario::plain(vec![(LATER, Fault::FlipRegister), kill]);
        scenario.parameters.release = policies[step as usize % 2];
        scenario.request_every = MS;
        scenario.latency_ns = MS;
        let summary = live(scenario);
        assert_eq!(summary.promotions, 1, "{summary:?}");
    }
}

#[test]
fn a_primary_that_is_stopped_for_less_than_the_timeout_stays_protected() {
    let summary = with(&[(LATER, Fault::Pause(Victim::Primary, 20 * MS))]);
    assert_eq!(summary.states, ["protected", "replaying"]);
}

#[test]
fn a_backup_that_is_killed_or_stopped_leaves_the_primary_alone_and_alive() {
    for at in [
        PROTECT_AT + MS / 8,
        PROTECT_AT + 2 * MS,
        PROTECT_AT + 8 * MS,
        LATER,
    ] {
        let summary = with(&[(at, Fault::Kill(Victim::Backup))]);
        assert_eq!(summary.promotions, 0, "killed at {at}");
        assert_eq!(
            summary.states[0], "unprotected",
            "killed at {at}: {summary:?}"
        );
    }
    let summary = with(&[(LATER, Fault::Pause(Victim::Backup, 200 * MS))]);
    let found = (summary.promotions, summary.alone, summary.fenced);
    assert_eq!(found, (0, 1, 1), "{summary:?}");
}

#[test]
fn a_link_that_closes_or_falls_silent_leaves_exactly_one_live() {
    let faults = [
        Fault::Close,
        Fault::CloseWay(Way::Forth),
        Fault::CloseWay(Way::Back),
        Fault::Block(Way::Forth, 200 * MS),
        Fault::Block(Way::Back, 200 * MS),
        Fault::Partition(200 * MS),
    ];
    for fault in faults {
        let summary = with(&[(LATER, fault)]);
        assert_eq!(
            summary.promotions + summary.alone,
            1,
            "{fault:?}: {summary:?}"
        );
    }
}

#[test]
fn damaged_frames_end_protection_and_the_primary_goes_on() {
    for damage in [Damage::Flip, Damage::Oversize] {
        for way in [Way::Forth, Way::Back] {
            let summary = with(&[(LATER, Fault::Damage(way, damage))]);
            assert_eq!(
                (summary.alone, summary.promotions),
                (1, 0),
                "{damage:?}: {summary:?}"
            );
        }
    }
    let summary = with(&[(LATER, Fault::Damage(Way::Forth, Damage::Truncate))]);
    assert_eq!(summary.alone + summary.promotions, 1, "{summary:?}");
}

#[test]
fn a_flipped_register_is_reported_with_its_field_and_repaired() {
    let summary = with(&[(LATER, Fault::FlipRegister)]);
    assert_eq!((summary.divergences, summary.repairs), (1, 1));
    let report = &summary.reports[0];
    let cpu = report
        .sections
        .iter()
        .find(|section| section.section == "cpu");
    assert!(cpu.is_some_and(|cpu| cpu.fields.iter().any(|field| field.field == "accumulator")));
    assert_eq!(summary.states, ["protected", "replaying"]);
}

#[test]
fn a_clock_that_reads_otherwise_is_found_as_soon_as_the_guest_has_read_it() {
    // The damage is gone with the next clock input; what the guest made of it is not.
    let faults = vec![(LATER, Fault::FlipClock)];
    let summary = live(Scenario {
        busy: 40,
        ..Scenario::plain(faults)
    });
    assert_eq!(
        (summary.divergences, summary.repairs),
        (1, 1),
        "{summary:?}"
    );
    let report = &summary.reports[0];
    let clock = report
        .sections
        .iter()
        .find(|section| section.section == "clock");
    let named = clock.is_some_and(|clock| clock.fields.iter().any(|f| f.field == "virtual_ns"));
    assert!(named || !report.pages.is_empty(), "{report}");
    assert_eq!(summary.states, ["protected", "replaying"]);
}

#[test]
fn a_flipped_bit_of_memory_is_reported_with_its_page_and_repaired() {
    for silent in [false, true] {
        let summary = with(&[(LATER, Fault::FlipMemory(silent))]);
        assert!(summary.divergences >= 1, "silent {silent}: {summary:?}");
        assert_eq!(summary.divergences, summary.repairs);
        assert!(!summary.reports[0].pages.is_empty(), "{summary:?}");
        assert_eq!(summary.states, ["protected", "replaying"]);
    }
}

#[test]
fn a_backup_that_had_diverged_says_so_when_it_must_go_live() {
    let summary = with(&[(LATER, Fault::FlipAndKill)]);
    assert_eq!(summary.promotions, 1, "{summary:?}");
}

#[test]
fn a_fence_that_cannot_be_asked_delays_the_failover_and_nobody_else_is_live() {
    let faults = [
        (LATER, Fault::FenceFails(Victim::Backup, 100 * MS)),
        (LATER + MS, Fault::Kill(Victim::Primary)),
    ];
    let summary = with(&faults);
    assert_eq!(summary.promotions, 1);
    assert!(summary.failover_ms[0] > 90.0, "{summary:?}");
}

#[test]
fn a_primary_whose_fence_cannot_be_asked_waits_when_its_backup_dies() {
    let faults = [
        (LATER, Fault::FenceFails(Victim::Primary, 100 * MS)),
        (LATER + MS, Fault::Kill(Victim::Backup)),
    ];
    let summary = with(&faults);
    assert_eq!((summary.alone, summary.promotions), (1, 0), "{summary:?}");
}

#[test]
fn protection_that_is_stopped_leaves_the_primary_alone_and_ends_the_backup() {
    let summary = with(&[(LATER, Fault::Stop)]);
    assert_eq!(summary.states, ["unprotected", "stopped"]);
    assert_eq!(
        (summary.alone, summary.fenced, summary.promotions),
        (0, 0, 0)
    );
}

#[test]
fn a_guest_that_switches_itself_off_ends_both_sides() {
    let summary = with(&[(LATER, Fault::PowerOff)]);
    assert_eq!(summary.states, ["powered off", "powered off"]);
}

#[test]
fn a_machine_that_is_protected_again_survives_the_next_kill_as_well() {
    let kill = |at| (at, Fault::Kill(Victim::Primary));
    let faults = vec![kill(80 * MS), kill(160 * MS), kill(240 * MS)];
    let summary = live(Scenario {
        protect_again: true,
        ..Scenario::plain(faults)
    });
    assert_eq!(
        (summary.promotions, summary.lost),
        (3, false),
        "{summary:?}"
    );
}

#[test]
fn a_slow_backup_slows_the_primary_and_stays_its_backup() {
    let mut scenario = Scenario::plain(vec![(LATER, Fault::Slow(12))]);
    scenario.parameters.max_lag_epochs = 3;
    scenario.parameters.epoch_ms = 3;
    scenario.busy = 40;
    let summary = live(scenario);
    assert!(summary.throttled > 0, "{summary:?}");
    assert_eq!(summary.states, ["protected", "replaying"]);
}

#[test]
fn a_guest_that_is_paused_stays_protected() {
    let summary = with(&[(LATER, Fault::Rest(150 * MS))]);
    assert_eq!(summary.states, ["protected", "replaying"]);
    assert_eq!(summary.divergences, 0);
}

#[test]
fn a_primary_that_wakes_with_old_acknowledgements_puts_out_nothing() {
    // They came before it was stopped for good, the end of the connection did not: only the age of
    // what they acknowledge tells that they are void.
    for step in 0..40 {
        let stop = LATER + step * MS / 8;
        for blocked in [MS / 4, MS, 2 * MS, 3 * MS] {
            let faults = vec![
                (stop, Fault::Pause(Victim::Primary, 100 * MS)),
                (stop + blocked, Fault::Block(Way::Back, 160 * MS)),
            ];
            let mut scenario = Scenario::plain(faults);
            scenario.request_every = MS;
            scenario.latency_ns = 200_000;
            let summary = live(scenario);
            assert_eq!(
                (summary.promotions, summary.fenced),
                (1, 1),
                "{stop}: {summary:?}"
            );
        }
    }
}

#[test]
fn a_backup_that_goes_live_shows_the_time_that_has_passed() {
    for latency_ns in [50_000, 500_000, 2 * MS] {
        for step in 0..20 {
            let kill = (LATER + step * MS / 2, Fault::Kill(Victim::Primary));
            let summary = live(Scenario {
                busy: 40,
                latency_ns,
                ..Scenario::plain(vec![kill])
            });
            // A guest that sleeps shows the time of its last tick, four milliseconds ago at most.
            let error_ms = summary.clock_error_ms;
            assert_eq!(summary.promotions, 1, "{summary:?}");
            assert!((-8..=1).contains(&error_ms), "{error_ms} ms: {summary:?}");
        }
    }
}

#[test]
fn a_degraded_backup_takes_the_inputs_that_its_log_still_holds() {
    for step in 0..60 {
        let damage = LATER + step * MS / 8;
        let faults = vec![
            (damage, Fault::Slow(6)),
            (damage + 4 * MS, Fault::FlipRegister),
            (damage + 8 * MS, Fault::Kill(Victim::Primary)),
        ];
        let mut scenario = Scenario::plain(faults);
        scenario.request_every = MS;
        scenario.busy = 10;
        assert_eq!(live(scenario).promotions, 1);
    }
}

#[test]
fn entries_that_came_late_do_not_set_the_clock_of_a_backup_that_goes_live() {
    for gap in [2 * MS, 10 * MS, 40 * MS] {
        let faults = vec![
            (LATER, Fault::Block(Way::Forth, 30 * MS)),
            (LATER + gap, Fault::Kill(Victim::Primary)),
        ];
        let summary = live(Scenario {
            busy: 40,
            ..Scenario::plain(faults)
        });
        let error_ms = summary.clock_error_ms;
        assert_eq!(summary.promotions, 1, "{summary:?}");
        assert!((-8..=1).contains(&error_ms), "{error_ms} ms: {summary:?}");
    }
}
