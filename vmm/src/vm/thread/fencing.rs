//! Which fence an operator means.

use ft::fence::{Fence, FileFence, NoFence};

use crate::vm::VmError;

/// Opens the fence that an operator named.
pub(super) fn open_fence(text: &str) -> Result<Box<dyn Fence>, VmError> {
    match text.split_once(':') {
        Some(("file", path)) if !path.is_empty() => Ok(Box::new(FileFence::new(path))),
        None if text == "none" => Ok(Box::new(NoFence)),
        _ => Err(VmError::Refused(format!(
            "fence {text:?} is not file:PATH or none"
        ))),
    }
}
