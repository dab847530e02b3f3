//! Migrations to another process on the same host, which takes over the guest's memory itself.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::time::Duration;

use serde_json::{Value, json};
use tests::command::Scratch;
use tests::migration::{
    Receiver, figures, free_url, send, serve_client, start_guest, wait_for, wait_for_end,
};
use tests::process::VmProcess;
use tests::scenario::Client;

const LIMIT: Duration = Duration::from_secs(120);
const SHARED: &str = "128M,shared=on";
const JOBS: &str = "job=load memory_mib=16";

struct Scene {
    vm: VmProcess,
    client: Client,
    scratch: Scratch,
}

impl Scene {
    fn boot(name: &str, memory: &str) -> Self {
        let scratch = Scratch::new(name).unwrap();
        let vm = start_guest(scratch.path(), "vmm-0", memory, JOBS).unwrap();
        let client = serve_client(&vm, LIMIT).unwrap();
        Self {
            vm,
            client,
            scratch,
        }
    }

    fn empty(&self, name: &str) -> VmProcess {
        VmProcess::start_empty(self.scratch.path(), name).unwrap()
    }

    fn url(&self, name: &str) -> Value {
        json!(format!("unix:{}", self.scratch.file(name).display()))
    }

    fn more_replies(&self) {
        self.client.more(10, LIMIT).unwrap();
    }

    fn finish(mut self) {
        assert_eq!(self.client.finish().unwrap().lost, 0);
    }
}

#[test]
fn a_busy_guest_goes_from_process_to_process_and_its_memory_stays_where_it_is() {
    let mut scene = Scene::boot("local", SHARED);
    for name in ["vmm-1", "vmm-2"] {
        let destination = scene.empty(name);
        let receiver = Receiver::start(&destination, scene.url(&format!("{name}.move")));
        send(&scene.vm, receiver.url(), &json!({"local": true})).unwrap();
        receiver.finish().unwrap();
        wait_for_end(&mut scene.vm).unwrap();
        if name == "vmm-1" {
            // Only the first process tells of itself in a file.
            let figures = figures(&scene.vm).unwrap();
            println!("{figures:?}");
        }
        scene.vm = destination;
        scene.more_replies();
    }
    scene.finish();
}

#[test]
fn a_source_that_is_preserved_goes_on_when_the_other_has_ended() {
    let scene = Scene::boot("preserved", SHARED);
    let mut other = scene.empty("other");
    let receiver = Receiver::start(&other, scene.url("move"));
    let options = json!({"local": true, "preserve_source": true});
    send(&scene.vm, receiver.url(), &options).unwrap();
    receiver.finish().unwrap();
    wait_for(&scene.vm, &["Finished"]).unwrap();
    for process in [&scene.vm, &other] {
        let info = process.get("vm.info").unwrap();
        assert_eq!(info["state"], "Paused", "{info}");
    }
    let refused = scene
        .vm
        .put("vm.snapshot", &json!({"destination_url": "file:///"}));
    assert!(refused.is_err(), "it may run elsewhere");
    other.kill().unwrap();
    scene.vm.put("vm.resume", &Value::Null).unwrap();
    scene.more_replies();
    scene.finish();
}

#[test]
fn what_cannot_be_handed_over_is_refused_by_name_and_the_guest_goes_on() {
    let scene = Scene::boot("private", "128M");
    let url = scene.url("nobody");
    for (url, options, text) in [
        (&url, json!({"local": true}), "shared=on"),
        (&url, json!({"preserve_source": true}), "preserve_source"),
        (&free_url().unwrap(), json!({"local": true}), "local"),
    ] {
        let mut body = json!({"destination_url": url});
        let given = options.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(given);
        let error = scene.vm.put("vm.send-migration", &body).unwrap_err();
        let said = format!("{error:?}");
        assert!(said.contains(text), "{options}: {said}");
    }
    scene.more_replies();
    scene.finish();
}
