//! Which path and method is which call, and how its body reads.
//!
//! Paths match exactly. The calls that the interface has and this build does not are here too, with
//! their bodies: they are refused by name, and only if they would be well formed otherwise.

use api_client::types::devices::{
    DeviceConfig, DiskConfig, FsConfig, GenericVhostUserConfig, NetConfig, PmemConfig,
    UserDeviceConfig, VdpaConfig, VsockConfig,
};
use api_client::types::requests::{VmRemoveDevice, VmResize, VmResizeZone};
use serde::de::DeserializeOwned;

use super::body::read as json;
use super::http::{HttpRequest, Method};
use super::state::Call;
use super::{ApiError, Request};
use crate::config::{
    check_ft_receive, check_ft_start, check_receive_migration, check_restore, check_send_migration,
};

/// Where all paths begin.
const ROOT: &str = "/api/v1/";

/// A call and the status of its success when it has no body.
#[derive(Debug)]
pub(super) struct Routed {
    pub request: Request,
    pub empty_status: u16,
}

/// One path.
struct Endpoint {
    name: &'static str,
    method: Method,
    read: Read,
}

/// How a call comes from its body.
enum Read {
    /// It has none.
    Bodyless(fn() -> Request),
    /// From JSON.
    Json(fn(&[u8]) -> Result<Request, ApiError>),
    /// From JSON, to a call that this build does not have. The function tells how many descriptors
    /// the body announces.
    Unsupported(fn(&[u8]) -> Result<usize, ApiError>),
}

const fn get(name: &'static str, request: fn() -> Request) -> Endpoint {
    Endpoint {
        name,
        method: Method::Get,
        read: Read::Bodyless(request),
    }
}

const fn put(name: &'static str, request: fn() -> Request) -> Endpoint {
    Endpoint {
        name,
        method: Method::Put,
        read: Read::Bodyless(request),
    }
}

const fn put_json(name: &'static str, read: fn(&[u8]) -> Result<Request, ApiError>) -> Endpoint {
    Endpoint {
        name,
        method: Method::Put,
        read: Read::Json(read),
    }
}

const fn unsupported(name: &'static str, read: fn(&[u8]) -> Result<usize, ApiError>) -> Endpoint {
    Endpoint {
        name,
        method: Method::Put,
        read: Read::Unsupported(read),
    }
}

/// Every path there is.
const ENDPOINTS: &[Endpoint] = &[
    get("vmm.ping", || Request::VmmPing),
    put("vmm.shutdown", || Request::VmmShutdown),
    get("vm.info", || Request::VmInfo),
    get("vm.counters", || Request::VmCounters),
    put_json("vm.create", |body| {
        Ok(Request::VmCreate(Box::new(json(body)?)))
    }),
    put("vm.delete", || Request::VmDelete),
    put("vm.boot", || Request::VmBoot),
    put("vm.pause", || Request::VmPause),
    put("vm.resume", || Request::VmResume),
    put("vm.shutdown", || Request::VmShutdown),
    put("vm.reboot", || Request::VmReboot),
    put("vm.power-button", || Request::VmPowerButton),
    put("vm.nmi", || Request::VmNmi),
    put_json("vm.resize-disk", |body| {
        Ok(Request::VmResizeDisk(json(body)?))
    }),
    put_json("vm.snapshot", |body| Ok(Request::VmSnapshot(json(body)?))),
    put_json("vm.restore", |body| {
        let config = json(body)?;
        check_restore(&config)
            .map_err(|error| ApiError::invalid_config(Call::VmRestore, &error))?;
        Ok(Request::VmRestore(config))
    }),
    put_json("vm.send-migration", |body| {
        let config = json(body)?;
        check_send_migration(&config)
            .map_err(|error| ApiError::invalid_config(Call::SendMigration, &error))?;
        Ok(Request::SendMigration(config))
    }),
    put_json("vm.receive-migration", |body| {
        let config = json(body)?;
        check_receive_migration(&config)
            .map_err(|error| ApiError::invalid_config(Call::ReceiveMigration, &error))?;
        Ok(Request::ReceiveMigration(config))
    }),
    put("vm.cancel-migration", || Request::CancelMigration),
    put_json("vm.ft-receive", |body| {
        let config = json(body)?;
        check_ft_receive(&config)
            .map_err(|error| ApiError::invalid_config(Call::FtReceive, &error))?;
        Ok(Request::FtReceive(config))
    }),
    put_json("vm.ft-start", |body| {
        let config = json(body)?;
        check_ft_start(&config).map_err(|error| ApiError::invalid_config(Call::FtStart, &error))?;
        Ok(Request::FtStart(config))
    }),
    get("vm.ft-status", || Request::FtStatus),
    put("vm.ft-stop", || Request::FtStop),
    put_json("vm.ft-failover", |body| {
        Ok(Request::FtFailover(json(body)?))
    }),
    unsupported("vm.resize", no_fds::<VmResize>),
    unsupported("vm.resize-zone", no_fds::<VmResizeZone>),
    unsupported("vm.remove-device", no_fds::<VmRemoveDevice>),
    unsupported("vm.add-device", |body| {
        Ok(usize::from(json::<DeviceConfig>(body)?.fd.is_some()))
    }),
    unsupported("vm.add-user-device", no_fds::<UserDeviceConfig>),
    unsupported("vm.add-disk", no_fds::<DiskConfig>),
    unsupported("vm.add-fs", no_fds::<FsConfig>),
    unsupported(
        "vm.add-generic-vhost-user",
        no_fds::<GenericVhostUserConfig>,
    ),
    unsupported("vm.add-net", |body| {
        Ok(json::<NetConfig>(body)?.fds.map_or(0, |fds| fds.len()))
    }),
    unsupported("vm.add-pmem", no_fds::<PmemConfig>),
    unsupported("vm.add-vdpa", no_fds::<VdpaConfig>),
    unsupported("vm.add-vsock", no_fds::<VsockConfig>),
];

