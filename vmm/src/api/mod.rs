//! The REST API on `--api-socket`: HTTP/1.1 and JSON over a Unix stream socket.
//!
//! ```text
//! socket ─▶ server ─▶ connection ─▶ http ─▶ route ─▶ Requests::handle ─▶ response ─▶ socket
//!           accept,    one thread    bytes   path,     the monitor        head, body
//!           limits     per client    to a    method,
//!                                    request body (read by `body`)
//! ```
//!
//! Nothing here knows what a VM is: the monitor implements [`Requests`]. `state` has the rules that
//! say which call is allowed when.

mod body;
mod connection;
mod error;
mod http;
mod request;
mod response;
mod route;
mod server;
mod socket;
pub mod state;

pub use error::ApiError;
pub use request::{Answer, Request, Requests};
pub use server::{ApiServer, ServerError};
pub use socket::{ApiSocket, SocketError};

#[cfg(test)]
mod tests;
