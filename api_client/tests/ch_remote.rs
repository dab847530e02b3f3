//! The `ch-remote` binary against a scripted server: what it sends, prints and exits with.
#![allow(clippy::unwrap_used)] // A test that cannot go on is to fail.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

const EMPTY: &str =
    "HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n";

fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir();
    folder.join(format!("ch-remote-{}-{unique}-{name}", std::process::id()))
}

fn with_body(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Runs `ch-remote` against a server that answers `answers`, one per request, and returns what the
/// server received with what the command did.
fn run(arguments: &[&str], stdin: &str, answers: &[&str]) -> (String, Output) {
    let path = scratch("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        for answer in answers {
            request.clear();
            let mut chunk = [0; 65536];
            while !complete(&request) {
                let count = stream.read(&mut chunk).unwrap();
                assert!(count > 0, "closed after {request:?}");
                request.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
            }
            stream.write_all(answer.as_bytes()).unwrap();
            if answer.is_empty() {
                break;
            }
        }
        request
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_ch-remote"))
        .arg("--api-socket")
        .arg(&path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let request = server.join().unwrap();
    std::fs::remove_file(&path).unwrap();
    (request, output)
}

fn complete(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |length| length.parse().unwrap());
    body.len() >= length
}

#[test]
fn every_bodyless_subcommand_sends_its_call() {
    let table = [
        ("boot", "PUT", "vm.boot"),
        ("cancel-migration", "PUT", "vm.cancel-migration"),
        ("counters", "GET", "vm.counters"),
        ("delete", "PUT", "vm.delete"),
        ("ft-status", "GET", "vm.ft-status"),
        ("ft-stop", "PUT", "vm.ft-stop"),
        ("info", "GET", "vm.info"),
        ("nmi", "PUT", "vm.nmi"),
        ("pause", "PUT", "vm.pause"),
        ("ping", "GET", "vmm.ping"),
        ("power-button", "PUT", "vm.power-button"),
        ("reboot", "PUT", "vm.reboot"),
        ("resume", "PUT", "vm.resume"),
        ("shutdown", "PUT", "vm.shutdown"),
        ("shutdown-vmm", "PUT", "vmm.shutdown"),
    ];
    for (command, method, name) in table {
        let (request, output) = run(&[command], "", &[EMPTY]);
        assert_eq!(
            request,
            format!("{method} /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n")
        );
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(
            output.stdout.is_empty() && output.stderr.is_empty(),
            "{command}"
        );
    }
}

#[test]
fn subcommands_with_arguments_send_them_as_json() {
    let table: &[(&[&str], &str, &str)] = &[
        (
            &["remove-device", "_disk0"],
            "vm.remove-device",
            r#"{"id":"_disk0"}"#,
        ),
        (
            &["resize", "--cpus", "2", "--memory", "1G"],
            "vm.resize",
            r#"{"desired_vcpus":2,"desired_ram":1073741824}"#,
        ),
        (
            &["resize-disk", "--disk", "d", "--size", "3M"],
            "vm.resize-disk",
            r#"{"id":"d","desired_size":3145728}"#,
        ),
        (
            &["snapshot", "file:///s"],
            "vm.snapshot",
            r#"{"destination_url":"file:///s"}"#,
        ),
        (
            &["ft-receive", "tcp:0.0.0.0:7000", "--serial", "socket=/s"],
            "vm.ft-receive",
            r#"{"receiver_url":"tcp:0.0.0.0:7000","config_overrides":{"serial":{"mode":"Socket","socket":"/s"}}}"#,
        ),
        (
            &[
                "ft-start",
                "tcp:h:1",
                "--fence",
                "file:/f",
                "--release",
                "verified",
            ],
            "vm.ft-start",
            r#"{"destination_url":"tcp:h:1","mode":"auto","release":"verified","epoch_ms":10,"fence":"file:/f","heartbeat_ms":20,"timeout_ms":200}"#,
        ),
        (
            &[
                "ft-start",
                "destination_url=unix:/x,fence=none,epoch_ms=5",
                "--epoch-ms",
                "7",
                "--lease-ms",
                "50",
            ],
            "vm.ft-start",
            r#"{"destination_url":"unix:/x","mode":"auto","epoch_ms":7,"fence":"none","heartbeat_ms":20,"timeout_ms":200,"lease_ms":50}"#,
        ),
        (&["ft-failover"], "vm.ft-failover", r#"{"planned":true}"#),
        (
            &["ft-failover", "--unplanned"],
            "vm.ft-failover",
            r#"{"planned":false}"#,
        ),
        (
            &["add-vsock", "cid=3,socket=/v"],
            "vm.add-vsock",
            r#"{"pci_segment":0,"cid":3,"socket":"/v"}"#,
        ),
        (
            &["restore", "source_url=file:///s,net_fds=[n0@[3,4]]"],
            "vm.restore",
            r#"{"source_url":"file:///s","prefault":false,"memory_restore_mode":"Copy","net_fds":[{"id":"n0","num_fds":2,"fds":[3,4]}],"resume":false,"zone_updates":[]}"#,
        ),
    ];
    for (arguments, name, body) in table {
        let (request, output) = run(arguments, "", &[EMPTY]);
        let expected = format!(
            "PUT /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(request, expected, "{arguments:?}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn create_sends_a_file_or_the_standard_input_verbatim() {
    let config = "{ \"cpus\": 1 }\n";
    let file = scratch("config");
    std::fs::write(&file, config).unwrap();
    for (arguments, stdin) in [
        (vec!["create"], config),
        (vec!["create", "-"], config),
        (vec!["create", file.to_str().unwrap()], ""),
    ] {
        let (request, output) = run(&arguments, stdin, &[EMPTY]);
        assert!(
            request.starts_with("PUT /api/v1/vm.create HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.ends_with(&format!("\r\n\r\n{config}")), "{request}");
        assert_eq!(output.status.code(), Some(0));
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn bodies_are_printed_with_a_newline_and_an_empty_one_is_an_empty_line() {
    let (_, output) = run(
        &["info"],
        "",
        &[&with_body("200", "{\"state\":\"Running\"}")],
    );
    assert_eq!(output.stdout, b"{\"state\":\"Running\"}\n");
    let (_, output) = run(&["shutdown-vmm"], "", &[&with_body("200", "")]);
    assert_eq!(output.stdout, b"\n");
}

#[test]
fn a_refusal_exits_1_and_prints_the_chain() {
    let answer = with_body("500", r#"["Error from API","The VM could not boot","x"]"#);
    let (_, output) = run(&["boot"], "", &[&answer]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "Error: ch-remote exited with the following chain of errors:\n  0: http client error\n  \
         1: Server responded with InternalServerError\n  2: Error from API\n  \
         3: The VM could not boot\n  4: x\n"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn watching_shows_each_status_and_ends_when_the_server_goes() {
    let status = with_body("200", r#"{"role":"primary","epoch":7}"#);
    let (_, output) = run(
        &["ft-status", "--watch", "--interval-ms", "10"],
        "",
        &[&status, &status, ""],
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("epoch  7\nrole   primary\n\nepoch  7\n"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn usage_errors_exit_2_and_other_errors_exit_1() {
    let table: &[(&[&str], i32, &str)] = &[
        (&[], 2, "Usage"),
        (&["--api-socket", "/nonexistent/s"], 2, "subcommand"),
        (&["--api-socket", "/nonexistent/s", "fly"], 2, "fly"),
        (
            &["--api-socket", "/nonexistent/s", "remove-device"],
            2,
            "<ID>",
        ),
        (&["boot"], 2, "--api-socket"),
        (
            &["--api-socket", "/nonexistent/s", "boot"],
            1,
            "/nonexistent/s",
        ),
        (
            &["--api-socket", "/s", "add-disk", "foo=1"],
            1,
            "  2: Unknown option: foo\n",
        ),
        (
            &["--api-socket", "/s", "add-fs", "tag=a"],
            1,
            "Missing option: socket",
        ),
        (
            &["--api-socket", "/s", "resize", "--memory", "1T"],
            1,
            "Unable to convert 1T",
        ),
        (
            &["--api-socket", "/s", "ft-start", "tcp:h:1"],
            1,
            "Missing option: fence",
        ),
        (
            &["--api-socket", "/s", "create", "/nonexistent/c"],
            1,
            "/nonexistent/c",
        ),
    ];
    for (arguments, code, text) in table {
        let output = Command::new(env!("CARGO_BIN_EXE_ch-remote"))
            .args(*arguments)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(text), "{arguments:?}: {stderr}");
    }
}

#[test]
fn an_option_string_error_names_group_flag_and_text() {
    let output = Command::new(env!("CARGO_BIN_EXE_ch-remote"))
        .args(["--api-socket", "/s", "add-disk", "foo=1"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "Error: ch-remote exited with the following chain of errors:\n  \
         0: Error parsing disk syntax\n  1: Error parsing --disk\n  2: Unknown option: foo\n"
    );
}
