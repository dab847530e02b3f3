//! Divergence on the real machine: a Debian guest on the software processor, protected by a backup
//! whose machine is damaged once. Each damage is found at the end of its epoch, reported with both
//! values, and repaired by what differs, and the pair stays protected.
//!
//! Primary and backup live in one thread and on one simulated clock, so a run is the same each
//! time. The guest is booted once, some way into its kernel; each test starts from there.

use std::collections::BTreeSet;

use ft::divergence::{DivergenceCause, DivergenceReport};
use ft::status::FtEvent;

use crate::faulty::Fault;
use crate::guest::{self, Snapshot};
use crate::pair::Pair;

/// Tries with other damage: some is undone by the guest itself before its epoch ends.
const ATTEMPTS: u64 = 10;
/// Epochs that have to be equal after a repair.
const EPOCHS_AFTER: u64 = 24;
/// Epochs before the damage.
const EPOCHS_BEFORE: u64 = 5;
/// Pages that a repair may ship: a guest writes some hundreds in the epochs that are open, and
/// has written thousands.
const MOST_REPAIRED: u64 = 1500;

/// Damages the backup once and follows what comes of it; `None` when there is no guest.
fn diverge(fault: impl Fn(&Pair, u64) -> Fault) -> Option<(Pair, DivergenceReport)> {
    let snapshot = guest::snapshot_or_skip()?;
    let mut pair = Pair::new(snapshot);
    pair.run_epochs(EPOCHS_BEFORE);
    for attempt in 0..ATTEMPTS {
        let damage = fault(&pair, attempt);
        pair.backup.machine.arm(damage);
        pair.run_until("the damage", |pair| pair.backup.machine.struck().is_some());
        pair.run_epochs(2);
        if pair.backup_status().divergences == 0 {
            // The guest has overwritten it, and the digests say so.
            continue;
        }
        pair.run_until("the repair", |pair| !pair.repairs().is_empty());
        let report = check_found_and_repaired(&pair, snapshot);
        check_stays_protected(&mut pair);
        return Some((pair, report));
    }
    panic!("none of {ATTEMPTS} damages lasted to the end of its epoch");
}

/// The divergence was found where it had to be, and the repair brought what differed.
fn check_found_and_repaired(pair: &Pair, snapshot: &Snapshot) -> DivergenceReport {
    let reports = pair.reports();
    let [report] = reports.as_slice() else {
        panic!("one divergence, not {reports:?}")
    };
    assert_eq!(report.cause, DivergenceCause::Digest, "{report}");
    let struck = pair.backup.machine.struck().unwrap();
    let ends = pair.primary.machine.epochs();
    let found = ends.iter().position(|end| end.at > struck).unwrap();
    assert_eq!(
        report.at, ends[found].at,
        "at the end of its epoch: {report}"
    );
    for field in report.sections.iter().flat_map(|section| &section.fields) {
        assert_ne!(field.first, field.second, "both values: {report}");
    }

    // What the primary has written since, up to the repair, differs as well.
    let repaired = pair.backup.machine.restored().last().unwrap();
    let mut expected: BTreeSet<u64> = report.pages.iter().map(|page| page.page).collect();
    let since = ends[found + 1..]
        .iter()
        .take_while(|end| end.at <= repaired.at);
    expected.extend(since.flat_map(|end| &end.written).map(|page| page.0));
    let (pages, sections) = pair.repairs()[0];
    assert_eq!(pages, expected.len() as u64, "{report}");
    assert_eq!(repaired.pages, pages, "as many as were shipped");
    assert!(pages < MOST_REPAIRED, "{pages} pages");
    assert!(pages * 4 < snapshot.page_count(), "{pages} pages");
    assert_eq!(sections, repaired.differing, "sections that differed");
    assert!(sections < repaired.sections, "{sections} sections");
    (*report).clone()
}

/// Digests are equal in the epochs that follow, nobody is suspected, and both machines are the
/// same, page by page.
fn check_stays_protected(pair: &mut Pair) {
    let before = pair.backup_status().positions.epochs_verified;
    pair.run_epochs(EPOCHS_AFTER);
    let (primary, backup) = (pair.primary_status(), pair.backup_status());
    assert_eq!(primary.state, "protected");
    assert_eq!(backup.state, "replaying");
    assert_eq!((primary.divergences, primary.repairs), (1, 1));
    assert!(backup.positions.epochs_verified >= before + EPOCHS_AFTER - 1);
    let harmless = |event: &FtEvent| {
        matches!(
            event,
            FtEvent::Unfenced
                | FtEvent::Protected { .. }
                | FtEvent::Diverged { .. }
                | FtEvent::Repaired { .. }
        )
    };
    assert!(pair.events.iter().all(harmless), "{:?}", pair.events);
    pair.assert_equal();
}

