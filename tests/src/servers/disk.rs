//! Disk images of guests: copies that keep their holes, and what `e2fsck` says of a file system.

use std::path::Path;
use std::process::Command;

use crate::HarnessError;

/// Copies an image; what is a hole stays one.
///
/// # Errors
/// When it cannot be copied.
pub fn copy(from: &Path, to: &Path) -> Result<(), HarnessError> {
    output_of(Command::new("cp").arg("--sparse=always").arg(from).arg(to)).map(drop)
}

/// Checks the ext4 file system that fills `image`, which nobody may be using, without changing it.
///
/// # Errors
/// When it is not clean; the error has what `e2fsck` found.
pub fn check_file_system(image: &Path) -> Result<(), HarnessError> {
    // With -n the journal is not replayed, and one that would have to be is an error.
    let said = output_of(Command::new("e2fsck").args(["-f", "-n"]).arg(image))?;
    // It finds fault with an unreplayed journal, or with nothing, in words alone.
    if ["recovery", "arning"]
        .iter()
        .any(|word| said.contains(word))
    {
        return Err(HarnessError::Broken(format!("{}: {said}", image.display())));
    }
    Ok(())
}

fn output_of(command: &mut Command) -> Result<String, HarnessError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output();
    let output = output.map_err(HarnessError::host(format!("run {name}")))?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() {
        return Ok(said);
    }
    Err(HarnessError::Broken(format!(
        "{command:?} ended with {}: {said}",
        output.status
    )))
}
