//! One client: its requests, one after the other, in the order they came.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;

use super::http::{HttpError, RequestReader};
use super::route::route;
use super::server::Busy;
use super::{ApiError, Request, Requests, response};

/// Serves a client until it goes, or sends what cannot be read.
pub(super) fn serve(stream: &UnixStream, requests: &dyn Requests, busy: &Busy) {
    let mut reader = RequestReader::new(stream);
    loop {
        let next = reader.next(|| write(stream, &response::go_on()));
        let http = match next {
            Ok(http) => http,
            Err(HttpError::Closed) => return,
            Err(HttpError::Unreadable(reason)) => {
                // Where the next request would begin is unknown, so this is the last one.
                log::debug!("API: unreadable request: {reason}");
                report(write(stream, &response::unreadable(&reason)));
                return;
            }
            Err(HttpError::Io(error)) => return report(Err(error)),
        };
        // The answer is on its way before the server may stop.
        let _working = busy.begin();
        let routed = route(&http);
        drop(http.fds);
        let answer = match routed {
            Err(refusal) => response::refusal(&refusal),
            Ok(routed) => match perform(requests, routed.request) {
                Ok(answer) => response::success(answer, routed.empty_status),
                Err(refusal) => response::refusal(&refusal),
            },
        };
        if let Err(error) = write(stream, &answer) {
            return report(Err(error));
        }
    }
}

fn perform(requests: &dyn Requests, request: Request) -> Result<super::Answer, ApiError> {
    log::debug!("API: {request:?}");
    let result = requests.handle(request);
    if let Err(refusal) = &result {
        log::debug!("API: refused with {}: {refusal}", refusal.status);
    }
    result
}

fn write(mut stream: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)
}

/// A client that goes away while it is answered has made its choice.
fn report(result: io::Result<()>) {
    if let Err(error) = result {
        log::debug!("API: the client is gone: {error}");
    }
}
