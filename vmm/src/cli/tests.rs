//! Tests of the command line.

use super::*;

const HOST: HostLimits = HostLimits {
    memory_bytes: 4 << 30,
};

fn parse(text: &str) -> Result<CommandLine, CliError> {
    let words = std::iter::once("cloud-hypervisor").chain(text.split_whitespace());
    CommandLine::parse_for(words.map(OsString::from), &HOST)
}

/// What the user would read, and the exit code.
fn refusal(text: &str) -> (String, i32) {
    match parse(text).unwrap_err() {
        CliError::Usage(error) => (error.to_string(), error.exit_code()),
        error => (chain_report("Cloud Hypervisor", &error), 1),
    }
}

#[test]
fn a_socket_alone_waits_for_calls() {
    let line = parse("--api-socket path=/s -vv --log-file /l --event-monitor fd=5").unwrap();
    assert_eq!(line.mode, Mode::Serve);
    assert_eq!(line.api_socket, Some(Endpoint::Path("/s".into())));
    assert_eq!(line.event_monitor, Some(Endpoint::Fd(5)));
    assert_eq!((line.verbosity, line.log_file), (2, Some("/l".into())));
    assert_eq!((line.seccomp, line.no_shutdown), (Seccomp::Trap, false));
    assert_eq!(
        parse("--api-socket /s").unwrap().api_socket,
        Some(Endpoint::Path("/s".into()))
    );
}

#[test]
fn a_snapshot_is_restored_as_it_was_asked_for() {
    let line = parse("--restore source_url=file:///s,resume=on --api-socket /a").unwrap();
    let Mode::Restore(config) = line.mode else {
        panic!("{:?}", line.mode)
    };
    assert_eq!(
        (config.source_url.as_str(), config.resume),
        ("file:///s", true)
    );
}

#[test]
fn a_kernel_boots_a_vm_with_what_was_asked_for() {
    let line = parse(
        "--kernel /k --initramfs /i --cmdline console=ttyS0 --cpus boot=1 --memory size=256M \
         --serial socket=/s --console off --platform hypervisor=software --record /r \
         --seccomp false --no-shutdown",
    )
    .unwrap();
    let Mode::Boot {
        config,
        settings,
        record,
    } = line.mode
    else {
        panic!("{:?}", line.mode)
    };
    assert_eq!(settings.memory_bytes, 256 << 20);
    assert_eq!(settings.cmdline, "console=ttyS0");
    assert_eq!(settings.initramfs, Some("/i".into()));
    assert_eq!(settings.serial, Some(SerialTarget::Socket("/s".into())));
    assert_eq!(settings.hypervisor, HypervisorChoice::Software);
    assert_eq!(config.console.mode, ConsoleMode::Off);
    assert_eq!(record, Some("/r".into()));
    assert_eq!((line.seccomp, line.no_shutdown), (Seccomp::Off, true));
}

#[test]
fn the_console_is_off_unless_asked_for() {
    let mode = |text: &str| match parse(text).unwrap().mode {
        Mode::Boot { config, .. } => config.console.mode,
        other => panic!("{other:?}"),
    };
    assert_eq!(mode("--kernel /k"), ConsoleMode::Off);
    assert_eq!(mode("--kernel /k --console null"), ConsoleMode::Null);
    assert_eq!(mode("--kernel /k --console tty"), ConsoleMode::Tty);
}

#[test]
fn a_replay_takes_only_what_is_not_in_the_log() {
    let line = parse("--replay /l --serial tty --platform hypervisor=kvm").unwrap();
    let serial = Some(SerialTarget::Tty);
    let hypervisor = HypervisorChoice::Kvm;
    assert_eq!(
        line.mode,
        Mode::Replay {
            log: "/l".into(),
            serial,
            hypervisor
        }
    );
    let (text, code) = refusal("--replay /l --memory size=1G");
    assert!(text.contains("--memory") && code == 2, "{text}");
}

#[test]
fn version_and_capabilities_need_nothing_else() {
    assert_eq!(parse("-V").unwrap().mode, Mode::Version);
    assert_eq!(parse("--version -v").unwrap().mode, Mode::Version);
    assert!(VERSION.starts_with("cloud-hypervisor v"));
    assert_eq!(
        parse("--capabilities").unwrap().mode,
        Mode::Capabilities { json: false }
    );
    assert_eq!(
        parse("--capabilities --json").unwrap().mode,
        Mode::Capabilities { json: true }
    );
}

