//! The real machine by deltas: what they make of the backup's machine is what the primary's is.

use ft::mode::Mode;

use crate::guest::snapshot_or_skip;
use crate::pair::Pair;

/// Epochs between two looks at all of the state.
const EPOCHS: u64 = 12;

#[test]
fn a_backup_that_is_given_deltas_is_the_primary_page_by_page() {
    let Some(snapshot) = snapshot_or_skip() else {
        return;
    };
    let mut pair = Pair::in_mode(Mode::Checkpoint, snapshot);
    let mut before = pair.primary.machine.epochs().len();
    for _ in 0..3 {
        pair.run_epochs(EPOCHS);
        pair.assert_equal();
        let written = &pair.primary.machine.epochs()[before..];
        assert!(written.iter().any(|end| !end.written.is_empty()));
        before += written.len();
    }
    let (primary, backup) = (pair.primary_status(), pair.backup_status());
    assert_eq!(
        (primary.mode, primary.state.as_str()),
        ("checkpoint", "protected")
    );
    assert_eq!(backup.state, "following");
    assert_eq!((primary.divergences, backup.divergences), (0, 0));
    assert!(backup.positions.epochs_verified >= 3 * EPOCHS, "{backup:?}");
    let pages = primary.checkpoint.unwrap().pages;
    assert!(pages.written > 0 && pages.xor > 0, "{pages:?}");
}
