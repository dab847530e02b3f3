//! What `--capabilities` tells of this host, whatever host it is, and that the choice of a backend
//! agrees with it.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::time::{Duration, Instant};

use tests::backend::{ask, backend, capabilities, kvm_refusal};
use tests::command::{Scratch, host_is_quiet};

/// The probes' own limit, and the start of a process.
const LIMIT: Duration = Duration::from_millis(2200);

#[test]
fn every_backend_answers_every_question_in_time() {
    let scratch = Scratch::new("capabilities").unwrap();
    let begun = Instant::now();
    let all = capabilities(&scratch).unwrap();
    let took = begun.elapsed();
    if took > LIMIT && host_is_quiet("--capabilities", begun).unwrap() {
        panic!("--capabilities took {} s", took.as_secs_f64());
    }
    for name in ["software", "kvm"] {
        let backend = backend(&all, name).unwrap();
        for mode in ["replay", "checkpoint"] {
            let modes = backend["modes"].as_array().unwrap();
            let answer = modes.iter().find(|answer| answer["mode"] == mode).unwrap();
            assert_ne!(answer["reason"], "", "{name}: {answer}");
        }
        for capability in backend["capabilities"].as_array().unwrap() {
            assert_ne!(capability["detail"], "", "{name}: {capability}");
        }
    }
    let usable = backend(&all, "kvm").unwrap()["usable"] == true;
    let wanted = if usable { "kvm" } else { "software" };
    assert_eq!(all["auto"]["backend"], wanted, "{}", all["auto"]);
}

#[test]
fn the_table_has_a_line_for_every_answer_and_the_choice() {
    let scratch = Scratch::new("capabilities-table").unwrap();
    let table = ask(&scratch, &["--capabilities"]).unwrap();
    assert_eq!(table.code, Some(0), "{table:?}");
    let all = capabilities(&scratch).unwrap();
    for name in ["software", "kvm"] {
        for capability in backend(&all, name).unwrap()["capabilities"]
            .as_array()
            .unwrap()
        {
            let name = capability["name"].as_str().unwrap();
            assert!(table.output.contains(name), "{name} in {}", table.output);
        }
    }
    let choice = all["auto"]["backend"].as_str().unwrap();
    let line = format!("hypervisor=auto takes {choice}: ");
    assert!(table.output.contains(&line), "{}", table.output);
}

#[test]
fn a_kvm_that_cannot_be_used_is_refused_with_what_the_probe_found() {
    let scratch = Scratch::new("kvm-refused").unwrap();
    let Some(reason) = kvm_refusal(&scratch).unwrap() else {
        tests::skip("a refusal of KVM: it can be used here");
        return;
    };
    let arguments = "--platform hypervisor=kvm --kernel /dev/null --cmdline quiet";
    let words: Vec<&str> = arguments.split(' ').collect();
    let refused = ask(&scratch, &words).unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    // Measured values differ from run to run; what they are about does not.
    let about = reason.split(':').next().unwrap();
    assert!(
        refused.errors.contains("kvm cannot be used here"),
        "{refused:?}"
    );
    assert!(refused.errors.contains(about), "{about} in {refused:?}");
}
