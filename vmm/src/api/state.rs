//! Which call is allowed when, and with what words it is refused.
//!
//! Pure rules: the monitor looks up its situation here before it does anything. The statuses are
//! those that clients know, which is why "not running" is 500; only the calls of this project's own
//! answer 409 when they come at the wrong time.

use api_client::types::VmState;

use super::ApiError;

/// A call, without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `vmm.ping`.
    VmmPing,
    /// `vmm.shutdown`.
    VmmShutdown,
    /// `vm.create`.
    VmCreate,
    /// `vm.delete`.
    VmDelete,
    /// `vm.boot`.
    VmBoot,
    /// `vm.pause`.
    VmPause,
    /// `vm.resume`.
    VmResume,
    /// `vm.shutdown`.
    VmShutdown,
    /// `vm.reboot`.
    VmReboot,
    /// `vm.power-button`.
    VmPowerButton,
    /// `vm.nmi`.
    VmNmi,
    /// `vm.info`.
    VmInfo,
    /// `vm.counters`.
    VmCounters,
    /// `vm.resize-disk`.
    VmResizeDisk,
    /// `vm.snapshot`.
    VmSnapshot,
    /// `vm.restore`.
    VmRestore,
    /// `vm.send-migration`.
    SendMigration,
    /// `vm.receive-migration`.
    ReceiveMigration,
    /// `vm.cancel-migration`.
    CancelMigration,
    /// `vm.ft-receive`.
    FtReceive,
    /// `vm.ft-start`.
    FtStart,
    /// `vm.ft-status`.
    FtStatus,
    /// `vm.ft-stop`.
    FtStop,
    /// `vm.ft-failover`.
    FtFailover,
}

impl Call {
    /// What a client reads when the call fails, before the reason.
    #[must_use]
    pub fn failure(self) -> &'static str {
        match self {
            Self::VmmPing => "The VMM could not be pinged",
            Self::VmmShutdown => "The VMM could not be shut down",
            Self::VmCreate => "The VM could not be created",
            Self::VmDelete => "The VM could not be deleted",
            Self::VmBoot => "The VM could not boot",
            Self::VmPause => "The VM could not be paused",
            Self::VmResume => "The VM could not be resumed",
            Self::VmShutdown => "The VM could not be shut down",
            Self::VmReboot => "The VM could not be rebooted",
            Self::VmPowerButton => "The power button could not be pressed",
            Self::VmNmi => "The VM could not be sent an NMI",
            Self::VmInfo => "The VM info is not available",
            Self::VmCounters => "The VM counters are not available",
            Self::VmResizeDisk => "The disk could not be resized",
            Self::VmSnapshot => "The VM could not be snapshotted",
            Self::VmRestore => "The VM could not be restored",
            Self::SendMigration => "The VM migration could not be sent",
            Self::ReceiveMigration => "The VM migration could not be received",
            Self::CancelMigration => "The VM migration could not be cancelled",
            Self::FtReceive => "The VMM could not become a backup",
            Self::FtStart => "The VM could not be protected",
            Self::FtStatus => "The protection's status is not available",
            Self::FtStop => "The protection could not be stopped",
            Self::FtFailover => "The roles could not be changed",
        }
    }
}

/// What the monitor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Neither configuration nor VM.
    Nothing,
    /// A configuration.
    Created,
    /// A VM that runs.
    Running,
    /// A VM that stands still.
    Paused,
    /// A VM that is being made.
    Booting,
    /// A VM that is on its way to another host.
    Migrating,
    /// A VM that is on its way here, or the wait for one.
    Arriving,
    /// A VM that follows its primary, or the wait for one.
    Backup,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "not created",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Booting => "booting",
            Self::Migrating => "migrating",
            Self::Arriving => "migrating here",
            Self::Backup => "a backup",
        }
    }
}

/// Whether the VM has a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// It has none.
    None,
    /// It is being cloned.
    Starting,
    /// It has one.
    Active,
}

/// Status and causes of a refusal.
type Refusal = (u16, Vec<String>);

/// Refuses `call` if it may not be made now.
///
/// # Errors
/// The refusal that the client sees.
pub fn permit(call: Call, phase: Phase, protection: Protection) -> Result<(), ApiError> {
    let checked = match call {
        Call::VmmPing | Call::FtStatus => Ok(()),
        Call::VmmShutdown => refuse_if(phase == Phase::Migrating, 500, "VM is migrating"),
        Call::FtReceive => ft_receive(phase),
        Call::FtStart => ft_start(phase, protection),
        // A pause is the primary's own: its backup would run on.
        Call::FtFailover if phase == Phase::Paused => refuse(409, "VM is paused: resume it first"),
        Call::FtStop | Call::FtFailover => ft_change(phase, protection),
        Call::CancelMigration => match phase {
            Phase::Migrating | Phase::Arriving => Ok(()),
            _ => refuse(500, "VM is not migrating"),
        },
        Call::SendMigration | Call::VmSnapshot if protection != Protection::None => refuse(
            409,
            "VM is protected: end the protection with ft-stop first",
        ),
        _ => on_vm(call, phase),
    };
    checked.map_err(|(status, causes)| ApiError::new(status, call, causes))
}

