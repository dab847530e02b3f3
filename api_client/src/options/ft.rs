//! Option table of `ch-remote ft-start`.

use super::{Key, Kind};

const U64: Kind = Kind::Number(u64::MAX);

/// `ch-remote ft-start`, in its `key=value` spelling.
pub const FT_START: &[Key] = &[
    Key::required("destination_url", Kind::Text),
    Key::new(
        "mode",
        Kind::Choice(&[
            ("auto", "auto"),
            ("replay", "replay"),
            ("checkpoint", "checkpoint"),
        ]),
    ),
    Key::new(
        "release",
        Kind::Choice(&[
            ("received", "received"),
            ("replayed", "replayed"),
            ("verified", "verified"),
        ]),
    ),
    Key::new("epoch_ms", U64),
    Key::new("fence", Kind::Text),
    Key::new("heartbeat_ms", U64),
    Key::new("timeout_ms", U64),
    Key::new("lease_ms", U64),
];