/// Whether the report has a page with both values, which are not the same.
fn names_a_page(report: &DivergenceReport) -> bool {
    report.pages.iter().any(|page| {
        let both = page.primary.zip(page.backup);
        both.is_some_and(|(primary, backup)| primary != backup)
    })
}

#[test]
fn a_flipped_bit_of_memory_is_reported_with_its_page_and_repaired() {
    // A page that the guest is writing all the time.
    let found = diverge(|pair, attempt| Fault::Memory {
        page: pair.hot_page(attempt),
        bit: 4096 * 5 + 3 + attempt * 1117,
    });
    let Some((pair, report)) = found else { return };
    let flipped = pair.backup.machine.flipped_page().unwrap().0;
    let page = report.pages.iter().find(|page| page.page == flipped);
    let page = page.unwrap_or_else(|| panic!("page {flipped:#x} is not in {report}"));
    let both = page.primary.zip(page.backup);
    assert!(
        both.is_some_and(|(primary, backup)| primary != backup),
        "{report}"
    );
}

#[test]
fn a_flipped_bit_of_memory_that_the_guest_does_not_use_is_reported_and_alone_repaired() {
    let found = diverge(|pair, _| Fault::Memory {
        page: pair.unused_page(),
        bit: 77,
    });
    let Some((pair, report)) = found else { return };
    let flipped = pair.backup.machine.flipped_page().unwrap().0;
    assert!(report.sections.is_empty(), "{report}");
    let [page] = report.pages.as_slice() else {
        panic!("{report}")
    };
    assert_eq!(page.page, flipped);
    assert_ne!(page.primary.unwrap(), page.backup.unwrap());
}

#[test]
fn a_flipped_bit_of_a_register_is_reported_with_its_field_and_repaired() {
    // RBX, R12 to R15, RBP are kept over calls, so damage to them lasts for a while; the upper
    // half of a counter or flag is not looked at by most code.
    let lasting = [12, 13, 14, 15, 5, 3];
    let found = diverge(|_, attempt| Fault::Register {
        index: lasting[attempt as usize % lasting.len()],
        bit: 41,
    });
    let Some((pair, report)) = found else { return };
    let fields: Vec<_> = report
        .sections
        .iter()
        .flat_map(|section| section.fields.iter().map(move |f| (&section.section, f)))
        .collect();
    let index = pair.backup.machine.flipped_register().unwrap();
    let own = format!("gpr.{index}");
    // Where the guest has stored the register meanwhile, its memory differs too or instead.
    let named = fields
        .iter()
        .any(|(section, field)| *section == "cpu" && field.field == own);
    assert!(named || names_a_page(&report), "{report}");
}

#[test]
fn a_register_damaged_where_the_epoch_ends_is_reported_by_its_name_alone() {
    let found = diverge(|_, _| Fault::RegisterAtEnd { index: 13, bit: 41 });
    let Some((_, report)) = found else { return };
    let [section] = report.sections.as_slice() else {
        panic!("{report}")
    };
    let [field] = section.fields.as_slice() else {
        panic!("{report}")
    };
    assert_eq!(
        (section.section.as_str(), field.field.as_str()),
        ("cpu", "gpr.13")
    );
    let value = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    assert_eq!(value(&field.first) ^ value(&field.second), 1 << 41);
    assert!(report.pages.is_empty(), "{report}");
}

#[test]
fn a_time_stamp_that_was_read_otherwise_is_found_by_what_the_guest_made_of_it() {
    let found = diverge(|_, attempt| Fault::Tsc {
        ahead_ns: 1 + attempt * 500,
    });
    let Some((pair, report)) = found else { return };
    let (honest, read) = pair.backup.machine.tsc_reads().unwrap();
    assert!(read > honest, "the guest has read {read}, not {honest}");
    // The clock itself is right again, so nothing but the guest's own use of the value differs.
    let clock = report
        .sections
        .iter()
        .any(|section| section.section == "machine");
    assert!(!clock, "{report}");
    let registers = report
        .sections
        .iter()
        .any(|section| section.section == "cpu");
    assert!(registers || names_a_page(&report), "{report}");
}