fn refuse(status: u16, cause: &str) -> Result<(), Refusal> {
    Err((status, vec![cause.to_owned()]))
}

fn refuse_if(condition: bool, status: u16, cause: &str) -> Result<(), Refusal> {
    if condition {
        refuse(status, cause)
    } else {
        Ok(())
    }
}

fn on_vm(call: Call, phase: Phase) -> Result<(), Refusal> {
    match (call, phase) {
        (Call::VmInfo, Phase::Nothing) => refuse(404, "VM is not created"),
        (Call::VmInfo, _) => Ok(()),
        (_, Phase::Migrating) => refuse(500, "VM is migrating"),
        (_, Phase::Arriving) => refuse(500, "VM is migrating here"),
        (Call::VmCreate | Call::VmBoot, Phase::Booting) => refuse(500, "VM is already created"),
        (_, Phase::Booting) => refuse(500, "VM is booting"),
        (_, Phase::Backup) => refuse(409, "VM is a backup: it does what its primary does"),
        (Call::VmCreate | Call::VmRestore | Call::ReceiveMigration, Phase::Nothing)
        | (Call::ReceiveMigration, Phase::Created)
        | (Call::VmDelete, _) => Ok(()),
        (Call::VmCreate | Call::VmRestore | Call::ReceiveMigration, _) => {
            refuse(500, "VM is already created")
        }
        (Call::VmBoot, Phase::Nothing) => refuse(404, "VM config is missing"),
        (Call::VmBoot, Phase::Created) => Ok(()),
        (Call::VmBoot, _) => refuse(500, "VM is already created"),
        (Call::VmResizeDisk, Phase::Nothing) => refuse(404, "VM is not created"),
        (Call::VmReboot, Phase::Nothing | Phase::Created) => refuse(404, "VM is not created"),
        (_, Phase::Nothing | Phase::Created) => refuse(500, "VM is not running"),
        (Call::VmSnapshot, Phase::Running) => refuse(500, "VM is running: pause it first"),
        (Call::VmPause, Phase::Paused) => Err((500, transition("pause", VmState::Paused))),
        (Call::VmResume, Phase::Running) => Err((500, transition("resume", VmState::Running))),
        _ => Ok(()),
    }
}

/// The causes of a change to the state that the VM has already.
fn transition(verb: &str, state: VmState) -> Vec<String> {
    vec![
        format!("Cannot {verb} VM"),
        format!("Failed to {verb} migratable component"),
        format!("Invalid transition: InvalidStateTransition({state:?}, {state:?})"),
    ]
}

fn ft_receive(phase: Phase) -> Result<(), Refusal> {
    let state = phase.name();
    refuse_if(
        phase != Phase::Nothing,
        409,
        &format!("VM is {state}: there must be none"),
    )
}

fn ft_start(phase: Phase, protection: Protection) -> Result<(), Refusal> {
    match (phase, protection) {
        (Phase::Nothing, _) => refuse(404, "VM is not created"),
        (Phase::Running | Phase::Paused, Protection::None) => Ok(()),
        (Phase::Running | Phase::Paused, Protection::Starting) => {
            refuse(409, "VM is being protected already")
        }
        (Phase::Running | Phase::Paused, Protection::Active) => {
            refuse(409, "VM is protected already")
        }
        (other, _) => refuse(409, &format!("VM is {}: it must be running", other.name())),
    }
}

fn ft_change(phase: Phase, protection: Protection) -> Result<(), Refusal> {
    match (phase, protection) {
        (Phase::Backup, _) => Ok(()),
        (Phase::Nothing, _) => refuse(404, "VM is not created"),
        (_, Protection::None) => refuse(409, "VM is not protected"),
        _ => Ok(()),
    }
}

/// A change of state that there is no way for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Invalid transition: InvalidStateTransition({from:?}, {to:?})")]
pub struct InvalidTransition {
    /// The state the VM is in.
    pub from: VmState,
    /// The state it was to have.
    pub to: VmState,
}

