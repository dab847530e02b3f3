//! The API's calls, carried out.

use api_client::types::PingResponse;
use ft::event::ControlOp;
use serde::Serialize;

use super::{Control, ControlError, Notice};
use crate::api::state::{Call, Phase, permit};
use crate::api::{Answer, ApiError, Request, Requests};

/// Features of this build, as `vmm.ping` lists them.
const FEATURES: [&str; 2] = ["software", "ft"];

fn json(value: impl Serialize) -> Result<Answer, ControlError> {
    serde_json::to_value(value)
        .map(Answer::Json)
        .map_err(|error| ControlError::failed("The answer could not be written", &error))
}

impl Control {
    fn carry_out(&self, request: Request) -> Result<Answer, ControlError> {
        match request {
            Request::VmmPing => {
                return json(PingResponse {
                    build_version: concat!("v", env!("CARGO_PKG_VERSION")).to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    pid: i64::from(std::process::id()),
                    features: FEATURES.map(str::to_owned).to_vec(),
                });
            }
            Request::VmmShutdown => self.ask_to_quit(),
            Request::VmCreate(config) => self.create(*config)?,
            Request::VmDelete => self.delete(),
            Request::VmBoot => self.boot(None)?,
            Request::VmPause => self.set_paused(true)?,
            Request::VmResume => self.set_paused(false)?,
            Request::VmShutdown => self.shutdown()?,
            Request::VmReboot => {
                self.operate(ControlOp::Reset, "The VM could not be rebooted")?;
            }
            Request::VmPowerButton => {
                self.operate(
                    ControlOp::PowerButton,
                    "The power button could not be pressed",
                )?;
            }
            Request::VmNmi => self.operate(ControlOp::Nmi, "The NMI could not be raised")?,
            Request::VmInfo => return json(self.info()?),
            Request::VmCounters => return Ok(Answer::Json(self.counters()?)),
            Request::VmResizeDisk(request) => self.resize_disk(&request)?,
            Request::VmSnapshot(request) => self.snapshot(&request)?,
            Request::VmRestore(request) => self.restore(&request)?,
            Request::SendMigration(request) => self.send_migration(&request)?,
            Request::ReceiveMigration(request) => self.receive_migration(&request)?,
            Request::CancelMigration => self.cancel_migration()?,
            Request::FtReceive(request) => self.ft_receive(&request)?,
            Request::FtStart(request) => self.ft_start(&request)?,
            Request::FtStatus => return Ok(Answer::Json(self.ft_status()?)),
            Request::FtStop => self.ft_stop()?,
            Request::FtFailover(request) => self.ft_failover(&request)?,
            Request::Unsupported(name) => {
                let reason = format!("{name} is not supported by this build");
                return Err(ControlError::new(
                    501,
                    "The call could not be made",
                    vec![reason],
                ));
            }
        }
        Ok(Answer::Empty)
    }

    /// Asks the main thread to end the process.
    pub fn ask_to_quit(&self) {
        // It may be ending already.
        let _ = self.setting.notices.send(Notice::Quit);
    }
}

impl Requests for Control {
    fn handle(&self, request: Request) -> Result<Answer, ApiError> {
        if let Some(call) = request.call() {
            let state = self.lock();
            let (phase, protection) = (state.phase(), state.protection());
            // A backup is ended by being deleted, whatever its primary does.
            if call != Call::VmDelete || phase != Phase::Backup {
                permit(call, phase, protection)?;
            }
        }
        self.carry_out(request).map_err(ApiError::from)
    }
}
