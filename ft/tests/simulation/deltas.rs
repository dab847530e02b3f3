//! What a backup makes of deltas that no primary would send: nothing of them is set.

use ft::codec::FieldWriter;
use ft::event::{DeviceId, Output, SyncPoint};
use ft::log::{Entry, EntryCoder, Event};
use ft::machine::{Machine, PAGE_SIZE, ZERO_PAGE};
use ft::output::{NumberedOutput, OutputLedger};
use ft::protocol::{Commit, Message};
use ft::time::{Epoch, HostTime, LogicalTime, PageNumber};

use crate::sim::toy::ALL_PAGES;
use crate::staging::Victim;

/// A batch of pages that are full of sevens.
fn sevens(pages: &[u64]) -> Message {
    let mut writer = FieldWriter::new();
    writer.varint(pages.len() as u64);
    let mut next = 0;
    for page in pages {
        writer.varint((page - next) << 3 | 4);
        next = page + 1;
    }
    pages.iter().for_each(|_| writer.raw(&[7; PAGE_SIZE]));
    Message::Delta(writer.finish())
}

fn output(number: u64, payload: Vec<u8>) -> NumberedOutput {
    let device = DeviceId(1);
    let output = Output { device, payload };
    NumberedOutput { number, output }
}

fn held(outputs: Vec<NumberedOutput>) -> Message {
    Message::Held(outputs)
}

/// The end of a delta that says the state has this digest.
fn commit(victim: &Victim, position: u64, root: u64) -> Commit {
    let mut base = victim.base(position);
    base.epoch = Epoch(1);
    Commit { root, base }
}

fn is_set(victim: &Victim, page: u64) -> bool {
    let mut bytes = ZERO_PAGE;
    victim.machine.read_page(PageNumber(page), &mut bytes);
    bytes == [7; PAGE_SIZE]
}

/// What the victim complains of when it is told this; its pages stay as they were.
fn refused(message: impl Fn(&Victim) -> Message) -> String {
    let mut victim = Victim::following();
    let fingerprints = |victim: &Victim| -> Vec<u64> {
        let pages = (0..ALL_PAGES).map(PageNumber);
        pages.map(|page| victim.machine.page_digest(page)).collect()
    };
    let before = fingerprints(&victim);
    victim.tell(&sevens(&[4, 5]));
    let message = message(&victim);
    victim.tell(&message);
    victim.drive();
    assert_eq!(fingerprints(&victim), before);
    victim.complaint()
}

#[test]
fn a_delta_is_set_when_it_is_complete_and_not_before() {
    let mut victim = Victim::following();
    victim.tell(&sevens(&[5]));
    victim.drive();
    assert!(!is_set(&victim, 5));
    victim.tell(&Message::Commit(Box::new(commit(&victim, 1, 1))));
    victim.drive();
    assert!(is_set(&victim, 5));
    assert_eq!(victim.backup.state(), "diverged", "the digest is another");
}

#[test]
fn a_delta_that_is_not_complete_is_dropped_when_the_primary_is_gone() {
    let mut victim = Victim::following();
    victim.tell(&sevens(&[4]));
    let whole = Message::Commit(Box::new(commit(&victim, 1, 1)));
    victim.tell(&whole);
    // Pages and outputs of the next one, and no end of it.
    victim.tell(&sevens(&[5]));
    victim.tell(&held(vec![output(1, vec![1])]));
    victim.backup.on_link_closed();
    for _ in 0..50 {
        victim.wait_ms(1);
        victim.drive();
    }
    assert!(victim.backup.is_live(), "{}", victim.backup.state());
    assert!(is_set(&victim, 4), "what was acknowledged is set");
    assert!(!is_set(&victim, 5));
    let left = victim.backup.take_released(HostTime(u64::MAX));
    assert!(
        left.iter().all(|left| left.device != DeviceId(1)),
        "{left:?}"
    );
}

#[test]
fn pages_that_do_not_exist_or_do_not_ascend_are_refused() {
    let told = refused(|_| sevens(&[ALL_PAGES]));
    assert!(told.contains("field delta page at offset"), "{told}");
    let told = refused(|_| sevens(&[5]));
    assert!(told.contains("field delta page at offset"), "{told}");
    let told = refused(|_| Message::Delta(vec![1, 6 << 3 | 7]));
    assert!(told.contains("field delta page form"), "{told}");
}