/// The call that `http` makes.
///
/// # Errors
/// No such path, not with that method, or not with that body.
pub(super) fn route(http: &HttpRequest) -> Result<Routed, ApiError> {
    let name = http.path.strip_prefix(ROOT);
    let endpoint = ENDPOINTS
        .iter()
        .find(|endpoint| Some(endpoint.name) == name)
        .ok_or_else(|| ApiError::plain(404, ["Not Found"]))?;
    if http.method == Method::Other {
        return Err(ApiError::plain(400, []));
    }
    if http.method != endpoint.method {
        return Err(bad_request());
    }
    let (request, announced) = match endpoint.read {
        Read::Bodyless(request) => {
            refuse_body(http)?;
            (request(), 0)
        }
        Read::Json(read) => (read(required_body(http)?)?, 0),
        Read::Unsupported(read) => (
            Request::Unsupported(endpoint.name),
            read(required_body(http)?)?,
        ),
    };
    if http.fds.len() != announced {
        let count = http.fds.len();
        let text = format!("{count} file descriptors came with a request that takes {announced}");
        return Err(ApiError::plain(400, ["Bad Request", &text]));
    }
    let empty_status = if matches!(request, Request::VmmShutdown) {
        200
    } else {
        204
    };
    Ok(Routed {
        request,
        empty_status,
    })
}

fn bad_request() -> ApiError {
    ApiError::plain(400, ["Bad Request"])
}

/// A body where there is none to be is an error, except on GET, where it is passed over.
fn refuse_body(http: &HttpRequest) -> Result<(), ApiError> {
    if http.body.is_empty() || http.method == Method::Get {
        Ok(())
    } else {
        Err(bad_request())
    }
}

fn required_body(http: &HttpRequest) -> Result<&[u8], ApiError> {
    if http.body.is_empty() {
        Err(ApiError::plain(400, []))
    } else {
        Ok(&http.body)
    }
}