#[test]
fn defaults_of_upstream_written_out_are_accepted() {
    let text = "--kernel /k --rng src=/dev/urandom --debug-console off,iobase=0xe9 --console off";
    assert!(matches!(parse(text).unwrap().mode, Mode::Boot { .. }));
}

#[test]
fn wrong_values_exit_1_and_name_the_option() {
    let table = [
        ("--kernel /k --cpus boot=2", "cpus.boot_vcpus: 2"),
        ("--kernel /k --cpus boot=0", "cpus.boot_vcpus"),
        (
            "--kernel /k --cpus foo=1",
            "  1: Error parsing --cpus\n  2: Unknown option: foo\n",
        ),
        ("--kernel /k --memory size=0", "memory.size"),
        ("--kernel /k --memory size=5G", "memory.size"),
        (
            "--kernel /k --memory size=1T",
            "Unable to convert 1T for size",
        ),
        ("--kernel /k --serial telnet", "Unknown option: telnet"),
        (
            "--kernel /k --platform hypervisor=xen",
            "Error parsing --platform",
        ),
        ("--kernel /k --platform uuid=x", "platform.system_uuid"),
        (
            "--kernel /k --disk path=/d foo=/e",
            "  1: Error parsing --disk\n  2: Unknown option: foo\n",
        ),
        (
            "--kernel /k --disk path=/d ft=maybe",
            "Error parsing --disk",
        ),
        (
            "--kernel /k --disk path=/d path=/e,vhost_user=on",
            "disks[1].vhost_user is not supported",
        ),
        ("--kernel /k --net tap=t,mac=1", "net[0].mac: \"1\""),
        ("--kernel /k --vsock cid=3", "Error parsing --vsock"),
        ("--kernel /k --rtc", "--rtc is not supported"),
        ("--kernel /k --watchdog", "watchdog is not supported"),
        ("--kernel /k --landlock", "landlock_enable is not supported"),
        (
            "--kernel /k --rng src=/dev/random,iommu=on",
            "rng.iommu is not supported",
        ),
        (
            "--kernel /k --debug-console tty",
            "--debug-console is not supported",
        ),
        ("--kernel /k --firmware /f", "both firmware and kernel"),
        ("--firmware /f", "payload.firmware is not supported"),
        (
            "--restore source_url=file:///s,memory_restore_mode=ondemand",
            "memory_restore_mode: OnDemand is not supported",
        ),
        ("--api-socket fd=x", "  1: Error parsing --api-socket\n"),
        (
            "--api-socket path=/s,fd=3",
            "  1: Error parsing --api-socket\n",
        ),
        (
            "--api-socket /s --event-monitor fd=",
            "  1: Error parsing --event-monitor\n",
        ),
    ];
    for (line, expected) in table {
        let (text, code) = refusal(line);
        assert_eq!(code, 1, "{line}: {text}");
        let start = "Error: Cloud Hypervisor exited with the following chain of errors:\n  \
                     0: Error parsing config\n";
        assert!(text.starts_with(start), "{line}: {text}");
        assert!(text.contains(expected), "{line}: {text}");
    }
}

#[test]
fn wrong_usage_exits_2() {
    let table = [
        ("", "Usage"),
        ("--frobnicate", "--frobnicate"),
        ("--memory size=1G", "--memory needs --kernel"),
        ("--api-socket /s --cpus boot=1", "--cpus needs --kernel"),
        ("--api-socket /s --disk path=/d", "--disk needs --kernel"),
        ("--api-socket /s --record /r", "--record needs --kernel"),
        ("-v", "nothing to do"),
        ("--kernel /k --seccomp maybe", "maybe"),
        ("--json", "--capabilities"),
        (
            "--replay /l --kernel /k",
            "--kernel cannot be used with --replay",
        ),
        (
            "--restore source_url=file:///s --memory size=1G",
            "--memory cannot be used with --restore",
        ),
    ];
    for (line, expected) in table {
        let (text, code) = refusal(line);
        assert_eq!(code, 2, "{line}: {text}");
        assert!(text.contains(expected), "{line}: {text}");
    }
    assert_eq!(refusal("--help").1, 0);
}