#[test]
fn a_commit_that_does_not_follow_what_came_before_is_refused() {
    for position in [0, 2] {
        let told = refused(|victim| Message::Commit(Box::new(commit(victim, position, 1))));
        assert!(told.contains("expected position 1"), "{told}");
    }
    let told = refused(|victim| {
        let mut first = commit(victim, 1, 1);
        first.base.epoch = Epoch(0);
        Message::Commit(Box::new(first))
    });
    assert!(told.contains("before epoch 0"), "{told}");
}

#[test]
fn sections_that_are_none_and_outputs_without_end_are_refused() {
    let told = refused(|_| Message::DeltaSections(vec![9, 9, 9]));
    assert!(told.contains("field sections"), "{told}");
    let mut victim = Victim::following();
    let large = |number| output(number, vec![0; 1 << 20]);
    let outputs: Vec<_> = (1..=8).map(large).collect();
    // What it takes to keep them counts, too.
    for _ in 0..8 {
        assert!(!victim.complaint().contains("bytes of outputs"));
        victim.tell(&held(outputs.clone()));
    }
    let told = victim.complaint();
    assert!(told.contains("at most 67108864 are possible"), "{told}");
    // Those without a byte are kept as well.
    let mut victim = Victim::following();
    let empty = |number| output(number, Vec::new());
    for frame in 0..40 {
        victim.tell(&held(
            (frame * 100_000..(frame + 1) * 100_000)
                .map(empty)
                .collect(),
        ));
        if victim.complaint().contains("at most 67108864 are possible") {
            return;
        }
    }
    panic!("outputs without end are kept");
}

#[test]
fn a_delta_in_which_an_output_is_missing_or_another_is_refused() {
    let mut ledger = OutputLedger::default();
    let outputs: Vec<_> = (1..=3)
        .map(|byte| ledger.admit(output(byte, vec![byte as u8]).output))
        .collect();
    let complaint = |outputs: &[NumberedOutput]| {
        let mut victim = Victim::following();
        victim.tell(&held(outputs.to_vec()));
        let mut end = commit(&victim, 1, 1);
        end.base.ledger = ledger;
        victim.tell(&Message::Commit(Box::new(end)));
        victim.complaint()
    };
    let told = complaint(&outputs);
    assert!(!told.contains("outputs in a delta"), "{told}");
    let mut other = outputs.clone();
    other[2].output.payload[0] = 9;
    let repeated = [&outputs[..], &outputs[2..]].concat();
    for wrong in [&outputs[1..], &outputs[..2], &other[..], &repeated[..], &[]] {
        let told = complaint(wrong);
        assert!(told.contains("goes from output 0 to 3"), "{told}");
    }
}

#[test]
fn a_primary_is_heard_while_a_delta_is_set_however_large_that_is() {
    let mut victim = Victim::following();
    let mut ledger = OutputLedger::default();
    for position in 1..=2 {
        assert!(victim.backup.wants_bytes());
        for _ in 0..5 {
            let large = |_| ledger.admit(output(0, vec![0; 1 << 20]).output);
            victim.tell(&held((0..8).map(large).collect()));
        }
        let mut end = commit(&victim, position, 1);
        (end.base.epoch, end.base.ledger) = (Epoch(position), ledger);
        victim.tell(&Message::Commit(Box::new(end)));
        assert_eq!(victim.backup.state(), "following", "{}", victim.complaint());
    }
    assert!(!victim.backup.wants_bytes(), "the next but one has to wait");
}

#[test]
fn a_log_of_more_than_markers_is_refused_where_deltas_close_epochs() {
    let log = |at: LogicalTime, event: Event| {
        let mut log = FieldWriter::new();
        EntryCoder::new(at, SyncPoint::start()).encode(&Entry { at, event }, &mut log);
        Message::Log(log.finish())
    };
    let told = refused(|victim| log(victim.machine.now(), Event::Outputs { count: 1 }));
    assert!(told.contains("no marker"), "{told}");
    let told = refused(|victim| log(victim.machine.now(), Event::Marker));
    assert!(!told.contains("no marker"), "{told}");
}