/// Checks a change of a VM's state.
///
/// # Errors
/// There is no way from the one to the other.
pub fn change(from: VmState, to: VmState) -> Result<VmState, InvalidTransition> {
    use VmState::{BreakPoint, Created, Paused, Running, Shutdown};
    let allowed = match from {
        Created => to != Created,
        Running => matches!(to, Paused | Shutdown | BreakPoint),
        Shutdown => to == Running,
        Paused => matches!(to, Running | Shutdown),
        BreakPoint => matches!(to, Created | Running),
    };
    if allowed {
        Ok(to)
    } else {
        Err(InvalidTransition { from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 7] = [
        Phase::Nothing,
        Phase::Created,
        Phase::Running,
        Phase::Paused,
        Phase::Migrating,
        Phase::Backup,
        Phase::Arriving,
    ];

    fn status(call: Call, phase: Phase, protection: Protection) -> u16 {
        permit(call, phase, protection).map_or_else(|error| error.status, |()| 204)
    }

    #[test]
    fn calls_are_allowed_and_refused_as_the_interface_has_it() {
        // Columns: nothing, created, running, paused, migrating, backup, arriving.
        let table = [
            (Call::VmmPing, [204, 204, 204, 204, 204, 204, 204]),
            (Call::VmmShutdown, [204, 204, 204, 204, 500, 204, 204]),
            (Call::VmCreate, [204, 500, 500, 500, 500, 409, 500]),
            (Call::VmBoot, [404, 204, 500, 500, 500, 409, 500]),
            (Call::VmDelete, [204, 204, 204, 204, 500, 409, 500]),
            (Call::VmShutdown, [500, 500, 204, 204, 500, 409, 500]),
            (Call::VmReboot, [404, 404, 204, 204, 500, 409, 500]),
            (Call::VmPause, [500, 500, 204, 500, 500, 409, 500]),
            (Call::VmResume, [500, 500, 500, 204, 500, 409, 500]),
            (Call::VmInfo, [404, 204, 204, 204, 204, 204, 204]),
            (Call::VmCounters, [500, 500, 204, 204, 500, 409, 500]),
            (Call::VmNmi, [500, 500, 204, 204, 500, 409, 500]),
            (Call::VmPowerButton, [500, 500, 204, 204, 500, 409, 500]),
            (Call::VmResizeDisk, [404, 500, 204, 204, 500, 409, 500]),
            (Call::VmSnapshot, [500, 500, 500, 204, 500, 409, 500]),
            (Call::VmRestore, [204, 500, 500, 500, 500, 409, 500]),
            (Call::SendMigration, [500, 500, 204, 204, 500, 409, 500]),
            (Call::ReceiveMigration, [204, 204, 500, 500, 500, 409, 500]),
            (Call::CancelMigration, [500, 500, 500, 500, 204, 500, 204]),
            (Call::FtReceive, [204, 409, 409, 409, 409, 409, 409]),
            (Call::FtStart, [404, 409, 204, 204, 409, 409, 409]),
            (Call::FtStatus, [204, 204, 204, 204, 204, 204, 204]),
            (Call::FtStop, [404, 409, 409, 409, 409, 204, 409]),
            (Call::FtFailover, [404, 409, 409, 409, 409, 204, 409]),
        ];
        for (call, expected) in table {
            let found = PHASES.map(|phase| status(call, phase, Protection::None));
            assert_eq!(found, expected, "{call:?}");
        }
    }

    #[test]
    fn a_protected_vm_can_be_stopped_and_failed_over_and_not_protected_again() {
        for protection in [Protection::Starting, Protection::Active] {
            assert_eq!(status(Call::FtStart, Phase::Running, protection), 409);
            assert_eq!(status(Call::FtStop, Phase::Running, protection), 204);
            assert_eq!(status(Call::FtFailover, Phase::Running, protection), 204);
            assert_eq!(status(Call::FtFailover, Phase::Paused, protection), 409);
            assert_eq!(status(Call::VmPause, Phase::Running, protection), 204);
            assert_eq!(status(Call::SendMigration, Phase::Running, protection), 409);
            assert_eq!(status(Call::VmSnapshot, Phase::Paused, protection), 409);
        }
    }

    #[test]
    fn refusals_have_the_chain_that_clients_know() {
        let chain = |call, phase| permit(call, phase, Protection::None).unwrap_err().chain;
        assert_eq!(
            chain(Call::VmBoot, Phase::Running),
            [
                "Error from API",
                "The VM could not boot",
                "VM is already created",
            ]
        );
        assert_eq!(
            chain(Call::VmPause, Phase::Paused),
            [
                "Error from API",
                "The VM could not be paused",
                "Cannot pause VM",
                "Failed to pause migratable component",
                "Invalid transition: InvalidStateTransition(Paused, Paused)",
            ]
        );
        let second = permit(Call::FtStart, Phase::Running, Protection::Active).unwrap_err();
        assert_eq!(second.chain[2], "VM is protected already");
        let created = chain(Call::FtStart, Phase::Created);
        assert_eq!(created[2], "VM is created: it must be running");
    }

    #[test]
    fn states_change_only_along_the_ways_there_are() {
        use VmState::{BreakPoint, Created, Paused, Running, Shutdown};
        let all = [Created, Running, Shutdown, Paused, BreakPoint];
        let ways = [
            (Created, vec![Running, Shutdown, Paused, BreakPoint]),
            (Running, vec![Shutdown, Paused, BreakPoint]),
            (Shutdown, vec![Running]),
            (Paused, vec![Running, Shutdown]),
            (BreakPoint, vec![Created, Running]),
        ];
        for (from, allowed) in ways {
            for to in all {
                assert_eq!(
                    change(from, to).is_ok(),
                    allowed.contains(&to),
                    "{from:?} {to:?}"
                );
            }
        }
    }
}