fn no_fds<T: DeserializeOwned>(body: &[u8]) -> Result<usize, ApiError> {
    json::<T>(body).map(|_| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: Method, path: &str, body: &str) -> Result<Request, ApiError> {
        let body = body.as_bytes().to_vec();
        let http = HttpRequest {
            method,
            path: path.to_owned(),
            body,
            fds: Vec::new(),
        };
        route(&http).map(|routed| routed.request)
    }

    fn put(name: &str, body: &str) -> Result<Request, ApiError> {
        ask(Method::Put, &format!("/api/v1/{name}"), body)
    }

    #[test]
    fn paths_match_exactly() {
        for path in [
            "/api/v1/vmm.pin",
            "/api/v1/vmm.ping/",
            "/api/v1/vmm.ping?x",
            "/api/v1/VMM.ping",
            "/api/v2/vmm.ping",
            "/vmm.ping",
            "",
            "/api/v1/vm.coredump",
        ] {
            let error = ask(Method::Get, path, "").unwrap_err();
            assert_eq!(error, ApiError::plain(404, ["Not Found"]), "{path}");
        }
        assert_eq!(
            ask(Method::Get, "/api/v1/vmm.ping", ""),
            Ok(Request::VmmPing)
        );
    }

    #[test]
    fn wrong_methods_and_misplaced_bodies_are_400() {
        let bad = Err(ApiError::plain(400, ["Bad Request"]));
        assert_eq!(ask(Method::Put, "/api/v1/vmm.ping", ""), bad);
        assert_eq!(ask(Method::Get, "/api/v1/vm.boot", ""), bad);
        assert_eq!(put("vm.boot", "{}"), bad);
        let empty = Err(ApiError::plain(400, []));
        assert_eq!(ask(Method::Other, "/api/v1/vm.boot", ""), empty);
        assert_eq!(put("vm.create", ""), empty);
        assert_eq!(
            ask(Method::Get, "/api/v1/vm.info", "{}"),
            Ok(Request::VmInfo)
        );
    }

    #[test]
    fn bodies_that_do_not_read_say_why() {
        let table = [
            ("vm.create", "{", "EOF"),
            ("vm.create", "[]", "VmConfig"),
            ("vm.create", r#"{"colour":1}"#, "unknown field `colour`"),
            ("vm.create", r#"{"memory":{}}"#, "missing field `size`"),
            ("vm.create", r#"{"memory":{"size":"1G"}}"#, "invalid type"),
            (
                "vm.create",
                r#"{"disks":[{"path":"/d","speed":1}]}"#,
                "unknown field `speed`",
            ),
            ("vm.add-disk", r#"{"pith":"/d"}"#, "unknown field `pith`"),
            ("vm.ft-failover", r#"{"planned":1}"#, "invalid type"),
            (
                "vm.resize-disk",
                r#"{"id":"d"}"#,
                "missing field `desired_size`",
            ),
            (
                "vm.ft-start",
                r#"{"destination_url":"tcp:h:1"}"#,
                "missing field `fence`",
            ),
        ];
        for (name, body, text) in table {
            let error = put(name, body).unwrap_err();
            assert_eq!(error.status, 400, "{name} {body}");
            assert_eq!(
                error.chain[0], "Failed to deserialize JSON",
                "{name} {body}"
            );
            assert!(error.chain[1].contains(text), "{name} {body}: {error}");
        }
    }

    #[test]
    fn protection_calls_are_checked_before_the_monitor_sees_them() {
        let error = put("vm.ft-start", r#"{"destination_url":"h","fence":"none"}"#).unwrap_err();
        assert_eq!(error.status, 400);
        assert_eq!(
            error.chain[..3],
            [
                "Error from API".to_owned(),
                "The VM could not be protected".to_owned(),
                "Failed to validate config".to_owned(),
            ]
        );
        assert!(error.chain[3].starts_with("destination_url:"), "{error}");
        for (name, body, text) in [
            (
                "vm.send-migration",
                r#"{"destination_url":"unix:/s","tls_dir":"/t"}"#,
                "tls_dir",
            ),
            (
                "vm.receive-migration",
                r#"{"receiver_url":"h"}"#,
                "receiver_url",
            ),
            (
                "vm.restore",
                r#"{"source_url":"file:///s","net_fds":[]}"#,
                "net_fds",
            ),
        ] {
            let error = put(name, body).unwrap_err();
            assert_eq!(error.status, 400);
            assert!(error.chain[3].starts_with(text), "{error}");
        }
    }

    #[test]
    fn calls_that_this_build_lacks_are_named() {
        for (name, body) in [
            ("vm.resize", r#"{"desired_vcpus":2}"#),
            ("vm.add-disk", r#"{"path":"/d"}"#),
        ] {
            assert_eq!(put(name, body), Ok(Request::Unsupported(name)));
        }
        // One descriptor is announced, and none came.
        let error = put("vm.add-net", r#"{"fds":[3]}"#).unwrap_err();
        assert_eq!(error.status, 400);
    }

    #[test]
    fn every_path_of_the_description_is_here_and_the_other_way_round() {
        let text = include_str!("../../../api_client/openapi.yaml");
        let mut described: Vec<(String, Method)> = Vec::new();
        let mut path = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("  /") {
                path = Some(name.trim_end_matches(':').to_owned());
            } else if let (Some(name), "    get:" | "    put:") = (&path, line) {
                let method = if line.contains("get") {
                    Method::Get
                } else {
                    Method::Put
                };
                described.push((name.clone(), method));
            }
        }
        let mut here: Vec<(String, Method)> = ENDPOINTS
            .iter()
            .map(|end| (end.name.to_owned(), end.method))
            .collect();
        let order = |a: &(String, Method), b: &(String, Method)| a.0.cmp(&b.0);
        described.sort_by(order);
        here.sort_by(order);
        assert_eq!(described, here);
    }
}
