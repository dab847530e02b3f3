//! Lives in which a host cannot read a part of its machine, or not write it: a good copy is never
//! written over, and nobody who has none says that he has.

use crate::scenarios::{LATER, live, with};
use crate::sim::scenario::{Fault, MS, PROTECT_AT, Scenario, Victim};
use crate::sim::toy::{ALL_PAGES, PAGES};

fn unreadable(victim: Victim, page: u64) -> Fault {
    Fault::Unreadable(victim, page, page + 1)
}

#[test]
fn a_primary_that_cannot_read_what_it_clones_goes_on_unprotected() {
    // What is written all the time is sent.
    let hot = Fault::Unreadable(Victim::Primary, 0, 4);
    let summary = with(&[(PROTECT_AT - MS, hot)]);
    assert_eq!(summary.states, ["unprotected", "failed"]);
    // The backup holds the other pages already: they are compared.
    for page in (4..PAGES).chain(PAGES + 3..ALL_PAGES) {
        let summary = with(&[(PROTECT_AT - MS, unreadable(Victim::Primary, page))]);
        assert_eq!(summary.protections, 0, "page {page}: {summary:?}");
        assert_eq!(summary.states, ["unprotected", "failed"], "page {page}");
        let reason = &summary.start_failures[0];
        assert_eq!(reason, &format!("page {page} is unreadable"));
    }
}

#[test]
fn a_protected_primary_that_cannot_read_a_page_ends_and_its_backup_takes_over() {
    for page in 0..ALL_PAGES {
        let summary = with(&[(LATER, unreadable(Victim::Primary, page))]);
        let found = (summary.promotions, summary.divergences);
        assert_eq!(found, (1, 0), "page {page}: {summary:?}");
        assert_eq!(summary.states, ["failed", "unprotected"], "page {page}");
    }
}

#[test]
fn a_page_that_cannot_be_read_around_the_end_of_a_clone_costs_protection_and_nothing_else() {
    for step in 0..120 {
        let at = PROTECT_AT + step * MS / 16;
        let mut scenario =
            Scenario::plain(vec![(at, unreadable(Victim::Primary, step % ALL_PAGES))]);
        scenario.latency_ns = MS;
        scenario.parameters.epoch_ms = 1;
        let summary = live(scenario);
        assert!(!summary.lost && summary.divergences == 0, "{summary:?}");
    }
}

#[test]
fn a_primary_that_cannot_read_what_a_repair_needs_ships_none_of_it() {
    for step in 0..80 {
        let faults = vec![
            (LATER, Fault::FlipMemory(true)),
            (
                LATER + step * MS / 2,
                Fault::Unreadable(Victim::Primary, 0, ALL_PAGES),
            ),
        ];
        let mut scenario = Scenario::plain(faults);
        scenario.latency_ns = 2 * MS;
        let summary = live(scenario);
        assert_eq!(summary.promotions, 1, "step {step}: {summary:?}");
        assert_eq!(summary.states[0], "failed");
    }
    // The primary itself never looks at the page; its backup reports it.
    let faults = vec![
        (LATER, Fault::Unreadable(Victim::Primary, 4, ALL_PAGES)),
        (LATER + MS, Fault::FlipMemory(false)),
    ];
    let mut scenario = Scenario::plain(faults);
    scenario.parameters.scrub_pages = 0;
    let summary = live(scenario);
    assert_eq!((summary.promotions, summary.repairs), (1, 0), "{summary:?}");
    assert_eq!(summary.states[0], "failed");
}

#[test]
fn a_backup_that_cannot_read_a_page_is_given_it_anew() {
    for page in 0..ALL_PAGES {
        let summary = with(&[(LATER, unreadable(Victim::Backup, page))]);
        assert!(summary.repairs >= 1, "page {page}: {summary:?}");
        assert_eq!(summary.divergences, summary.repairs);
        assert_eq!(summary.states, ["protected", "replaying"]);
    }
}

#[test]
fn a_backup_that_cannot_set_a_page_never_says_that_it_is_one() {
    let refuse = Fault::RefusePages(Victim::Host(1));
    for step in 1..8 {
        let summary = with(&[(PROTECT_AT + step * MS / 20, refuse)]);
        assert_eq!(summary.protections, 0, "{summary:?}");
        assert_eq!(summary.states, ["unprotected", "failed"]);
    }
    for latency_ns in [MS / 10, MS] {
        let mut scenario =
            Scenario::plain(vec![(LATER, refuse), (LATER, Fault::FlipMemory(false))]);
        scenario.latency_ns = latency_ns;
        let summary = live(scenario);
        let found = (summary.divergences, summary.repairs, summary.alone);
        assert_eq!(found, (1, 0, 1), "{summary:?}");
        assert_eq!(summary.states, ["unprotected", "failed"]);
    }
}
